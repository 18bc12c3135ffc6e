"""Compares the forward-mode derivatives of programs with reverse mode in float64."""

import functools
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_resflow import flows, layers
from tf_resflow.layers.program import read
from tf_resflow.logdet import Exact

DTYPE = {"dtype": "float64"}


class Wave(keras.layers.Layer):
    """A layer written by a user, sin(b x) / (1 + |b|), with slopes below 1."""

    def build(self, input_shape):
        self.b = self.add_weight(name="b", shape=(), initializer=keras.initializers.Constant(2.0))

    def call(self, x):
        return wave(x, self.b)


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


class FasterWave(Wave):
    def call(self, x):
        return super().call(3.0 * x)


def test_a_rule_of_the_user():
    branches = [
        flows.dense_branch([3], (6,), activation=kind, coefficient=0.9) for kind in (Wave, Wave, FasterWave)
    ]
    known, other, unknown = branches
    assert read(known) == read(other) and read(known).supports_jacobian
    assert layers.lipschitz_constant(known, certified=True) <= layers.lipschitz_constant(known) == 0.9**2
    assert not read(unknown).is_known
    with pytest.raises(ValueError, match="'activation_0' .FasterWave. is unknown.*register_rule"):
        layers.lipschitz_constant(unknown)


def joined():
    """Builds a branch of all kinds of operations, which uses a layer and inputs several times."""
    x, c = keras.Input([3], **DTYPE), keras.Input([2], **DTYPE)
    shared, swish = layers.LipschitzDense(5, **DTYPE), layers.LipSwish(**DTYPE)
    conditions = keras.layers.Concatenate(**DTYPE)([c, keras.layers.Dense(2, "tanh", **DTYPE)(c)])
    wave, elu = Wave(**DTYPE)(shared(x)), keras.layers.Activation("elu", **DTYPE)
    h = keras.layers.Add(**DTYPE)([swish(shared(swish(x))), wave, keras.layers.Dense(5, **DTYPE)(c)])
    h = keras.layers.Concatenate(1, **DTYPE)(
        [x, layers.CLipSwish(**DTYPE)(h), conditions, 0.5 * (1.0 - elu(x)) - x]
    )
    h = layers.LearnableConcatenation(**DTYPE)([h, c])
    h = layers.CPila(**DTYPE)(layers.LipschitzDense(5, **DTYPE)(layers.LipschitzCube(**DTYPE)(h)))
    return keras.Model([x, c], layers.LipschitzDense(3, **DTYPE)(h))


def images():
    branch = flows.conv_branch([4, 5, 2], 6, condition_size=3, **DTYPE)
    flat = keras.layers.Flatten(**DTYPE)(branch.output)
    return keras.Model(branch.inputs, keras.layers.Reshape([4, 5, 2], **DTYPE)(flat))


def example(build):
    """Returns a branch and random inputs for it."""
    keras.utils.set_random_seed(0)
    branch, rng = build(), np.random.default_rng(0)
    for variable in branch.trainable_variables:
        variable.assign(variable + 0.5 * rng.normal(size=variable.shape))
    layers.converge_norms(branch)
    return branch, [tf.constant(rng.normal(size=[3, *x.shape[1:]])) for x in branch.inputs], rng


def assert_all_close(found, expected, message=""):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9, err_msg=message)


@pytest.mark.parametrize(("build", "mode"), [(joined, "eager"), (joined, "fused"), (images, "fused")])
def test_value_derivative_and_their_gradients(build, mode):
    """Runs eagerly, or in the graph of a training step with fused kernels."""
    branch, (x, *conditions), rng = example(build)
    v, a, b = (tf.constant(rng.normal(size=x.shape)) for _ in range(3))
    weights = [weight.value for weight in branch.trainable_variables]
    assert read(branch).supports_jvp

    def forward():
        bound = layers.program.bind(branch, training=mode == "fused")
        y, derivative = bound.value_and_jvp([x, *conditions], v)
        return y, tf.reduce_sum(b * derivative)

    def reverse():
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = branch([x, *conditions] if conditions else x)
        return y, tf.reduce_sum(v * tape.gradient(y, x, b))

    def with_gradients(compute):
        with tf.GradientTape() as tape:
            tape.watch([x, v, *conditions])
            y, product = compute()
            loss = tf.reduce_sum(a * y) + product
        return y, product, *tape.gradient(loss, [x, v, *conditions, *weights])

    run = with_gradients if mode == "eager" else tf.function(with_gradients, autograph=False)
    assert_all_close(run(forward), with_gradients(reverse))


def jacobian(network, inputs, training=False):
    value, matrix = layers.program.bind(network, training=training).jacobian(inputs)
    return value, tf.transpose(matrix, [2, 0, 1])


def reverse_jacobian(network, inputs):
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(inputs)
        value = network(inputs if len(inputs) > 1 else inputs[0])
    return value, tape.batch_jacobian(value, inputs[0], experimental_use_pfor=False)


