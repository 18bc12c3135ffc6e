"""The derivatives that a program carries forward, along a vector and whole, against reverse mode in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_resflow import flows, layers
from tf_resflow.layers.program import read

DTYPE = {"dtype": "float64"}


def dense(*activations, final=3):
    stack = [layer for a in activations for layer in (layers.LipschitzDense(5, **DTYPE), a(**DTYPE))]
    return keras.Sequential([keras.Input([3], **DTYPE), *stack, layers.LipschitzDense(final, **DTYPE)])


def activation(name):
    return lambda **kwargs: keras.layers.Activation(name, **kwargs)


def joined():
    """Of x, of x and a condition, and of conditions alone; it begins with an activation; a layer is used twice."""
    x, c = keras.Input([3], **DTYPE), keras.Input([2], **DTYPE)
    shared, swish = layers.LipschitzDense(5, **DTYPE), layers.LipSwish(**DTYPE)
    conditions = keras.layers.Concatenate(**DTYPE)([c, keras.layers.Dense(2, "tanh", **DTYPE)(c)])
    h = keras.layers.Add(**DTYPE)([swish(shared(swish(x))), shared(x), keras.layers.Dense(5, **DTYPE)(c)])
    h = keras.layers.Concatenate(1, **DTYPE)([x, h, conditions, x])
    h = layers.LearnableConcatenation(**DTYPE)([h, c])
    return keras.Model([x, c], layers.LipschitzDense(3, **DTYPE)(swish(h)))


def flat():
    image, flatten = keras.Input([2, 2, 1], **DTYPE), keras.layers.Flatten(**DTYPE)
    stack = [flatten, *flows.dense_branch([4], (5,), **DTYPE).layers, keras.layers.Reshape([2, 2, 1], **DTYPE)]
    return keras.Sequential([image, *stack])


VECTORS = {
    "smooth": lambda: dense(layers.LipSwish, layers.LipschitzCube),
    "concatenated activations": lambda: dense(layers.CLipSwish, layers.CPila),
    "activations of Keras": lambda: dense(activation("tanh"), activation("elu")),
    "conditional": lambda: flows.dense_branch([3], (5, 4), condition_size=2, **DTYPE),
    "joined": joined,
}
IMAGES = {
    "images": lambda: flows.conv_branch([4, 5, 2], 6, **DTYPE),
    "many channels": lambda: flows.conv_branch([3, 3, 6], 7, (3, 3), **DTYPE),
    "flat images": flat,
    "conditional images": lambda: flows.conv_branch([4, 5, 2], 6, condition_size=3, **DTYPE),
}


def example(name):
    """A branch, and numbers for its inputs."""
    keras.utils.set_random_seed(0)
    branch, rng = (VECTORS | IMAGES)[name](), np.random.default_rng(0)
    for variable in branch.trainable_variables:
        variable.assign(variable + 0.5 * rng.normal(size=variable.shape))
    layers.converge_norms(branch)
    return branch, [tf.constant(rng.normal(size=[3, *x.shape[1:]])) for x in branch.inputs], rng


def assert_all_close(found, expected, message=""):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9, err_msg=message)


@pytest.mark.parametrize("name", [*VECTORS, *IMAGES])
def test_value_derivative_and_their_gradients(name):
    """Eagerly and in a graph of a training step, with fused kernels; what is joined also in one without."""
    branch, (x, *conditions), rng = example(name)
    v, a, b = (tf.constant(rng.normal(size=x.shape)) for _ in range(3))
    weights = [weight.value for weight in branch.trainable_variables]
    assert read(branch).knows_derivative

    def forward(x, v, training):
        with tf.GradientTape() as tape:
            tape.watch([x, v, *conditions])
            bound = layers.bind(branch, training=training)
            y, derivative = bound.value_and_derivative([x, *conditions], v)
            loss = tf.reduce_sum(a * y) + tf.reduce_sum(b * derivative)
        return y, tf.reduce_sum(b * derivative), *tape.gradient(loss, [x, v, *conditions, *weights])

    def reverse(x, v):
        with tf.GradientTape() as outer:
            outer.watch([x, v, *conditions])
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = branch([x, *conditions] if conditions else x)
            product = tape.gradient(y, x, b)
            loss = tf.reduce_sum(a * y) + tf.reduce_sum(v * product)
        return y, tf.reduce_sum(v * product), *outer.gradient(loss, [x, v, *conditions, *weights])

    for mode in ("eager", "fused", *(["graph"] if name == "joined" else [])):
        function = forward if mode == "eager" else tf.function(forward, autograph=False)
        assert_all_close(function(x, v, mode == "fused"), reverse(x, v), mode)


def jacobian(network, inputs):
    value, tangents = layers.bind(network).jacobian(inputs)
    return value, tf.transpose(tangents, [1, 2, 0])


def reverse_jacobian(network, inputs):
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


@pytest.mark.parametrize("name", VECTORS)
def test_the_jacobian(name):
    network, inputs, _ = example(name)
    assert read(network).knows_jacobian
    run = tf.function(derivatives, autograph=False) if name == "joined" else derivatives
    assert_all_close(run(jacobian, network, inputs), derivatives(reverse_jacobian, network, inputs))
    assert jacobian(network, [x[:0] for x in inputs])[1].shape == (0, 3, 3)


@pytest.mark.parametrize(
    "stack",
    [
        [layers.LipschitzDense(4), layers.MaxMin(), layers.LipschitzDense(3)],
        [layers.LipschitzDense(3), keras.layers.Activation("softmax")],
        [keras.layers.Reshape([1, 1, 3]), layers.LipschitzConv2D(3, 1), keras.layers.Flatten()],
    ],
)
def test_other_jacobians_are_found_in_reverse(stack):
    assert not read(keras.Sequential([keras.Input([3]), *stack])).knows_jacobian


class Doubled(keras.Sequential):
    def call(self, inputs):
        return 2 * super().call(inputs)


def unknown():
    x, c, row = keras.Input([4]), keras.Input([4]), keras.Input([1])
    dense, add = layers.LipschitzDense(4), keras.layers.Add()
    relu = keras.layers.Dense(4, "relu")
    yield from (keras.Sequential([keras.Input([4]), layer]) for layer in (layers.MaxMin(), relu))
    yield keras.Sequential([keras.Input([4]), keras.layers.Activation(lambda x: 2 * x)])
    yield keras.Model([row, x], add([row, x]))  # broadcasts
    yield keras.Model([x, c], dense(c))  # does not depend on x
    yield keras.Model([x, c], add([x, keras.layers.LayerNormalization()(c)]))
    yield keras.Model(x, [dense(x), dense(x)])
    yield keras.Model(x, keras.layers.Concatenate(0)([x, x]))
    yield Doubled([keras.Input([4]), dense])
    yield lambda x: 0.5 * x


def test_the_derivatives_of_other_branches_are_not_known():
    programs = [read(branch) for branch in unknown()]
    assert len(programs) == 10 and not any(program.knows_derivative for program in programs)
