"""Posteriors of simulators, compared with SciPy and exact posteriors; structured priors and wrong input."""

import copy
import itertools
import pickle
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import special, stats

import tf_resflow as resflow
from tf_resflow.models.repeated_training import Best, RepeatedTraining, values_of
from tf_resflow.sbi.observations import robust_statistics
from tf_resflow.sbi.pair_training import Pairs, held_out_rows
from tf_resflow.sbi.posterior_model import PosteriorModel
from tf_resflow.sbi.regression import begin_at_regression, ridge_regression

tfd = tfp.distributions
LOW, HIGH = np.array([-1.0, 2.0], "float32"), np.array([1.0, 5.0], "float32")
BOX = tfd.Independent(tfd.Uniform(LOW, HIGH), 1)
NORMAL = tfd.MultivariateNormalDiag(tf.zeros(2))
SMALL = {"num_blocks": 1, "affine_layers": 1, "hidden": (8,), "ensemble": 1}
AFFINE = {"num_blocks": 0, "affine_layers": 0, "ensemble": 1}


def as_fitted(estimator):
    """Returns the estimator with its present weights, as if they were the result of a fit."""
    observations = estimator._density.observations
    observations.farthest = np.full(observations.farthest.shape, 10.0)
    return estimator


@pytest.fixture(scope="module")
def gaussian():
    """Returns an estimator with standard normal A (theta - x) for unconstrained theta, and the covariance."""
    identity = keras.Sequential([keras.Input([2]), keras.layers.Identity()])
    estimator = resflow.PosteriorEstimator(BOX, [2], summary=identity, **SMALL)
    as_fitted(estimator)
    estimator.model.condition.statistics["mean"].assign([1.0, -1.0])
    estimator.model.condition.statistics["std"].assign([2.0, 0.5])
    _, affine, blocks = estimator.model.flow.bijectors
    for variable in blocks.trainable_variables:
        variable.assign(tf.zeros_like(variable))
    (dense,) = affine.network.layers
    matrix, with_logs = np.array([[2.0, 0.0], [-0.5, 1.5]]), np.array([[np.log(2.0), 0.0], [-0.5, np.log(1.5)]])
    dense.kernel.assign(np.concatenate([-matrix.T, np.zeros([2, 3])], axis=1))
    dense.bias.assign(np.concatenate([np.zeros(2), tfp.math.fill_triangular_inverse(with_logs)]))
    return estimator, np.linalg.inv(matrix.T @ matrix)


@pytest.mark.parametrize("how", ["eager", "xla"])
def test_density_of_parameters_in_a_box(gaussian, how):
    """The density includes the log-determinant of the logit, and each observation has its own density."""
    estimator, covariance = gaussian
    x = np.array([[1.5, -0.8], [0.3, -1.2], [2.0, -1.0]])
    theta = BOX.sample(3, seed=1).numpy()
    share = (theta - LOW) / (HIGH - LOW)
    z = special.logit(share) - (x - [1.0, -1.0]) / [2.0, 0.5]
    log_slope = -np.log((HIGH - LOW) * share * (1 - share)).sum(-1)
    expected = stats.multivariate_normal([0, 0], covariance).logpdf(z) + log_slope
    for rows in (slice(None), 1):
        posterior = estimator.posterior(x[rows])
        log_prob = tf.function(posterior.log_prob, autograph=False, jit_compile=how == "xla")
        log_prob = posterior.log_prob if how == "eager" else log_prob
        np.testing.assert_allclose(log_prob(theta[rows]), expected[rows], rtol=1e-3, atol=1e-4)


def test_samples(gaussian):
    """Checks moments of 4,000 draws within 5 standard errors for two observations. All draws are in the box."""
    estimator, covariance = gaussian
    x = np.array([[1.5, -0.8], [0.3, -1.2]])
    draws = estimator.posterior(x).sample(4000, seed=3).numpy()
    assert draws.shape == (4000, 2, 2) and np.all((draws > LOW) & (draws < HIGH))
    z = special.logit((draws - LOW) / (HIGH - LOW)) - (x - [1.0, -1.0]) / [2.0, 0.5]
    assert np.all(np.abs(z.mean(0)) < 5 * np.sqrt(np.diag(covariance) / 4000))
    products = z[..., :, np.newaxis] * z[..., np.newaxis, :]
    assert np.all(np.abs(products.mean(0) - covariance) < 5 * products.std(0) / np.sqrt(4000))


OFFSET = np.array([1e9, 0.0])  # neighboring float32 numbers differ by 64 here


