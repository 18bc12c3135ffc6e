"""A surrogate's flow as the coordinates of chains: its density and derivatives, frozen, and right samples."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tf_resflow as resflow

tfb, tfd = tfp.bijectors, tfp.distributions


def surrogate_of(event_shape, **options):
    options = {"num_blocks": 1, "hidden": (6,), "dtype": "float64", **options}
    surrogate = resflow.vi.flow_surrogate_posterior(event_shape, **options)
    for i, variable in enumerate(surrogate.trainable_variables):
        variable.assign_add(0.3 * tf.random.stateless_normal(variable.shape, [0, i], dtype=variable.dtype))
    return surrogate


def normal(shape, seed=0):
    return tf.random.stateless_normal(shape, [7, seed], dtype=tf.float64)


@pytest.mark.parametrize("size, log_det", [(1, None), (2, resflow.logdet.RussianRoulette()), (5, None)])
def test_it_is_the_flow_of_the_surrogate(size, log_det):
    """Values, log-determinants by the dense Jacobian in NumPy, and the inverse."""
    surrogate = surrogate_of([size], log_det=log_det)
    bijector = resflow.vi.neutra_bijector(surrogate)
    z = normal([4, size])
    x, copies = bijector.forward(z), tf.repeat(z, size, 0)
    with tf.GradientTape() as tape:  # each copy of a z tells the gradient of one coordinate
        tape.watch(copies)
        y = bijector.forward(copies)
    rows = tape.gradient(y, copies, tf.tile(tf.eye(size, dtype=z.dtype), [4, 1]))
    jacobian = tf.reshape(rows, [4, size, size]).numpy()
    np.testing.assert_allclose(x, surrogate.bijector.forward(tf.identity(z)), rtol=1e-12)
    expected = np.linalg.slogdet(jacobian)[1]
    np.testing.assert_allclose(bijector.forward_log_det_jacobian(z, 1), expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(bijector.inverse(tf.identity(x)), z, atol=1e-9)


def test_it_is_frozen():
    surrogate = surrogate_of([2])
    bijector, z = resflow.vi.neutra_bijector(surrogate), normal([3, 2])
    graph = tf.function(lambda z: (bijector.forward(z), bijector.forward_log_det_jacobian(z, 1)), autograph=False)
    before = graph(z)
    assert not graph.get_concrete_function(z).graph.variables and not bijector.variables
    for variable in surrogate.trainable_variables:
        variable.assign_add(tf.ones_like(variable))
    graph = tf.function(graph.python_function, autograph=False)
    for one, other in zip(before, graph(z), strict=True):
        np.testing.assert_array_equal(one, other)
    later = resflow.vi.neutra_bijector(surrogate)
    assert np.all(later.forward(z) != before[0])


def test_second_derivatives():
    """Of the latent log-density, against central differences of the gradient."""
    bijector = resflow.vi.neutra_bijector(surrogate_of([3]))

    def gradient(z):
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = bijector.forward_log_det_jacobian(z, 1) - tf.reduce_sum(bijector.forward(z) ** 4, -1)
        return tape.gradient(value, z)

    def hessian_vector(z, v):
        with tf.GradientTape() as tape:
            tape.watch(z)
            first = tf.reduce_sum(gradient(z) * v)
        return tape.gradient(first, z)

    z, v, h = normal([2, 3]), normal([2, 3], 1), 1e-5
    expected = (gradient(z + h * v) - gradient(z - h * v)) / (2 * h)
    for function in (hessian_vector, tf.function(hessian_vector, autograph=False, jit_compile=True)):
        np.testing.assert_allclose(function(z, v), expected, rtol=1e-5, atol=1e-6)


def test_chains_sample_the_target():
    """A correlated Gaussian by a surrogate that was not fitted: 40 independent chains of 100 states.

    Means and second moments are within 4.5 standard errors, which come from the means of the chains.
    """
    target = tfd.MultivariateNormalTriL(tf.constant([1.0, -2.0]), tf.constant([[0.5, 0.0], [0.4, 0.8]]))
    surrogate = surrogate_of([2], dtype="float32")
    kernel = tfp.mcmc.NoUTurnSampler(target.log_prob, 0.35, max_tree_depth=3)
    kernel = tfp.mcmc.TransformedTransitionKernel(kernel, resflow.vi.neutra_bijector(surrogate))

    @tf.function(autograph=False)
    def sample(start, seed):
        return tfp.mcmc.sample_chain(
            100, start, kernel=kernel, num_burnin_steps=30, trace_fn=None, seed=seed, parallel_iterations=1
        )

    x = sample(target.sample(40, seed=1), tf.constant([2, 3])).numpy().astype("float64")
    centered = x - target.loc.numpy()
    moments = np.concatenate([centered, centered[..., :1] * centered], -1).mean(0)
    expected = np.concatenate([np.zeros(2), target.covariance().numpy()[0]])
    assert np.all(np.abs(moments.mean(0) - expected) < 4.5 * moments.std(0, ddof=1) / np.sqrt(40))


def test_structured_events():
    """Chains of a joint distribution: the latent is a list of vectors, the states have the parts of the event."""
    joint = tfd.JointDistributionSequential(
        [tfd.LogNormal(0.0, 1.0), lambda s: tfd.Independent(tfd.Normal(tf.zeros(3), s[..., tf.newaxis]), 1)]
    )
    surrogate = surrogate_of(
        joint.event_shape_tensor(),
        constraining_bijector=joint.experimental_default_event_space_bijector(),
        dtype="float32",
    )
    bijector = resflow.vi.neutra_bijector(surrogate)
    hmc = tfp.mcmc.HamiltonianMonteCarlo(lambda *x: joint.log_prob(list(x)), 0.1, 2)
    kernel = tfp.mcmc.TransformedTransitionKernel(hmc, bijector)

    @tf.function(autograph=False)
    def sample(start, seed):
        return tfp.mcmc.sample_chain(
            3,
            start,
            kernel=kernel,
            seed=seed,
            trace_fn=lambda _, results: (
                results.transformed_state,
                results.inner_results.accepted_results.target_log_prob,
            ),
        )

    states, (z, log_prob) = sample(list(surrogate.sample(6, seed=1)), tf.constant([0, 1]))
    z = tf.concat(z, -1)
    assert [tuple(part.shape) for part in states] == [(3, 6), (3, 6, 3)] and np.all(states[0] > 0)
    parts = surrogate.bijector.forward(z)
    for one, other in zip(states, parts, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    expected = joint.log_prob(list(parts)) + surrogate.bijector.forward_log_det_jacobian(z, 1)
    np.testing.assert_allclose(log_prob, expected, rtol=1e-3, atol=1e-3)


def test_refusals():
    with pytest.raises(ValueError, match="made of a flow"):
        resflow.vi.neutra_bijector(tfd.Normal(0.0, 1.0))
    with pytest.raises(ValueError, match="tensors, lists or tuples.*dict"):
        resflow.vi.neutra_bijector(surrogate_of({"a": [2], "b": []}))
