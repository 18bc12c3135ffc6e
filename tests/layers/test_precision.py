"""Mixed policies: which layers compute in bfloat16 where, and what is rounded."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_resflow import bijectors, flows, layers
from tf_resflow.layers.precision import TrainingPolicy, confine_to_training


def normal(shape, seed=0):
    return tf.constant(np.random.default_rng(seed).normal(size=shape), tf.float32)


class Recorder(keras.layers.Layer):
    """The identity; it keeps the dtypes of its inputs."""

    lipschitz_constant = 1.0

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dtypes = []

    def call(self, x):
        self.dtypes.append(x.dtype.name)
        return x


@pytest.mark.parametrize("functional", [False, True])
def test_a_network_computes_in_its_lower_precision_in_training_alone(functional):
    """Also in an inner model; layers of another policy keep it, and those that are not known are in float32."""
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
    if functional:
        x = keras.Input([2])
        network = keras.Model(x, network(x))
    block = bijectors.ResidualBlock(network)
    for recorder in (inner, outer):
        recorder.dtypes.clear()
    x = normal([4, 2])
    before, low = network(x), "bfloat16"
    run = tf.function(lambda x: layers.bind(network, training=True)(x), autograph=False)
    within = run(x)
    assert (before.dtype, within.dtype) == (tf.float32, tf.bfloat16)
    assert inner.dtypes == outer.dtypes == ["float32"] * 2
    for training, expected in ((True, [low, low, "float32", low]), (False, ["float32"] * 4)):
        steps = layers.bind(network, training=training).program.steps
        assert [step.operation.dtype for step in steps if step.operation.dtype] == expected
    np.testing.assert_array_equal(block.forward(x, seed=1), x + network(x))
    np.testing.assert_array_equal(layers.bind(network)(x), network(x))


def test_layers_that_are_in_no_bijector_are_as_in_keras():
    layer = layers.LipschitzDense(2, dtype="mixed_bfloat16")
    assert layer(normal([4, 2])).dtype == layer.compute_dtype == "bfloat16"


def test_the_policy_of_a_copy():
    """Keras' own, of the same name, until the copy is in a bijector itself."""
    branch = flows.dense_branch([2, 1], (4,), dtype="mixed_bfloat16")
    bijectors.ResidualBlock(branch)
    copy = keras.models.clone_model(branch)
    assert {type(layer.dtype_policy) for layer in branch.layers} == {TrainingPolicy}
    assert {type(layer.dtype_policy) for layer in copy.layers} == {keras.DTypePolicy}
    assert {layer.dtype_policy.name for layer in copy.layers} == {"mixed_bfloat16"}


@pytest.mark.parametrize("seed", range(3))
def test_the_kernel_of_training_and_of_evaluation(seed):
    """They are one up to its rounding to bfloat16; both meet the coefficient, and the bound holds for both."""
    kernel = normal([40, 30], seed).numpy()
    layer = layers.LipschitzDense(
        30, 0.9, dtype="mixed_bfloat16", kernel_initializer=keras.initializers.Constant(kernel), use_bias=False
    )
    network = keras.Sequential([keras.Input([40]), layer])
    confine_to_training(network)
    layer.update_norm(tolerance=1e-6, max_iterations=3000)
    precise = layer(tf.eye(40)).numpy().astype("float64")
    training = layers.bind(network, training=True)
    rounded = tf.cast(training(tf.eye(40)), tf.float64).numpy()
    assert 0 < np.max(np.abs(rounded - precise) / np.abs(precise)) <= 2.0**-8
    norms = [np.linalg.norm(w, 2) for w in (precise, rounded)]
    np.testing.assert_allclose(norms[0], 0.9 * (1 - 2.0**-7), rtol=1e-5)
    assert max(norms) <= 0.9
    np.testing.assert_allclose(layer.lipschitz_bound(), max(norms), rtol=1e-8)
    np.testing.assert_allclose(layers.lipschitz_constant(training, certified=True), norms[1], rtol=1e-8)


@pytest.mark.parametrize("order", [1, 2])
def test_the_swish_computes_in_float32(order):
    """Its value and slope in bfloat16 are those in float32, rounded once; sums over the batch are not lost."""
    x, w = normal([256, 64]), normal([256, 64], 1)
    rounded = [tf.cast(t, tf.bfloat16) for t in (x, w)]
    results = []
    for dtype, (x, w) in (("mixed_bfloat16", rounded), ("float32", [tf.cast(t, tf.float32) for t in rounded])):
        layer = layers.LipSwish(dtype=dtype)
        layer.build([None, 64])
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
            if order == 2:
                with tf.GradientTape() as inner:
                    inner.watch(x)
                    y = layer(x)
                y = inner.gradient(y, x, w)
            loss = tf.reduce_sum(tf.cast(y, tf.float32))
        results.append([y, *tape.gradient(loss, [x, layer.beta.value])])
    (y, dx, dbeta), (expected, expected_dx, expected_dbeta) = results
    assert (y.dtype, dx.dtype, dbeta.dtype) == (tf.bfloat16, tf.bfloat16, tf.float32)
    if order == 1:
        np.testing.assert_array_equal(y, tf.cast(expected, tf.bfloat16))
    np.testing.assert_allclose(tf.cast(dx, tf.float32), expected_dx, atol=0.03)
    np.testing.assert_allclose(dbeta, expected_dbeta, rtol=0.02)
