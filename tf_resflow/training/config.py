"""The configuration of an experiment: the sections of the packages, and the `train` section."""

import difflib
from typing import Any

from tf_resflow.config_fields import (
    ABOVE_0,
    AT_LEAST_0,
    AT_LEAST_1,
    IN_0_1,
    ConfigDict,
    Field,
    Rule,
    check_section,
    make_section,
    one_of,
)
from tf_resflow.data.config import FIELDS as DATA_FIELDS
from tf_resflow.evaluation.config import FIELDS as EVAL_FIELDS
from tf_resflow.flows.config import HYBRID_FIELDS, MODEL_FIELDS, check_model

__all__ = ["default_config", "flat_keys", "nearest_key", "validate_config", "with_fitting_warmup"]

_TRAIN_FIELDS = {
    "steps": Field(3000, AT_LEAST_1),
    "batch_size": Field(64, AT_LEAST_1),
    "optimizer": Field("adamw", one_of("adam", "adamw")),
    "learning_rate": Field(1e-3, ABOVE_0),
    "warmup_steps": Field(100, AT_LEAST_0),
    "schedule": Field("constant", one_of("constant", "cosine")),  # after the warm-up
    "beta_2": Field(0.99, IN_0_1),
    "weight_decay": Field(5e-4, AT_LEAST_0),
    "ema_momentum": Field(0.999, IN_0_1),  # limit of the average's momentum; 0: no average
    "global_clipnorm": Field(0.0, AT_LEAST_0),  # 0: gradients are not clipped
    "log_every": Field(50, AT_LEAST_1),
    "eval_every": Field(500, AT_LEAST_1),
    "checkpoint_every": Field(500, AT_LEAST_1),
    "keep": Field(3, AT_LEAST_1),  # newest checkpoints to keep
}

_FIELDS = {
    "seed": Field(0, Rule(lambda v: 0 <= v < 2**31, "in 0, ..., 2^31 - 1")),
    # "hybrid": p(x) and p(label | x), of labeled images.
    "task": Field("density", one_of("density", "hybrid")),
    "data": DATA_FIELDS,
    "model": MODEL_FIELDS,
    "hybrid": HYBRID_FIELDS,
    "train": _TRAIN_FIELDS,
    "eval": EVAL_FIELDS,
}


def default_config() -> Any:
    """Returns the locked configuration that every file in `configs/` starts from.

    A locked `ConfigDict` takes new values of the same type for its fields, and no new field. Zero
    or None switches a field off where its comment says so.

    Returns:
      An `ml_collections.ConfigDict` with `seed`, `task` and the sections `data`, `model`, `hybrid`, `train`,
      `eval`.
    """
    return make_section(_FIELDS).lock()


def flat_keys(config: ConfigDict) -> list[str]:
    """Returns the dotted names of all fields, sections in alphabetical order."""
    keys = []
    for key in config:
        inner = flat_keys(config[key]) if isinstance(config[key], ConfigDict) else None
        keys += [key] if inner is None else [f"{key}.{name}" for name in inner]
    return keys


def nearest_key(config: ConfigDict, key: str) -> str:
    """Returns the field of `config` whose dotted name is most like `key`."""
    return max(flat_keys(config), key=lambda known: difflib.SequenceMatcher(None, key, known).ratio())


def validate_config(config: ConfigDict) -> None:
    """Checks the values of a configuration.

    Args:
      config: an `ml_collections.ConfigDict` with the fields of `default_config`.

    Raises:
      ValueError: names the key, its value and what it may be.
    """
    if not isinstance(config, ConfigDict):
        raise ValueError(f"A config is an ml_collections.ConfigDict, such as default_config(); got {config!r}.")
    check_section(config, _FIELDS)
    if config.model.kind == "vector" and config.task == "hybrid":
        raise ValueError("config.model.kind is 'vector'; with config.task = 'hybrid' it must be 'image'.")
    if config.model.condition and config.task == "hybrid":
        raise ValueError(
            "config.task is 'hybrid', whose classifier predicts the label: leave config.model.condition at ''."
        )
    if config.model.dequantization == "variational" and config.task == "hybrid":
        raise ValueError(
            "config.task is 'hybrid', whose classifier would be trained by the noise, too: leave "
            "config.model.dequantization at 'uniform'."
        )
    check_model(config.model)


def with_fitting_warmup(config: ConfigDict) -> ConfigDict:
    """Returns the config; if its warm-up leaves no step to a cosine, with a warm-up of half of the steps.

    Args:
      config: a valid configuration.
    """
    steps, warmup = config.train.steps, config.train.warmup_steps
    if config.train.schedule != "cosine" or warmup < steps:
        return config
    config = config.copy_and_resolve_references()
    config.train.warmup_steps = steps // 2
    return config
