"""The Jacobian that is carried forward, against the one of TensorFlow's reverse mode."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_resflow import layers
from tf_resflow.logdet.forward_derivatives import dense_chain, forward_jacobian

ACTIVATIONS = {
    "LipSwish": layers.LipSwish,
    "LipschitzCube": layers.LipschitzCube,
    "tanh": lambda **kwargs: keras.layers.Activation("tanh", **kwargs),
}


def branch(activation):
    stack = [layers.LipschitzDense(5, dtype="float64"), activation(dtype="float64")]
    stack += [layers.LipschitzDense(4, dtype="float64"), activation(dtype="float64")]
    return keras.Sequential([keras.Input([3], dtype="float64"), *stack, layers.LipschitzDense(3, dtype="float64")])


def forward(network, x):
    value, tangents = forward_jacobian(dense_chain(network), x)
    return value, tf.transpose(tangents, [1, 2, 0])


def reverse(network, x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = network(x)
    return value, tape.batch_jacobian(value, x)


def derivatives(jacobian, network, x):
    """The value, the Jacobian, and two derivatives in x and in the weights of a function of both."""
    variables = [variable.value for variable in network.trainable_variables]
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            value, matrix = jacobian(network, x)
            loss = tf.reduce_sum(tf.sin(matrix)) + tf.reduce_sum(value**2)
        first = inner.gradient(loss, [x, *variables], unconnected_gradients="zero")
        second = tf.add_n([tf.reduce_sum(gradient**2) for gradient in first])
    return [value, matrix, *first, *outer.gradient(second, [x, *variables], unconnected_gradients="zero")]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_against_reverse_mode(activation):
    network, x = branch(ACTIVATIONS[activation]), tf.constant(np.random.default_rng(0).normal(size=[4, 3]))
    found = tf.function(derivatives, autograph=False)(forward, network, x)
    for one, other in zip(found, derivatives(reverse, network, x), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)
    assert forward(network, x[:0])[1].shape == (0, 3, 3)


@pytest.mark.parametrize(
    "stack",
    [
        [layers.LipschitzDense(4), layers.MaxMin(), layers.LipschitzDense(3)],
        [layers.LipSwish(), layers.LipschitzDense(3)],
        [layers.LipschitzDense(3), keras.layers.Activation("softmax")],
    ],
)
def test_other_branches_are_no_chain(stack):
    assert dense_chain(keras.Sequential([keras.Input([3]), *stack])) == []
