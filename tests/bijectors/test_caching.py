"""One evaluation of g for a log_prob, no solve; and nothing stale or leaked from the caches."""

import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tf_resflow as resflow

tfb = tfp.bijectors
tfd = tfp.distributions
EXACT = resflow.logdet.Exact()
ResidualBlock = resflow.bijectors.ResidualBlock
Flow = resflow.bijectors.Flow
ROULETTE = resflow.logdet.RussianRoulette()


def flow(block):
    return Flow([block])


def stock_in_the_middle(block):
    return Flow([resflow.bijectors.ActNorm([2]), tfb.Scale(2.0), block, tfb.Shift([1.0, 2.0])])


def stock_at_the_ends(block):
    return Flow([tfb.Scale([0.5, 2.0]), block, tfb.SinhArcsinh(0.2)])


def chain(block):
    return tfb.Chain([tfb.Scale(0.5), block, tfb.Shift([1.0, 2.0])])


def reshaped(block):
    return Flow([tfb.Reshape([2], [2, 1]), block])


def nested(block):
    inner = tfb.Chain([tfb.Scale(0.5), Flow([block], name="inner")])
    return Flow([tfb.Invert(tfb.Scale(3.0)), inner], name="outer")


ARRANGEMENTS = [
    lambda block: block,
    flow,
    stock_in_the_middle,
    stock_at_the_ends,
    chain,
    reshaped,
    nested,
]
NAMES = ["block", "flow", "middle", "ends", "chain", "reshape", "nested"]


def event(bijector):
    return [2, 1] if bijector.forward_min_event_ndims == 2 else [2]


def counted_block(make_branch, counter, log_det=ROULETTE):
    return ResidualBlock(make_branch(counter=counter), log_det, name="block")


@pytest.mark.parametrize("arrange", ARRANGEMENTS, ids=NAMES)
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_log_prob_evaluates_g_once(arrange, mode, make_branch, counter, density):
    bijector = arrange(counted_block(make_branch, counter))
    distribution = density(bijector)
    log_prob = distribution.log_prob
    if mode == "graph":
        log_prob = tf.function(log_prob, autograph=False)
    x = np.random.default_rng(0).normal(size=[3, *event(bijector)]).astype("float32")
    for given in [x, tf.constant(x)] if mode == "eager" else [tf.constant(x)]:
        assert log_prob(given).shape == [3]
        assert counter.take() == 1


@pytest.mark.parametrize(
    ("arrange", "mode"),
    [*((arrange, "eager") for arrange in ARRANGEMENTS[2:]), (chain, "graph"), (nested, "graph")],
)
def test_log_prob_of_own_samples_solves_nothing_more(arrange, mode, make_branch, counter, density):
    distribution = density(arrange(counted_block(make_branch, counter)))
    solve = []

    def call():
        x = distribution.sample(3, seed=[1, 2])
        with tf.control_dependencies([x]):
            before = tf.numpy_function(lambda: solve.append(counter.take()), [], [])
        with tf.control_dependencies([before] if mode == "graph" else []):
            return distribution.log_prob(x)

    call = tf.function(call, autograph=False) if mode == "graph" else call
    assert call().shape == [3]
    assert solve[0] > 2
    assert counter.take() == 1


def latent_to_data(block):
    return Flow([tfb.Shift([1.0, 2.0]), tfb.Invert(block)])


def nested_latent_to_data(block):
    return Flow([tfb.Scale(2.0), tfb.Invert(Flow([tfb.Scale(3.0), block])), Flow([tfb.Shift(1.0)])])


def chain_latent_to_data(block):
    return tfb.Chain([Flow([tfb.Invert(tfb.Chain([block])), tfb.Scale(2.0)])])


@pytest.mark.parametrize("arrange", [latent_to_data, nested_latent_to_data, chain_latent_to_data])
def test_a_flow_of_inverted_blocks_solves_for_samples_alone(arrange, make_branch, counter, counting_exact):
    bijector = arrange(counted_block(make_branch, counter, counting_exact))
    distribution = tfd.TransformedDistribution(tfd.MultivariateNormalDiag(tf.zeros(2)), bijector)
    x = distribution.sample(3, seed=1)
    assert counter.take() > 2 and counting_exact.count == 0
    sampled = distribution.log_prob(x)
    assert counter.take() == counting_exact.count == 1
    given = distribution.log_prob(tf.identity(x))
    assert counter.take() == 1 and counting_exact.count == 2
    np.testing.assert_allclose(sampled, given, atol=1e-4)


