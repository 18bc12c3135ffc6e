"""`log_prob` evaluates g once and solves no equation, and cached values are neither stale nor leaked."""

import gc
import weakref

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


def nested(block):
    inner = tfb.Chain([tfb.Scale(0.5), Flow([block], name="inner")])
    return Flow([tfb.Invert(tfb.Scale(3.0)), inner], name="outer")


def inverted(block):
    inner = tfb.Invert(Flow([tfb.Scale(3.0), tfb.Invert(tfb.Invert(block))]))
    return tfb.Invert(tfb.Chain([Flow([tfb.Scale(2.0), inner, Flow([tfb.Shift(1.0)])])]))


ARRANGEMENTS = {
    "block": lambda block: block,
    "chain": lambda block: tfb.Chain([tfb.Scale(0.5), block, tfb.Shift([1.0, 2.0])]),
    "reshape": lambda block: Flow([tfb.Reshape([2], [2, 1]), block]),
    "nested": nested,
    "inverted": inverted,
}


def counted_block(make_branch, counter, log_det_estimator=ROULETTE):
    return ResidualBlock(make_branch(counter=counter), log_det_estimator, name="block")


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_log_prob_evaluates_g_once_and_sample_no_log_det(
    name, make_branch, counter, counting_exact, density, normal
):
    bijector = ARRANGEMENTS[name](counted_block(make_branch, counter, counting_exact))
    distribution = density(bijector)
    event_shape = [2, 1] if name == "reshape" else [2]
    assert bijector.forward_min_event_ndims == len(event_shape) and bijector.inverse_min_event_ndims == 1
    x = normal([3, *event_shape])
    in_graph = tf.function(distribution.log_prob, autograph=False)
    for log_prob, given in ((distribution.log_prob, x.numpy()), (distribution.log_prob, x), (in_graph, x)):
        assert log_prob(given).shape == [3]
        assert counter.take() == counting_exact.take() == 1
    x = distribution.sample(3, seed=1)
    assert counter.take() > 2 and counting_exact.take() == 0
    sampled = distribution.log_prob(x)
    assert counter.take() == counting_exact.take() == 1
    np.testing.assert_allclose(sampled, distribution.log_prob(tf.identity(x)), atol=1e-4)
    counting_exact.take()
    bijector.inverse(tf.zeros([3, 2]))
    assert counting_exact.take() == 0


def test_a_flow_that_solves_in_both_directions_solves_once(make_branch, counter, counting_exact, density):
    other = ResidualBlock(make_branch(seed=1), EXACT, name="other")
    distribution = density(Flow([tfb.Invert(counted_block(make_branch, counter, counting_exact)), other]))
    x = distribution.sample(3, seed=1)
    assert counter.take() == counting_exact.take() == 1
    found = distribution.log_prob(x)
    assert counter.take() == 0
    np.testing.assert_allclose(found, distribution.log_prob(tf.identity(x)), atol=1e-4)
    assert counter.take() > 2 and counting_exact.take() == 1


@pytest.fixture(params=["block", "couplings"])
def bijector(request, make_block, make_coupling):
    if request.param == "couplings":
        conv = resflow.bijectors.InvertibleConv1x1(2)
        return Flow([make_coupling("affine"), conv, make_coupling("additive", swap=True)])
    return Flow([resflow.bijectors.ActNorm([2]), nested(make_block(log_det_estimator=EXACT))])


