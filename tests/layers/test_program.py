"""Equal programs share a function of their weights. Programs with any other difference do not."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_resflow import bijectors, layers, logdet, solvers
from tf_resflow.layers.program import read
from tf_resflow.layers.tracing import traced_once


def dense(units=8, activation=layers.LipSwish, order=2.0, dtype="float64", **kwargs):
    kwargs |= {"domain": order, "codomain": order, "dtype": dtype}
    inner = [layers.LipschitzDense(units, **kwargs), activation(dtype=dtype), layers.LipschitzDense(3, **kwargs)]
    return keras.Sequential([keras.Input([3], dtype=keras.dtype_policies.get(dtype).variable_dtype), *inner])


def named(function):
    return lambda **kwargs: keras.layers.Activation(function, **kwargs)


def convolution(size=4, **options):
    stack = layers.LipschitzConv2D(2, 3), layers.LipSwish(), layers.LipschitzConv2D(1, 3, **options)
    return keras.Sequential([keras.Input([size, size, 1]), *stack])


def has_condition(merge=keras.layers.Add, activation=None):
    x, c = keras.Input([3], dtype="float64"), keras.Input([2], dtype="float64")
    h = layers.LipschitzDense(8, dtype="float64")(x)
    h = merge(dtype="float64")([h, keras.layers.Dense(8, activation, dtype="float64")(c)])
    return keras.Model([x, c], layers.LipschitzDense(3, dtype="float64")(layers.LipSwish(dtype="float64")(h)))


def dense_net():
    x = keras.Input([3])
    h = layers.LearnableConcatenation()([x, layers.CPila()(layers.LipschitzDense(4)(x))])
    return keras.Model(x, layers.LipschitzDense(3)(h))


class Doubled(layers.LipSwish):
    def call(self, inputs):
        return 0.5 * super().call(inputs)


def test_equal_branches_have_equal_programs():
    """The constraints do not matter, because kernels are scaled before they reach the program."""
    for build in (dense, convolution, has_condition, dense_net):
        one, other = read(build()), read(build())
        assert one.is_known and one == other and hash(one) == hash(other)
    assert read(dense()) == read(dense(order=1.0, coefficient=0.5))


def test_different_branches_have_different_programs():
    branches = [
        *(dense(), dense(9), dense(dtype="float32"), dense(use_bias=False), dense_net()),
        *(dense(activation=activation) for activation in (layers.MaxMin, named("tanh"), named("elu"))),
        *(convolution(), convolution(5), convolution(strides=(1, 2)), convolution(strides=(2, 1))),
        *(convolution(padding="valid"), has_condition(), has_condition(activation="tanh")),
    ]
    assert len({read(branch) for branch in branches}) == len(branches)
    mixed = dense(activation=layers.MaxMin, dtype="mixed_bfloat16")
    for branch in (mixed, dense(), convolution()):
        assert read(branch) != read(branch, training=True)


def test_what_is_not_known_is_not_shared():
    for build, is_known in (
        (lambda: dense(activation=Doubled), False),
        (lambda: dense(activation=lambda **kwargs: keras.layers.Lambda(lambda x: 0.1 * x, **kwargs)), False),
        (lambda: dense(activation=named(lambda x: 0.1 * x)), True),
        (lambda: has_condition(keras.layers.Maximum), False),  # a layer without a rule
        (lambda: has_condition(activation=lambda x: 0.1 * x), True),
        (tf.Module, False),
    ):
        one, other = read(build()), read(build())
        assert one != other and one.is_known == other.is_known == is_known


def test_equal_settings_share_functions():
    """Objects are equal if their classes and fields are. A subclass never equals its base."""

    class Heir(logdet.Geometric):
        pass

    @dataclasses.dataclass(frozen=True)
    class Own(logdet.PowerSeries):
        factor: float = 1.0

    def settings():
        yield from (logdet.PowerSeries(3), logdet.PowerSeries(4), logdet.PowerSeries(3, probes="basis"))
        yield from (Own(3), Own(3, factor=2.0), logdet.Exact(), solvers.Anderson(), solvers.FixedPoint())
        for distribution in (logdet.Geometric, logdet.Poisson, Heir):
            yield from (logdet.RussianRoulette(1, distribution(p)) for p in (0.5, 0.4))

    assert logdet.Geometric(np.float32(0.3)) == logdet.Geometric(float(np.float32(0.3)))
    one, other = list(settings()), list(settings())
    assert one == other and list(map(hash, one)) == list(map(hash, other)) and len(set(one)) == len(one)
    with pytest.raises(dataclasses.FrozenInstanceError, match="In a subclass, declare a field"):
        Heir(0.5).scale = 2.0


class Noted(keras.layers.Layer):
    """A layer that computes another function in training, and accepts integers."""

    lipschitz_constant = 1.0

    def call(self, x, training=False):
        x = tf.cast(x, tf.float32) % 1000.0
        return -x if training else x


def two_inputs():
    x, c = keras.Input([3], name="x"), keras.Input([3], name="c")
    return keras.Model([x, c], keras.layers.Dense(3)(x) + keras.layers.Activation("tanh")(c))


def nested(call):
    """Builds a model with two inputs around a call of an inner model."""
    inputs = keras.Input([3]), keras.Input([3])
    return lambda: keras.Model(list(inputs), call(two_inputs(), *inputs))


def of_integers():
    x, c = keras.Input([3]), keras.Input([1], dtype="int32")
    labels = Noted()(keras.layers.Flatten(dtype="mixed_bfloat16")(c))
    return keras.Model([x, c], keras.layers.Add()([x, labels]))


@pytest.mark.parametrize(
    "build",
    [
        nested(lambda inner, x, c: inner([x, c])),
        nested(lambda inner, x, c: inner({"x": x, "c": c})),
        nested(lambda inner, x, c: keras.Sequential([keras.Input([3]), Noted()])(x, training=True) + c),
        nested(lambda inner, x, c: keras.layers.Dense(2, "tanh")(x) * keras.ops.sum(c, -1, keepdims=True)),
        of_integers,
    ],
)
def test_a_bound_network_is_that_of_keras(build):
    """The results are equal for any way to call the parts and any kind of input."""
    network, rng = build(), np.random.default_rng(0)
    inputs = [tf.cast(1500.0 * rng.normal(size=[4, x.shape[1]]), x.dtype) for x in network.inputs]
    for training in (False, True):
        np.testing.assert_array_equal(layers.program.bind(network, training=training)(inputs), network(inputs))


# Arithmetic on tensors and numbers, with its Lipschitz constant for an h of constant 0.5.
ARITHMETIC = {
    "half of a sum": (lambda x, h: 0.5 * (x + h), 0.75),
    "a sum of halves": (lambda x, h: x / 2 + h * 0.5, 0.75),
    "a difference": (lambda x, h: 0.25 * h - x, 1.125),
    "a negative": (lambda x, h: -h, 0.5),
    "offsets": (lambda x, h: (3 + h) + (h - 1.5) - (1 - h), 1.5),
    "functions": (lambda x, h: keras.ops.subtract(keras.ops.multiply(-2.0, h), keras.ops.add(1, x)), 2.0),
}


@pytest.mark.parametrize("dtype", ["float32", "float64", "mixed_bfloat16"])
@pytest.mark.parametrize("name", ARITHMETIC)
def test_arithmetic_is_that_of_keras(name, dtype):
    compute, constant = ARITHMETIC[name]

    def build(scale=1.0):
        x = keras.Input([3], dtype=keras.DTypePolicy(dtype).compute_dtype)
        return keras.Model(x, scale * compute(x, layers.LipschitzDense(3, 0.5, dtype=dtype)(x)))

    network = build()
    x = tf.cast(tf.random.stateless_normal([4, 3], [1, 2]), network.inputs[0].dtype)
    bound = layers.program.bind(network, training=True)  # in the precision of Keras
    np.testing.assert_allclose(bound(x), network(x), rtol=2e-6, atol=2e-7)
    assert layers.lipschitz_constant(network) == constant
    assert layers.lipschitz_constant(build(-3.0)) == pytest.approx(3.0 * constant)
    assert read(network).supports_jacobian
    assert read(network) == read(build()) != read(build(-3.0))


def of_convolution(**settings):
    layer = keras.layers.Conv2D(4, (3, 2), kernel_initializer="normal", bias_initializer="normal", **settings)
    return keras.Sequential([keras.Input([6, 5, 2]), layer])


def test_a_bound_convolution_is_that_of_keras():
    for settings in (
        {"padding": "same", "activation": "tanh"},
        {"strides": (1, 2), "use_bias": False},
        {"dilation_rate": (2, 1), "padding": "same"},
    ):
        network, x = of_convolution(**settings), tf.random.stateless_normal([3, 6, 5, 2], [1, 2])
        assert read(network).is_known
        np.testing.assert_allclose(layers.program.bind(network)(x), network(x), rtol=1e-5, atol=1e-6)
    for settings in ({"groups": 2}, {"data_format": "channels_first"}):
        assert not read(of_convolution(**settings)).is_known, "Keras is called"


def test_a_bound_network_takes_the_shapes_of_its_inputs():
    stack = [keras.layers.Flatten(), layers.LipschitzDense(4), keras.layers.Reshape([2, 2, 1])]
    bound = layers.program.bind(keras.Sequential([keras.Input([2, 2, 1]), *stack]))
    for shape in ([4, 1, 1, 1], [4, 2, 2]):
        with pytest.raises(
            (ValueError, tf.errors.InvalidArgumentError), match="got inputs of shapes|not compatible"
        ):
            bound(tf.ones(shape))
    with pytest.raises(ValueError, match="got inputs of shapes"):
        layers.program.bind(two_inputs())(tf.ones([1, 3]))


def test_a_function_is_traced_once_for_each_key_and_shape():
    """A function that captures other tensors than its arguments is traced each time."""
    traced = []

    def double(x):
        traced.append(x.shape)
        return 2.0 * x

    def calls():
        pairs = [("double", tf.ones([2])), ("double", 3.0 * tf.ones([2])), ("double", tf.ones([3]))]
        return tf.concat([traced_once(key, double, x) for key, x in [*pairs, ("other", tf.ones([2]))]], 0)

    for num_traces in (3, 6):
        np.testing.assert_array_equal(tf.function(calls, autograph=False)(), [2, 2, 6, 6, 2, 2, 2, 2, 2])
        assert len(traced) == num_traces
    np.testing.assert_array_equal(calls()[2:4], [6, 6])  # in eager mode

    def plus(other):
        return lambda x: x + other

    def sums(x):
        return [traced_once("sum", plus(other), x) for other in (tf.exp(x - 1.0), 10.0 * x)]

    np.testing.assert_array_equal(tf.function(sums, autograph=False)(tf.ones([])), [2.0, 11.0])


def test_blocks_that_differ_in_their_weights_share_their_traces():
    estimator = logdet.RussianRoulette(num_probes=2, per_example=True)
    blocks = [bijectors.ResidualBlock(dense(4), estimator, name=f"block{i}") for i in range(2)]

    @tf.function(autograph=False)
    def compute(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            log_det = tf.add_n([block.forward_log_det_jacobian(x, seed=[3, 4]) for block in blocks])
        return tape.gradient(log_det, x), [block.inverse(2.0 * x) for block in blocks]

    graph = compute.get_concrete_function(tf.TensorSpec([4, 3], tf.float64)).graph
    called = [op.get_attr("f").name for op in graph.get_operations() if "PartitionedCall" in op.type]
    ours = [name for name in called if "_refine_" not in name]  # those check the norms
    assert len(set(ours)) == 3, "the series, its gradient, and the inverse"
    assert len(ours) > 4