def simulated(num, seed):
    theta = NORMAL.sample(num, seed=seed).numpy()
    return theta, OFFSET + theta @ [[1.0, 0.5], [0.0, 2.0]] + np.random.default_rng(seed).normal(size=[num, 2])


def exact_log_prob(theta, x):
    """Returns the log-density of the exact posterior."""
    operator = np.array([[1.0, 0.0], [0.5, 2.0]])
    covariance = np.linalg.inv(np.eye(2) + operator.T @ operator)
    means = (x - OFFSET) @ operator @ covariance
    return stats.multivariate_normal([0, 0], covariance).logpdf(theta - means)


@pytest.fixture(scope="module")
def fitted():
    """Fits 1,500 pairs of a linear simulator."""
    estimator = resflow.PosteriorEstimator(NORMAL, [2], **SMALL)
    estimator.fit(*simulated(1500, 0), epochs=6, weight_decays=[0.0], verbose=0)
    return estimator


def test_fit_finds_the_posterior(fitted):
    """Compares the mean log-density of 4,000 other pairs. Its standard error is 0.016; the prior is 0.97 worse."""
    theta, x = simulated(4000, 1)
    gap = exact_log_prob(theta, x) - fitted.posterior(x).log_prob(theta)
    assert -4 * np.std(gap) / np.sqrt(4000) < np.mean(gap) < 0.1


def test_fit_keeps_the_best_of_its_trainings(monkeypatch):
    """The weight decay is chosen in short trainings, until one is worse than before. Trainings can stop early."""
    estimator, found, run = resflow.PosteriorEstimator(NORMAL, [2], **AFFINE), [], RepeatedTraining.run

    def recorded(training, rounds, *args, **options):
        best = run(training, rounds, *args, **options)
        found.append((float(training.model.optimizer.weight_decay), len(rounds), best))
        return best

    monkeypatch.setattr(RepeatedTraining, "run", recorded)
    options, pairs = {"epochs": 6, "verbose": 0}, simulated(500, 0)
    history = estimator.fit(*pairs, weight_decays=[100.0, 0.0, 50.0, 0.0], **options)
    assert [each[:2] for each in found] == [(100.0, 2), (0.0, 2), (50.0, 2), (0.0, 6)]
    assert found[1][2].loss < min(found[0][2].loss, found[2][2].loss)
    assert np.argmin(history.history["val_loss"]) == np.ceil(found[3][2].step / 8) - 1  # steps per epoch
    stop = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: setattr(stop.model, "stop_training", True))
    assert len(estimator.fit(*pairs, **options | {"callbacks": [stop]}).epoch) == 1
    training, calls = estimator._density._repeated_training(64, (2,)), itertools.count()
    steps = training._steps

    def diverge(*batches):
        if next(calls):
            raise tf.errors.InvalidArgumentError(None, None, "The loss is infinite")
        return steps(*batches)

    monkeypatch.setattr(training, "_steps", diverge)
    with pytest.warns(UserWarning, match="training stopped early: The loss is infinite"):
        history = estimator.fit(*pairs, epochs=3, weight_decays=[100.0], verbose=0)
    assert len(history.epoch) == 1
    with pytest.raises(tf.errors.InvalidArgumentError, match="The loss is infinite"):
        estimator.fit(*pairs, epochs=3, verbose=0)


def test_a_regression_estimates_its_error():
    """Tests 200 new pairs, with more features than pairs, and with as many values as pairs.

    With the exact covariance, the mean squared distance of 200 x 40 residuals would be 1 within 0.06. The estimate
    is less accurate because only 10 pairs are held out.
    """
    generator = np.random.default_rng(0)
    for features, size in ((100, 2), (5, 40)):
        x, noise = generator.normal(size=[250, features]), generator.normal(size=[250, size])
        z = x[:, :1] + 0.5 * noise
        matrix, shift, covariance = ridge_regression((x[10:50], z[10:50]), (x[:10], z[:10]))
        residuals = z[50:] - x[50:] @ matrix - shift
        distances = np.sum(residuals * np.linalg.solve(covariance, residuals.T).T, axis=1) / size
        assert 0.3 < np.mean(distances) < 3


