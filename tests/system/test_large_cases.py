"""Trainings and images that are too large for the unit tests."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import stats

import tf_resflow as resflow
from tests.layers.matrices import layer_of

tfd = tfp.distributions


def test_bounds_on_a_large_image():
    """For ones on n x n pixels, the norm is (1 + 2 cos(pi / (n + 1)))^2. The Fourier bound, used above 64, is 9."""
    for size, expected in ((64, (1 + 2 * np.cos(np.pi / 65)) ** 2), (66, 9.0)):
        bound = layer_of(np.ones((3, 3, 1, 1)), (size, size)).norm_bound()
        assert expected <= bound <= expected * (1 + 1e-8)


def test_sets_of_any_size_and_their_widths():
    """The posterior of n observations x ~ N(theta, 1) of theta ~ N(0, 1) has the deviation 1 / sqrt(n + 1).

    Over 12 seeds, the deviations are wrong by up to 15 %, and the means by up to 0.41 deviations. An estimator that
    ignored the number of observations would have deviations that are wrong by more than 50 %.
    """
    generator = np.random.default_rng(0)
    theta = generator.normal(size=[2000, 1]).astype("float32")
    x = theta[:, :, np.newaxis] + generator.normal(size=[2000, 20, 1])
    sizes = generator.integers(1, 21, size=2000)
    x[np.arange(20) >= sizes[:, np.newaxis]] = np.nan
    summary = resflow.sbi.set_summary([1])
    prior = tfd.MultivariateNormalDiag([0.0])
    options = {"num_blocks": 0, "affine_layers": 1, "ensemble": 1}
    estimator = resflow.PosteriorEstimator(prior, [None, 1], summary=summary, **options)
    estimator.fit(theta, x, epochs=40, weight_decays=[0.0], verbose=0)
    for num in (1, 5, 20):
        new = generator.normal(size=[100, 1]) + generator.normal(size=[100, num])
        draws = estimator.posterior(new[..., np.newaxis]).sample(500, seed=num).numpy()[..., 0]
        assert np.mean(draws.std(axis=0)) == pytest.approx(1 / np.sqrt(num + 1), rel=0.3)
        gap = (draws.mean(axis=0) - new.sum(axis=1) / (num + 1)) * np.sqrt(num + 1)
        assert np.sqrt(np.mean(gap**2)) < 0.7
    padded = np.concatenate([new, np.full([100, 3], np.nan)], axis=1)[:, ::-1, np.newaxis]
    theta = np.zeros([100, 1])
    expected = estimator.posterior(new[..., np.newaxis]).log_prob(theta)
    np.testing.assert_allclose(estimator.posterior(padded).log_prob(theta), expected, rtol=1e-3, atol=1e-3)


def test_chains_of_a_learned_likelihood():
    """The mean and the deviation of ten normal numbers have the moments of the posterior on a grid.

    2,000 draws have an effective size of at least 400, so the standard errors of the means are below 0.05
    deviations. The likelihood is learned from 3,000 simulations: over six seeds, its exact posteriors have means
    that are wrong by up to 0.26 deviations, and deviations that are wrong by up to 12 %. Without nine of the ten
    numbers, the deviations would be two to three times as large.
    """
    rng, prior = np.random.default_rng(0), tfd.MultivariateNormalDiag([0.0, 0.0], [1.0, 0.5])
    theta = prior.sample(3000, seed=0).numpy()
    x = theta[:, :1] + np.exp(theta[:, 1:]) * rng.normal(size=[3000, 1])
    estimator = resflow.sbi.LikelihoodEstimator(prior, [1], num_blocks=1, affine_layers=0)
    estimator.fit(theta, x, verbose=0)
    observed = 1.0 + 0.7 * rng.normal(size=[10, 1])
    found = estimator.sample_posterior(observed, seed=1)
    assert (
        found.draws.shape == (500, 4, 2)
        and np.all(found.r_hat < 1.02)
        and np.all(found.effective_sample_size > 400)
    )
    grid = np.stack(np.meshgrid(*[np.linspace(-3, 3, 301)] * 2, indexing="ij"), axis=-1)
    log_prob = prior.log_prob(np.float32(grid)).numpy().astype(float)
    log_prob += np.sum(stats.norm.logpdf(observed[:, 0], grid[..., :1], np.exp(grid[..., 1:])), axis=-1)
    weights = np.exp(log_prob - log_prob.max())[..., np.newaxis] / np.sum(np.exp(log_prob - log_prob.max()))
    mean = np.sum(weights * grid, axis=(0, 1))
    deviation = np.sqrt(np.sum(weights * (grid - mean) ** 2, axis=(0, 1)))
    assert np.all(np.abs(np.mean(found.draws, axis=(0, 1)) - mean) < 0.7 * deviation)
    np.testing.assert_allclose(np.std(found.draws, axis=(0, 1)), deviation, rtol=0.5)


def test_nuts_with_an_auto_batched_joint_distribution():
    """2 chains of 60 draws; their mean is within 5 standard errors of importance sampling with 20,000 points.

    The weights are the likelihoods of draws from the prior, so nothing is differentiated or vectorized there.
    """
    flow = resflow.flows.vector_flow(2, 1, (4,), seed=1)
    for variable in flow.trainable_variables:
        variable.assign_add(tf.random.stateless_normal(variable.shape, [0, len(variable.shape)], stddev=0.3))
    prior = tfd.TransformedDistribution(tfd.MultivariateNormalDiag(tf.zeros(2)), flow)

    def model():
        w = yield tfd.JointDistributionCoroutine.Root(prior)
        yield tfd.Normal(tf.reduce_sum(w, -1), 0.5, name="y")

    pinned = tfd.JointDistributionCoroutineAutoBatched(model).experimental_pin(y=1.0)

    @tf.function(autograph=False)
    def sample():
        options = {"n_chains": 2, "num_adaptation_steps": 50, "max_tree_depth": 3, "seed": [1, 2]}
        return tfp.experimental.mcmc.windowed_adaptive_nuts(60, pinned, **options)

    (draws,), trace = sample()
    points = prior.sample(20000, seed=[3, 4]).numpy()
    weights = np.exp(-0.5 * (points.sum(1) - 1.0) ** 2 / 0.25)
    mean = np.average(points, axis=0, weights=weights)
    std = np.sqrt(np.average((points - mean) ** 2, axis=0, weights=weights))
    num_effective = tf.reduce_sum(tfp.mcmc.effective_sample_size(draws, cross_chain_dims=1), 0).numpy()
    assert np.all(num_effective > 20) and not np.any(trace["diverging"])
    assert np.all(np.abs(np.mean(draws, (0, 1)) - mean) < 5 * std / np.sqrt(np.minimum(num_effective, 120)))
