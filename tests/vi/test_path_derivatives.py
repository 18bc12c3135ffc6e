"""The path derivative: the gradient without the score is unbiased, and zero at the posterior."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tf_resflow as resflow

tfb, tfd = tfp.bijectors, tfp.distributions
with_path_derivative = resflow.vi.with_path_derivative
EXACT = resflow.logdet.Exact()


def banana(x):
    return -0.5 * x[..., 0] ** 2 - 2.0 * (x[..., 1] - 0.5 * x[..., 0] ** 2) ** 2


def elbo_gradient(target, surrogate, variables, seed, num=1):
    """Returns the value and the gradients of the loss of `tfp.vi`."""
    with tf.GradientTape() as tape:
        loss = tfp.vi.monte_carlo_variational_loss(target, surrogate, sample_size=num, seed=seed)
    return loss, tape.gradient(loss, variables)


def flat(gradients):
    return tf.concat([tf.reshape(gradient, [-1]) for gradient in gradients], 0)


def test_it_is_the_total_derivative_without_the_score(moved_surrogate):
    """Checks five draws. The score comes from the density of a given point, which the solver inverts."""
    surrogate = moved_surrogate([2])
    variables = surrogate.trainable_variables

    @tf.function(autograph=False)
    def gradients(seed):
        pairs = (elbo_gradient(banana, q, variables, seed) for q in (with_path_derivative(surrogate), surrogate))
        (value, path), (expected, total) = pairs
        x = tf.identity(tf.stop_gradient(surrogate.sample(1, seed=tfp.random.split_seed(seed, 2)[0])))
        with tf.GradientTape() as tape:
            log_q = surrogate.log_prob(x)[0]
        return value, expected, path, total, tape.gradient(log_q, variables)

    for seed in range(5):
        value, expected, *parts = gradients(tf.constant([1, seed]))
        path, total, score = map(flat, parts)
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        assert np.linalg.norm(score) > 0.1
        np.testing.assert_allclose(path, total - score, atol=1e-7)


@pytest.mark.parametrize("builder", ["ours", "of TFP"])
def test_structured_and_constrained_events(builder, moved_surrogate):
    """Samples and densities are the same, and the gradient of each draw vanishes at the posterior."""
    shapes, constraints = {"a": [2], "b": [1]}, {"a": tfb.Identity(), "b": tfb.Softplus()}
    if builder == "ours":
        surrogate, same = (moved_surrogate(shapes, constraining_bijector=constraints) for _ in range(2))
    else:  # a chain in the order of TFP
        build = tfp.experimental.vi.build_split_flow_surrogate_posterior
        branches = [resflow.flows.dense_branch([3], (6,), dtype="float64") for _ in range(2)]
        blocks = [resflow.bijectors.MonotoneBlock(branch, EXACT) for branch in branches]
        surrogate, same = (build(shapes, block, constraints, dtype=tf.float64) for block in blocks)
    view, seed = with_path_derivative(surrogate), tf.constant([1, 2])
    found, expected = (q.experimental_sample_and_log_prob(4, seed=seed) for q in (view, surrogate))
    for one, other in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)

    def gradients():
        target = lambda a, b: same.log_prob({"a": a, "b": b})  # noqa: E731
        variables = surrogate.trainable_variables
        return [flat(elbo_gradient(target, q, variables, seed, num=3)[1]) for q in (view, surrogate)]

    path, total = (tf.function(gradients, autograph=False) if builder == "ours" else gradients)()
    assert np.abs(path).max() < 1e-7 and np.abs(total).max() > 0.1


def test_compiled_and_with_a_roulette(moved_surrogate):
    """XLA gives the same gradients. 400 roulette estimates are unbiased within 4.5 standard errors."""
    exact = moved_surrogate([2])
    resflow.layers.update_norms(exact)
    noisy = resflow.bijectors.with_log_det_estimator(exact, resflow.logdet.RussianRoulette())
    z = tf.constant([[0.3, -0.4]] * 400, tf.float64)

    def gradients(surrogate, **kwargs):
        bijector = with_path_derivative(surrogate).bijector
        with tf.GradientTape() as tape:
            tape.watch(z)
            log_det = bijector.forward_log_det_jacobian(z, 1, **kwargs)
        return log_det, *tape.gradient(log_det, [z, *exact.trainable_variables])

    expected, found = gradients(exact), gradients(noisy, seed=[1, 2])[1].numpy()
    compiled = tf.function(lambda: gradients(exact), autograph=False, jit_compile=True)()
    for one, other in zip(expected, compiled, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-10)
    error = found.mean(0) - expected[1][0]
    assert np.all(np.abs(error) < 4.5 * found.std(0, ddof=1) / 20)
    assert found.std(0).max() > 1e-3


def test_refusals(refused):
    refused("made of a flow", with_path_derivative, tfd.Normal(0.0, 1.0))
    trainable = tfd.MultivariateNormalDiag(tf.Variable([0.0, 1.0]))
    trainable = tfd.TransformedDistribution(trainable, resflow.bijectors.ActNorm([2]))
    refused("base distribution .* trainable variables", with_path_derivative, trainable)
    split = tfb.Chain([tfb.JointMap([tfb.Shift(tf.Variable([1.0])), tfb.Identity()]), tfb.Split(2)])
    split = tfd.TransformedDistribution(tfd.Sample(tfd.Normal(0.0, 1.0), [2]), split)
    refused("trainable bijectors are applied first", with_path_derivative, split)


class Wrapped(resflow.bijectors.Flow):
    """A subclass of Flow, which counts as one map because a subclass may change what the members do."""


def test_all_kinds_of_members_in_a_training_step():
    """The members give the same gradient as a single map. Kernels are fused, and two blocks share a name."""
    float64 = {"dtype": "float64"}
    tril = tf.Variable([[1.3, 0.0, 0.0], [0.4, 0.8, 0.0], [-0.3, 0.2, 1.1]], **float64)
    stretch = tf.Variable([0.7, 1.5, 1.2], **float64)

    def branch(seed):
        return resflow.flows.dense_branch([3], (4,), activation="cpila", seed=seed, **float64)

    def roulette(seed):
        return resflow.bijectors.Flow([resflow.bijectors.ResidualBlock(branch(seed), name="block")])

    blocks = resflow.bijectors.ResidualBlock(branch(0), EXACT), resflow.bijectors.MonotoneBlock(branch(1), EXACT)
    act_norm = resflow.bijectors.ActNorm([3], **float64)
    act_norm.log_scale.assign([0.2, -0.3, 0.1])
    chain = tfb.Chain([tfb.Shift(stretch), tfb.ScaleMatvecTriL(tril), tfb.Permute([2, 0, 1])])
    members = [blocks[0], act_norm, tfb.Sinh(), tfb.Scale(stretch), blocks[1], roulette(2), chain, roulette(3)]
    flow = resflow.bijectors.Flow([*members, resflow.bijectors.Flow([tfb.Invert(act_norm)])])
    base, variables = tfd.Sample(tfd.Normal(tf.zeros([], tf.float64), 1.0), [3]), flow.trainable_variables

    def results(bijector):
        @tf.function(autograph=False)
        def compute():
            view = with_path_derivative(tfd.TransformedDistribution(base, resflow.bijectors.Flow([bijector])))
            with tf.GradientTape() as tape:
                given = {"seed": tf.constant([1, 2]), "networks": resflow.bijectors.Networks(flow, training=True)}
                x, log_q = view.experimental_sample_and_log_prob(4, seed=[3, 4], bijector_kwargs=given)
                loss = tf.reduce_mean(log_q + tf.reduce_sum(tf.sin(x), -1))
            return x, log_q, flat(tape.gradient(loss, variables, unconnected_gradients="zero"))

        return compute()

    for one, other in zip(results(flow), results(Wrapped([flow])), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)
