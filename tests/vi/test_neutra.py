"""The NeuTra bijector: density, derivatives, frozen parameters, and chains in the latent space."""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import tf_resflow as resflow
from tf_resflow.bijectors import with_log_det_estimator

tfb, tfd = tfp.bijectors, tfp.distributions


def normal(shape, seed=0):
    return tf.random.stateless_normal(shape, [7, seed], dtype=tf.float64)


def test_it_is_the_flow_of_the_surrogate(moved_surrogate):
    """Checks values, the inverse, and log-determinants, which are exact although the flow uses a roulette."""
    surrogate = moved_surrogate([3], log_det_estimator=resflow.logdet.RussianRoulette())
    bijector, z = resflow.vi.neutra_bijector(surrogate), normal([4, 3])
    with tf.GradientTape() as tape:
        tape.watch(z)
        x = bijector.forward(z)
    np.testing.assert_allclose(x, surrogate.bijector.forward(tf.identity(z)), rtol=1e-12)
    expected = np.linalg.slogdet(tape.batch_jacobian(x, z))[1]
    np.testing.assert_allclose(bijector.forward_log_det_jacobian(z, 1), expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(bijector.inverse(tf.identity(x)), z, atol=1e-9)


def test_it_is_frozen(moved_surrogate):
    surrogate = moved_surrogate([2])
    bijector, z = resflow.vi.neutra_bijector(surrogate), normal([3, 2])
    graph = tf.function(lambda z: (bijector.forward(z), bijector.forward_log_det_jacobian(z, 1)), autograph=False)
    before = graph(z)
    assert not graph.get_concrete_function(z).graph.variables and not bijector.variables
    for variable in surrogate.trainable_variables:
        variable.assign_add(tf.ones_like(variable))
    graph = tf.function(graph.python_function, autograph=False)
    for one, other in zip(before, graph(z), strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.all(resflow.vi.neutra_bijector(surrogate).forward(z) != before[0])


def test_second_derivatives(moved_surrogate):
    """Compares Hessian products of the latent log-density, compiled by XLA, with central differences."""
    bijector = resflow.vi.neutra_bijector(moved_surrogate([3]))

    def gradient(z):
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = bijector.forward_log_det_jacobian(z, 1) - tf.reduce_sum(bijector.forward(z) ** 4, -1)
        return tape.gradient(value, z)

    @tf.function(autograph=False, jit_compile=True)
    def hessian_vector(z, v):
        with tf.GradientTape() as tape:
            tape.watch(z)
            first = tf.reduce_sum(gradient(z) * v)
        return tape.gradient(first, z)

    z, v, h = normal([2, 3]), normal([2, 3], 1), 1e-5
    expected = (gradient(z + h * v) - gradient(z - h * v)) / (2 * h)
    np.testing.assert_allclose(hessian_vector(z, v), expected, rtol=1e-5, atol=1e-6)


def test_structured_events(moved_surrogate):
    """For a joint distribution, the latent is a list of vectors, and the states have the parts of the event.

    For a dict, it is one vector, which `surrogate.bijector` maps to the same event with the same log-determinant.
    """
    named = moved_surrogate({"a": [2], "b": []}, constraining_bijector={"a": None, "b": tfb.Exp()})
    bijector, z = resflow.vi.neutra_bijector(named), normal([4, 3])
    tf.nest.map_structure(tf.debugging.assert_near, bijector.forward(z), named.bijector.forward(tf.identity(z)))
    log_det = with_log_det_estimator(named.bijector, resflow.logdet.Exact()).forward_log_det_jacobian(z, 1)
    np.testing.assert_allclose(bijector.forward_log_det_jacobian(z, 1), log_det, rtol=1e-8)
    np.testing.assert_allclose(bijector.inverse(bijector.forward(tf.identity(z))), z, atol=1e-8)
    normals = lambda s: tfd.Independent(tfd.Normal(tf.zeros(3), s[..., tf.newaxis]), 1)  # noqa: E731
    joint = tfd.JointDistributionSequential([tfd.LogNormal(0.0, 1.0), normals])
    constraint = joint.experimental_default_event_space_bijector()
    surrogate = moved_surrogate(joint.event_shape_tensor(), constraining_bijector=constraint, dtype="float32")
    bijector = resflow.vi.neutra_bijector(surrogate)
    hmc = tfp.mcmc.HamiltonianMonteCarlo(lambda *x: joint.log_prob(list(x)), 0.1, 2)
    kernel = tfp.mcmc.TransformedTransitionKernel(hmc, bijector)

    def trace(_, results):
        return results.transformed_state, results.inner_results.accepted_results.target_log_prob

    @tf.function(autograph=False)
    def sample(start, seed):
        return tfp.mcmc.sample_chain(3, start, kernel=kernel, seed=seed, trace_fn=trace)

    states, (z, log_prob) = sample(list(surrogate.sample(6, seed=1)), tf.constant([0, 1]))
    z = tf.concat(z, -1)
    assert [tuple(part.shape) for part in states] == [(3, 6), (3, 6, 3)] and np.all(states[0] > 0)
    parts = surrogate.bijector.forward(z)
    for one, other in zip(states, parts, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    expected = joint.log_prob(list(parts)) + surrogate.bijector.forward_log_det_jacobian(z, 1)
    np.testing.assert_allclose(log_prob, expected, rtol=1e-3, atol=1e-3)