def test_nothing_leaks_from_control_flow_or_a_function(bijector, density, normal):
    distribution = density(bijector)
    x, y = normal([3, 2], 1), normal([3, 2], 2)
    expected, image, inverse = distribution.log_prob(x), bijector.forward(x), bijector.inverse(y)

    @tf.function(autograph=False)
    def call(x, y, positive):
        z = tf.identity(x)
        inside = tf.cond(positive, lambda: distribution.log_prob(x), lambda: -distribution.log_prob(x))
        outside = distribution.log_prob(x), bijector.forward(x)
        _, total = tf.while_loop(
            lambda i, _: i < 3, lambda i, total: (i + 1, total + distribution.log_prob(z)), (0, tf.zeros([3]))
        )
        back = tf.cond(positive, lambda: bijector.inverse(y), lambda: -bijector.inverse(y))
        return inside, back, total, *outside, distribution.log_prob(z), bijector.inverse(y)

    for sign in (1.0, -1.0):
        inside, back, total, outside, forward, after_loop, given = call(x, y, tf.constant(sign > 0))
        for value in (sign * inside, outside, after_loop, total / 3):
            np.testing.assert_allclose(value, expected, rtol=1e-5)
        np.testing.assert_allclose(forward, image, rtol=1e-5, atol=1e-6)
        for value in (sign * back, given):
            np.testing.assert_allclose(value, inverse, atol=1e-5)
    for _ in range(2):  # functions that capture a tensor
        function = tf.function(lambda: distribution.log_prob(x), autograph=False)
        np.testing.assert_allclose(function(), expected, rtol=1e-5)
    np.testing.assert_allclose(distribution.log_prob(x), expected, rtol=1e-6)


def test_a_tensor_reused_after_a_gradient_and_after_a_variable_changed(bijector, density, normal):
    distribution = density(bijector)
    x, variables = normal([3, 2]), distribution.trainable_variables

    def gradients(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(distribution.log_prob(x))
        return tape.gradient(loss, variables, unconnected_gradients="zero")

    first = gradients(x)
    assert max(np.max(np.abs(g)) for g in first) > 1e-3
    for again in (gradients(x), gradients(tf.identity(x))):
        for one, other in zip(first, again, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)
    old = distribution.log_prob(x)
    for variable in bijector.trainable_variables:
        variable.assign(0.5 * variable + 0.1)
    new = distribution.log_prob(x)
    found = new, bijector.forward_log_det_jacobian(x, 1), bijector.forward(x)
    assert np.max(np.abs(new - old)) > 1e-3
    fresh = tf.identity(x)
    expected = distribution.log_prob(fresh), bijector.forward_log_det_jacobian(fresh, 1), bijector.forward(fresh)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_blocks_of_one_architecture_and_views_do_not_share(make_branch, normal):
    # TFP considers bijectors with equal parameters equal. These differ only in their branches or estimators.
    one, other = (ResidualBlock(make_branch(seed=seed), EXACT, name="same") for seed in (1, 2))
    assert one != other
    view = resflow.bijectors.with_log_det_estimator(one, resflow.logdet.PowerSeries(1, probes="basis"))
    x = normal([3, 2])
    for block, y in [(block, block.forward(x)) for block in (one, other, view)]:
        np.testing.assert_allclose(y, x + block.branch(x), rtol=1e-6)
    fldj = [block.forward_log_det_jacobian(x, 1) for block in (one, other, view)]
    assert np.max(np.abs(fldj[0] - fldj[1])) > 1e-3 and np.max(np.abs(fldj[0] - fldj[2])) > 1e-3


def test_seeds_and_conditions_are_part_of_the_key(make_block, normal):
    block = make_block(log_det_estimator=ROULETTE, condition_size=1)
    x, values = normal([3, 2]), []
    for condition in (tf.zeros([3, 1]), tf.ones([3, 1])):
        for seed in (1, 2):
            kwargs = {"condition": condition, "seed": seed}
            y = block.forward(x, **kwargs)
            np.testing.assert_allclose(y, x + block.branch([x, condition]), rtol=1e-6)
            values.append(tuple(block.forward_log_det_jacobian(x, 1, **kwargs).numpy()))
    assert len(set(values)) == 4


def test_a_graph_is_freed_with_its_function(make_block):
    """The function fills the caches of the flow, its blocks and its estimators, and computes a gradient."""
    graphs = []
    flow = Flow([make_block("a", ROULETTE), make_block("b", EXACT)])

    def gradient(x):
        graphs.append(weakref.ref(tf.compat.v1.get_default_graph()))
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = flow.forward(x)
            solved = tf.reduce_sum(flow.inverse(y) + flow.inverse(tf.identity(y)))
            value = flow.forward_log_det_jacobian(x, 1) + solved
        return tape.gradient(value, x)

    found = tf.function(gradient, autograph=False)(tf.ones([3, 2]))
    assert np.all(np.isfinite(found))
    gc.collect()
    assert len(graphs) == 1 and graphs[0]() is None