@pytest.mark.parametrize(("num", "num_noise"), [(60, 0), (3000, 0), (3000, 18)])
def test_training_starts_from_a_linear_regression(num, num_noise):
    """Its KL divergence from the exact posterior of a linear simulator is about 9 / (2 num), for 9 weights.

    With 18 more numbers, which are noise, the default summary is tested. It has more features.
    """
    identity = keras.Sequential([keras.Input([2]), keras.layers.Identity()])
    summary = None if num_noise else identity
    estimator = resflow.PosteriorEstimator(NORMAL, [2 + num_noise], summary=summary, **AFFINE)
    noise = lambda num: np.random.default_rng(num).normal(size=[num, num_noise])  # noqa: E731
    theta, x = simulated(num, 3)
    x = np.concatenate([x - OFFSET, noise(num)], axis=1)
    held_out = num // 10
    pairs = Pairs(theta[held_out:], x[held_out:]), Pairs(theta[:held_out], x[:held_out])
    begin_at_regression(estimator.model, *pairs, seed=0, has_default_summary=num_noise > 0)
    estimator._density.observations.learn_distances(x)
    theta, x = simulated(4000, 1)
    given = np.concatenate([x - OFFSET, noise(4000)], axis=1)
    gap = exact_log_prob(theta, x) - estimator.posterior(given).log_prob(theta)
    assert -4 * np.std(gap) / np.sqrt(4000) < np.mean(gap) < (150 if num_noise else 40) / num


@pytest.mark.parametrize("is_series", [False, True])
def test_the_input_of_the_summary_is_chosen(is_series, tmp_path):
    """The variance of a series needs moments, and two of 20 numbers need the numbers themselves.

    The prior has a mean log-density of -2.84. The exact posterior of numbers with the error 1/2 has -1.23.
    """
    rng = np.random.default_rng(0)
    theta, new_theta = (NORMAL.sample(num, seed=seed).numpy() for num, seed in ((1000, 0), (500, 1)))

    def simulate(theta):
        x = rng.normal(size=[len(theta), 20])
        if is_series:
            return np.exp(theta[:, :1]) * x + theta[:, 1:]
        x[:, :2] = theta + 0.5 * x[:, :2]
        return x

    estimator = resflow.PosteriorEstimator(NORMAL, [20], **AFFINE)
    estimator.fit(theta, simulate(theta), epochs=12, weight_decays=[0.0], verbose=0)
    assert float(estimator.model.condition.network.get_layer("choice").is_second[0]) == is_series
    new = new_theta, simulate(new_theta)
    assert estimator.score(*new) > -2.3
    estimator.save(tmp_path / "series.keras")
    assert resflow.load(tmp_path / "series.keras").score(*new) == pytest.approx(estimator.score(*new), rel=1e-5)


def test_trainings_depend_only_on_their_own_seed():
    weights, (theta, x) = [], simulated(60, 0)
    for seed in (1, 2):
        keras.utils.set_random_seed(seed)
        estimator = resflow.PosteriorEstimator(NORMAL, [2], **SMALL)
        estimator.fit(theta, x, epochs=2, batch_size=16, weight_decays=[0.0], verbose=0)
        weights.append(np.concatenate([weight.ravel() for weight in estimator.model.get_weights()]))
    np.testing.assert_allclose(*weights, rtol=1e-3, atol=1e-5)


def test_the_order_of_the_pairs_does_not_matter():
    """The regression and the ActNorms do not start from the first 1,000 of 2,000 sorted pairs."""
    theta, x = simulated(2000, 0)
    new, found = simulated(1000, 1), []
    for rows in (slice(None), np.argsort(theta[:, 0])):
        estimator = resflow.PosteriorEstimator(NORMAL, [2], **SMALL)
        estimator.fit(theta[rows], x[rows], epochs=1, learning_rate=1e-9, weight_decays=[0.0], verbose=0)
        norm = estimator.model.flow.bijectors[2].bijectors[0]
        found.append(np.concatenate([np.ravel(v) for v in norm.variables]))
    np.testing.assert_allclose(*found, atol=0.2)
    assert abs(estimator.score(*new) - np.mean(exact_log_prob(*new))) < 0.1


