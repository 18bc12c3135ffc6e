"""Equal programs share a function of their weights; what differs in more than these does not."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_resflow import bijectors, layers, logdet
from tf_resflow.layers.precision import confine_to_training
from tf_resflow.layers.program import read
from tf_resflow.layers.shared_traces import settings_key, traced_once


def dense(units=8, activation=layers.LipSwish, orders=(2.0, 2.0, 2.0), dtype="float64", **kwargs):
    first, second = [dict(domain=p, codomain=q, dtype=dtype) for p, q in zip(orders, orders[1:], strict=False)]
    return keras.Sequential(
        [
            keras.Input([3], dtype=keras.dtype_policies.get(dtype).variable_dtype),
            layers.LipschitzDense(units, **first, **kwargs),
            activation(dtype=dtype),
            layers.LipschitzDense(3, **second, **kwargs),
        ]
    )


def convolution(size=4):
    return keras.Sequential(
        [
            keras.Input([size, size, 1]),
            layers.LipschitzConv2D(2, 3),
            layers.LipSwish(),
            layers.LipschitzConv2D(1, 3),
        ]
    )


def conditional(merge=keras.layers.Add, activation=None):
    x, c = keras.Input([3], dtype="float64"), keras.Input([2], dtype="float64")
    h = layers.LipschitzDense(8, dtype="float64")(x)
    h = merge(dtype="float64")([h, keras.layers.Dense(8, activation, dtype="float64")(c)])
    return keras.Model([x, c], layers.LipschitzDense(3, dtype="float64")(layers.LipSwish(dtype="float64")(h)))


def dense_net(coefficient=0.98):
    x = keras.Input([3], dtype="float64")
    h = layers.CPila(dtype="float64")(layers.LipschitzDense(4, dtype="float64")(x))
    h = layers.LearnableConcatenation(coefficient, dtype="float64")([x, h])
    return keras.Model(x, layers.LipschitzDense(3, dtype="float64")(h))


class Doubled(layers.LipSwish):
    def call(self, inputs):
        return 0.5 * super().call(inputs)


def test_equal_branches():
    """Also under other constraints: kernels are scaled before."""
    for build in (dense, convolution, conditional, dense_net):
        one, other = read(build()), read(build())
        assert one.is_known and one == other and hash(one) == hash(other)
    assert read(dense()) == read(dense(orders=(1.0, 1.0, 1.0), coefficient=0.5))


def test_different_branches():
    branches = [
        dense(),
        dense(9),
        dense(activation=layers.MaxMin),
        dense(activation=lambda **kwargs: keras.layers.Activation("tanh", **kwargs)),
        dense(activation=lambda **kwargs: keras.layers.Activation("elu", **kwargs)),
        dense(dtype="float32"),
        dense(use_bias=False),
        convolution(),
        convolution(5),
        conditional(),
        conditional(activation="tanh"),
        dense_net(),
    ]
    assert len({read(branch) for branch in branches}) == len(branches)
    mixed = dense(activation=layers.MaxMin, dtype="mixed_bfloat16")
    confine_to_training(mixed)
    for branch in (mixed, dense(), convolution()):
        assert read(branch) != read(branch, training=True)


def test_what_is_not_known_is_not_shared():
    for build, is_known in (
        (lambda: dense(activation=Doubled), False),
        (lambda: dense(activation=lambda **kwargs: keras.layers.Lambda(lambda x: 0.1 * x, **kwargs)), False),
        (lambda: dense(activation=lambda **kwargs: keras.layers.Activation(lambda x: 0.1 * x, **kwargs)), True),
        (lambda: conditional(keras.layers.Maximum), False),  # not among the known layers
        (lambda: conditional(activation=lambda x: 0.1 * x), True),
        (tf.Module, False),
    ):
        one, other = read(build()), read(build())
        assert one != other and one.is_known == other.is_known == is_known


def test_settings():
    class Own(logdet.PowerSeries):
        pass

    def key(estimator):
        return settings_key(estimator, (logdet.Geometric, logdet.PowerSeries, logdet.RussianRoulette))

    altered = logdet.PowerSeries(3)
    altered.terms = lambda *args: None
    same = [logdet.RussianRoulette(1, logdet.Geometric(0.5)), logdet.RussianRoulette(1, logdet.Geometric(0.5))]
    assert key(same[0]) == key(same[1])
    different = [
        *(logdet.PowerSeries(3), logdet.PowerSeries(4), logdet.PowerSeries(3, probes="basis"), None, same[0]),
        *(logdet.RussianRoulette(1, logdet.Geometric(0.4)), logdet.RussianRoulette(True, logdet.Geometric(0.5))),
    ]
    assert len(set(map(key, different))) == len(different) and None not in map(key, different)
    unknown = altered, Own(3), logdet.Exact(), logdet.RussianRoulette(1, logdet.Poisson(2.0)), tf.ones([])
    assert {key(obj) for obj in unknown} == {None}


class Noted(keras.layers.Layer):
    """Another function in training, and of integers."""

    lipschitz_constant = 1.0

    def call(self, x, training=False):
        x = tf.cast(x, tf.float32) % 1000.0
        return -x if training else x


def named():
    x, c = keras.Input([3], name="x"), keras.Input([3], name="c")
    return keras.Model([x, c], keras.layers.Dense(3)(x) + keras.layers.Activation("tanh")(c))


def nested(call):
    """A model of two inputs around a call of an inner one."""
    inputs = keras.Input([3]), keras.Input([3])
    return keras.Model(list(inputs), call(named(), *inputs))


def of_integers():
    x, c = keras.Input([3]), keras.Input([1], dtype="int32")
    labels = Noted()(keras.layers.Flatten(dtype="mixed_bfloat16")(c))
    return keras.Model([x, c], keras.layers.Add()([x, labels]))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "build",
    [
        lambda: nested(lambda inner, x, c: inner([x, c])),
        lambda: nested(lambda inner, x, c: inner({"x": x, "c": c})),
        lambda: nested(lambda inner, x, c: Noted()(inner([x, c]), training=True)),
        lambda: nested(lambda inner, x, c: keras.Sequential([keras.Input([3]), Noted()])(x, training=True) + c),
        lambda: nested(lambda inner, x, c: keras.layers.Concatenate(1)([x, c])),
        lambda: nested(lambda inner, x, c: keras.layers.Dense(2, "tanh")(x) * keras.ops.sum(c, -1, keepdims=True)),
        of_integers,
    ],
)
def test_a_bound_network_is_that_of_keras(build, training):
    """However its parts are called, and whatever they take."""
    network, rng = build(), np.random.default_rng(0)
    inputs = [tf.cast(1500.0 * rng.normal(size=[4, x.shape[1]]), x.dtype) for x in network.inputs]
    np.testing.assert_array_equal(layers.bind(network, training=training)(inputs), network(inputs))


def test_a_bound_network_takes_the_shapes_of_its_inputs():
    stack = [keras.layers.Flatten(), layers.LipschitzDense(4), keras.layers.Reshape([2, 2, 1])]
    bound = layers.bind(keras.Sequential([keras.Input([2, 2, 1]), *stack]))
    for shape in ([4, 1, 1, 1], [2, 4, 4, 1], [4, 2, 2], [1, 4, 2, 2, 1]):
        with pytest.raises(ValueError, match="takes inputs of shape|reshapes events"):
            bound(tf.ones(shape))
    with pytest.raises(ValueError, match="takes 2 inputs"):
        layers.bind(named())(tf.ones([1, 3]))


def test_an_estimator_of_the_user_reads_its_own_branch_and_its_state_at_each_call():
    class Own(logdet.PowerSeries):
        factor = 1.0

        def terms(self, branch, v, seed):
            self.num_terms = 1 if layers.lipschitz_constant(branch) < 0.5 else 6
            terms = super().terms(branch, v, seed)

            def weigh(k, w, state):
                *weights, state = terms.weigh(k, w, state)
                return *(self.factor * weight for weight in weights), state

            return terms._replace(weigh=weigh)

    own, x = Own(probes="basis"), tf.constant(np.random.default_rng(0).normal(size=[4, 3]))
    branches = [dense(coefficient=0.2), dense(coefficient=0.95)]

    def estimates():
        found = [own(branch, x)[1] for branch in branches]
        own.factor = 3.0
        found += [own(branch, x)[1] for branch in branches]
        own.factor = 1.0
        return found

    for one, other in zip(tf.function(estimates, autograph=False)(), estimates(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_a_function_is_traced_once_for_each_key_and_shape():
    traced = []

    def double(x):
        traced.append(x.shape)
        return 2.0 * x

    def twice():
        x = traced_once("double", double, tf.ones([2])), traced_once("double", double, 3.0 * tf.ones([2]))
        return [*x, traced_once("double", double, tf.ones([3])), traced_once("other", double, tf.ones([2]))]

    results = tf.function(twice, autograph=False)()
    np.testing.assert_array_equal(tf.concat(results, 0), [2, 2, 6, 6, 2, 2, 2, 2, 2])
    assert len(traced) == 3
    tf.function(twice, autograph=False)()
    assert len(traced) == 6
    assert twice()[1][0] == 6.0, "in eager mode"


def test_a_function_of_other_tensors_is_not_shared():
    def plus(other):
        return lambda x: x + other

    def sums(x):
        return [traced_once("sum", plus(other), x) for other in (tf.exp(x - 1.0), 10.0 * x)]

    np.testing.assert_array_equal(tf.function(sums, autograph=False)(tf.ones([])), [2.0, 11.0])


def values(blocks, x, seed):
    """The latents and the log-determinants of a chain of blocks, their gradients, and the way back."""
    variables = [variable for block in blocks for variable in block.trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch(x)
        y, log_dets = x, []
        for block in blocks:
            log_dets.append(block.forward_log_det_jacobian(y, seed=seed))
            y = block.forward(y)
        loss = tf.reduce_sum(tf.add_n(log_dets) * tf.range(1.0, x.shape[0] + 1, dtype=x.dtype)) + tf.reduce_sum(
            y**3
        )
    gradients = tape.gradient(loss, [x, *variables], unconnected_gradients="zero")
    with tf.GradientTape() as tape:
        tape.watch(y)
        back = tf.identity(y)  # without the value that TFP keeps
        for block in reversed(blocks):
            back = block.inverse(back)
        loss = tf.reduce_sum(back**3)
    return [y, *log_dets, *gradients, back, *tape.gradient(loss, [y, *variables], unconnected_gradients="zero")]


def test_blocks_that_share_a_trace_have_their_own_values_and_gradients():
    estimator = logdet.RussianRoulette(num_probes=2, per_example=True)
    blocks = [bijectors.ResidualBlock(dense(4), estimator, name=f"block{i}") for i in range(2)]
    for scale, block in enumerate(blocks):
        block.branch.layers[0].bias.assign(0.1 * scale + np.zeros(4))
        layers.converge_norms(block)
    x, seed = tf.constant(np.random.default_rng(0).normal(size=[4, 3])), tf.constant([3, 4])
    expected = values(blocks, x, seed)
    shared = tf.function(values, autograph=False).get_concrete_function(blocks, x, seed)
    for one, other in zip(shared(x, seed), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-8)
    called = [op.get_attr("f").name for op in shared.graph.get_operations() if "PartitionedCall" in op.type]
    ours = [name for name in called if "scaled" not in name]
    assert len(set(ours)) == 3, "the series, its gradient, and the inverse"
    assert all(ours.count(name) % len(blocks) == 0 for name in ours)
