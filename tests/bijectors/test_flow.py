"""Flow and MultiscaleFlow: order, names, arguments, seeds, variables, and user-defined members."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tf_resflow as resflow
from tf_resflow.bijectors.flow import parts_by_name

tfb = tfp.bijectors
tfd = tfp.distributions
EXACT = resflow.logdet.Exact()
GAUSSIAN = resflow.logdet.RussianRoulette(probes="gaussian")  # no two draws agree by chance
Flow = resflow.bijectors.Flow
MultiscaleFlow = resflow.bijectors.MultiscaleFlow
Squeeze2D = resflow.bijectors.Squeeze2D


@pytest.fixture(scope="module")
def flow(make_block):
    """Returns a flow with two stochastic blocks of equal parameters, which only the salt distinguishes."""
    first, second = (make_block(name, GAUSSIAN, size=3) for name in ("first", "second"))
    return Flow([first, resflow.bijectors.ActNorm([3]), tfb.Scale(2.0), second])


@pytest.fixture(scope="module")
def x():
    return tf.random.stateless_normal([4, 3], [5, 6])


def fldj(bijector, x, **kwargs):
    return bijector.forward_log_det_jacobian(tf.identity(x), 1, **kwargs).numpy()


def test_batch_shape_comes_from_the_members(make_block, density):
    scale = tfb.Scale([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    flow = Flow([Flow([scale], name="inner"), make_block(log_det_estimator=EXACT)])
    assert flow.experimental_batch_shape(x_event_ndims=1) == [3]
    distribution = density(flow)
    x = distribution.sample(4, seed=1)
    assert distribution.batch_shape == [3] and x.shape == [4, 3, 2]
    np.testing.assert_allclose(distribution.log_prob(x), distribution.log_prob(tf.identity(x)), rtol=1e-4)


@pytest.mark.parametrize("size", [1, 3])
def test_parts_can_differ_in_rank_and_are_evaluated_once(size, make_branch, counter, normal):
    """A log-determinant evaluates each part once, in the direction that needs no solver."""
    block = resflow.bijectors.ResidualBlock(make_branch(counter=counter), EXACT)
    inner = Flow([tfb.JointMap([block, tfb.Exp()])], name="inner")
    flow = Flow([inner, tfb.JointMap([tfb.Scale(2.0), tfb.Scale(3.0)])])
    x = [normal([4, n], n) for n in (2, size)]
    expected = block.forward_log_det_jacobian(x[0], 1) + tf.reduce_sum(x[1], 1) + np.log(2) * 2 + np.log(3) * size
    y = [tf.identity(part) for part in flow.forward([tf.identity(part) for part in x])]
    counter.take()
    np.testing.assert_allclose(flow.forward_log_det_jacobian(x, [1, 1]), expected, rtol=1e-5)
    assert counter.take() == 1
    np.testing.assert_allclose(tfb.Chain([flow]).forward_log_det_jacobian(x, [1, 1]), expected, rtol=1e-5)
    np.testing.assert_allclose(flow.inverse_log_det_jacobian(y, [1, 1]), -expected, rtol=1e-4)


def test_a_seed_determines_the_draw_eagerly_and_in_a_graph(flow, x):
    call = tf.function(lambda x, **kwargs: flow.forward_log_det_jacobian(x, 1, **kwargs), autograph=False)
    values = [fldj(flow, x, seed=seed) for seed in (3, [1, 2], [1, 3])]
    assert all(np.all(one != other) for one, other in zip(values, values[1:], strict=False))
    np.testing.assert_array_equal(fldj(flow, x, seed=3), values[0])
    np.testing.assert_array_equal(fldj(flow, x, seed=tf.constant([1, 2])), values[1])
    np.testing.assert_allclose(call(x, seed=tf.constant([1, 2])), values[1], rtol=1e-5)
    for function in (lambda: fldj(flow, x), lambda: call(x)):  # without a seed, each call draws new numbers
        assert np.all(function() != function())
    both = fldj(flow, x, first={"seed": 1}, second={"seed": 1})
    np.testing.assert_array_equal(both, fldj(flow, x, seed=1))
    assert np.all(fldj(flow, x, seed=1, second={"seed": 2}) != both)


class Recorder(resflow.logdet.LogDetEstimator):
    """Records the seeds that it receives, and returns log-determinants of 0."""

    def __init__(self):
        self.seeds = []

    def __call__(self, branch, x, condition=None, *, seed=None):
        self.seeds.append(tuple(seed.numpy()))
        return x + branch(x), tf.zeros(len(x))


def equal_blocks(estimator, count, name="block"):
    """Returns equal blocks, which differ only in their position."""
    branch = resflow.flows.dense_branch([2], (4,))
    return [resflow.bijectors.ResidualBlock(branch, estimator, name=name) for _ in range(count)]


NESTS = {
    "flow": lambda a, b, c: Flow([a, tfb.Scale(2.0), b, tfb.Scale(3.0), c]),
    "flow_in_flow": lambda a, b, c: Flow([a, Flow([b, c])]),
    "flows_of_one_name": lambda a, b, c: Flow([Flow([a]), Flow([b]), Flow([c])]),
    "chain": lambda a, b, c: Flow([a, tfb.Chain([Flow([b]), c])]),
    "chains_of_one_name": lambda a, b, c: Flow([tfb.Chain([part]) for part in (a, b, c)]),
    "invert": lambda a, b, c: Flow([tfb.Invert(tfb.Invert(a)), tfb.Invert(tfb.Invert(b)), c]),
}


@pytest.mark.parametrize("name", NESTS)
def test_seeds_depend_on_names_and_blocks_of_the_same_name_draw_independently(name):
    recorder = Recorder()
    flow = NESTS[name](*equal_blocks(recorder, 3))
    for seed in (1, tf.constant([3, 4])):
        recorder.seeds.clear()
        flow.forward(tf.ones([1, 2]), seed=seed)
        assert len(set(recorder.seeds)) == 3
        # The first block draws the same numbers as on its own.
        assert tuple(resflow.stateless_seed(seed, salt="block").numpy()) in recorder.seeds
    recorder.seeds.clear()
    names = "one", "two", "three"
    NESTS[name](*(equal_blocks(recorder, 1, part)[0] for part in names)).forward(tf.ones([1, 2]), seed=5)
    assert set(recorder.seeds) == {tuple(resflow.stateless_seed(5, salt=part).numpy()) for part in names}


def test_names_and_keys(make_block, flow, x, refused):
    blocks = equal_blocks(EXACT, 12)
    parts = parts_by_name(Flow([*blocks[:11], Flow([blocks[11]], name="inner")]))
    names = ["block", *(f"block_{i}" for i in range(1, 12))]
    assert all(parts[name] is block for name, block in zip(names, blocks, strict=True))
    scales = [tfb.Scale(2.0), tfb.Scale(3.0), tfb.Scale(4.0, name="scale_1"), tfb.Scale(5.0)]
    np.testing.assert_allclose(Flow(scales).forward([1.0]), [120.0])
    np.testing.assert_allclose(Flow(scales).inverse([120.0]), [1.0])
    Flow([make_block("block"), tfb.Chain(scales[:2])])
    refused(
        r"unknown arguments: third.*\(scale, scale_2, scale_1, scale_3\)", Flow(scales).forward, [1.0], third={}
    )
    same = tfb.Chain([make_block("block"), make_block("block")])
    refused("several members named block.*share a seed.*Flow", Flow, [tfb.Invert(same)])
    for members in ([], [tfb.Scale(2.0), "scale"]):
        refused("needs one list of at least one bijector", Flow, members)
    refused("unknown arguments: sed", flow.forward, x, sed=1)
    refused("none of its blocks is conditional", flow.forward, x, condition=x)


def test_arguments_of_numbered_members():
    recorder = Recorder()
    first, second, third, fourth = equal_blocks(recorder, 4)
    flow = Flow([first, second, tfb.Invert(tfb.Invert(third), name="twice"), tfb.Chain([fourth])])
    for key in ("block", "block_1", "twice", "chain_of_block"):
        recorder.seeds.clear()
        for seed in (1, 2):
            flow.forward_log_det_jacobian(tf.ones([1, 2]), 1, seed=0, **{key: {"seed": seed}})
        assert len(set(recorder.seeds)) == 5, "only the seed of this member changes"


class Custom(resflow.bijectors.FlowBijector):
    """Base class of user-defined bijectors."""

    def __init__(self, name=None):
        parameters = dict(locals())
        name = name or type(self).__name__.lower()
        super().__init__(forward_min_event_ndims=0, parameters=parameters, name=name)


class ScaleByCondition(Custom):
    """Implements TFP's methods, which all receive the condition."""

    argument_names = ("condition",)

    def _forward(self, x, condition):
        return x * tf.exp(condition)

    def _inverse(self, y, condition):
        return y * tf.exp(-condition)

    def _forward_log_det_jacobian(self, x, condition):
        return condition * tf.ones_like(x)


