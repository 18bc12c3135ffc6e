"""The forward derivative of a chain against two reverse ones, in float64."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow
from tf_resflow.logdet.forward_derivatives import known_chain, value_and_derivative

layers, flows = resflow.layers, resflow.flows
DTYPE = "float64"


def dense(*activations):
    stack = [layer for a in activations for layer in (layers.LipschitzDense(5, dtype=DTYPE), a)]
    return keras.Sequential([keras.Input([3], dtype=DTYPE), *stack, layers.LipschitzDense(3, dtype=DTYPE)])


BRANCHES = {
    "images": lambda: flows.conv_branch([4, 5, 2], 6, dtype=DTYPE),
    "upper bounds of the norms": lambda: flows.conv_branch([4, 5, 2], 6, normalization="schatten", dtype=DTYPE),
    "many channels": lambda: flows.conv_branch([3, 3, 6], 7, (3, 3), dtype=DTYPE),
    "vectors": lambda: dense(layers.LipSwish(dtype=DTYPE), layers.LipschitzCube(dtype=DTYPE)),
    "activations of Keras": lambda: dense(*(keras.layers.Activation(f, dtype=DTYPE) for f in ("tanh", "elu"))),
    "flat images": lambda: keras.Sequential(
        [
            keras.Input([2, 2, 1], dtype=DTYPE),
            keras.layers.Flatten(dtype=DTYPE),
            *flows.dense_branch([4], (5,), dtype=DTYPE).layers,
            keras.layers.Reshape([2, 2, 1], dtype=DTYPE),
        ]
    ),
}


@pytest.mark.parametrize("name", BRANCHES)
@pytest.mark.parametrize("mode", ["eager", "graph", "fused"])
def test_value_derivative_and_their_gradients(name, mode):
    keras.utils.set_random_seed(0)
    branch = BRANCHES[name]()
    rng = np.random.default_rng(0)
    for variable in branch.trainable_variables:
        variable.assign(variable + 0.5 * rng.normal(size=variable.shape))
    layers.converge_norms(branch)
    x, v, a, b = (tf.constant(rng.normal(size=[3, *branch.input_shape[1:]])) for _ in range(4))
    weights = [weight.value for weight in branch.trainable_variables]

    def forward(x, v):
        with tf.GradientTape() as tape:
            tape.watch([x, v])
            y, derivative = value_and_derivative(known_chain(branch), x, v)
            loss = tf.reduce_sum(a * y) + tf.reduce_sum(b * derivative)
        return y, derivative, tape.gradient(loss, [x, v, *weights])

    def reverse(x, v):
        with tf.GradientTape() as outer:
            outer.watch([x, v])
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = branch(x)
            product = tape.gradient(y, x, b)
            loss = tf.reduce_sum(a * y) + tf.reduce_sum(v * product)
        return y, tf.reduce_sum(v * product), outer.gradient(loss, [x, v, *weights])

    with layers.fused_kernels() if mode == "fused" else contextlib.nullcontext():
        y, derivative, gradients = (forward if mode == "eager" else tf.function(forward, autograph=False))(x, v)
    expected, product, expected_gradients = reverse(x, v)
    results = (y, tf.reduce_sum(b * derivative), *gradients)
    for ours, reference in zip(results, (expected, product, *expected_gradients), strict=True):
        np.testing.assert_allclose(ours, reference, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "layer", [layers.CLipSwish(), layers.MaxMin(), keras.layers.Dense(4), keras.layers.Activation(lambda x: 2 * x)]
)
def test_other_layers_are_not_known(layer):
    assert known_chain(keras.Sequential([keras.Input([4]), layer])) == []
