"""The Jacobian that is carried forward, against the one of TensorFlow's reverse mode."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_resflow import flows, layers
from tf_resflow.logdet.forward_derivatives import forward_jacobian, has_forward_jacobian

DTYPE = {"dtype": "float64"}


def dense(units):
    return layers.LipschitzDense(units, **DTYPE)


def chain(activation):
    stack = [dense(5), activation(**DTYPE), dense(4), activation(**DTYPE)]
    return keras.Sequential([keras.Input([3], **DTYPE), *stack, dense(3)])


def joined():
    """Of x, of x and a condition, and of the condition; it begins with an activation."""
    x, c = keras.Input([3], **DTYPE), keras.Input([2], **DTYPE)
    h = keras.layers.Add(**DTYPE)([dense(4)(layers.LipSwish(**DTYPE)(x)), keras.layers.Dense(4, **DTYPE)(c)])
    h = keras.layers.Concatenate(**DTYPE)([x, dense(3)(x), c, layers.LipSwish(**DTYPE)(h)])
    h = layers.LearnableConcatenation(**DTYPE)([h, x])
    return keras.Model([x, c], dense(3)(h))


BRANCHES = {
    "LipSwish": lambda: chain(layers.LipSwish),
    "CLipSwish": lambda: chain(layers.CLipSwish),
    "CPila": lambda: chain(layers.CPila),
    "LipschitzCube": lambda: chain(layers.LipschitzCube),
    "tanh": lambda: chain(lambda **kwargs: keras.layers.Activation("tanh", **kwargs)),
    "conditional": lambda: flows.dense_branch([3], (5, 4), condition_size=2, **DTYPE),
    "joined": joined,
}


def forward(network, inputs):
    assert has_forward_jacobian(network)
    value, tangents = forward_jacobian(network, inputs)
    return value, tf.transpose(tangents, [1, 2, 0])


def reverse(network, inputs):
    """Each copy of an example tells the gradient of one of 3 outputs."""

    def call(inputs):
        return network(inputs if len(inputs) > 1 else inputs[0])

    copies = [tf.repeat(x, 3, 0) for x in inputs]
    with tf.GradientTape() as tape:
        tape.watch(copies)
        value = call(copies)
    rows = tape.gradient(value, copies[0], tf.tile(tf.eye(3, dtype=value.dtype), [len(inputs[0]), 1]))
    return call(inputs), tf.reshape(rows, [-1, 3, 3])


def derivatives(jacobian, network, inputs):
    """The value, the Jacobian, and two derivatives in the inputs and in the weights of a function of both."""
    sources = [*inputs, *(variable.value for variable in network.trainable_variables)]
    with tf.GradientTape() as outer:
        outer.watch(inputs)
        with tf.GradientTape() as inner:
            inner.watch(inputs)
            value, matrix = jacobian(network, inputs)
            loss = tf.reduce_sum(tf.sin(matrix)) + tf.reduce_sum(value**2)
        first = inner.gradient(loss, sources, unconnected_gradients="zero")
        second = tf.add_n([tf.reduce_sum(gradient**2) for gradient in first])
    return [value, matrix, *first, *outer.gradient(second, sources, unconnected_gradients="zero")]


@pytest.mark.parametrize("name", BRANCHES)
def test_against_reverse_mode(name):
    keras.utils.set_random_seed(0)
    network, random = BRANCHES[name](), np.random.default_rng(0)
    inputs = [tf.constant(random.normal(size=[4, *x.shape[1:]])) for x in network.inputs]
    run = tf.function(derivatives, autograph=False) if name == "joined" else derivatives
    found = run(forward, network, inputs)
    for one, other in zip(found, derivatives(reverse, network, inputs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)
    assert forward(network, [x[:0] for x in inputs])[1].shape == (0, 3, 3)


@pytest.mark.parametrize(
    "stack",
    [
        [layers.LipschitzDense(4), layers.MaxMin(), layers.LipschitzDense(3)],
        [layers.LipschitzDense(3), keras.layers.Activation("softmax")],
        [keras.layers.Reshape([1, 1, 3]), layers.LipschitzConv2D(3, 1), keras.layers.Flatten()],
    ],
)
def test_other_branches_are_differentiated_in_reverse(stack):
    assert not has_forward_jacobian(keras.Sequential([keras.Input([3]), *stack]))