def derivatives(jacobian, network, inputs, twice=True):
    """Returns the value, the Jacobian, and one or two derivatives of a function of both in inputs and weights."""
    sources = [*inputs, *(variable.value for variable in network.trainable_variables)]
    with tf.GradientTape() as outer:
        outer.watch(inputs)
        with tf.GradientTape(persistent=True) as inner:
            inner.watch(inputs)
            value, matrix = jacobian(network, inputs)
            loss = tf.reduce_sum(tf.sin(matrix)) + tf.reduce_sum(value**2)
        first = inner.gradient(loss, sources, unconnected_gradients="zero")
        second = tf.add_n([tf.reduce_sum(gradient**2) for gradient in inner.gradient(loss, inputs)])
    last = outer.gradient(second, sources, unconnected_gradients="zero") if twice else []
    return [value, matrix, *first, *last]


def test_the_jacobian():
    """Fused kernels of a training step must accept any batch size: the last batch of an epoch is smaller."""
    network, inputs, _ = example(joined)
    assert read(network).supports_jacobian
    assert_all_close(derivatives(jacobian, network, inputs), derivatives(reverse_jacobian, network, inputs))
    assert jacobian(network, [x[:0] for x in inputs])[1].shape == (0, 3, 3)
    signature = [[tf.TensorSpec([None, *x.shape[1:]], x.dtype) for x in inputs]]
    in_training = functools.partial(jacobian, training=True)
    fused = tf.function(lambda inputs: derivatives(in_training, network, inputs, False), signature)
    for rows in (len(inputs[0]), 2):
        batch = [x[:rows] for x in inputs]
        assert_all_close(fused(batch), derivatives(reverse_jacobian, network, batch, False))


@pytest.mark.parametrize("in_graph", [False, True])
@pytest.mark.parametrize("order", [1.0, 2.0, 3.0, np.inf])
def test_second_derivatives_are_right_or_refused(order, in_graph):
    """In kernels, a second derivative exists only if the norm has a closed form. Others hold v constant."""
    options = {"domain": order, "codomain": order, "dtype": "float64"}
    large = keras.initializers.RandomNormal(seed=1)
    first, last = (layers.LipschitzDense(n, 0.8, kernel_initializer=large, **options) for n in (5, 3))
    branch = keras.Sequential([keras.Input([3], dtype="float64"), first, layers.LipSwish(dtype="float64"), last])
    for layer in (first, last):
        layer.kernel.assign(30.0 * layer.kernel)
        layers.converge_norms(layer)
    kernel = first.kernel.value
    start = kernel.numpy()
    x, of_x = (tf.constant(array) for array in np.random.default_rng(0).normal(size=[2, 2, 3]))
    of_kernel = tf.constant(np.random.default_rng(1).normal(size=[3, 5]))
    directions = {"x": of_x, "kernel": of_kernel}

    def slope(source, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            log_det = tf.reduce_sum(tf.sin(Exact()(branch, x)[1]))
        return tf.reduce_sum(directions[source] * tape.gradient(log_det, {"x": x, "kernel": kernel}[source]))

    def second(source, target):
        with tf.GradientTape(watch_accessed_variables=target == "kernel") as tape:
            tape.watch(x)
            inner = slope(source, x)
        return tf.reduce_sum(directions[target] * tape.gradient(inner, {"x": x, "kernel": kernel}[target]))

    def difference(source, target, step=1e-5):
        sides = []
        for sign in (1.0, -1.0):
            if target == "kernel":  # otherwise, both sides must share v, on which gradients depend
                kernel.assign(start + sign * step * of_kernel)
                layers.converge_norms(first)
            sides.append(slope(source, x + (sign * step * of_x if target == "x" else 0.0)))
        kernel.assign(start)
        layers.converge_norms(first)
        return (sides[0] - sides[1]) / (2 * step)

    for source, target in itertools.product(directions, directions):
        expected = difference(source, target)
        compute = functools.partial(second, source, target)
        compute = tf.function(compute, autograph=False) if in_graph else compute
        if source == target == "kernel" and order in (2.0, 3.0):
            with pytest.raises(ValueError, match="second derivative in the kernel"):
                compute()
        else:
            rtol = 0.03 if order == 3.0 else 1e-4  # its search for the maximizer v ends earlier
            np.testing.assert_allclose(compute(), expected, rtol=rtol, atol=1e-7, err_msg=f"{source} {target}")


class Doubled(keras.Sequential):
    def call(self, inputs):
        return 2 * super().call(inputs)


def test_the_derivatives_of_other_branches_are_not_known():
    x, c, row = keras.Input([4]), keras.Input([4]), keras.Input([1])
    dense, add = layers.LipschitzDense(4), keras.layers.Add()
    for branch in (
        keras.Sequential([keras.Input([4]), layers.MaxMin()]),
        keras.Sequential([keras.Input([4]), keras.layers.Dense(4, "relu")]),
        keras.Sequential([keras.Input([4]), keras.layers.Activation(lambda x: 2 * x)]),
        keras.Model([row, x], add([row, x])),  # broadcasts the row
        keras.Model([x, c], dense(c)),  # is independent of x
        keras.Model([x, c], add([x, keras.layers.LayerNormalization()(c)])),
        keras.Model(x, [dense(x), dense(x)]),
        keras.Model(x, keras.layers.Concatenate(0)([x, x])),
        Doubled([keras.Input([4]), dense]),
        lambda x: 0.5 * x,
    ):
        assert not read(branch).supports_jvp
    assert not read(images()).supports_jacobian
