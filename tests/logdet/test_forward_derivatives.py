"""The forward derivative of a chain against two reverse ones, in float64."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow
from tf_resflow.logdet.forward_derivatives import is_known, value_and_derivative

layers, flows = resflow.layers, resflow.flows
DTYPE = "float64"


def dense(*activations):
    stack = [layer for a in activations for layer in (layers.LipschitzDense(5, dtype=DTYPE), a)]
    return keras.Sequential([keras.Input([3], dtype=DTYPE), *stack, layers.LipschitzDense(3, dtype=DTYPE)])


def joined():
    """Of x, of x and a condition, and of conditions alone; a sum; a layer that is used twice."""
    x, c = keras.Input([3], dtype=DTYPE), keras.Input([2], dtype=DTYPE)
    shared, narrow = layers.LipschitzDense(5, dtype=DTYPE), layers.LipschitzDense(3, dtype=DTYPE)
    conditions = keras.layers.Concatenate(dtype=DTYPE)([c, keras.layers.Dense(2, "tanh", dtype=DTYPE)(c)])
    h = keras.layers.Add(dtype=DTYPE)([layers.LipSwish(dtype=DTYPE)(shared(x)), shared(x)])
    h = keras.layers.Concatenate(1, dtype=DTYPE)([x, h, conditions, x])
    h = layers.LearnableConcatenation(dtype=DTYPE)([h, c])
    return keras.Model([x, c], narrow(layers.LipSwish(dtype=DTYPE)(h)))


BRANCHES = {
    "images": lambda: flows.conv_branch([4, 5, 2], 6, dtype=DTYPE),
    "many channels": lambda: flows.conv_branch([3, 3, 6], 7, (3, 3), dtype=DTYPE),
    "vectors": lambda: dense(layers.LipSwish(dtype=DTYPE), layers.LipschitzCube(dtype=DTYPE)),
    "concatenated activations": lambda: dense(layers.CLipSwish(dtype=DTYPE), layers.CPila(dtype=DTYPE)),
    "activations of Keras": lambda: dense(*(keras.layers.Activation(f, dtype=DTYPE) for f in ("tanh", "elu"))),
    "flat images": lambda: keras.Sequential(
        [
            keras.Input([2, 2, 1], dtype=DTYPE),
            keras.layers.Flatten(dtype=DTYPE),
            *flows.dense_branch([4], (5,), dtype=DTYPE).layers,
            keras.layers.Reshape([2, 2, 1], dtype=DTYPE),
        ]
    ),
    "conditional images": lambda: flows.conv_branch([4, 5, 2], 6, condition_size=3, dtype=DTYPE),
    "joined": joined,
}


@pytest.mark.parametrize("name", BRANCHES)
def test_value_derivative_and_their_gradients(name):
    """Eagerly and in a graph with fused kernels; what is joined also in one without."""
    keras.utils.set_random_seed(0)
    branch = BRANCHES[name]()
    rng = np.random.default_rng(0)
    for variable in branch.trainable_variables:
        variable.assign(variable + 0.5 * rng.normal(size=variable.shape))
    layers.converge_norms(branch)
    x, v, a, b = (tf.constant(rng.normal(size=[3, *branch.inputs[0].shape[1:]])) for _ in range(4))
    conditions = [tf.constant(rng.normal(size=[3, *c.shape[1:]])) for c in branch.inputs[1:]]
    weights = [weight.value for weight in branch.trainable_variables]
    assert is_known(branch)

    def inputs(x):
        return [x, *conditions]

    def forward(x, v):
        with tf.GradientTape() as tape:
            tape.watch([x, v, *conditions])
            y, derivative = value_and_derivative(branch, inputs(x), v)
            loss = tf.reduce_sum(a * y) + tf.reduce_sum(b * derivative)
        return y, derivative, tape.gradient(loss, [x, v, *conditions, *weights])

    def reverse(x, v):
        with tf.GradientTape() as outer:
            outer.watch([x, v, *conditions])
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = branch(inputs(x) if conditions else x)
            product = tape.gradient(y, x, b)
            loss = tf.reduce_sum(a * y) + tf.reduce_sum(v * product)
        return y, tf.reduce_sum(v * product), outer.gradient(loss, [x, v, *conditions, *weights])

    expected, product, expected_gradients = reverse(x, v)
    for mode in ("eager", "fused", *(["graph"] if name == "joined" else [])):
        with layers.fused_kernels() if mode == "fused" else contextlib.nullcontext():
            function = forward if mode == "eager" else tf.function(forward, autograph=False)
            y, derivative, gradients = function(x, v)
        results = (y, tf.reduce_sum(b * derivative), *gradients)
        for ours, reference in zip(results, (expected, product, *expected_gradients), strict=True):
            np.testing.assert_allclose(ours, reference, rtol=1e-9, atol=1e-9, err_msg=mode)


def unknown():
    x, c, row = keras.Input([4]), keras.Input([4]), keras.Input([1])
    dense, add = layers.LipschitzDense(4), keras.layers.Add()
    yield from (keras.Sequential([keras.Input([4]), layer]) for layer in (layers.MaxMin(), keras.layers.Dense(4)))
    yield keras.Sequential([keras.Input([4]), keras.layers.Activation(lambda x: 2 * x)])
    yield keras.Model([row, x], add([row, x]))  # broadcasts
    yield keras.Model([x, c], dense(c))  # does not depend on x
    yield keras.Model([x, c], add([x, keras.layers.LayerNormalization()(c)]))
    yield keras.Model(x, [dense(x), dense(x)])
    yield keras.Model(x, keras.layers.Concatenate(0)([x, x]))
    yield Doubled([keras.Input([4]), dense])
    yield lambda x: 0.5 * x


class Doubled(keras.Sequential):
    def call(self, inputs):
        return 2 * super().call(inputs)


def test_other_branches_are_not_known():
    branches = list(unknown())
    assert len(branches) == 10 and not any(map(is_known, branches))
