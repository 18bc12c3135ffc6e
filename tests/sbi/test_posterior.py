"""Posteriors as distributions, priors restricted to the region of a posterior, and ensembles."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import stats

import tf_resflow as resflow

tfd = tfp.distributions
SMALL = {"num_blocks": 1, "affine_layers": 1, "hidden": (8,)}
LOW, HIGH = np.array([-1.0, 2.0], "float32"), np.array([1.0, 5.0], "float32")
BOX = tfd.Independent(tfd.Uniform(LOW, HIGH), 1)
WIDE = tfd.MultivariateNormalDiag([0.0, 0.0], [1.0, 2.0])


def estimator_of(prior, x, precisions=(2.0, 4.0), ensemble=1):
    """Returns an estimator whose posterior of [0, 0] is normal with these square roots of the precisions at x.

    This holds for vectors in the unconstrained space. A second member has the posterior with the mean -x.
    """
    identity = keras.Sequential([keras.Input([2]), keras.layers.Identity()])
    estimator = resflow.PosteriorEstimator(prior, [2], summary=identity, ensemble=ensemble, **SMALL)
    estimator._density.observations.farthest = np.array([10.0, 10.0])  # as after a fit
    _, affine, blocks = estimator.model.flow.bijectors
    for variable in blocks.trainable_variables:
        variable.assign(tf.zeros_like(variable))
    (dense,) = affine.network.layers
    dense.kernel.assign(np.zeros([2, 5]))

    def weights(mean):
        shift = -np.multiply(precisions, mean)
        dense.bias.assign(np.concatenate([shift, tfp.math.fill_triangular_inverse(np.diag(np.log(precisions)))]))
        return estimator.model.get_weights()

    means = [np.array(x), -np.array(x)][:ensemble]
    estimator._density.ensemble.members = [weights(mean) for mean in means]
    return estimator


def test_the_density_outside_of_the_support_is_zero():
    """This holds below, above and on the bounds, in all dtypes. NaN stays NaN, and gradients outside are zero."""
    posterior = estimator_of(BOX, [0.5, -0.5]).posterior([0.0, 0.0])
    inside = BOX.sample(5, seed=0).numpy()
    outside = [[-1.1, 3.0], [0.0, 5.1], [-np.inf, 3.0], [1e30, 3.0], [-1.0, 3.0], [0.0, 5.0], [1.0, 2.0]]
    for dtype in (np.float32, np.float64):
        values = tf.constant(np.concatenate([inside, outside, [[np.nan, 3.0]]]), dtype)
        with tf.GradientTape() as tape:
            tape.watch(values)
            log_prob = posterior.log_prob(values)
        assert np.all(np.isfinite(log_prob[:5])) and np.all(np.isneginf(log_prob[5:-1])) and np.isnan(log_prob[-1])
        gradients = tape.gradient(log_prob, values)
        assert np.all(np.isfinite(gradients)) and np.all(gradients[:5]) and not np.any(gradients[5:])
    joint = tfd.JointDistributionNamed({"a": tfd.LogNormal(0.0, 1.0), "b": tfd.Uniform(0.0, 1.0)})
    posterior = estimator_of(joint, [0.0, 0.0]).posterior([0.0, 0.0])
    log_prob = posterior.log_prob({"a": [1.0, -1.0, 0.0, 1.0], "b": [0.5, 0.5, 0.5, 2.0]})
    assert np.isfinite(log_prob[0]) and np.all(np.isneginf(log_prob[1:]))


def test_draws_that_round_to_a_bound_have_a_density():
    """The mean of the vectors is 30, so the float32 draws are the upper bound."""
    posterior = estimator_of(BOX, [30.0, 30.0]).posterior([0.0, 0.0])
    draws = posterior.sample(20, seed=1)
    assert np.any(draws == HIGH) and np.all(np.isfinite(posterior.log_prob(draws)))


def test_the_mode_and_draws_for_arviz():
    """The mode of a normal posterior is its mean, of each observation in a batch."""
    posterior = estimator_of(WIDE, [0.3, -0.7]).posterior([0.0, 0.0])
    np.testing.assert_allclose(posterior.map_estimate(), [0.3, -0.7], atol=1e-3)
    batch = estimator_of(WIDE, [0.3, -0.7]).posterior(np.zeros([3, 2]))
    np.testing.assert_allclose(batch.map_estimate(20), [[0.3, -0.7]] * 3, atol=1e-3)
    data = posterior.to_arviz(num_draws=7, seed=1)
    np.testing.assert_array_equal(
        data.posterior["theta"], posterior.sample(7, seed=resflow.stateless_seed(1))[np.newaxis]
    )
    joint = tfd.JointDistributionNamed({"a": tfd.Normal(0.0, 1.0), "b": tfd.Sample(tfd.Normal(0.0, 1.0), 1)})
    data = estimator_of(joint, [0.0, 0.0]).posterior([0.0, 0.0]).to_arviz(num_draws=5)
    assert data.posterior["a"].shape == (1, 5) and data.posterior["b"].shape == (1, 5, 1)
    pair = tfd.JointDistributionSequential([tfd.Normal(0.0, 1.0), tfd.Normal(0.0, 1.0)])
    assert set(estimator_of(pair, [0.0, 0.0]).posterior([0.0, 0.0]).to_arviz(5).posterior) == {"0", "1"}
    with pytest.raises(ValueError, match="one posterior. Call estimator.posterior"):
        batch.to_arviz()


def test_moments_and_quantiles_are_estimates_from_draws(refused):
    """The errors of 10,000 draws are below 4 standard errors, also of a batch. Joint priors keep the structure."""
    mean, std = np.array([0.3, -0.7]), np.array([0.5, 0.25])
    estimator = estimator_of(WIDE, mean)
    for x, shape in (([0.0, 0.0], (2,)), (np.zeros([3, 2]), (3, 2))):
        posterior = estimator.posterior(x)
        assert posterior.mean().shape == posterior.stddev().shape == shape
        assert np.all(np.abs(posterior.mean() - mean) < 4 * std / 100)
        assert np.all(np.abs(posterior.stddev() - std) < 4 * std / np.sqrt(2e4))
        np.testing.assert_allclose(posterior.variance(), posterior.stddev() ** 2, rtol=1e-5)
        low, high = posterior.quantile([stats.norm.cdf(-1), stats.norm.cdf(1)])
        assert np.all(np.abs(low - mean + std) < 4 * std * 0.0152)  # sqrt(p (1 - p)) / density / 100
        assert np.all(np.abs(high - mean - std) < 4 * std * 0.0152)
        assert posterior.quantile(0.5).shape == shape
    joint = tfd.JointDistributionNamed({"a": tfd.LogNormal(0.0, 1.0), "b": tfd.Uniform(0.0, 1.0)})
    posterior = estimator_of(joint, [0.0, 0.0]).posterior([0.0, 0.0])
    assert set(posterior.mean()) == {"a", "b"} and posterior.quantile([0.1, 0.9])["b"].shape == (2,)
    np.testing.assert_allclose(tf.function(posterior.mean)()["a"], posterior.mean()["a"], rtol=1e-3)
    refused("probabilities 90.0. Give numbers from 0 to 1", posterior.quantile, 90)


def test_an_ensemble_is_a_mixture(tmp_path):
    """4,000 draws have the share of each side of a mixture of two normal distributions, also after saving.

    A batch and one parameter vector broadcast.
    """
    estimator, restored = (estimator_of(WIDE, [mean, 0.0], ensemble=2) for mean in (1.0, 3.0))
    estimator.save(tmp_path / "a.keras")
    tf.train.Checkpoint(model=estimator.model).write(str(tmp_path / "checkpoint"))
    tf.train.Checkpoint(model=restored.model).read(str(tmp_path / "checkpoint"))
    batch = estimator.posterior(np.zeros([3, 2])).log_prob([0.5, 0.5])
    np.testing.assert_allclose(batch, [estimator.posterior([0.0, 0.0]).log_prob([0.5, 0.5])] * 3, rtol=1e-5)
    for form in (estimator, resflow.load(tmp_path / "a.keras"), restored):
        posterior = form.posterior([0.0, 0.0])
        theta = WIDE.sample(50, seed=0).numpy()
        parts = [stats.multivariate_normal([m, 0.0], np.diag([1 / 4, 1 / 16])).pdf(theta) for m in (1.0, -1.0)]
        np.testing.assert_allclose(posterior.log_prob(theta), np.log(np.mean(parts, axis=0)), rtol=1e-3, atol=1e-3)
        share = np.mean(posterior.sample(4000, seed=1)[:, 0] > 0)
        assert abs(share - 0.5) < 4 * 0.5 / np.sqrt(4000)


def test_draws_use_one_graph():
    """Other weights, statistics and observations change the draws, as they change those in a `tf.function`."""
    estimator, found = estimator_of(WIDE, [0.5, 0.0], ensemble=2), []
    for x in ([0.0, 0.0], [[0.0, 0.0], [0.5, -0.5]]):
        for shift in (0.0, 1.0):
            weights = estimator.model.get_weights()
            estimator.model.set_weights([weight + 0.03 * shift for weight in weights])
            estimator.model.flow.bijectors[0].statistics["mean"].assign_add([shift, 0.0])
            posterior = estimator.posterior(x)
            found.append(posterior.sample(50, seed=[0, 1]).numpy())
            expected = tf.function(functools.partial(posterior.sample, 50, seed=[0, 1]), autograph=False)()
            np.testing.assert_allclose(found[-1], expected, rtol=1e-4, atol=1e-4)
    assert np.all(found[0][:, 0] != found[1][:, 0])  # the coordinate of the shifted mean
    assert estimator._density._decoder._function.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("num", [1, 2])
def test_draws_are_independent_over_observations(num):
    """Of two members, the first has the mean 5 + x, and the second has the mean -5, for 5,000 observations."""
    estimator = estimator_of(WIDE, [5.0, 0.0], ensemble=2)
    estimator.model.flow.bijectors[1].network.layers[0].kernel.assign(np.diag([-2.0, 0.0, 0.0, 0.0, 0.0])[:2])
    x = np.stack([np.linspace(-1, 1, 5000), np.zeros(5000)], axis=1)
    draws = estimator.posterior(x).sample(num, seed=0).numpy()
    is_first = draws[..., 0] > 0
    assert draws.shape == (num, 5000, 2)
    for chosen in (*is_first, is_first[0] ^ is_first[-1])[: 2 * num - 1]:
        assert abs(np.mean(chosen) - 0.5) < 4 * 0.5 / np.sqrt(5000)
    residuals = draws[..., 0] - np.where(is_first, 5 + x[:, 0], -5)
    for part in (residuals[is_first], residuals[~is_first]):  # at least 2,300 draws with a deviation of 1/2
        assert abs(np.mean(part)) < 4 * 0.5 / np.sqrt(2300) and abs(np.std(part) - 0.5) < 4 * 0.5 / np.sqrt(4600)


@pytest.mark.parametrize("ensemble", [1, 2])
@pytest.mark.parametrize("prior", [BOX, WIDE])
@pytest.mark.parametrize("way", ["_draw_from_prior", "_draw_from_balls"])
def test_a_proposal_is_the_prior_in_the_region_of_the_posterior(prior, ensemble, way):
    """Compares 2,000 draws with draws of the prior in the region, for both ways of drawing.

    Each coordinate passes a Kolmogorov-Smirnov test, the estimated probability of the region agrees, and the region
    holds 99 % of the posterior.
    """
    estimator = estimator_of(prior, [1.2, -1.0], (3.0, 5.0), ensemble)
    proposal = estimator.proposal([0.0, 0.0], tail=1e-2, seed=3)
    vectors = proposal.distribution
    if vectors._candidates.__name__ != way:
        log_mass = vectors._log_mass
        vectors._candidates = getattr(vectors, way)
        _, weights = vectors._candidates([5, 6])
        vectors._log_bound = float(tf.reduce_max(weights))
        found = np.log(np.mean(np.exp(weights)))
        assert found == pytest.approx(log_mass, abs=0.15)
    drawn = prior.sample(100_000, seed=1)
    log_prob = proposal.log_prob(drawn)
    kept = drawn.numpy()[np.isfinite(log_prob)]
    log_mass = np.log(len(kept) / len(drawn))
    np.testing.assert_allclose(log_prob[np.isfinite(log_prob)] - prior.log_prob(kept), -log_mass, atol=0.15)
    theta = proposal.sample(2000, seed=2).numpy()
    np.testing.assert_array_equal(proposal.sample(2000, seed=2), theta)
    assert np.all(np.isfinite(proposal.log_prob(theta)))
    for one, other in zip(theta.T, kept.T, strict=True):
        assert stats.ks_2samp(one, other).pvalue > 1e-4
    posterior = estimator.posterior([0.0, 0.0])
    with pytest.raises(ValueError, match="tail is 0.0. Give a probability of at least 0.0001"):
        estimator.proposal([0.0, 0.0], tail=0.0)
    held = np.mean(np.isfinite(proposal.log_prob(posterior.sample(20_000, seed=[0, 4]))))
    assert abs(held - 0.99) < 4 * np.sqrt(0.01 / 10_000 + 0.01 / 20_000)