class Noisy(Custom):
    """Shifts by a random number and by a condition."""

    argument_names = ("seed", "condition")

    def forward_pass(self, x, context, sign=1.0):
        _, condition = context.get_arguments(self.name, *self.argument_names)
        shift = tf.random.stateless_normal([], context.seed(self.name)) + (0.0 if condition is None else condition)
        return x + sign * shift, tf.zeros_like(x)

    def inverse_pass(self, y, context):
        return self.forward_pass(y, context, -1.0)


class Halving(Custom):
    """Returns no log-determinant from its inverse."""

    def forward_pass(self, x, context):
        return x / 2.0, tf.fill(tf.shape(x), -math.log(2.0))

    def inverse_pass(self, y, context):
        return 2.0 * y, None


class WithNetworks(Noisy):
    """Shifts by two Lipschitz networks, which are known only from the attribute `networks`."""

    argument_names = ()

    def __init__(self, networks, name="with_networks"):
        self.networks = networks
        super().__init__(name=name)

    def forward_pass(self, x, context, sign=1.0):
        (given,) = context.get_arguments(self.name, "networks")
        one, other = ((given or resflow.bijectors.Networks(*self.networks))[network] for network in self.networks)
        return x + sign * other(one(tf.ones([1, 1]))), tf.zeros_like(x)


