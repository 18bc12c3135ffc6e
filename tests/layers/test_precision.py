"""Mixed policies: which layers compute in bfloat16 and when, and which results are rounded."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_resflow import bijectors, layers

pytestmark = pytest.mark.quick


def normal(shape, seed=0):
    return tf.constant(np.random.default_rng(seed).normal(size=shape), tf.float32)


class Recorder(keras.layers.Layer):
    """The identity, which records the dtypes of its inputs."""

    lipschitz_constant = 1.0

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dtypes = []

    def call(self, x):
        self.dtypes.append(x.dtype.name)
        return x


def test_a_network_computes_in_its_lower_precision_in_training_alone():
    """Includes an inner model. Layers with another policy keep it, and unknown layers compute in float32."""
    policy = "mixed_bfloat16"
    inner, outer = Recorder(dtype=policy), Recorder(dtype=policy)
    shared = {"dtype": policy, "kernel_initializer": keras.initializers.Constant(0.1)}
    stack = [
        keras.Sequential([keras.Input([2]), layers.LipschitzDense(3, **shared), inner]),
        outer,
        keras.layers.Activation("tanh", dtype=policy),
        keras.layers.Activation("elu", dtype="float32"),
        layers.LipschitzDense(2, **shared),
    ]
    network = keras.Sequential([keras.Input([2]), *stack])
    block = bijectors.ResidualBlock(network)
    for recorder in (inner, outer):
        recorder.dtypes.clear()
    x = normal([4, 2])
    before, low = layers.program.bind(network)(x), "bfloat16"
    within = tf.function(lambda x: layers.program.bind(network, training=True)(x), autograph=False)(x)
    assert (before.dtype, within.dtype) == (tf.float32, tf.bfloat16)
    assert inner.dtypes == outer.dtypes == ["float32"] * 2
    for training, expected in ((True, ["float32", low, low, "float32", low]), (False, ["float32"] * 5)):
        steps = layers.program.bind(network, training=training).program.steps
        assert [step.operation.dtype for step in steps if step.operation.dtype] == expected
    np.testing.assert_array_equal(block.forward(x, seed=1), x + before)


@pytest.mark.parametrize("kind", ["sequential", "opaque"])
def test_a_bijector_does_not_change_its_network(kind):
    """Elsewhere, its layers compute in the dtypes of Keras. Freezing a layer also freezes the `tf.Variable`s."""

    class Opaque(keras.Sequential):
        def call(self, x):
            return super().call(x)

    recorder, x = Recorder(dtype="mixed_bfloat16"), normal([4, 2])
    make = keras.Sequential if kind == "sequential" else Opaque
    network = make([keras.Input([2]), layers.LipschitzDense(2, dtype="mixed_bfloat16"), recorder])
    expected, config, autocast = network(x), network.get_config(), network.autocast
    block = bijectors.ResidualBlock(network, lipschitz_constant=0.98)
    recorder.dtypes.clear()
    block.forward(x, seed=1)
    assert set(recorder.dtypes) == {"float32"}
    assert network.get_config() == config and network.autocast == autocast and expected.dtype == "bfloat16"
    np.testing.assert_array_equal(network(x), expected)
    for is_trainable in (True, False):
        network.trainable = is_trainable
        assert bool(network.layers[0].kernel.value.trainable) == is_trainable


def test_the_kernel_of_training_and_of_evaluation():
    """They differ by the rounding to bfloat16. Both meet the coefficient, and the bound holds for both."""
    layer = layers.LipschitzDense(30, 0.9, dtype="mixed_bfloat16", use_bias=False)
    network = keras.Sequential([keras.Input([40]), layer])
    layer.kernel.assign(normal([40, 30]))
    layers.update_norms(layer, tolerance=1e-6, max_iterations=3000)
    precise = layers.program.bind(network)(tf.eye(40)).numpy().astype("float64")
    training = layers.program.bind(network, training=True)
    rounded = tf.cast(training(tf.eye(40)), tf.float64).numpy()
    assert 0 < np.max(np.abs(rounded - precise) / np.abs(precise)) <= 2.0**-8
    norms = [np.linalg.norm(w, 2) for w in (precise, rounded)]
    np.testing.assert_allclose(norms[0], 0.9 * (1 - 2.0**-7), rtol=1e-5)
    assert max(norms) <= 0.9
    np.testing.assert_allclose(layer.lipschitz_bound(), max(norms), rtol=1e-8)
    np.testing.assert_allclose(layers.lipschitz_constant(training, certified=True), norms[1], rtol=1e-8)


def test_the_swish_computes_in_float32():
    """The value and the slope are rounded once, and sums over the batch keep small terms."""
    rounded = [tf.cast(normal([256, 64], seed), tf.bfloat16) for seed in (0, 1)]

    def compute(policy, dtype):
        layer, (x, w) = layers.LipSwish(dtype=policy), (tf.cast(t, dtype) for t in rounded)
        layer.build([None, 64])
        with tf.GradientTape() as tape:
            tape.watch(x)
            with tf.GradientTape(persistent=True) as inner:
                inner.watch(x)
                y = layer(x)
                total = tf.reduce_sum(tf.cast(y, tf.float32))
            loss = tf.reduce_sum(tf.cast(inner.gradient(y, x, w), tf.float32))
        beta = layer.beta.value
        return y, *tape.gradient(loss, [x, beta]), inner.gradient(total, beta)

    found, expected = compute("mixed_bfloat16", tf.bfloat16), compute("float32", tf.float32)
    assert [tensor.dtype for tensor in found] == [tf.bfloat16, tf.bfloat16, tf.float32, tf.float32]
    np.testing.assert_array_equal(found[0], tf.cast(expected[0], tf.bfloat16))
    np.testing.assert_allclose(tf.cast(found[1], tf.float32), expected[1], atol=0.03)
    np.testing.assert_allclose(found[2:], expected[2:], rtol=0.02)
