"""The configuration of an experiment: its fields, their defaults, and what they may be."""

import difflib
import math

from tf_resflow.data.config import default_config as data_config
from tf_resflow.extras import extra

with extra("training"):
    from ml_collections import config_dict

__all__ = ["default_config", "flat_keys", "nearest_key", "validate_config", "with_fitting_warmup"]


def default_config():
    """Returns the locked configuration that every file in `configs/` starts from.

    A locked `ConfigDict` takes new values of the same type for its fields, and no new field. Zero
    or None switches a field off where its comment says so.

    Returns:
      An `ml_collections.ConfigDict` with `seed`, `task` and the sections `data`, `model`, `hybrid`, `train`,
      `eval`.
    """
    config = config_dict.ConfigDict()
    config.seed = 0
    config.task = "density"  # or "hybrid": p(x) and p(label | x), of labelled images
    config.data = data_config()
    config.model = _model()
    config.hybrid = _hybrid()
    config.train = _train()
    config.eval = _eval()
    return config.lock()


def _model():
    model = config_dict.ConfigDict()
    model.kind = "image"  # "image" or "vector"
    model.num_blocks = (4, 4)  # blocks of each scale; for vectors one number
    model.coefficient = 0.98  # Lipschitz bound of each linear layer
    model.activation = "lipswish"
    model.norms = (2.0, 2.0, 2.0, 2.0)  # orders of the norms before, between and after the layers
    model.learned_norms = False  # in their place, orders that each block learns
    # Bound of a block, on trust. None: the product of its coefficients, which then must be below 1.
    model.lipschitz_constant = config_dict.placeholder(float)
    model.act_norm = True
    # Vectors.
    model.hidden = (64, 64, 64)
    # Images.
    # "residual", "affine_coupling" or "additive_coupling"; couplings have no coefficient, activation or norms.
    model.block = "residual"
    model.inv_1x1_conv = False  # an invertible 1x1 convolution before each convolutional block
    model.width = 64
    model.kernels = (3, 1, 3)
    model.num_fc_blocks = 4  # fully connected blocks at the end; 0: none
    model.fc_width = 64
    # None: no logit; a hybrid model then normalises each channel by its mean and standard deviation.
    model.logit_alpha = config_dict.placeholder(float)
    model.squeeze_first = False
    model.factor_out = False
    # The log-determinant.
    model.estimator = config_dict.ConfigDict()
    for use, num_exact_terms in (("train", 2), ("eval", 20)):
        model.estimator[use] = config_dict.ConfigDict()
        model.estimator[use].kind = "russian_roulette"  # or "power_series": biased, num_terms alone
        model.estimator[use].num_exact_terms = num_exact_terms
        model.estimator[use].distribution = "geometric"
        model.estimator[use].p = 0.5  # of the geometric distribution; the rate, for Poisson
        model.estimator[use].num_terms = 10
    return model


def _hybrid():
    hybrid = config_dict.ConfigDict()
    # The loss is cross entropy + density_weight * bits/dim, so that the weight is lambda D for
    # log p(y | x) + lambda log p(x) and D coordinates. The paper's lambda = 0, 1/D and 1 are 0.0, 1.0 and D.
    hybrid.density_weight = 1.0
    hybrid.features = 256  # channels of the head on each scale
    return hybrid


def _train():
    train = config_dict.ConfigDict()
    train.steps = 3000
    train.batch_size = 64
    train.optimizer = "adamw"
    train.learning_rate = 1e-3
    train.warmup_steps = 100
    train.schedule = "constant"  # after the warm-up: "constant" or "cosine"
    train.beta_2 = 0.99
    train.weight_decay = 5e-4
    train.ema_momentum = 0.999  # limit of the average's momentum; 0: no average
    train.global_clipnorm = 0.0  # 0: gradients are not clipped
    train.log_every = 50
    train.eval_every = 500
    train.checkpoint_every = 500
    train.keep = 3  # newest checkpoints to keep
    return train


def _eval():
    evaluation = config_dict.ConfigDict()
    evaluation.split = "test"
    evaluation.batch_size = 100
    evaluation.num_examples = 0  # the first so many examples; 0: all
    evaluation.num_samples = 64  # in the grid or figure
    return evaluation


def flat_keys(config):
    """Returns the dotted names of all fields, sections in alphabetical order."""
    keys = []
    for key in config:
        if isinstance(config[key], config_dict.ConfigDict):
            keys += [f"{key}.{inner}" for inner in flat_keys(config[key])]
        else:
            keys.append(key)
    return keys


def nearest_key(config, key):
    """Returns the field of `config` whose dotted name is most like `key`."""
    return max(flat_keys(config), key=lambda known: difflib.SequenceMatcher(None, key, known).ratio())


def validate_config(config):
    """Checks the values of a configuration.

    Args:
      config: an `ml_collections.ConfigDict` with the fields of `default_config`.

    Raises:
      ValueError: names the key, its value and what it may be.
    """
    for keys, holds, expected in _RULES:
        for key in keys.split():
            value = _value(config, key)
            if not holds(value):
                raise ValueError(f"config.{key} is {value!r}; it must be {expected}.")
    _check_vectors(config)
    if config.model.block == "residual":
        _check_coefficient(config.model)
        _check_norms(config.model)