def test_networks_of_a_user_defined_bijector_are_found(tmp_path):
    """Their norms are updated, a training step binds them, and Keras trains and saves their weights."""

    def make(scale):
        layers = [resflow.layers.LipschitzDense(size, 0.5) for size in (3, 1)]
        networks = [keras.Sequential([keras.Input([n]), layer]) for n, layer in zip((1, 3), layers, strict=True)]
        for layer in layers:
            layer.kernel.assign(scale * tf.ones_like(layer.kernel))
        return layers, Flow([WithNetworks(networks), resflow.bijectors.ActNorm([1])])

    layers, flow = make(4.0)
    assert resflow.layers.norm_updates.lipschitz_layers(flow) == layers
    assert len(resflow.bijectors.Networks(flow, training=True).parameters) == 4
    resflow.layers.update_norms(flow)
    y = flow.forward([[0.0]], networks=resflow.bijectors.Networks(flow, training=True))
    np.testing.assert_allclose(y, [[0.25]], rtol=1e-5)  # 0.5 sqrt(3) / sqrt(3), twice
    model = resflow.FlowModel(flow, [1])
    assert {id(w) for layer in layers for w in layer.weights} <= {id(w) for w in model.weights}
    model.save_weights(tmp_path / "model.weights.h5")
    others, other = make(1.0)
    resflow.FlowModel(other, [1]).load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(others[1].kernel, layers[1].kernel)


class Unfinished(Custom):
    """Returns a tensor instead of a value and a log-determinant."""

    def forward_pass(self, x, context):
        return tf.identity(x)


