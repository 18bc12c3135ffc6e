"""A rule of one's own teaches the library a layer."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_resflow import bijectors, flows, layers, logdet
from tf_resflow.layers.program import bind, read


class Wave(keras.layers.Layer):
    """sin(b x) / (1 + |b|), of slopes below 1."""

    def build(self, input_shape):
        self.b = self.add_weight(name="b", shape=(), initializer=keras.initializers.Constant(2.0))

    def call(self, x):
        return wave(x, self.b)


class FasterWave(Wave):
    def call(self, x):
        return super().call(3.0 * x)


def wave(x, b):
    return tf.sin(b * x) / (1.0 + tf.abs(b))


@layers.register_rule(Wave)
class WaveRule(layers.LayerRule):
    def function(self, layer):
        return wave

    def variables(self, layer):
        return [layer.b]

    def lipschitz_constant(self, layer):
        return 1.0


def branch(activation):
    return flows.dense_branch([3], (6,), activation=activation, coefficient=0.9)


def test_an_activation_of_the_user():
    known, other, unknown = branch(Wave), branch(Wave), branch(FasterWave)
    assert read(known) == read(other) and read(known).knows_jacobian
    assert layers.lipschitz_constant(known) == 0.9**2
    assert layers.lipschitz_constant(known, certified=True) <= 0.9**2
    assert read(unknown) != read(branch(FasterWave)) and not read(unknown).is_known
    with pytest.raises(ValueError, match="'activation_0' .FasterWave. is unknown.*register_rule"):
        layers.lipschitz_constant(unknown)

    x, v = tf.random.stateless_normal([2, 4, 3], [0, 1])
    b = known.layers[1].b.value
    with tf.autodiff.ForwardAccumulator(x, v) as accumulator, tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        bound = bind(known)
        y = known(x)
        y_bound, along = bound.value_and_derivative([x], v)
    np.testing.assert_allclose(y_bound, y, rtol=1e-6)
    np.testing.assert_allclose(along, accumulator.jvp(y), rtol=1e-5, atol=1e-6)
    jacobian = tape.batch_jacobian(y, x, experimental_use_pfor=False)
    np.testing.assert_allclose(tf.transpose(bound.jacobian([x])[1], [2, 0, 1]), jacobian, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(tape.gradient(y_bound, b), tape.gradient(y, b), rtol=1e-5)
    block = bijectors.ResidualBlock(known, logdet.Exact())
    expected = np.linalg.slogdet(np.eye(3) + jacobian)[1]
    np.testing.assert_allclose(block.forward_log_det_jacobian(tf.identity(x)), expected, atol=1e-5)
