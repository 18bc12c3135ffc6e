"""The path derivative: the reparameterization gradient without the score, unbiased, and zero at the posterior."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tf_resflow as resflow

tfb, tfd = tfp.bijectors, tfp.distributions
with_path_derivative = resflow.vi.with_path_derivative
EXACT = resflow.logdet.Exact()


def surrogate_of(event_shape, seed=0, **options):
    options = {"num_blocks": 1, "hidden": (6,), "dtype": "float64", **options}
    surrogate = resflow.vi.flow_surrogate_posterior(event_shape, seed=seed, **options)
    for i, variable in enumerate(surrogate.trainable_variables):
        variable.assign_add(0.2 * tf.random.stateless_normal(variable.shape, [seed, i], dtype=variable.dtype))
    return surrogate


@pytest.mark.parametrize("condition_size", [None, 2])
@pytest.mark.parametrize("kind", [resflow.bijectors.ResidualBlock, resflow.bijectors.MonotoneBlock])
def test_jacobian_of_a_block(kind, condition_size):
    branch = resflow.flows.dense_branch([3], (5,), condition_size=condition_size, seed=1, dtype="float64")
    block = kind(branch, EXACT, conditional=condition_size is not None)
    x = tf.random.stateless_normal([4, 3], [0, 1], dtype=tf.float64)
    condition = None if condition_size is None else tf.ones([4, condition_size], tf.float64)
    arguments = {} if condition is None else {"conditional_input": condition}
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = block.forward(x, **arguments)
    jacobian = block.jacobian(x, y, condition)
    np.testing.assert_allclose(jacobian, tape.batch_jacobian(y, x), atol=1e-9)
    assert np.abs(jacobian - np.eye(3)).max() > 0.1


def banana(x):
    return -0.5 * x[..., 0] ** 2 - 2.0 * (x[..., 1] - 0.5 * x[..., 0] ** 2) ** 2


def elbo_gradient(target, surrogate, variables, seed, num=1):
    """The value and the gradients of the loss of `tfp.vi`."""
    with tf.GradientTape() as tape:
        loss = tfp.vi.monte_carlo_variational_loss(target, surrogate, sample_size=num, seed=seed)
    return loss, tape.gradient(loss, variables)


def flat(gradients):
    return np.concatenate([tf.reshape(gradient, [-1]) for gradient in gradients])


def test_it_is_the_total_derivative_without_the_score():
    """For each of five draws. The score is that of the density of a given point, by the solver's inverse."""
    surrogate = surrogate_of([2], num_blocks=2)
    variables = surrogate.trainable_variables

    @tf.function(autograph=False)
    def gradients(seed):
        (value, path), (expected, total) = (
            elbo_gradient(banana, q, variables, seed) for q in (with_path_derivative(surrogate), surrogate)
        )
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


def with_monotone_block():
    block = resflow.bijectors.MonotoneBlock(resflow.flows.dense_branch([2], (6,), dtype="float64"), EXACT)
    return tfd.TransformedDistribution(tfd.Sample(tfd.Normal(tf.zeros([], tf.float64), 1.0), [2]), block)


def test_no_variance_at_the_posterior():
    """The gradient of each draw vanishes if q is the target, which the reparameterization gradient does not."""
    surrogate, target = with_monotone_block(), with_monotone_block()
    variables = surrogate.trainable_variables

    @tf.function(autograph=False)
    def gradients(seed):
        pair = (with_path_derivative(surrogate), surrogate)
        return [elbo_gradient(target.log_prob, q, variables, seed)[1] for q in pair]

    for seed in range(3):
        path, total = map(flat, gradients(tf.constant([0, seed])))
        assert np.abs(path).max() < 1e-7 and np.abs(total).max() > 0.1


def test_equal_expectations():
    """Mean gradients of 4,000 draws each, within 4.5 standard errors of their difference, by 40 batches of 100."""
    surrogate = surrogate_of([2])
    view, variables = with_path_derivative(surrogate), surrogate.trainable_variables

    @tf.function(autograph=False)
    def gradients(seed):
        return [elbo_gradient(banana, q, variables, seed, num=100)[1] for q in (surrogate, view)]

    both = [gradients(tf.constant([3, i])) for i in range(40)]
    difference = np.array([flat(one) - flat(other) for one, other in both])
    stderr = difference.std(0, ddof=1) / np.sqrt(40)
    assert np.all(np.abs(difference.mean(0)) < 4.5 * stderr + 1e-9)
    spread = [np.array([flat(pair[i]) for pair in both]).std(0).mean() for i in (0, 1)]
    assert spread[0] != pytest.approx(spread[1])


def test_equals_tfp_with_an_affine_flow():
    """TFP's doubly reparameterized gradient, of a Gaussian whose stopped copy can be written down."""
    scale = tf.Variable([[0.7, 0.0], [0.3, 1.2]])
    shift = tf.Variable([0.5, -1.0])
    base = tfd.Sample(tfd.Normal(0.0, 1.0), [2])
    surrogate = tfd.TransformedDistribution(base, tfb.Chain([tfb.Shift(shift), tfb.ScaleMatvecTriL(scale)]))
    stopped = tfd.MultivariateNormalTriL(tf.identity(shift), tf.identity(scale))
    with tf.GradientTape() as tape:
        expected = tfp.vi.monte_carlo_variational_loss(
            banana,
            surrogate,
            sample_size=7,
            seed=tf.constant([1, 2]),
            gradient_estimator=tfp.vi.GradientEstimators.DOUBLY_REPARAMETERIZED,
            stopped_surrogate_posterior=stopped,
        )
    expected_gradients = tape.gradient(expected, [scale, shift])
    value, gradients = elbo_gradient(
        banana, with_path_derivative(surrogate), [scale, shift], tf.constant([1, 2]), num=7
    )
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(flat(gradients), flat(expected_gradients), rtol=1e-4, atol=1e-5)