def test_a_user_defined_bijector_receives_seed_and_condition(refused):
    def shift(bijector, **kwargs):
        x = tf.constant([1.0, 2.0])
        y = bijector.forward(x, **kwargs)
        np.testing.assert_allclose(bijector.inverse(tf.identity(y), **kwargs), x, rtol=1e-6)
        return float(y[0] - x[0])

    one = shift(Noisy(), seed=1)
    assert shift(Flow([Noisy()]), seed=1) == one
    assert shift(Flow([tfb.Invert(tfb.Chain([Noisy()]))]), seed=1) == pytest.approx(-one)
    assert shift(Flow([Noisy()]), seed=1, condition=2.0) == pytest.approx(one + 2.0)
    assert shift(Flow([tfb.Chain([Noisy()])]), seed=1, condition=2.0) == pytest.approx(one + 2.0)
    assert shift(Flow([Noisy(), tfb.Scale(1.0)]), noisy={"seed": 1}) == pytest.approx(one)
    flow, x = Flow([ScaleByCondition()]), tf.ones([3, 2])
    for method, expected in (("forward_log_det_jacobian", 1.0), ("inverse_log_det_jacobian", -1.0)):
        found = getattr(flow, method)(tf.identity(x), 1, condition=tf.constant(0.5))
        np.testing.assert_allclose(found, [expected] * 3)
    refused("noisy got unknown arguments: sed. .*it accepts seed, condition", Noisy().forward, [1.0], sed=1)


def test_a_missing_result_of_a_user_defined_pass_raises_only_if_it_is_needed(refused):
    y, message = tf.constant([1.0, 2.0]), "unfinished.forward_pass returned a .*; it must return"
    for make in (lambda member: member, lambda member: Flow([member])):
        half, unfinished = make(Halving()), make(Unfinished())
        np.testing.assert_array_equal(half.inverse(y), [2.0, 4.0])
        np.testing.assert_allclose(half.forward_log_det_jacobian(y, 0), [-math.log(2.0)] * 2)
        with pytest.raises(NotImplementedError, match="halving.inverse_pass returned no log-determinant"):
            half.inverse_log_det_jacobian(tf.identity(y), 0)
        refused(message, unfinished.forward, tf.ones([3, 2]))
    cube, x = (
        tfb.Inline(lambda x: x**3, lambda y: tf.sign(y) * tf.abs(y) ** (1 / 3), forward_min_event_ndims=1),
        [1.0, 2.0],
    )
    for flow in (Flow([cube]), Flow([tfb.Chain([cube])])):
        np.testing.assert_allclose(flow.forward(x), [1.0, 8.0])
        with pytest.raises(NotImplementedError, match="_log_det_jacobian"):
            flow.forward_log_det_jacobian(x, 1)


def test_an_error_of_a_network_is_not_taken_for_a_missing_log_determinant():
    class Half(tf.Module):
        @tf.custom_gradient
        def __call__(self, x):
            def grad(upstream):
                raise NotImplementedError("no gradient")

            return x / 2.0, grad

    block = resflow.bijectors.ResidualBlock(Half(), EXACT, lipschitz_constant=0.5, event_shape=[2])
    for bijector in (block, Flow([block])):
        with pytest.raises(NotImplementedError, match="no gradient"):
            bijector.forward(tf.ones([3, 2]))


def test_events_of_several_images(refused):
    """A Squeeze2D and the flow around it keep an event axis in front of the image axes."""
    flows = Flow([tfb.Scale(2.0), Squeeze2D()]), Flow([Squeeze2D(), tfb.Scale(3.0)]), Flow([tfb.Scale(-1.0)])
    linear = MultiscaleFlow(flows, [4, 4, 1])
    density = tfd.TransformedDistribution(tfd.Sample(tfd.Normal(0.0, 1.0), [5, 16]), tfb.Invert(linear))
    x = density.sample(2, seed=tf.constant([0, 1]))
    assert x.shape == (2, 5, 4, 4, 1) and density.event_shape == [5, 4, 4, 1]
    np.testing.assert_array_equal(density.event_shape_tensor(), [5, 4, 4, 1])
    alone = tfd.TransformedDistribution(tfd.Sample(tfd.Normal(0.0, 1.0), [16]), tfb.Invert(linear))
    expected = tf.reduce_sum(alone.log_prob(tf.identity(x)), 1)
    np.testing.assert_allclose(density.log_prob(tf.identity(x)), expected, rtol=1e-5)
    halves = [Flow([tfb.Scale(2.0, name=n)], name=n) for n in ("a", "b")]
    refused("3 channels, which is odd", MultiscaleFlow, halves, [4, 4, 3])
