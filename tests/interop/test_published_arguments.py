"""Arguments of the published code, and the configs that they become."""

import math

import pytest

from tf_resflow.interop import read_checkpoint
from tf_resflow.interop.published_arguments import published_config, published_data, published_orders

# `python train_img.py` of the published code with the arguments that its README gives for each data set.
DEFAULTS = {
    "data": "cifar10", "imagesize": 32, "nbits": 8, "block": "resblock", "coeff": 0.98, "vnorms": "2222",
    "learn_p": False, "factor_out": False, "n_dist": "poisson", "n_exact_terms": 2, "act": "swish", "idim": 512,
    "nblocks": "16-16-16", "squeeze_first": False, "actnorm": True, "fc_actnorm": False, "batchnorm": False,
    "dropout": 0.0, "fc": False, "kernels": "3-1-3", "logit_transform": True, "add_noise": True, "quadratic": False,
    "fc_end": True, "fc_idim": 128, "preact": True, "padding": 0, "first_resblock": True, "batchsize": 64,
    "lr": 1e-3, "wd": 0, "warmup_iters": 1000, "task": "density",
}  # fmt: skip


def converted(**changes):
    args = DEFAULTS | changes
    config = published_config(args)
    return config, published_data(args, config)


def test_cifar10():
    config, data = converted()
    assert (data.name, data.event_shape, data.levels) == ("cifar10", (32, 32, 3), 256)
    assert config.data.name == "cifar10" and config.data.flip and config.data.levels == 0
    model = config.model
    assert model.kind == "image" and model.num_blocks == (16, 16, 16) and model.kernels == (3, 1, 3)
    assert (model.width, model.num_fc_blocks, model.fc_width) == (512, 4, 128)
    assert (model.coefficient, model.activation, model.norms) == (0.98, "lipswish", (2.0,) * 4)
    assert model.act_norm and model.logit_alpha == 0.05
    assert not (model.learned_norms or model.squeeze_first or model.factor_out)
    train = model.estimator.train
    assert train.kind == "russian_roulette"
    assert (train.distribution, train.p, train.num_exact_terms) == ("poisson", 2.0, 2)
    assert (config.train.optimizer, config.train.learning_rate, config.train.warmup_steps) == ("adam", 1e-3, 1000)


def test_mnist():
    config, data = converted(data="mnist", imagesize=28)
    assert (data.name, data.event_shape) == ("mnist", (28, 28, 1))
    assert config.model.logit_alpha == 1e-6 and not config.data.flip
    assert config.model.num_blocks == (16, 16, 16)


def test_imagenet64():
    config, data = converted(
        data="imagenet64", imagesize=64, nblocks="32-32-32", factor_out=True, squeeze_first=True
    )
    assert data.event_shape == (64, 64, 3) and config.data.name == "downsampled_imagenet/64x64"
    assert config.data.image_size == 64
    assert config.model.factor_out and config.model.squeeze_first
    assert config.model.num_blocks == (32, 32, 32)


def test_celebahq():
    config, data = converted(
        data="celebahq", imagesize=256, nbits=5, act="elu", fc_end=False, factor_out=True, squeeze_first=True,
        nblocks="16-16-16-16-16-16", n_exact_terms=8,
    )  # fmt: skip
    assert (data.levels, config.data.levels) == (32, 32)
    assert config.model.activation == "elu" and config.model.num_fc_blocks == 0
    assert config.model.num_blocks == (16,) * 6
    assert config.model.estimator.train.num_exact_terms == 8


def test_levels():
    assert converted(data="celeba_5bit", imagesize=64)[1].levels == 32
    assert converted(nbits=5)[1].levels == 256  # only celebahq is reduced
    assert converted(data="celebahq", nbits=8)[0].data.levels == 0


@pytest.mark.parametrize(
    "size, squeeze_first, expected", [(8, False, 2), (15, False, 2), (16, True, 2), (64, True, 4)]
)
def test_scales_end_at_four_pixels(size, squeeze_first, expected):
    """Sizes of scales: 8, 4; 15, 7; 8, 4; 32, 16, 8, 4."""
    config, _ = converted(imagesize=size, nblocks="5-4-3-2-1", squeeze_first=squeeze_first)
    assert config.model.num_blocks == (5, 4, 3, 2, 1)[:expected]