def test_a_flow_that_solves_both_ways_does_so_once(make_branch, counter, counting_exact, density):
    other = ResidualBlock(make_branch(seed=1), EXACT, name="other")
    distribution = density(Flow([tfb.Invert(counted_block(make_branch, counter, counting_exact)), other]))
    x = distribution.sample(3, seed=1)
    assert counter.take() == counting_exact.count == 1
    distribution.log_prob(x)
    assert counter.take() == 0
    distribution.log_prob(tf.identity(x))
    assert counter.take() > 2 and counting_exact.count == 2


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_multiscale_log_prob_evaluates_each_g_once(mode, counter):
    def block(name, channels):
        conv = resflow.flows.conv_branch((1, 1, channels), 4, kernels=(1, 1))
        branch = keras.Sequential([keras.Input([1, 1, channels]), counter, conv])
        return ResidualBlock(branch, ROULETTE, name=name)

    scales = [
        Flow([resflow.bijectors.Squeeze2D(), block("a", 4), tfb.Scale(2.0)], name="first"),
        Flow([block("b", 2)], name="second"),
    ]
    multiscale = resflow.bijectors.MultiscaleFlow(scales, [2, 2, 1])
    base = tfd.MultivariateNormalDiag(tf.zeros(4))
    distribution = tfd.TransformedDistribution(base, tfb.Invert(multiscale))
    log_prob = distribution.log_prob
    log_prob = tf.function(log_prob, autograph=False) if mode == "graph" else log_prob
    assert log_prob(tf.random.stateless_normal([3, 2, 2, 1], [0, 1])).shape == [3]
    assert counter.take() == 2
    x = distribution.sample(3, seed=[1, 2])
    assert counter.take() > 4
    distribution.log_prob(x)
    assert counter.take() == 2


@pytest.mark.parametrize("arrange", ARRANGEMENTS, ids=NAMES)
def test_inverse_computes_no_log_det(arrange, make_branch, counting_exact, density):
    bijector = arrange(ResidualBlock(make_branch(), counting_exact, name="block"))
    distribution = density(bijector)
    distribution.sample(3, seed=1)
    bijector.inverse(tf.zeros([3, 2]))
    assert counting_exact.count == 0
    distribution.log_prob(tf.zeros([3, *event(bijector)]))
    assert counting_exact.count == 1


@pytest.fixture(
    scope="module",
    params=[stock_in_the_middle, nested, None],
    ids=["middle", "nested", "couplings"],
)
def bijector(request, make_block, make_coupling):
    if request.param is None:
        conv = resflow.bijectors.InvertibleConv1x1(2)
        return Flow([make_coupling("affine"), conv, make_coupling("additive", swap=True)])
    return request.param(make_block(log_det=EXACT))


def test_nothing_leaks_from_a_cond(bijector, density):
    distribution = density(bijector)
    x = tf.random.stateless_normal([3, *event(bijector)], [0, 1])
    expected = distribution.log_prob(tf.identity(x))

    @tf.function(autograph=False)
    def call(x, positive):
        inside = tf.cond(positive, lambda: distribution.log_prob(x), lambda: -distribution.log_prob(x))
        return inside, distribution.log_prob(x), bijector.forward(x)

    for sign in (1.0, -1.0):
        inside, outside, y = call(x, tf.constant(sign > 0))
        np.testing.assert_allclose(inside, sign * expected, rtol=1e-5)
        np.testing.assert_allclose(outside, expected, rtol=1e-5)
    np.testing.assert_allclose(y, bijector.forward(tf.identity(x)), rtol=1e-5, atol=1e-6)


def test_nothing_leaks_from_a_while_loop(bijector, density):
    distribution = density(bijector)
    x = tf.random.stateless_normal([3, *event(bijector)], [0, 1])
    expected = distribution.log_prob(tf.identity(x))

    @tf.function(autograph=False)
    def call(x):
        def body(i, total):
            return i + 1, total + distribution.log_prob(x)

        _, total = tf.while_loop(lambda i, _: i < 3, body, (0, tf.zeros([3])))
        return total, distribution.log_prob(x)

    total, outside = call(x)
    np.testing.assert_allclose(total, 3 * expected, rtol=1e-5)
    np.testing.assert_allclose(outside, expected, rtol=1e-5)


def test_nothing_leaks_from_an_inverse_in_a_cond(bijector, density):
    y = tf.random.stateless_normal([3, 2], [0, 1])
    expected = bijector.inverse(tf.identity(y))

    @tf.function(autograph=False)
    def call(y, positive):
        inside = tf.cond(positive, lambda: bijector.inverse(y), lambda: -bijector.inverse(y))
        return inside, bijector.inverse(y)

    for positive in (True, False):
        inside, outside = call(y, tf.constant(positive))
        np.testing.assert_allclose(inside if positive else -inside, expected, atol=1e-5)
        np.testing.assert_allclose(outside, expected, atol=1e-5)


