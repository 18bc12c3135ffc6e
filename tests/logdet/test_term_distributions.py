"""Distributions of the number of terms, against scipy."""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

import tf_resflow as resflow


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_geometric_survival(p):
    k = np.arange(1, 30)
    survival = resflow.logdet.Geometric(p).survival(tf.constant(k), tf.float64)
    np.testing.assert_allclose(survival, scipy.stats.geom(p).sf(k - 1), rtol=1e-12)


@pytest.mark.parametrize("rate", [0.5, 2.0, 8.0])
def test_poisson_survival_has_a_stable_tail(rate):
    k = np.arange(1, 30)
    survival = resflow.logdet.Poisson(rate).survival(tf.constant(k), tf.float64)
    np.testing.assert_allclose(survival, scipy.stats.poisson(rate).sf(k - 1), rtol=1e-9)


@pytest.mark.parametrize(
    "distribution, reference",
    [
        (resflow.logdet.Geometric(0.5), scipy.stats.geom(0.5)),
        (resflow.logdet.Poisson(2.0), scipy.stats.poisson(2.0)),
    ],
    ids=["geometric", "poisson"],
)
def test_samples_follow_the_distribution(distribution, reference):
    """40,000 draws: each frequency within 4.5 standard errors."""
    num = 40_000
    draws = distribution.sample([num], tf.constant([1, 2])).numpy()
    for n in range(8):
        p = reference.pmf(n)
        assert abs(np.mean(draws == n) - p) <= 4.5 * np.sqrt(p * (1 - p) / num)


def test_finite_variance():
    """Geometric(p): the ratio L^2 / (1 - p) of the terms of sum L^(2k) / P(N >= k) is below 1."""
    geometric = resflow.logdet.Geometric(0.5)
    assert geometric.finite_variance(0.7) and not geometric.finite_variance(0.98**3)
    assert not resflow.logdet.Poisson(2.0).finite_variance(0.1)
    for lipschitz in (0.1, 0.5, 0.94, 0.999):
        assert resflow.logdet.Geometric.for_lipschitz(lipschitz).finite_variance(lipschitz)
    assert resflow.logdet.Geometric.for_lipschitz(0.75).p == pytest.approx(0.25)


@pytest.mark.parametrize(
    "make",
    [
        lambda: resflow.logdet.Geometric(0.0),
        lambda: resflow.logdet.Geometric(1.0),
        lambda: resflow.logdet.Geometric.for_lipschitz(1.0),
        lambda: resflow.logdet.Poisson(0.0),
    ],
)
def test_errors(make):
    with pytest.raises(ValueError):
        make()


def test_geometric_has_no_heavy_tail():
    """A uniform number that is 0 once in 2^23 draws would give N = 127; the chance of N > 40 in 2^24 is 3e-5."""
    draws = resflow.logdet.Geometric(0.5).sample([2**24], [0, 1])
    assert 18 < np.max(draws) <= 40
