import pytest

from tf_resflow.training import config as configs

pytestmark = pytest.mark.quick


def changed(fields):
    config = configs.default_config()
    config.update_from_flattened_dict(fields)
    return config


def test_defaults_are_valid_and_locked(refused):
    config = configs.default_config()
    configs.validate_config(config)
    refused("stesp", setattr, config.train, "stesp", 5, error=AttributeError)
    refused("steps", setattr, config.train, "steps", 2.5, error=TypeError)


WRONG = {"train.steps": 0, "train.learning_rate": 0.0, "train.ema_momentum": 1.0, "train.warmup_steps": -1}
WRONG |= {"train.schedule": "linear", "seed": 2**31, "task": "classification", "eval.split": "tset"}
WRONG |= {"data.crop_padding": -1, "data.levels": 1, "hybrid.density_weight": float("inf")}
WRONG |= {"model.activation": "lipswsh", "model.coefficient": 0.0, "model.lipschitz_constant": 1.0}
WRONG |= {"model.num_blocks": (0, 0), "model.kernels": (3, 2, 3), "model.norms": (0.5, 2.0, 2.0, 0.5)}
WRONG |= {"model.logit_alpha": 0.5, "model.compute_dtype": "float64"}
WRONG |= {"model.estimator.eval.distribution": "uniform", "model.estimator.train.kind": "adaptive"}


def test_a_bad_value_is_named(refused):
    for key, value in (*WRONG.items(), ("model.norms", ("(2.0,)*4",))):
        refused(f"config.{key}", configs.validate_config, changed({key: value}))
    refused("config must be an ml_collections.ConfigDict, .* got 'digits'", configs.validate_config, "digits")


COUPLINGS = {"model.block": "affine_coupling"}
DENSE = {"model.branch": "dense_net", "model.kernels": (3,), "model.norms": (2.0,)}


def test_fields_that_exclude_each_other(refused):
    vector, hybrid = {"model.kind": "vector"}, {"task": "hybrid"}
    for valid, change, message in [
        (COUPLINGS, vector, "config.model.block is 'affine_coupling'"),
        ({"model.inv_1x1_conv": True}, vector, "config.model.inv_1x1_conv is True"),
        ({"model.whiten": True}, vector, "config.model.whiten is True"),
        (DENSE, COUPLINGS, "config.model.branch is 'dense_net'"),
        (hybrid, vector, "config.model.kind is 'vector'.*must be 'image'"),
        (hybrid, {"model.condition": "label"}, "config.model.condition is 'label'.*must be ''"),
        ({"model.dequantization": "variational"}, hybrid, "dequantization is 'variational'.*'uniform'"),
    ]:
        configs.validate_config(changed(valid))
        refused(message, configs.validate_config, changed(valid | change))
