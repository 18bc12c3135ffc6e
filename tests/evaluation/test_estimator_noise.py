import types

import numpy as np
import pytest
import tensorflow as tf

from tf_resflow.evaluation import EstimatorNoise


class Noisy:
    """log_prob = -sum(x) + sigma_x * noise, with sigma 0.5 and 1.5 for the two kinds of example."""

    def log_prob(self, x, bijector_kwargs):
        noise = tf.random.stateless_normal(tf.shape(x)[:1], bijector_kwargs["seed"])
        sigma = tf.where(x[:, 0] > 0, 1.5, 0.5)
        return sigma * noise - tf.reduce_sum(x, axis=-1)


def test_root_mean_square_of_the_standard_deviations():
    """1,000 examples of 8 draws: the mean square is within 4 standard errors of 1.25."""
    model = types.SimpleNamespace(levels=None, num_dimensions=3, distribution=Noisy())
    x = np.ones([1000, 3], np.float32)
    x[::2] *= -1
    std = EstimatorNoise(model, draws=8)(x, seed=0)
    stderr = np.sqrt(np.mean([0.5**4, 1.5**4]) * 2 / 7 / 1000)
    assert std**2 == pytest.approx(1.25, abs=4 * stderr)


def test_integers_are_dequantised_once_and_counted_in_bits():
    class Exact:
        def log_prob(self, x, bijector_kwargs):
            return tf.reduce_sum(x, axis=[1, 2, 3]) + 0.0 * tf.cast(
                bijector_kwargs["seed"][0], tf.float32
            )

    model = types.SimpleNamespace(levels=4, num_dimensions=4, distribution=Exact())
    assert EstimatorNoise(model)(np.zeros([5, 2, 2, 1], np.uint8), seed=0) == 0.0

    class Shifted:
        def log_prob(self, x, bijector_kwargs):
            return tf.fill(tf.shape(x)[:1], tf.cast(bijector_kwargs["seed"][1], tf.float32))

    model.distribution = Shifted()
    std = EstimatorNoise(model, draws=2)(np.zeros([5, 2, 2, 1], np.uint8), seed=0)
    assert std == pytest.approx(np.sqrt(0.5) / (4 * np.log(2)))