def test_a_surrogate_of_the_builder_of_tfp():
    """A chain whose order is that of TFP: the same samples and densities, and a gradient along the path alone."""
    flow = resflow.flows.vector_flow(3, 1, (6,), log_det=resflow.logdet.Exact())
    surrogate = tfp.experimental.vi.build_split_flow_surrogate_posterior(
        {"a": [2], "b": [1]}, flow, {"a": tfb.Identity(), "b": tfb.Softplus()}
    )
    view = with_path_derivative(surrogate)
    (one, log_prob), (other, expected) = (
        q.experimental_sample_and_log_prob(4, seed=[1, 2]) for q in (view, surrogate)
    )
    for key, value in one.items():
        np.testing.assert_allclose(value, other[key], rtol=1e-5)
    np.testing.assert_allclose(log_prob, expected, rtol=1e-5)


def test_structured_and_constrained_events():
    shapes, constraints = {"a": [2], "b": []}, {"a": None, "b": tfb.Softplus()}
    surrogate = surrogate_of(shapes, constraining_bijector=constraints)
    variables = surrogate.trainable_variables
    target = lambda a, b: banana(a) - b + 2.0 * tf.math.log(b)  # noqa: E731

    def run():
        return elbo_gradient(target, with_path_derivative(surrogate), variables, tf.constant([1, 2]), num=3)

    value, gradients = run()
    other_value, other = tf.function(run, autograph=False)()
    np.testing.assert_allclose(other_value, value, rtol=1e-9)
    np.testing.assert_allclose(flat(other), flat(gradients), rtol=1e-6, atol=1e-9)


def test_compiled():
    """The log-determinant of given latents, of which the random numbers are not XLA's: value and gradient."""
    surrogate = surrogate_of([2])
    bijector, z = with_path_derivative(surrogate).bijector, tf.constant([[0.3, -0.4], [1.0, 0.5]], tf.float64)

    def run():
        with tf.GradientTape() as tape:
            log_det = bijector.forward_log_det_jacobian(z, 1)
        return log_det, flat_tensor(tape.gradient(log_det, surrogate.trainable_variables))

    def flat_tensor(gradients):
        return tf.concat([tf.reshape(gradient, [-1]) for gradient in gradients], 0)

    for one, other in zip(run(), tf.function(run, autograph=False, jit_compile=True)(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-10)


def test_a_roulette():
    """Its gradients in the latent are unbiased: 400 estimates of one sample, within 4.5 standard errors."""
    exact = surrogate_of([2])
    noisy = resflow.bijectors.with_log_det(exact, resflow.logdet.RussianRoulette())
    z = tf.constant([[0.3, -0.4]] * 400, tf.float64)

    def gradients(surrogate):
        bijector = with_path_derivative(surrogate).bijector
        with tf.GradientTape() as tape:
            tape.watch(z)
            log_det = bijector.forward_log_det_jacobian(z, 1, seed=[1, 2])
        return tape.gradient(log_det, z).numpy()

    found = gradients(noisy)
    error = found.mean(0) - gradients(exact)[0]
    assert np.all(np.abs(error) < 4.5 * found.std(0, ddof=1) / 20)
    assert found.std(0).max() > 1e-3


def test_refusals():
    with pytest.raises(ValueError, match="made of a flow"):
        with_path_derivative(tfd.Normal(0.0, 1.0))
    trainable = tfd.MultivariateNormalDiag(tf.Variable([0.0, 1.0]))
    with pytest.raises(ValueError, match="base distribution .* trainable variables"):
        with_path_derivative(tfd.TransformedDistribution(trainable, resflow.bijectors.ActNorm([2])))
    split = tfb.Chain([tfb.JointMap([tfb.Shift(tf.Variable([1.0])), tfb.Identity()]), tfb.Split(2)])
    with pytest.raises(ValueError, match="must come first"):
        with_path_derivative(tfd.TransformedDistribution(tfd.Sample(tfd.Normal(0.0, 1.0), [2]), split))


class Wrapped(resflow.bijectors.FlowBijector):
    """A flow of which TFP sees no members."""

    def __init__(self, flow):
        self._flow = flow
        super().__init__(forward_min_event_ndims=1, dtype=flow.dtype, parameters={"flow": flow}, name="wrapped")

    def run(self, x, context):
        return self._flow.run(x, context)

    def undo(self, y, context):
        return self._flow.undo(y, context)


def test_members_that_are_not_in_sequence_or_no_vectors():
    """A flow inside of a bijector of the user's, and reshaped coordinates, which are scaled: as TFP's chain."""
    flow = surrogate_of([2]).bijector
    reshaped = [
        tfb.Reshape([1, 2], [2]),
        tfb.Scale(tf.constant([[0.5, 2.0]], tf.float64)),
        tfb.Reshape([2], [1, 2]),
    ]
    base = tfd.Sample(tfd.Normal(tf.zeros([], tf.float64), 1.0), [2])
    gradients = []
    for members in ([flow, *reshaped], [Wrapped(flow), *reshaped], [flow, tfb.Chain(reshaped[::-1])]):
        surrogate = tfd.TransformedDistribution(base, resflow.bijectors.Flow(members))
        view = with_path_derivative(surrogate)
        gradients.append(flat(elbo_gradient(banana, view, flow.trainable_variables, tf.constant([1, 2]), num=3)[1]))
    np.testing.assert_allclose(gradients[0], gradients[2], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(gradients[1], gradients[2], rtol=1e-9, atol=1e-12)