def test_a_warm_start_continues_from_all_networks():
    """With a tiny learning rate, nothing changes, and no pair of the first fit changes its role."""
    pairs, options = simulated(400, 0), {"weight_decays": [0.3, 0.0], "epochs": 3, "verbose": 0}
    estimator = resflow.PosteriorEstimator(NORMAL, [2], **SMALL | {"ensemble": 2})
    estimator.fit(*pairs, **options, warm_start=True)  # the first fit is cold
    before, few = estimator._density.ensemble.members, {"epochs": 1, "learning_rate": 1e-9, "verbose": 0}
    more = [np.concatenate(parts) for parts in zip(pairs, simulated(200, 1), strict=True)]
    history = estimator.fit(*more, **few, warm_start=True)
    assert len(before) == 2 and len(history.epoch) == 1
    for one, other in zip(before, estimator._density.ensemble.members, strict=True):
        for weight, expected in zip(other, one, strict=True):
            np.testing.assert_allclose(weight, expected, atol=1e-5)
    loaded = copy.deepcopy(estimator)  # it also knows the weight decay of the last fit
    for each in (estimator, loaded):
        each.fit(*more, epochs=1, warm_start=True, verbose=0)
    np.testing.assert_array_equal(
        loaded.posterior(pairs[1]).log_prob(pairs[0]), estimator.posterior(pairs[1]).log_prob(pairs[0])
    )
    estimator.fit(*more, **few)
    assert np.max(np.abs(estimator.model.get_weights()[0] - before[0][0])) > 1e-3
    for fraction in (0.1, 0.3):
        np.testing.assert_array_equal(held_out_rows(600, fraction, 0)[:400], held_out_rows(400, fraction, 0))
        assert np.sum(held_out_rows(400, fraction, 0)) == 400 * fraction


def test_training_does_not_change_a_posterior(fitted):
    estimator, (theta, x) = copy.deepcopy(fitted), simulated(5, 2)
    posterior = estimator.posterior(x)
    expected = posterior.log_prob(theta)
    estimator.model.set_weights([weight + 0.1 for weight in estimator.model.get_weights()])
    estimator.model.flow.bijectors[0].statistics["mean"].assign_add([0.1, 0.1])
    assert np.max(np.abs(estimator.posterior(x).log_prob(theta) - expected)) > 0.1
    np.testing.assert_allclose(posterior.log_prob(theta + 1e-7), expected, rtol=1e-4)


def test_posteriors_in_a_function_are_differentiable_in_the_observation(gaussian, refused):
    """The gradients agree with finite differences in float64, for one observation and a batch."""
    estimator, theta = gaussian[0], BOX.sample(3, seed=1)

    @tf.function(autograph=False)
    def value_and_gradient(x):
        return tfp.math.value_and_gradient(lambda x: tf.reduce_sum(estimator.posterior(x).log_prob(theta)), x)

    batch = np.array([[1.5, -0.8], [0.3, -1.2], [2.0, -1.0]])
    for x in (batch, batch[0]):
        value, gradient = value_and_gradient(tf.constant(x))
        np.testing.assert_allclose(value, np.sum(estimator.posterior(x).log_prob(theta)), rtol=1e-5)
        step = np.zeros(x.shape)
        step[..., 1] = 1e-2
        high, low = (np.sum(estimator.posterior(x + sign * step).log_prob(theta)) for sign in (1, -1))
        assert np.sum(gradient[..., 1]) == pytest.approx((high - low) / 0.02, rel=1e-2)
    draw = tf.function(lambda x: estimator.posterior(x).sample(4, seed=[0, 1]), autograph=False)
    expected = estimator.posterior(batch).sample(4, seed=[0, 1])
    np.testing.assert_allclose(draw(tf.constant(batch)), expected, rtol=1e-3, atol=1e-3)
    refused("x has the shape \\(3, 3\\)", value_and_gradient, tf.zeros([3, 3], tf.float64))
    with pytest.raises(tf.errors.InvalidArgumentError, match="Found NaN or infinity in an observation"):
        value_and_gradient(tf.fill([3, 2], np.float64(np.nan)))


FIVE = tfd.JointDistributionNamed({"a": tfd.LogNormal(0.0, 1.0), "b": tfd.Sample(tfd.Beta(2.0, 2.0), 4)})


ONE, DOUBLE = tfd.MultivariateNormalDiag([0.0], [1.0]), tfd.Normal(np.float64(0.0), 1.0)


@pytest.mark.parametrize(
    ("prior", "is_set", "networks"), [(ONE, 0, 1), (ONE, 0, 2), (BOX, 1, 2), (FIVE, 0, 2), (DOUBLE, 1, 1)]
)
def test_posteriors_in_a_function(prior, is_set, networks):
    """The log-densities and gradients are those of eager calls, which come before or after them.

    This holds for tensors, constants and lists, and for several networks, whose weights are stored in float64.
    """
    shape = [None, 1] if is_set else [1]
    summary = resflow.sbi.set_summary([1]) if is_set else None
    estimator = resflow.PosteriorEstimator(prior, shape, summary=summary, **SMALL)
    weights = estimator.model.get_weights()
    others = [[w + 0.1 for w in weights]] * (networks - 1)
    as_fitted(estimator)._density.ensemble.members = [weights, *others]
    theta = prior.sample(seed=[0, 1])
    x = np.full([4, 1] if is_set else [1], 0.5)

    def value_and_gradient(x):
        return tfp.math.value_and_gradient(lambda x: estimator.posterior(x).log_prob(theta), x)

    before = tf.function(value_and_gradient)(tf.constant(x))
    expected = value_and_gradient(tf.constant(x))
    for found in (before, tf.function(value_and_gradient)(tf.constant(x))):
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-4)
        np.testing.assert_allclose(found[1], expected[1], rtol=1e-3, atol=1e-5)
    for constant in (lambda: x.tolist(), lambda: tf.constant(x)):
        found = tf.function(lambda get=constant: estimator.posterior(get()).log_prob(theta))()
        np.testing.assert_allclose(found, expected[0], rtol=1e-4)


