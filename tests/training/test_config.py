import subprocess
import sys

import pytest

from tf_resflow.training import config as configs

pytestmark = pytest.mark.quick


def changed(fields):
    config = configs.default_config()
    config.update_from_flattened_dict(fields)
    return config


def test_defaults_are_valid_and_locked():
    config = configs.default_config()
    configs.validate_config(config)
    with pytest.raises(AttributeError, match="stesp"):
        config.train.stesp = 5
    with pytest.raises(TypeError, match="steps"):
        config.train.steps = 2.5


def test_a_config_does_without_tensorflow():
    """Hence wrong commands are refused at once."""
    code = "import sys, tf_resflow.training.config; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


WRONG = {
    "train.steps": 0,
    "train.learning_rate": 0.0,
    "train.ema_momentum": 1.0,
    "train.warmup_steps": -1,
    "train.schedule": "linear",
    "seed": 2**31,
    "task": "classification",
    "eval.split": "tset",
    "data.crop_padding": -1,
    "data.levels": 1,
    "model.activation": "lipswsh",
    "model.coefficient": 0.0,
    "model.lipschitz_constant": 1.0,
    "model.num_blocks": (0, 0),
    "model.kernels": (3, 2, 3),
    "model.norms": (0.5, 2.0, 2.0, 0.5),
    "model.logit_alpha": 0.5,
    "model.compute_dtype": "float64",
    "model.estimator.eval.distribution": "uniform",
    "model.estimator.train.kind": "adaptive",
    "hybrid.density_weight": float("inf"),
}


def test_a_bad_value_is_named():
    for key, value in WRONG.items():
        with pytest.raises(ValueError, match=f"config.{key}"):
            configs.validate_config(changed({key: value}))
    with pytest.raises(ValueError, match="config.model.norms"):
        configs.validate_config(changed({"model.norms": ("(2.0,)*4",)}))
    with pytest.raises(ValueError, match="A config is an ml_collections.ConfigDict, .* got 'digits'"):
        configs.validate_config("digits")


COUPLINGS = {"model.block": "affine_coupling"}
DENSE = {"model.branch": "dense_net", "model.kernels": (3,), "model.norms": (2.0,)}


@pytest.mark.parametrize(
    "valid, change, message",
    [
        (COUPLINGS, {"model.kind": "vector"}, "config.model.block is 'affine_coupling'"),
        ({"model.inv_1x1_conv": True}, {"model.kind": "vector"}, "config.model.inv_1x1_conv is True"),
        ({"model.whiten": True}, {"model.kind": "vector"}, "config.model.whiten is True"),
        (DENSE, COUPLINGS, "config.model.branch is 'dense_net'"),
        ({"task": "hybrid"}, {"model.kind": "vector"}, "config.model.kind is 'vector'.*must be 'image'"),
        ({"task": "hybrid"}, {"model.condition": "label"}, "config.model.condition is 'label'.*must be ''"),
        ({"model.dequantization": "variational"}, {"task": "hybrid"}, "dequantization is 'variational'.*'uniform'"),
    ],
)
def test_fields_that_exclude_each_other(valid, change, message):
    configs.validate_config(changed(valid))
    with pytest.raises(ValueError, match=message):
        configs.validate_config(changed(valid | change))
