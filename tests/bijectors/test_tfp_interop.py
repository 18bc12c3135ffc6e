"""Blocks and flows within TFP's own bijectors and distributions."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tf_resflow as resflow

tfb = tfp.bijectors
tfd = tfp.distributions
EXACT = resflow.logdet.Exact()


def normal(shape, seed=0):
    return tf.random.stateless_normal(shape, [7, seed])


@pytest.fixture(scope="module")
def blocks(make_block):
    """Two blocks of one architecture, of different parameters."""
    estimator = resflow.logdet.RussianRoulette(probes="gaussian")
    return [make_block("first", estimator, seed=1), make_block("second", estimator, seed=2)]


@pytest.fixture(scope="module")
def exact_density(make_block, density):
    members = [make_block("a", EXACT, seed=1), tfb.Scale(0.5), make_block("b", EXACT, seed=2)]
    return density(resflow.bijectors.Flow(members))


def test_chain_with_named_seeds(blocks):
    chain = tfb.Chain([tfb.Scale(2.0), blocks[1], tfb.Shift(1.0), blocks[0]])
    x = normal([4, 2])

    def fldj(one, two):
        kwargs = {"first": {"seed": one}, "second": {"seed": two}}
        return chain.forward_log_det_jacobian(tf.identity(x), 1, **kwargs).numpy()

    np.testing.assert_array_equal(fldj(1, 2), fldj(1, 2))
    assert np.all(fldj(1, 2) != fldj(1, 3))
    assert np.all(fldj(1, 2) != fldj(3, 2))
    h = blocks[0].forward(x, seed=1)
    expected = (
        blocks[0].forward_log_det_jacobian(x, 1, seed=1)
        + blocks[1].forward_log_det_jacobian(h + 1.0, 1, seed=2)
        + 2 * np.log(2.0)
    )
    np.testing.assert_allclose(fldj(1, 2), expected, rtol=1e-5)
    kwargs = {"first": {"seed": 1}, "second": {"seed": 2}}
    log_prob = tfd.TransformedDistribution(tfd.MultivariateNormalDiag(tf.zeros(2)), tfb.Invert(chain)).log_prob
    one, two = (log_prob(tf.identity(x), bijector_kwargs=kwargs) for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_chain_of_two_blocks_of_one_architecture(make_block):
    first, second = make_block("one", EXACT, seed=1), make_block("two", EXACT, seed=2)
    chain = tfb.Chain([second, first])
    x = normal([4, 2])
    h = x + first.branch(x)
    np.testing.assert_allclose(chain.forward(x), h + second.branch(h), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(chain.inverse(chain.forward(x) + 0.0), x, atol=1e-5)
    fldj = chain.forward_log_det_jacobian(tf.identity(x), 1)
    parts = first.forward_log_det_jacobian(x, 1) + second.forward_log_det_jacobian(h, 1)
    np.testing.assert_allclose(fldj, parts, rtol=1e-5)
    expected = {id(v) for block in (first, second) for v in block.variables}
    found = [id(v) for v in chain.variables]
    assert (set(found), len(found)) == (expected, len(expected))


def test_invert(make_block):
    block = make_block(log_det=EXACT)
    inverted = tfb.Invert(block)
    x = normal([4, 2])
    y = inverted.inverse(x)
    np.testing.assert_allclose(y, block.forward(x))
    np.testing.assert_allclose(inverted.forward(tf.identity(y)), x, atol=1e-5)
    ildj = inverted.inverse_log_det_jacobian(tf.identity(x), 1)
    np.testing.assert_allclose(ildj, block.forward_log_det_jacobian(x, 1), rtol=1e-6)


def test_density_integrates_to_one(exact_density):
    grid = np.linspace(-20.0, 20.0, 201, dtype="float32")
    points = np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2)
    log_prob = tf.function(exact_density.log_prob, autograph=False)(tf.constant(points))
    total = np.sum(np.exp(log_prob.numpy().astype("float64"))) * (grid[1] - grid[0]) ** 2
    # The trapezoidal rule on a smooth density that vanishes at the edge.
    np.testing.assert_allclose(total, 1.0, atol=1e-3)


def test_sample_and_log_prob_in_functions(exact_density):
    sample = tf.function(lambda seed: exact_density.sample([3, 2], seed=seed), autograph=False)
    seed = tf.constant([1, 2])
    x = sample(seed)
    assert x.shape == [3, 2, 2]
    np.testing.assert_allclose(x, exact_density.sample([3, 2], seed=seed), atol=1e-5)
    assert np.all(sample(tf.constant([1, 3])) != x)
    log_prob = tf.function(exact_density.log_prob, autograph=False)(x)
    np.testing.assert_allclose(log_prob, exact_density.log_prob(tf.identity(x)), rtol=1e-5)
    both = exact_density.experimental_sample_and_log_prob([3, 2], seed=seed)
    np.testing.assert_allclose(both[0], x, atol=1e-5)
    np.testing.assert_allclose(both[1], log_prob, rtol=1e-4)


def test_bijector_kwargs_reach_the_blocks(blocks, density):
    distribution = density(resflow.bijectors.Flow(blocks))
    x = normal([4, 2])

    def log_prob(seed):
        kwargs = {"seed": seed}
        return distribution.log_prob(tf.identity(x), bijector_kwargs=kwargs).numpy()

    np.testing.assert_array_equal(log_prob(1), log_prob(1))
    assert np.all(log_prob(1) != log_prob(2))
    with pytest.raises(ValueError, match="got sed"):
        distribution.log_prob(x, bijector_kwargs={"sed": 1})


def test_joint_distribution(exact_density):
    joint = tfd.JointDistributionSequential(
        [
            tfd.Normal(0.0, 1.0),
            exact_density,
            lambda x, a: tfd.Normal(a + tf.reduce_sum(x, -1), 1.0),
        ]
    )
    a, x, b = joint.sample(4, seed=[1, 2])
    assert x.shape == [4, 2]
    log_prob = joint.log_prob([tf.identity(part) for part in (a, x, b)])
    expected = exact_density.log_prob(tf.identity(x)).numpy()
    expected += -0.5 * a**2 - 0.5 * (b - a - tf.reduce_sum(x, -1)) ** 2 - np.log(2 * np.pi)
    np.testing.assert_allclose(log_prob, expected, rtol=1e-5, atol=1e-5)
    found = {id(v) for v in joint.trainable_variables}
    assert found == {id(v) for v in exact_density.trainable_variables}
    graph = tf.function(joint.log_prob, autograph=False)
    np.testing.assert_allclose(graph([a, x, b]), log_prob, rtol=1e-5, atol=1e-5)


def test_hamiltonian_monte_carlo(exact_density):
    kernel = tfp.mcmc.HamiltonianMonteCarlo(exact_density.log_prob, 0.3, 3)

    @tf.function(autograph=False)
    def chain():
        return tfp.mcmc.sample_chain(
            20, tf.zeros([8, 2]), kernel=kernel, seed=[1, 2], trace_fn=lambda _, r: r.is_accepted
        )

    states, accepted = chain()
    assert states.shape == [20, 8, 2]
    assert np.all(np.isfinite(states))
    # Right gradients conserve the energy: few proposals are refused.
    assert np.mean(accepted) > 0.8


def test_log_prob_gradient_in_x(exact_density):
    x = normal([3, 2])
    value, gradient = tfp.math.value_and_gradient(exact_density.log_prob, x)
    h = 1e-2
    for i in range(2):
        shift = h * tf.one_hot(i, 2)
        higher, lower = exact_density.log_prob(x + shift), exact_density.log_prob(x - shift)
        np.testing.assert_allclose(gradient[:, i], (higher - lower) / (2 * h), rtol=1e-2, atol=1e-3)
    assert value.shape == [3]


def test_a_trainer_that_never_heard_of_norms_keeps_the_coefficient_and_what_it_optimized():
    """Training stretches kernels; the ELBO of 4,000 draws before and after the norms are converged."""
    flow = resflow.flows.vector_flow(2, 2, (24,), coefficient=0.9, act_norm=False, log_det=EXACT)
    posterior = tfd.TransformedDistribution(tfd.MultivariateNormalDiag(tf.zeros(2)), flow)
    target = tfd.MultivariateNormalDiag([2.0, -1.0], [3.0, 0.1])
    optimizer = keras.optimizers.Adam(0.05)
    tfp.vi.fit_surrogate_posterior(target.log_prob, posterior, optimizer, 60, sample_size=16, seed=1)
    layers = resflow.layers.lipschitz_layers(flow)
    assert max(float(layer.norm_bound()) for layer in layers) > 2.0

    @tf.function(autograph=False)
    def elbo():
        x = posterior.sample(4000, seed=tf.constant([1, 2]))
        return tf.reduce_mean(target.log_prob(x) - posterior.log_prob(x))

    before = elbo()
    assert max(float(layer.lipschitz_bound()) for layer in layers) <= 0.9 * 1.001
    resflow.layers.converge_norms(flow)
    np.testing.assert_allclose(elbo(), before, atol=0.01)


def one_coordinate(make_block, kind):
    """A decreasing flow of one coordinate, [1] or, between reshapes, []."""
    act_norm = resflow.bijectors.ActNorm([1])
    act_norm.log_scale.assign([0.3])
    block, other = (make_block(name, EXACT, size=1, condition_size=1) for name in ("block", "other"))
    members = [resflow.bijectors.Normalize([0.5], [2.0]), block, act_norm, tfb.Scale(-0.7), tfb.Chain([other])]
    if kind == "vector":
        return resflow.bijectors.Flow(members), tfd.Independent(tfd.Normal([0.2], 1.0), 1)
    members = [tfb.Reshape([1], []), *members, tfb.Invert(tfb.Reshape([1], []))]
    return resflow.bijectors.Flow(members), tfd.Normal(0.2, 1.0)


@pytest.mark.parametrize("kind", ["vector", "scalar"])
def test_cdf_of_one_coordinate(kind, make_block):
    flow, base = one_coordinate(make_block, kind)
    distribution = tfd.TransformedDistribution(base, tfb.Invert(flow))
    kwargs = {"bijector_kwargs": {"seed": 1, "conditional_input": tf.constant([0.4])}}
    grid = np.linspace(-25.0, 25.0, 2001, dtype="float32")
    x = grid[:, np.newaxis] if kind == "vector" else grid
    prob = tf.function(lambda x: distribution.prob(x, **kwargs), autograph=False)(x).numpy().astype("float64")
    expected = np.concatenate([[0.0], np.cumsum((prob[1:] + prob[:-1]) / 2)]) * (grid[1] - grid[0])
    np.testing.assert_allclose(expected[-1], 1.0, atol=1e-4)
    points = slice(800, 1200, 50)
    for method, value in (("cdf", expected), ("survival_function", 1 - expected)):
        np.testing.assert_allclose(getattr(distribution, method)(x[points], **kwargs), value[points], atol=2e-4)
        log = getattr(distribution, f"log_{method}")(x[points], **kwargs)
        np.testing.assert_allclose(np.exp(log), value[points], atol=2e-4)
    if kind == "scalar":  # Independent bases have no quantile
        quantile = distribution.quantile(expected[points].astype("float32"), **kwargs)
        np.testing.assert_allclose(quantile, grid[points], atol=1e-2)


def test_several_coordinates_have_no_cdf(exact_density):
    base = tfd.Independent(tfd.Normal(tf.zeros(2), 1.0), 1)
    distribution = tfd.TransformedDistribution(base, exact_density.bijector)
    for method in ("cdf", "survival_function", "log_cdf"):
        with pytest.raises(NotImplementedError, match=r"maps events of shape \(2,\).*one coordinate"):
            getattr(distribution, method)(tf.zeros([3, 2]))


@pytest.mark.parametrize(
    ("case", "graph"),
    [("chain", False), ("chain", True), ("inverted", False), ("one of two", False), ("kernel", True)],
)
def test_a_seed_that_got_lost_is_warned_of(blocks, case, graph):
    chain = tfb.Chain([blocks[1], tfb.Shift(1.0), blocks[0]])
    base = tfd.MultivariateNormalDiag(tf.zeros(2))

    def call(x):
        if case == "chain":
            return chain.forward_log_det_jacobian(x, 1, seed=1)
        if case == "inverted":
            return tfd.TransformedDistribution(base, tfb.Invert(chain)).log_prob(x, bijector_kwargs={"seed": 1})
        if case == "one of two":
            return chain.forward_log_det_jacobian(x, 1, first={"seed": 1})
        kernel = tfp.mcmc.RandomWalkMetropolis(base.log_prob)
        kernel = tfp.mcmc.TransformedTransitionKernel(kernel, blocks[0])
        return kernel.bootstrap_results(x).transformed_state

    call = tf.function(call, autograph=False) if graph else call
    lost = "inside of a" if case == "kernel" else "though .* was given a seed.*'second'"
    with pytest.warns(UserWarning, match=lost):
        call(normal([4, 2]))


OF_COMPONENTS = {
    "Autoregressive": (lambda d: tfd.Autoregressive(d, tf.zeros([2]), 1), [2]),
    "BatchConcat": (lambda d: tfd.BatchConcat([d(tf.zeros([1, 2]))] * 2, 0), [2, 2]),
    "BatchReshape": (lambda d: tfd.BatchReshape(d(tf.zeros([2, 2])), [2, 1]), [2, 1, 2]),
    "Blockwise": (lambda d: tfd.Blockwise([d(tf.zeros(2))] * 2), [4]),
    "HiddenMarkovModel": (
        lambda d: tfd.HiddenMarkovModel(tfd.Categorical([0.0, 1.0]), tfd.Categorical(tf.eye(2)), d(tf.eye(2)), 3),
        [3, 2],
    ),
    "MarkovChain": (lambda d: tfd.MarkovChain(d(tf.zeros(2)), lambda _, x: d(x), num_steps=3), [3, 2]),
    "Mixture": (lambda d: tfd.Mixture(tfd.Categorical([0.0, 1.0]), [d(tf.zeros(2)), d(tf.ones(2))]), [2]),
    "MixtureSameFamily": (lambda d: tfd.MixtureSameFamily(tfd.Categorical([0.0, 1.0]), d(tf.eye(2))), [2]),
}


@pytest.mark.parametrize("name", OF_COMPONENTS)
def test_distributions_that_hand_no_seed_on(name, blocks):
    """The block warns, and the advice works: the density repeats."""
    build, shape = OF_COMPONENTS[name]
    flow, x = tfb.Invert(blocks[0]), normal(shape)

    def component(loc, **options):
        return tfd.TransformedDistribution(tfd.MultivariateNormalDiag(loc, [1.0, 1.0]), flow, **options)

    with pytest.raises(TypeError, match="bijector_kwargs"):
        build(component).log_prob(x, bijector_kwargs={"seed": 1})
    with pytest.warns(UserWarning, match="hands no seed on.*kwargs_split_fn"):
        build(component).log_prob(x)

    def seeded(loc):
        return component(loc, kwargs_split_fn=lambda kwargs: ({}, {"seed": 1}))

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        values = [build(seeded).log_prob(tf.identity(x)) for _ in range(2)]
    np.testing.assert_array_equal(*values)


def test_a_seed_that_arrives_or_was_never_given_is_not_warned_of(blocks, recwarn):
    chain = tfb.Chain([blocks[1], blocks[0]])
    x = normal([4, 2])
    chain.forward_log_det_jacobian(x, 1, first={"seed": 1}, second={"seed": 2})
    resflow.bijectors.Flow([tfb.Scale(2.0), chain]).forward_log_det_jacobian(x, 1, seed=1)
    chain.forward_log_det_jacobian(tf.identity(x), 1)
    assert not [warning for warning in recwarn if "seed" in str(warning.message)]
