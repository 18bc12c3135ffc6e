"""Conversion of the published code's arguments to configs."""

import math
import operator
import pathlib

import pytest

from tf_resflow.interop.published_arguments import published_config, published_data, published_orders
from tf_resflow.interop.published_checkpoint import read_checkpoint

pytestmark = pytest.mark.quick

# The arguments that the published train_img.py stores when it is run as its README describes for CIFAR-10.
STORED = read_checkpoint(pathlib.Path(__file__).parent / "checkpoints" / "cifar10.npz").args
DEFAULTS = STORED | {"imagesize": 32, "idim": 512, "nblocks": "16-16-16", "actnorm": True}
DEFAULTS |= {"fc_end": True, "fc_idim": 128}
IMAGENET64 = {"data": "imagenet64", "imagesize": 64, "nblocks": "32-32-32", "squeeze_first": True}
HYBRID = {"task": "hybrid", "scale_dim": False, "cdim": 7}


def converted(**changes):
    args = DEFAULTS | changes
    config = published_config(args)
    return config, published_data(args, config)


@pytest.mark.parametrize(
    "changes, data, fields",
    [
        (
            {},
            ("cifar10", (32, 32, 3), 256, None),
            {
                "task": "density", "data.name": "cifar10", "data.flip": True, "data.levels": 0,
                "model.kind": "image", "model.num_blocks": (16, 16, 16), "model.kernels": (3, 1, 3),
                "model.width": 512, "model.num_fc_blocks": 4, "model.fc_width": 128, "model.coefficient": 0.98,
                "model.activation": "lipswish", "model.norms": (2.0,) * 4, "model.act_norm": True,
                "model.logit_alpha": 0.05, "model.learned_norms": False, "model.squeeze_first": False,
                "model.factor_out": False, "model.estimator.train.kind": "russian_roulette",
                "model.estimator.train.distribution": "poisson", "model.estimator.train.p": 2.0,
                "model.estimator.train.num_exact_terms": 2, "train.optimizer": "adam",
                "train.learning_rate": 1e-3, "train.warmup_steps": 1000, "train.batch_size": 64,
            },
        ),
        ({"data": "mnist", "imagesize": 28}, ("mnist", (28, 28, 1), 256, None), {"data.flip": False}),
        (IMAGENET64, ("downsampled_imagenet/64x64", (64, 64, 3), 256, None), {"model.num_blocks": (32, 32, 32)}),
        ({"data": "celebahq", "nbits": 5}, ("celeb_a_hq/256", (32, 32, 3), 32, None), {"data.levels": 32}),
        ({"data": "celeba_5bit", "imagesize": 64}, ("celeb_a_hq/256", (64, 64, 3), 32, None), {}),
        ({"nbits": 5}, ("cifar10", (32, 32, 3), 256, None), {"data.image_size": 32}),  # only celebahq is reduced
        (HYBRID, ("cifar10", (32, 32, 3), 256, 10), {"hybrid.density_weight": 3072.0, "hybrid.features": 7}),
        (HYBRID, None, {"task": "hybrid", "model.logit_alpha": None}),  # mean and std are known
        ({"task": "hybrid", "scale_dim": True}, None, {"hybrid.density_weight": 1.0}),
        ({"task": "classification"}, None, {"task": "hybrid", "hybrid.density_weight": 0.0}),
        ({"task": "hybrid", "data": "mnist"}, None, {"model.logit_alpha": 1e-6}),
        ({"logit_transform": False, "fc_end": False}, None, {"model.logit_alpha": None, "model.num_fc_blocks": 0}),
        (
            {"n_power_series": 5},
            None,
            {
                "model.estimator.train.num_terms": 5, "model.estimator.train.kind": "power_series",
                "model.estimator.eval.kind": "adaptive_roulette",
            },
        ),
        # Scales end at 4 pixels: the sizes are 15, 7; 8, 4; 32, 16, 8, 4.
        ({"imagesize": 15, "nblocks": "5-4-3"}, None, {"model.num_blocks": (5, 4)}),
        ({"imagesize": 16, "nblocks": "5-4-3", "squeeze_first": True}, None, {"model.num_blocks": (5, 4)}),
        (IMAGENET64 | {"nblocks": "5-4-3-2-1"}, None, {"model.num_blocks": (5, 4, 3, 2)}),
    ],
)  # fmt: skip
def test_published_config(changes, data, fields):
    config, found = converted(**changes)
    assert data is None or (found.name, found.event_shape, found.levels, found.num_classes) == data
    assert {field: operator.attrgetter(field)(config) for field in fields} == fields


def test_norms():
    for vnorms, orders, norms in (
        ("222f", (2, 2, 2, math.inf), (2, 2, 2, 2)),
        ("1222", (1, 2, 2, 2), (2, 2, 2, 2)),
        ("2322", (2, 3, 2, 2), (2, 3, 2, 2)),
    ):
        assert published_orders(DEFAULTS | {"vnorms": vnorms}) == orders
        assert converted(vnorms=vnorms)[0].model.norms == norms
        learned = converted(vnorms=vnorms, learn_p=True)[0].model
        assert learned.learned_norms and learned.norms == (2, 2, 2, 2)


def test_values_that_this_library_does_not_have():
    for changes, message in (
        ({"block": "coupling"}, "block='coupling', which is not supported; it must be 'resblock'"),
        ({"act": "identity"}, "act='identity', which is not supported; it must be one of"),
        ({"task": "hybrid", "factor_out": True}, "factor_out=True, for which the published"),
        ({"task": "hybrid", "squeeze_first": True}, "squeeze_first=True, for which the published"),
    ):
        with pytest.raises(ValueError, match=f"trained with {message}"):
            converted(**changes)


def test_missing_arguments():
    """Arguments that only later versions store have defaults."""

    def without(*names):
        return published_config({key: value for key, value in DEFAULTS.items() if key not in names})

    with pytest.raises(ValueError, match="lacks the argument 'coeff'"):
        without("coeff")
    assert without("logit_transform", "learn_p", "block") == published_config(DEFAULTS)