@keras.saving.register_keras_serializable("tests")
def around(z):
    return tfd.Normal(z, 1.0)


def given_summary_estimators():
    """Returns fitted estimators with a given summary, for a bounded prior and a joint one of float64."""
    summary = keras.Sequential([keras.Input([2]), keras.layers.Dense(4)])
    joint = tfd.JointDistributionSequential([tfd.Normal(np.float64(0.0), np.array(1.0)), around])
    return [as_fitted(resflow.PosteriorEstimator(p, [2], summary=summary, **AFFINE)) for p in (BOX, joint)]


def test_copies_have_the_same_posterior(fitted, tmp_path):
    x = [0.5, -0.5]
    for estimator in (fitted, *given_summary_estimators()):
        estimator.save(tmp_path / "posterior.keras")
        draws = tf.nest.map_structure(np.array, estimator.posterior(x).sample(3, seed=1))  # not in TFP's cache
        expected = estimator.posterior(x).log_prob(draws)
        for same in (
            resflow.load(tmp_path / "posterior.keras"),
            pickle.loads(pickle.dumps(estimator)),
            copy.deepcopy(estimator),
        ):
            np.testing.assert_array_equal(same.posterior(x).log_prob(draws), expected)
            assert same.prior.dtype == estimator.prior.dtype


def test_a_prior_with_a_lambda_is_refused(tmp_path, refused):
    joint = tfd.JointDistributionSequential([tfd.Normal(0.0, 1.0), lambda z: tfd.Normal(z, 1.0)])
    with pytest.warns(UserWarning, match="cannot be saved with its prior.*<lambda>"):
        estimator = resflow.PosteriorEstimator(joint, [2], **AFFINE)
    refused("<lambda> cannot be saved", estimator.save, tmp_path / "other.keras")


def test_files_of_earlier_versions_are_refused(fitted, tmp_path, monkeypatch, refused):
    """They have the config and the statistics of the model, but no members by name."""
    with monkeypatch.context() as patch:
        patch.setattr(PosteriorModel, "serialize", resflow.FlowModel.serialize)
        fitted.save(tmp_path / "old.keras")
        fitted.model.save_weights(tmp_path / "old.weights.h5")
        tf.train.Checkpoint(model=fitted.model).write(str(tmp_path / "old"))
    message = "posterior_estimator was written by an earlier version of tf_resflow.*Fit the estimator again"
    for load in (resflow.load, keras.models.load_model):
        refused(message, load, tmp_path / "old.keras")
    refused(message, fitted.model.load_weights, tmp_path / "old.weights.h5")
    refused(message, tf.train.Checkpoint(model=fitted.model).read, str(tmp_path / "old"))


def test_candidates_start_from_the_same_weights(monkeypatch):
    """This also holds for a given summary, whose training uses the variables of the model itself."""
    summary = keras.Sequential([keras.Input([2]), keras.layers.Dense(4)])
    estimator = resflow.PosteriorEstimator(NORMAL, [2], summary=summary, **AFFINE)
    start, starts = RepeatedTraining.start, []

    def recorded(training, values):
        starts.append(values)
        start(training, values)

    monkeypatch.setattr(RepeatedTraining, "start", recorded)
    estimator.fit(*simulated(200, 0), epochs=3, weight_decays=[0.0, 0.3], verbose=0)
    assert len(starts) == 3  # two candidates, and the training
    for values in starts[1:]:
        for value, expected in zip(values, starts[0], strict=True):
            np.testing.assert_array_equal(value, expected)