def with_fitting_warmup(config):
    """Returns the config; where the warm-up leaves a cosine no step, with one of half of the steps.

    Args:
      config: a valid configuration.
    """
    steps, warmup = config.train.steps, config.train.warmup_steps
    if config.train.schedule != "cosine" or warmup < steps:
        return config
    config = config.copy_and_resolve_references()
    config.train.warmup_steps = steps // 2
    return config


def _value(config, key):
    for part in key.split("."):
        config = config[part]
    return config


def _check_vectors(config):
    model = config.model
    if model.kind == "vector" and config.task == "hybrid":
        raise ValueError("config.model.kind is 'vector'; with config.task = 'hybrid' it must be 'image'.")
    if model.kind == "vector" and (model.block != "residual" or model.inv_1x1_conv):
        raise ValueError(
            f"config.model.block is {model.block!r} and config.model.inv_1x1_conv is {model.inv_1x1_conv}; flows "
            "on vectors have residual blocks alone, so they must be 'residual' and False."
        )


def _check_coefficient(model):
    if model.coefficient >= 1 and model.lipschitz_constant is None:
        raise ValueError(
            f"config.model.coefficient is {model.coefficient!r}; it must be below 1, since a block with a bound "
            "of 1 need not be invertible (unless config.model.lipschitz_constant says what its bound is)."
        )


def _check_norms(model):
    image = model.kind == "image"
    layers = len(model.kernels) if image else len(model.hidden) + 1
    of_layers = "kernels" if image else "hidden"
    if len(model.norms) != layers + 1:
        raise ValueError(
            f"config.model.norms has {len(model.norms)} orders; config.model.{of_layers} makes "
            f"{layers} layers, so {layers + 1} orders are needed: before, between and after them."
        )
    if model.norms[0] != model.norms[-1]:
        raise ValueError(
            f"config.model.norms begins with {model.norms[0]} and ends with {model.norms[-1]}; a "
            "block maps a space to itself, so both must be the same order."
        )


def _one_of(*names):
    return names.__contains__, "one of " + ", ".join(repr(name) for name in names)


def _each(holds):
    return lambda values: all(holds(value) for value in values)


def _is_whole(value):
    return isinstance(value, int) and not isinstance(value, bool)


def _is_positive_whole(value):
    return _is_whole(value) and value > 0


# Keys, a predicate, and what the value must be.
_RULES = (
    ("seed", lambda v: 0 <= v < 2**31, "in 0, ..., 2^31 - 1"),
    ("task", *_one_of("density", "hybrid")),
    ("model.kind", *_one_of("image", "vector")),
    ("hybrid.density_weight", lambda v: 0 <= v < math.inf, "at least 0 and finite"),
    ("model.block", *_one_of("residual", "affine_coupling", "additive_coupling")),
    ("train.optimizer", *_one_of("adam", "adamw")),
    ("train.schedule", *_one_of("constant", "cosine")),
    (
        "model.estimator.train.kind model.estimator.eval.kind",
        *_one_of("russian_roulette", "power_series"),
    ),
    (
        "model.estimator.train.distribution model.estimator.eval.distribution",
        *_one_of("geometric", "poisson"),
    ),
    (
        "train.steps train.batch_size train.log_every train.eval_every train.checkpoint_every "
        "train.keep eval.batch_size eval.num_samples model.width model.fc_width hybrid.features "
        "model.estimator.train.num_terms model.estimator.eval.num_terms",
        lambda v: v > 0,
        "at least 1",
    ),
    (
        "train.warmup_steps train.weight_decay train.global_clipnorm eval.num_examples "
        "model.num_fc_blocks model.estimator.train.num_exact_terms "
        "model.estimator.eval.num_exact_terms data.crop_padding data.image_size",
        lambda v: v >= 0,
        "at least 0",
    ),
    ("data.levels", lambda v: v == 0 or 2 <= v <= 256, "0 (as they are) or in 2, ..., 256"),
    ("train.learning_rate", lambda v: v > 0, "above 0"),
    ("train.beta_2 train.ema_momentum", lambda v: 0 <= v < 1, "at least 0 and below 1"),
    ("model.coefficient", lambda v: v > 0, "above 0"),
    ("model.lipschitz_constant", lambda v: v is None or 0 < v < 1, "None, or above 0 and below 1"),
    (
        "model.num_blocks",
        lambda v: v and _each(_is_whole)(v) and min(v) >= 0 and sum(v) > 0,
        "a tuple of whole numbers, such as (4, 4), with at least one block",
    ),
    ("model.hidden", _each(_is_positive_whole), "a tuple of widths, such as (64, 64, 64)"),
    (
        "model.kernels",
        lambda v: v and _each(lambda k: _is_positive_whole(k) and k % 2)(v),
        "a tuple of odd kernel sizes, such as (3, 1, 3)",
    ),
    (
        "model.norms",
        _each(lambda p: p >= 1),
        "a tuple of orders of at least 1, such as (2, 2, 2, 2)",
    ),
    ("model.logit_alpha", lambda v: v is None or 0 < v < 0.5, "None, or above 0 and below 0.5"),
)
