"""Likelihoods of simulators. The chains are tested in `tests/system/test_large_cases.py`."""

import numpy as np
import pytest
import tensorflow_probability as tfp
from scipy import stats

import tf_resflow as resflow

tfd = tfp.distributions


def test_likelihoods(tmp_path, refused):
    """A linear flow finds the normal likelihood of a joint prior's parameters, also after saving.

    The gap of the mean log-density of 4,000 new pairs has a standard error below 0.01.
    """
    parts = {"a": tfd.LogNormal(0.0, 0.5), "b": tfd.Uniform(-1.0, 1.0)}
    prior = tfd.JointDistributionNamed(parts)
    theta, noise = prior.sample(5000, seed=0), np.random.default_rng(0).normal(size=[5000, 2])
    mean = np.stack([np.log(theta["a"]) + np.arctanh(theta["b"]), np.log(theta["a"])], axis=1)
    x = mean + [0.5, 2.0] * noise
    estimator = resflow.sbi.LikelihoodEstimator(prior, [2], num_blocks=0, affine_layers=0)
    few = {name: part[:1000] for name, part in theta.items()}
    x[3] = np.nan
    x[4] = 1e39  # infinite in float32
    with pytest.warns(UserWarning, match="NaN or infinity in 2 of 1,000 observations, starting with x\\[3\\]"):
        estimator.fit(few, x[:1000], epochs=20, weight_decays=[0.0], verbose=0)
    new = {name: part[1000:] for name, part in theta.items()}
    found = estimator.likelihood(new).log_prob(x[1000:])
    gap = stats.norm.logpdf(x[1000:], mean[1000:], [0.5, 2.0]).sum(axis=1) - found
    assert np.std(gap) < 0.6 and -0.04 < np.mean(gap) < 0.1
    estimator.save(tmp_path / "likelihood.keras")
    restored = resflow.load(tmp_path / "likelihood.keras")
    assert isinstance(restored, resflow.sbi.LikelihoodEstimator)
    np.testing.assert_array_equal(restored.likelihood(new).log_prob(x[1000:]), found)
    refused("x has the shape \\(5000, 1\\)", estimator.fit, theta, x[:, :1])
    refused("Coordinate 1 of x has the same value in all 998 pairs", estimator.fit, few, x[:1000] * [1, 0])
    refused("estimator is not fitted", resflow.sbi.LikelihoodEstimator(prior, [2]).likelihood, few)
    refused("NaN or infinity in 2 of 5 observations", estimator.sample_posterior, x[:5])