def test_two_functions_and_eager_on_one_tensor(bijector, density):
    distribution = density(bijector)
    x = tf.random.stateless_normal([3, *event(bijector)], [0, 1])
    first = distribution.log_prob(x)
    for _ in range(2):
        call = tf.function(lambda: distribution.log_prob(x), autograph=False)
        np.testing.assert_allclose(call(), first, rtol=1e-5)
    np.testing.assert_allclose(distribution.log_prob(x), first, rtol=1e-6)


def perturb(bijector):
    for variable in bijector.trainable_variables:
        variable.assign(0.5 * variable + 0.1)


def test_a_tensor_reused_after_a_variable_changed(bijector, density):
    distribution = density(bijector)
    x = tf.random.stateless_normal([3, *event(bijector)], [0, 1])
    old = distribution.log_prob(x)
    values = [tf.identity(v) for v in bijector.variables]
    perturb(bijector)
    new = distribution.log_prob(x)
    fldj = bijector.forward_log_det_jacobian(x, len(event(bijector)))
    y = bijector.forward(x)
    assert np.max(np.abs(new - old)) > 1e-3
    fresh = tf.identity(x)
    np.testing.assert_allclose(new, distribution.log_prob(fresh), rtol=1e-6)
    expected = bijector.forward_log_det_jacobian(tf.identity(x), len(event(bijector)))
    np.testing.assert_allclose(fldj, expected, rtol=1e-6)
    np.testing.assert_allclose(y, bijector.forward(tf.identity(x)), rtol=1e-6)
    for variable, value in zip(bijector.variables, values, strict=True):
        variable.assign(value)


def test_a_second_gradient_of_one_tensor(bijector, density):
    distribution = density(bijector)
    x = tf.random.stateless_normal([3, *event(bijector)], [0, 1])
    variables = distribution.trainable_variables

    def gradients(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(distribution.log_prob(x))
        return tape.gradient(loss, variables, unconnected_gradients="zero")

    first = gradients(x)
    assert max(np.max(np.abs(g)) for g in first) > 1e-3
    for again in (gradients(x), gradients(tf.identity(x))):
        for one, other in zip(first, again, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)


def test_blocks_of_one_architecture_do_not_share(make_branch):
    # TFP takes bijectors of equal parameters for one: these differ in their branches alone.
    one, other = (ResidualBlock(make_branch(seed=seed), EXACT, name="same") for seed in (1, 2))
    assert one != other
    x = tf.random.stateless_normal([3, 2], [0, 1])
    y = [block.forward(x) for block in (one, other)]
    np.testing.assert_allclose(y[0], x + one.branch(x), rtol=1e-6)
    np.testing.assert_allclose(y[1], x + other.branch(x), rtol=1e-6)
    fldj = [block.forward_log_det_jacobian(x, 1) for block in (one, other)]
    assert np.max(np.abs(fldj[0] - fldj[1])) > 1e-3


def test_views_under_other_estimators_do_not_share_log_dets(make_block):
    block = make_block(log_det=EXACT)
    view = resflow.bijectors.with_log_det(block, resflow.logdet.PowerSeries(1, probes="basis"))
    x = tf.random.stateless_normal([3, 2], [0, 1])
    y = [b.forward(x) for b in (block, view)]
    np.testing.assert_allclose(y[0], y[1], rtol=1e-6)
    fldj = [b.forward_log_det_jacobian(x, 1) for b in (block, view)]
    assert np.max(np.abs(fldj[0] - fldj[1])) > 1e-3


def test_seeds_and_conditions_are_part_of_the_key(make_block):
    block = make_block(log_det=ROULETTE, condition_size=1)
    x = tf.random.stateless_normal([3, 2], [0, 1])
    conditions = [tf.zeros([3, 1]), tf.ones([3, 1])]
    values = {}
    for i, condition in enumerate(conditions):
        for seed in (1, 2):
            kwargs = {"conditional_input": condition, "seed": seed}
            y = block.forward(x, **kwargs)
            np.testing.assert_allclose(y, x + block.branch([x, condition]), rtol=1e-6)
            values[i, seed] = block.forward_log_det_jacobian(x, 1, **kwargs).numpy()
    flat = [tuple(value) for value in values.values()]
    assert len(set(flat)) == 4


def test_a_graph_is_freed_with_its_function(make_block):
    """Of a log_prob and its gradient, with values in the caches of the flow, its blocks and its estimators."""
    graphs = []
    flow = Flow([make_block("a", ROULETTE), make_block("b", EXACT)])

    def gradient(x):
        graphs.append(weakref.ref(tf.compat.v1.get_default_graph()))
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = flow.forward(x)
            value = flow.forward_log_det_jacobian(x, 1) + tf.reduce_sum(
                flow.inverse(y) + flow.inverse(tf.identity(y))
            )
        return tape.gradient(value, x)

    found = tf.function(gradient, autograph=False)(tf.ones([3, 2]))
    assert np.all(np.isfinite(found))
    gc.collect()
    assert len(graphs) == 1 and graphs[0]() is None
