"""Distributions of the number of terms, against scipy."""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

import tf_resflow as resflow

pytestmark = pytest.mark.quick
Geometric, Poisson = resflow.logdet.Geometric, resflow.logdet.Poisson


@pytest.mark.parametrize(
    ("distribution", "reference"),
    [(Geometric(0.5), scipy.stats.geom(0.5)), (Poisson(2.0), scipy.stats.poisson(2.0))],
)
def test_samples_follow_the_distribution(distribution, reference):
    """40,000 draws: each frequency within 4.5 standard errors."""
    num = 40_000
    draws = distribution.sample([num], tf.constant([1, 2])).numpy()
    for n in range(8):
        p = reference.pmf(n)
        assert abs(np.mean(draws == n) - p) <= 4.5 * np.sqrt(p * (1 - p) / num)


def test_survival_has_a_stable_tail():
    k = np.arange(1, 30)
    cases = [(Geometric(p), scipy.stats.geom(p)) for p in (0.1, 0.9)]
    cases += [(Poisson(rate), scipy.stats.poisson(rate)) for rate in (0.5, 8.0)]
    for distribution, reference in cases:
        survival = distribution.survival(tf.constant(k), tf.float64)
        np.testing.assert_allclose(survival, reference.sf(k - 1), rtol=1e-9)


def test_finite_variance():
    """Geometric(p): the ratio L^2 / (1 - p) of the terms of sum L^(2k) / P(N >= k) is below 1."""
    assert Geometric(0.5).finite_variance(0.7) and not Geometric(0.5).finite_variance(0.98**3)
    assert not Poisson(2.0).finite_variance(0.1)
    for lipschitz in (0.1, 0.5, 0.94, 0.999):
        assert Geometric.for_lipschitz(lipschitz).finite_variance(lipschitz)
    assert Geometric.for_lipschitz(0.75).p == pytest.approx(0.25)


def test_geometric_has_no_heavy_tail():
    """A uniform number that is 0 once in 2^23 draws would give N = 127; the chance of N > 40 in 2^24 is 3e-5."""
    draws = Geometric(0.5).sample([2**24], [0, 1])
    assert 18 < np.max(draws) <= 40
