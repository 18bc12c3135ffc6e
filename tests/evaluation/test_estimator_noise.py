import types

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tf_resflow.evaluation import EstimatorNoise, estimator_noise
from tf_resflow.evaluation.estimator_noise import Noise, nested_noise, stderr_parts
from tf_resflow.evaluation.scores import Score
from tf_resflow.logdet import Exact
from tf_resflow.models.condition import Condition
from tf_resflow.models.data_space import DataSpace


def stub_model(event_shape, levels, distribution):
    """Returns the attributes of a `FlowModel` that the measurement uses."""
    parts = {"condition": Condition(), "distribution": distribution, "evaluation_log_det_estimator": None}
    return types.SimpleNamespace(data_space=DataSpace(event_shape, levels, None, tf.float32), **parts)


class SumOfSquares:
    """log_prob = sum(x^2) + sigma * noise."""

    dtype = tf.float32

    def __init__(self, sigma):
        self.sigma = sigma

    def log_prob(self, x, bijector_kwargs):
        noise = tf.random.stateless_normal(tf.shape(x)[:1], bijector_kwargs["seed"])
        x = tf.reshape(x, [tf.shape(x)[0], -1])
        return tf.reduce_sum(x**2, axis=-1) + self.sigma * noise


@pytest.mark.parametrize("evaluation", [False, True])
def test_the_two_kinds_of_noise_of_integers(evaluation, monkeypatch):
    """Against moments of u = (1 + U) / 4 from SciPy, for 2,000 examples with 4 x 4 draws."""
    # With 24,000 degrees of freedom, 4 standard errors of the standard deviation are 2 %.
    silent, noisy = SumOfSquares(0.0), SumOfSquares(0.2)
    model = stub_model([2, 2, 1], 4, silent if evaluation else noisy)
    monkeypatch.setattr(estimator_noise, "with_log_det_estimator", lambda distribution, log_det_estimator: noisy)
    measure = EstimatorNoise(model, Exact() if evaluation else None, dequantizations=4, draws=4)
    noise = measure(np.ones([2000, 2, 2, 1], np.uint8), seed=0)
    unit = 4 * np.log(2)
    cell = stats.uniform(0.25, 0.25)
    square, fourth = cell.expect(lambda u: u**2), cell.expect(lambda u: u**4)
    assert noise.estimator_std == pytest.approx(0.2 / unit, rel=0.02)
    variance = 4 * (fourth - square**2)
    between = variance + 0.2**2 / 4
    error = between * np.sqrt(2 / 3 / 2000)
    assert noise.dequantization_std**2 * unit**2 == pytest.approx(variance, abs=4 * error)
    assert -(noise.mean - 2) * unit == pytest.approx(4 * square, abs=4 * np.sqrt(between / 8000))


def test_kurtosis_of_a_laplace_distribution_and_of_mixed_scales():
    """Laplace noise has kurtosis 3 (40 samples of 2,000 x 8 draws), and normal noise of mixed scales has 0."""
    generator = np.random.default_rng(1)
    noise = generator.laplace(size=[40, 1, 8, 2000])
    values = [nested_noise(draws).estimator_kurtosis for draws in noise]
    assert np.mean(values) == pytest.approx(3.0, abs=4 * np.std(values) / np.sqrt(40))
    assert np.std(values) / np.sqrt(40) < 0.1
    normal = generator.normal(size=[1, 8, 20000]) * generator.choice([0.1, 5.0], size=20000)
    assert abs(nested_noise(normal).estimator_kurtosis) < 0.3


def test_equal_draws_have_no_noise_however_their_mean_is_rounded():
    values = np.random.default_rng(2).normal(size=[2, 1, 50])
    expected = np.sqrt(np.mean(np.var(values[:, 0], axis=0, ddof=1)))
    for draws in (4, 7):
        noise = nested_noise(np.repeat(values, draws, axis=1))
        assert noise.estimator_std == 0.0 and np.isnan(noise.estimator_kurtosis)
        assert noise.dequantization_std == pytest.approx(expected)
    assert np.isnan(nested_noise(np.ones([1, 4, 3])).dequantization_std)


def test_parts_of_the_standard_error():
    """A score of 25 losses with the variance 0.09 + 0.04 + 0.12."""
    score = Score(3.0, np.sqrt(0.25 / 25), 25)
    parts = stderr_parts(score, Noise(3.1, 0.2, np.sqrt(0.12), 0.0))
    assert parts == pytest.approx({"data": 0.3 / 5, "dequantization": 0.2 / 5, "estimator": np.sqrt(0.12) / 5})
    assert stderr_parts(score, Noise(3.1, 0.2, 0.6, 0.0))["data"] == 0.0
    assert np.isnan(stderr_parts(score._replace(stderr=float("nan")), Noise(0, 0, 0, 0))["data"])