def test_hybrid_models_have_no_logit_where_mean_and_std_are_known():
    assert converted(task="hybrid")[0].model.logit_alpha is None
    assert converted(task="hybrid", data="mnist")[0].model.logit_alpha == 1e-6
    assert converted(logit_transform=False)[0].model.logit_alpha is None


@pytest.mark.parametrize(
    "task, scale_dim, weight", [("hybrid", False, 3072.0), ("hybrid", True, 1.0), ("classification", False, 0.0)]
)
def test_the_loss_of_hybrid_models(task, scale_dim, weight):
    config, data = converted(task=task, scale_dim=scale_dim, imagesize=32, cdim=7)
    assert (config.task, config.hybrid.density_weight, config.hybrid.features) == ("hybrid", weight, 7)
    assert data.num_classes == 10


def test_densities_have_no_classes():
    config, data = converted()
    assert config.task == "density" and data.num_classes is None


def test_hybrid_models_with_factor_out():
    with pytest.raises(ValueError, match="factor_out=True, where the published classifier reads the channels"):
        converted(task="hybrid", factor_out=True)


@pytest.mark.parametrize(
    "vnorms, orders, norms",
    [
        ("2332", (2, 3, 3, 2), (2, 3, 3, 2)),
        ("222f", (2, 2, 2, math.inf), (2, 2, 2, 2)),
        ("122f", (1, 2, 2, math.inf), (2, 2, 2, 2)),
        ("ffff", (math.inf,) * 4, (2, 2, 2, 2)),
    ],
)
def test_norms(vnorms, orders, norms):
    assert published_orders(DEFAULTS | {"vnorms": vnorms}) == orders
    assert converted(vnorms=vnorms)[0].model.norms == norms
    learned = converted(vnorms=vnorms, learn_p=True)[0].model
    assert learned.learned_norms and learned.norms == (2, 2, 2, 2)


def test_the_truncated_series():
    estimator = converted(n_power_series=5)[0].model.estimator
    assert (estimator.train.kind, estimator.train.num_terms) == ("power_series", 5)
    assert estimator.eval.kind == "adaptive_roulette"


@pytest.mark.parametrize("theirs, ours", [("softplus", "softplus"), ("relu", "relu"), ("lcube", "lipschitz_cube")])
def test_activations(theirs, ours):
    assert converted(act=theirs)[0].model.activation == ours


@pytest.mark.parametrize(
    "name, value",
    [
        ("act", "identity"),
        ("add_noise", False),
        ("batchnorm", True),
        ("block", "coupling"),
        ("data", "lsun"),
        ("dropout", 0.1),
        ("fc", True),
        ("fc_actnorm", True),
        ("first_resblock", False),
        ("kernels", "3"),
        ("n_dist", "binomial"),
        ("nblocks", "16"),
        ("padding", 1),
        ("preact", False),
        ("quadratic", True),
        ("vnorms", "22"),
    ],
)
def test_what_there_is_not_is_named(name, value):
    with pytest.raises(ValueError, match=f"trained with {name}={value!r}"):
        converted(**{name: value})


def test_a_missing_argument_is_named():
    args = {key: value for key, value in DEFAULTS.items() if key != "coeff"}
    with pytest.raises(ValueError, match="lack 'coeff'"):
        published_config(args)


def test_switches_of_later_versions_may_be_missing():
    args = {key: value for key, value in DEFAULTS.items() if key not in ("logit_transform", "learn_p", "block")}
    assert published_config(args) == published_config(DEFAULTS)


def test_stored_arguments(checkpoint_path):
    args = read_checkpoint(checkpoint_path("celebahq")).args
    assert (args["data"], args["nbits"], args["n_lipschitz_iters"]) == ("celebahq", 5, None)
    assert args["squeeze_first"] is True
