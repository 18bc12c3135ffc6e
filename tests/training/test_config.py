import subprocess
import sys

import pytest

from tf_resflow.training import config as configs
from tf_resflow.training.optimizer import learning_rate_schedule


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


@pytest.mark.parametrize(
    "key, value",
    [
        ("train.steps", 0),
        ("train.batch_size", -1),
        ("train.learning_rate", 0.0),
        ("train.ema_momentum", 1.0),
        ("train.schedule", "linear"),
        ("train.optimizer", "adma"),
        ("model.coefficient", 1.0),
        ("model.coefficient", 0.0),
        ("model.lipschitz_constant", 1.0),
        ("model.num_blocks", ()),
        ("model.num_blocks", (0, 0)),
        ("model.kernels", (3, 2, 3)),
        ("model.branch", "densenet"),
        ("model.growth", 0),
        ("model.norms", (2.0, 2.0)),
        ("model.norms", (2.0, 2.0, 2.0, 1.5)),
        ("model.norms", (0.5, 2.0, 2.0, 0.5)),
        ("model.normalization", "spectral"),
        ("model.logit_alpha", 0.5),
        ("model.block", "coupling"),
        ("model.dequantization", "flow"),
        ("model.dequantization_blocks", 0),
        ("model.compute_dtype", "mixed_float16"),
        ("model.compute_dtype", "float64"),
        ("model.estimator.eval.distribution", "uniform"),
        ("model.estimator.train.kind", "adaptive"),
        ("model.estimator.train.num_terms", 0),
        ("data.crop_padding", -1),
        ("data.levels", 1),
        ("task", "classification"),
        ("hybrid.density_weight", -0.5),
        ("hybrid.density_weight", float("inf")),
        ("hybrid.features", 0),
        ("seed", -1),
    ],
)
def test_a_bad_value_is_named(key, value):
    config = configs.default_config()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ValueError, match=f"config.{key}"):
        configs.validate_config(config)


@pytest.mark.parametrize("key, value", [("model.block", "affine_coupling"), ("model.inv_1x1_conv", True)])
def test_vectors_have_residual_blocks_alone(key, value):
    config = configs.default_config()
    config.update_from_flattened_dict({key: value})
    configs.validate_config(config)
    config.model.kind = "vector"
    with pytest.raises(ValueError, match=f"config.{key} is {value!r}"):
        configs.validate_config(config)


def test_hybrid_models_are_of_images():
    config = configs.default_config()
    config.task = "hybrid"
    configs.validate_config(config)
    config.model.kind = "vector"
    with pytest.raises(ValueError, match="config.model.kind is 'vector'.*must be 'image'"):
        configs.validate_config(config)


def test_hybrid_models_have_uniform_noise():
    config = configs.default_config()
    config.model.dequantization = "variational"
    configs.validate_config(config)
    config.task = "hybrid"
    with pytest.raises(ValueError, match="leave config.model.dequantization at 'uniform'"):
        configs.validate_config(config)


def test_couplings_have_no_norms():
    config = configs.default_config()
    config.update_from_flattened_dict({"model.block": "affine_coupling", "model.kernels": (3, 3)})
    configs.validate_config(config)
    config.model.block = "residual"
    with pytest.raises(ValueError, match="config.model.norms"):
        configs.validate_config(config)


@pytest.mark.parametrize("key, value", [("model.norms", (2.0, 1.5, 2.0, 2.0)), ("model.learned_norms", True)])
def test_the_schatten_norm_is_of_order_2(key, value):
    config = configs.default_config()
    config.model.normalization = "schatten"
    configs.validate_config(config)
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ValueError, match="config.model.normalization is 'schatten'"):
        configs.validate_config(config)
    config.model.normalization = "induced"
    configs.validate_config(config)


@pytest.mark.parametrize(
    "key, value", [("block", "affine_coupling"), ("norms", (2.0, 3.0)), ("learned_norms", True)]
)
def test_what_dense_nets_exclude(key, value):
    config = configs.default_config()
    config.model.update(branch="dense_net", kernels=(3,), norms=(2.0,))
    configs.validate_config(config)
    config.model[key] = value
    with pytest.raises(ValueError, match=f"config.model.{key} is .*dense_net"):
        configs.validate_config(config)


def test_a_coefficient_above_1_needs_a_bound():
    config = configs.default_config()
    config.model.coefficient = 1.05
    with pytest.raises(ValueError, match="config.model.coefficient is 1.05; it must be below 1"):
        configs.validate_config(config)
    config.model.lipschitz_constant = 0.9
    configs.validate_config(config)


@pytest.mark.parametrize(
    "typo, key",
    [
        ("train.stesp", "train.steps"),
        ("trian.steps", "train.steps"),
        ("steps", "train.steps"),
        ("model.coef", "model.coefficient"),
        ("train.lr_warmup", "train.warmup_steps"),
    ],
)
def test_nearest_key(typo, key):
    assert configs.nearest_key(configs.default_config(), typo) == key


@pytest.mark.parametrize("steps", [1, 2, 60, 100])
def test_a_warm_up_as_long_as_the_run_is_shortened_before_a_cosine(steps):
    """The rate rises to its value, and the cosine ends at 0 with the run; a second time changes nothing."""
    config = configs.default_config()
    fields = {"train.schedule": "cosine", "train.steps": steps, "train.learning_rate": 0.5}
    config.update_from_flattened_dict(fields)
    configs.validate_config(config)
    shorter = configs.with_fitting_warmup(config)
    assert configs.with_fitting_warmup(shorter) is shorter and config.train.warmup_steps == 100
    rate, warmup = learning_rate_schedule(shorter.train), shorter.train.warmup_steps
    assert float(rate(warmup)) == pytest.approx(0.5) and float(rate(steps)) == pytest.approx(0.0, abs=1e-7)
    with pytest.raises(AttributeError):
        shorter.train.stesp = 5


@pytest.mark.parametrize("schedule, steps", [("cosine", 101), ("constant", 60)])
def test_a_warm_up_that_fits_stays(schedule, steps):
    """A constant rate may still be reached: such a run may be continued."""
    config = configs.default_config()
    config.update_from_flattened_dict({"train.schedule": schedule, "train.steps": steps})
    assert configs.with_fitting_warmup(config) is config


def test_a_name_is_not_a_config():
    with pytest.raises(ValueError, match="A config is an ml_collections.ConfigDict, .* got 'digits'"):
        configs.validate_config("digits")
