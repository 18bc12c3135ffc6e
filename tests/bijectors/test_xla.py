"""What XLA compiles (jit_compile=True) agrees with what TensorFlow runs, value and derivatives."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tf_resflow as resflow

tfb, tfd = tfp.bijectors, tfp.distributions
EXACT, ROULETTE = resflow.logdet.Exact(), resflow.logdet.RussianRoulette(1)


def base():
    return tfd.MultivariateNormalDiag(tf.zeros(2, tf.float64))


def log_prob(block, x):
    density = tfd.TransformedDistribution(base(), tfb.Invert(block))
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = density.log_prob(x, bijector_kwargs={"seed": 3})
    return value, tape.gradient(value, [x, *block.trainable_variables])


def second_derivative(block, x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        _, (gradient, *_) = log_prob(block, x)
    return gradient, tape.gradient(gradient, [x, *block.trainable_variables])


def inverse(block, y):
    with tf.GradientTape() as tape:
        tape.watch(y)
        x = block.inverse(y)
    return x, tape.gradient(x, [y, *block.trainable_variables])


def variational_step(block, z):
    """The gradient of E[log q - log p] for q of samples block(z), and p(x) of log-density -||x||^4."""
    with tf.GradientTape() as tape:
        x = block.forward(z, seed=3)
        log_q = base().log_prob(z) - block.forward_log_det_jacobian(z, 1, seed=3)
        loss = tf.reduce_mean(log_q + tf.reduce_sum(x**2, -1) ** 2)
    return loss, tape.gradient(loss, block.trainable_variables)


@pytest.mark.parametrize(
    ("run", "estimator"),
    [(second_derivative, EXACT), (inverse, EXACT), (variational_step, ROULETTE)],
    ids=["exact", "inverse", "variational"],
)
def test_agrees(run, estimator, make_block):
    block = make_block("block", estimator, dtype="float64")
    x = tf.random.stateless_normal([4, 2], [0, 1], dtype=tf.float64)
    compiled = tf.function(run, autograph=False, jit_compile=True)
    plain, compiled = (tf.nest.flatten(function(block, x)) for function in (run, compiled))
    assert len(plain) >= 5
    for one, other in zip(plain, compiled, strict=True):
        if one is not None:
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)


def test_samples(make_block):
    block = make_block("block", EXACT, dtype="float64")
    density = tfd.TransformedDistribution(base(), tfb.Invert(block))

    @tf.function(autograph=False, jit_compile=True)
    def sample(seed):
        return density.sample(5, seed=seed), base().sample(5, seed=seed)

    x, z = sample(tf.constant([0, 1]))
    np.testing.assert_allclose(block.forward(x), z, atol=1e-12)


def test_neutra(make_block):
    """HMC in the latent of a flow: its target is log p(f(z)) + log|det J(z)|, with the gradient of that."""
    block = make_block("block", EXACT, dtype="float64")
    target = lambda x: -tf.reduce_sum((x - 1.0) ** 4, -1)  # noqa: E731
    hmc = tfp.mcmc.HamiltonianMonteCarlo(target, step_size=0.1, num_leapfrog_steps=2)
    kernel = tfp.mcmc.TransformedTransitionKernel(hmc, block)

    @tf.function(autograph=False, jit_compile=True)
    def chain(seed):
        def trace(_, results):
            accepted = results.inner_results.accepted_results
            return results.transformed_state, accepted.target_log_prob, accepted.grads_target_log_prob[0]

        start = tf.zeros([3, 2], tf.float64)
        return tfp.mcmc.sample_chain(3, start, kernel=kernel, trace_fn=trace, seed=seed)

    x, (z, value, gradient) = chain(tf.constant([0, 1]))
    z = tf.constant(z)
    with tf.GradientTape() as tape:
        tape.watch(z)
        forward = z + tf.reshape(block.branch(tf.reshape(z, [9, 2])), [3, 3, 2])
        with tf.GradientTape() as inner:
            rows = tf.reshape(z, [9, 2])
            inner.watch(rows)
            g = block.branch(rows)
        slogdet = tf.linalg.slogdet(tf.eye(2, dtype=tf.float64) + inner.batch_jacobian(g, rows))[1]
        expected = target(forward) + tf.reshape(slogdet, [3, 3])
    np.testing.assert_allclose(x, forward, atol=1e-12)
    np.testing.assert_allclose(value, expected, rtol=1e-9)
    np.testing.assert_allclose(gradient, tape.gradient(expected, z), rtol=1e-7, atol=1e-10)
    assert len(np.unique(x[:, 0, 0])) > 1


def test_no_warning_is_printed_and_solve_tells(make_block, capfd):
    block = make_block("stubborn", EXACT, resflow.solvers.FixedPoint(max_iterations=2))
    y = tf.ones([3, 2])
    capfd.readouterr()
    tf.function(block.inverse, autograph=False, jit_compile=True)(y)
    assert "stubborn" not in capfd.readouterr().err
    assert not np.any(tf.function(lambda y: block.solve(y).converged, autograph=False, jit_compile=True)(y))