def test_warnings(fitted, monkeypatch):
    """Names the farthest element of an observation, and says that regions are too small after a bad training."""
    theta, x = simulated(300, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fitted.posterior(x)
    with pytest.warns(UserWarning, match="x\\[1, 0\\] is 1\\.\\d+e\\+03 standard deviations from the median"):
        fitted.posterior([OFFSET, OFFSET + [1.6e3, 0.0]])
    estimator = resflow.PosteriorEstimator(NORMAL, [2], **AFFINE)

    def narrow(training, *args, **kwargs):
        dense = training.model.flow.bijectors[1].network.layers[-1]
        diagonal = tfp.math.fill_triangular_inverse(2 * np.eye(2))
        dense.bias.assign_add(np.concatenate([np.zeros(2), diagonal]))
        return Best(-np.inf, 1, values_of(training.variables))

    monkeypatch.setattr(RepeatedTraining, "run", narrow)
    with pytest.warns(UserWarning, match="held-out pairs are miscalibrated. Regions of .*too small"):
        estimator.fit(theta, x, weight_decays=[0.0])


def test_constant_elements_are_ignored():
    """A constant element gives a warning at the fit, and later if it changes, but it changes no posterior."""
    rng = np.random.default_rng(0)
    theta, x = simulated(300, 0)
    x = np.stack([x[:, 1], np.full(300, 7.1)], axis=1)
    estimator = resflow.PosteriorEstimator(NORMAL, [2], **SMALL)
    with pytest.warns(UserWarning, match="The element \\[1\\] of the observations has the same value in all pairs"):
        estimator.fit(theta, x, epochs=1, weight_decays=[0.0], verbose=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        expected = estimator.posterior(np.float32(x[:5])).log_prob(theta[:5])  # 7.1 in another dtype
    with pytest.warns(UserWarning, match="x\\[0, 1\\] is 9, but was 7.1 in all pairs of the training"):
        found = estimator.posterior([[part, 9.0] for part in x[:5, 0]]).log_prob(theta[:5])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    varying = np.stack([x[:, 0], rng.normal(size=300)], axis=1)
    with pytest.warns(UserWarning, match="fit again without warm_start"):
        estimator.fit(theta, varying, epochs=1, warm_start=True, verbose=0)


def test_statistics_are_robust():
    """Covers constant elements with rounding errors, elements with two values, and an outlier."""
    x = np.stack([np.arange(101.0), np.full(101, 0.1), np.repeat([0.0, 1.0], [90, 11])], axis=1)
    x[100, 0] = 1e9
    found = robust_statistics(x, (3,))
    np.testing.assert_allclose(found["mean"], [50, 0.1, 0])
    expected = [50 / (2 * stats.norm.ppf(0.75)), np.inf, np.std(x[:, 2])]
    np.testing.assert_allclose(found["std"], expected, rtol=1e-3)


def test_structured_parameters_and_any_observations(monkeypatch, refused):
    """Tests a joint prior with bounded parts, and images with a convolutional summary."""
    parts = {"a": tfd.LogNormal(0.0, 1.0), "b": tfd.Sample(tfd.Beta(2.0, 2.0), [2])}
    parts |= {"c": tfd.Dirichlet([0.5, 0.5, 0.5]), "d": tfd.Uniform(-1e6, 1e6)}
    prior = tfd.JointDistributionNamed(parts | {"e": tfd.MultivariateNormalDiag([0.0, 1e6])})
    theta = prior.sample(64, seed=1)
    x = np.random.default_rng(0).normal(size=[64, 4, 4, 1])
    summary = keras.Sequential([keras.Input([4, 4, 1]), keras.layers.Conv2D(2, 3), keras.layers.Flatten()])
    estimator = resflow.PosteriorEstimator(prior, [4, 4, 1], summary=summary, **AFFINE)
    without = {name: part for name, part in theta.items() if name != "b"}
    refused("theta does not have the structure of the prior's events", estimator.fit, without, x)
    refused("theta does not have the structure of the prior's events", estimator.fit, theta["b"], x)
    start, learned = summary.get_weights(), []
    record = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: learned.append(summary.get_weights()))
    estimator.fit(theta, x, epochs=2, batch_size=16, weight_decays=[0.0], callbacks=[record], verbose=0)
    assert all(np.any(value != s) for value, s in zip(learned[-1], start, strict=True))
    copied, trained = copy.deepcopy(estimator), summary.get_weights()
    for each, expected in ((estimator, start), (copied, trained)):  # a copy has no other initial weights
        with monkeypatch.context() as patch:
            patch.setattr(RepeatedTraining, "run", lambda *args, **kwargs: Best())
            each.fit(theta, 100 * x, verbose=0)  # starts again
        for weight, value in zip(each.parameters["summary"].get_weights(), expected, strict=True):
            np.testing.assert_array_equal(weight, value)
    assert np.min(estimator.model.condition.statistics["std"]) > 10
    draws = estimator.posterior(x[:3]).sample(5, seed=0)
    assert draws["a"].shape == (5, 3) and draws["b"].shape == (5, 3, 2)
    assert np.all(draws["a"] > 0) and np.all((draws["b"] > 0) & (draws["b"] < 1))
    np.testing.assert_allclose(np.sum(draws["c"], axis=-1), 1, rtol=1e-5)
    assert estimator.posterior(x[:3]).log_prob(draws).shape == (5, 3)
    off = tf.where(np.arange(64)[:, np.newaxis] < 2, 1.1 * theta["c"], theta["c"])
    infinite = tf.where(np.arange(64)[:, np.newaxis] == 2, np.inf, theta["e"])
    message = "NaN or values outside the prior's support in 3 rows of theta"
    refused(message, estimator.fit, {**theta, "c": off, "e": infinite}, x)


def test_parameters_on_a_bound_and_bounds_that_depend_on_other_parameters(gaussian):
    """Parameters on bounds become the farthest finite vectors. Samples respect bounds that depend on the sample."""
    theta = np.array([LOW, HIGH, [0.0, 3.5], [0.5, 3.0]])
    z = gaussian[0].space.vectors(theta, 4)
    np.testing.assert_allclose(z[:2], [np.min(z[2:], 0), np.max(z[2:], 0)])
    np.testing.assert_allclose(z[2:], [[0, 0], [np.log(3), -np.log(2)]], atol=1e-6)

    @tfd.JointDistributionCoroutineAutoBatched
    def prior():
        a = yield tfd.Uniform(0.0, 2.0, name="a")
        yield tfd.Uniform([0.0, 0.0], a, name="b")

    estimator = as_fitted(resflow.PosteriorEstimator(prior, [1], **AFFINE))
    a, b = prior.sample(40, seed=[0, 1])
    shares = np.concatenate([a[:, tf.newaxis] / 2, b / a[:, tf.newaxis]], axis=1)
    np.testing.assert_allclose(estimator.space.vectors([a, b], 40), special.logit(shares), rtol=1e-4, atol=1e-5)
    posterior = estimator.posterior([1.0])
    draws = posterior.sample(200, seed=1)
    assert np.all((draws[1] >= 0) & (draws[1] <= draws[0][:, tf.newaxis]))
    assert np.all(np.isfinite(posterior.log_prob(draws)))
    calibration = estimator.calibrate((a, b), np.ones([40, 1]), num_draws=5)
    assert {"rank of a", "rank of b 0", "rank of b 1"} < set(calibration.ranks)


def test_sets_of_different_sizes():
    """Two fits to sets of up to 5 and 7 numbers, whose statistics all elements share. Padding changes nothing."""
    rng, prior = np.random.default_rng(0), tfd.MultivariateNormalDiag([0.0])
    embedding = keras.Sequential([keras.Input([1]), keras.layers.Dense(3)])
    summary = resflow.sbi.set_summary([1], embedding=embedding)
    estimator = resflow.PosteriorEstimator(prior, [None, 1], summary=summary, **AFFINE)
    for size in (5, 7):
        theta, x = rng.normal(size=[40, 1]), rng.normal(size=[40, size, 1])
        x[np.arange(size) >= rng.integers(1, size + 1, size=[40, 1])] = np.nan
        estimator.fit(theta, x, epochs=1, weight_decays=[0.0], verbose=0)
        padded = np.concatenate([x, np.full([40, 2, 1], np.nan)], axis=1)
        log_probs = [estimator.posterior(each).log_prob(theta) for each in (x, padded)]
        np.testing.assert_allclose(*log_probs, rtol=1e-4, atol=1e-4)
    assert estimator.model.condition.statistics["mean"].shape == (1, 1)


def test_score_and_invalid_simulations(gaussian, monkeypatch):
    """`score` is the mean log-density over parts, and failed simulations change nothing but a warning."""
    monkeypatch.setattr("tf_resflow.sbi.conditional_estimator._AT_ONCE", 80)  # coordinates, so 40 pairs per part
    theta = BOX.sample(90, seed=0).numpy()
    x = np.random.default_rng(0).normal([1.0, -1.0], [2.0, 0.5], size=[90, 2])
    expected = np.mean(gaussian[0].posterior(x).log_prob(theta))
    np.testing.assert_allclose(gaussian[0].score(theta, x), expected, rtol=1e-5)
    failed = np.insert(x[:40], [2, 7], [[np.nan, 0.0], [np.inf, 0.0]], axis=0)
    estimator = resflow.PosteriorEstimator(BOX, [2], **AFFINE)
    options = {"epochs": 1, "weight_decays": [0.0], "verbose": 0}
    with pytest.warns(UserWarning, match="NaN or infinity in 2 of 42 observations, starting with x\\[2\\]"):
        estimator.fit(np.insert(theta[:40], [2, 7], theta[:2], axis=0), failed, **options)
    other, few = resflow.PosteriorEstimator(BOX, [2], **AFFINE), (theta[:40], x[:40])
    expected = estimator.fit(*few, **options).history["val_loss"]
    larger = options | {"learning_rate": 0.1}
    for each in (estimator, other):  # later fits, and other estimators, compile nothing and use their own settings
        assert each._density._repeated_training(36, (2,)) is estimator._density._repeated_training(36, (2,))
        assert not np.allclose(each.fit(*few, **larger).history["val_loss"], expected, 1e-3)
        np.testing.assert_allclose(each.fit(*few, **options).history["val_loss"], expected, rtol=1e-5)


def test_wrong_input(gaussian, refused):
    fit, theta, x = gaussian[0].fit, BOX.sample(30, seed=0).numpy(), np.ones([30, 2])
    far = np.where(np.arange(30)[:, None] == 3, 500.0, NORMAL.sample(30, seed=0))
    failed = x.copy()
    failed[[3, 5], [0, 1]] = np.nan, 1e39
    refused("outside the prior's support in 1 row of theta", fit, np.where(np.arange(30)[:, None], theta, 9), x)
    refused("theta has .*Give parameters \\[num, \\*event_shape\\] with num=30", fit, theta[:29], x)
    message = "NaN or infinity in 2 of 30 observations, starting with x\\[3\\]"
    refused(f"{message}. Leave them out", fit, theta, failed, drop_invalid=False)
    refused("in 30 of 30 observations", fit, theta, np.full([30, 2], np.nan))
    refused(f"{message}. Leave them out", gaussian[0].score, theta, failed)
    refused("NaN or infinity in 1 of 1 observation", gaussian[0].posterior, failed[3])
    refused("shape \\(30, 3\\). Give observations of shape \\(2,\\)", fit, theta, np.ones([30, 3]))
    refused("prior cannot have drawn theta\\[3\\]", resflow.PosteriorEstimator(NORMAL, [2], **AFFINE).fit, far, x)
    refused("Coordinate 1 of theta has the same value in all 30 pairs", fit, theta * [1, 0] + [0, 3], x)
    ragged = [[1.0, 2.0]] * 29 + [[1.0]]
    refused("x is not one array of numbers.*Fill up sets of different sizes with NaN", fit, theta, ragged)
    refused("theta is not one array of numbers", fit, ragged, x)
    refused("x is not one array of numbers", gaussian[0].posterior, ["a", "b"])
    refused("estimator is not fitted. Call fit", resflow.PosteriorEstimator(BOX, [2], **AFFINE).posterior, x)
    np.testing.assert_allclose(gaussian[0].score(theta.tolist(), x), gaussian[0].score(theta, x))
    refused("num_draws=0 is too small", gaussian[0].calibrate, theta, x, num_draws=0)
    refused("x is empty", gaussian[0].calibrate, theta[:0], x[:0])
    refused("Got ensemble=0. Give at least 1", resflow.PosteriorEstimator, BOX, [2], ensemble=0)
    for shape in ([], 2, [0], [2, None], [None]):
        refused("Give the shape of an observation, such as \\[100\\]", resflow.PosteriorEstimator, BOX, shape)
    refused("Sets of observations need a summary", resflow.PosteriorEstimator, BOX, [None, 2])
    summary = resflow.sbi.set_summary([2])
    refused("expects observations \\(None, 2\\)", resflow.PosteriorEstimator, BOX, [5], summary=summary)
    matrices = keras.Sequential([keras.Input([3, 4]), keras.layers.Dense(2)])
    refused("returns arrays \\(3, 2\\)", resflow.PosteriorEstimator, BOX, [3, 4], summary=matrices)
    refused("validation_fraction=0.0 of 30 pairs holds out 0", fit, theta, x, validation_fraction=0.0)
    for message, prior in [
        ("batch shape \\(2,\\).*give tfd.Independent", tfd.Uniform(LOW, HIGH)),
        ("support of SampleCategorical in", tfd.Sample(tfd.Categorical([0.0, 1.0]), 2)),
        (
            "support of rate in the prior",
            tfd.JointDistributionNamed({"a": BOX, "rate": tfd.Poisson(3.0, name="rate")}),
        ),
    ]:
        refused(message, resflow.PosteriorEstimator, prior, [2])
