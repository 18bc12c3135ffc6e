"""Calibration of approximations whose standard deviation is that of a Gaussian posterior times a scale."""

import math
import re

import numpy as np
import pytest
from scipy import integrate, stats

from tf_resflow.evaluation import Calibration

CERTAIN = 6e-5  # the probability beyond 4 standard errors


def calibration_of(scale, shift=0.0, draws=99, num=4000, dimensions=2):
    """Checks q = N(x / 2 + shift, scale^2 / 2). The posterior of theta given x ~ N(theta, 1) is N(x / 2, 1 / 2)."""
    generator = np.random.default_rng(0)
    theta = generator.normal(size=[num, dimensions])
    q = stats.norm((theta + generator.normal(size=theta.shape)) / 2 + shift, scale * math.sqrt(0.5))
    samples = q.rvs([draws, *theta.shape], random_state=generator)
    return Calibration(samples, theta, q.logpdf(samples).sum(axis=-1), q.logpdf(theta).sum(axis=-1))


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.6])
def test_ranks_have_their_distribution(scale):
    """4,000 data sets with 19 draws. Ranks are binomial given z, the standardized error of the mean."""
    draws, num = 19, 4000
    calibration = calibration_of(scale, draws=draws, num=num)

    def probability(rank):
        def integrand(z):
            return stats.norm.pdf(z) * stats.binom.pmf(rank, draws, stats.norm.cdf(z / scale))

        return integrate.quad(integrand, -9, 9)[0]

    expected = np.array([probability(rank) for rank in range(draws + 1)])
    for name in ("rank of parameter 0", "rank of parameter 1"):
        u = calibration.ranks[name]
        counts = np.bincount((u * (draws + 1)).astype(int), minlength=draws + 1)
        assert stats.chisquare(counts, num * expected / expected.sum()).pvalue > CERTAIN


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.6])
def test_coverage_of_regions(scale):
    """4,000 data sets with 200 draws in 3 dimensions. The regions are balls with chi-square masses."""
    calibration = calibration_of(scale, draws=200, dimensions=3)
    chi2 = stats.chi2(3)
    for mass in (0.2, 0.5, 0.8):
        expected = chi2.cdf(scale**2 * chi2.ppf(mass))
        tolerance = 4 * math.sqrt(expected * (1 - expected) / 4000) + 2 / 200
        assert np.mean(calibration.ranks["coverage"] < mass) == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize(
    "scale, shift, said",
    [
        (1.0, 0.0, "hold .* of 4,000 data sets. The tests find no miscalibration"),
        (0.5, 0.0, "hold 1. % and 4. % of .*: too small \\(p < 1e-12\\)"),
        (1.6, 0.0, "hold .*: too large \\(p < 1e-12\\)"),
        (1.0, [0.0, 0.3], "Samples of parameter 1 are too high \\(p < 1e-12\\)"),
        (1.0, [-0.3, 0.0], "Samples of parameter 0 are too low \\(p < 1e-12\\)"),
    ],
)
def test_what_the_tests_show(scale, shift, said):
    """Each test finds wrong widths; only the ranks of one coordinate find its shift at once."""
    calibration = calibration_of(scale, np.array(shift))
    assert re.search(said, str(calibration)), str(calibration)
    is_right = scale == 1 and not np.any(shift)
    assert (calibration.p_value > 0.01) == is_right
    if scale != 1:
        assert max(calibration.p_values.values()) < 1e-6


def test_wide_samples_in_many_dimensions():
    """Without densities, only the ranks of coordinates say that samples are too wide."""
    generator = np.random.default_rng(0)
    theta = generator.normal(size=[500, 20])
    text = str(Calibration(1.6 * generator.normal(size=[50, 500, 20]), theta))
    assert "narrow" not in text and "hold" not in text


def test_p_values_of_exact_posteriors_are_uniform():
    """200 repetitions with 100 data sets. The number of tests makes p-values conservative."""
    p_values = []
    for seed in range(200):
        generator = np.random.default_rng(seed)
        theta = generator.normal(size=[100, 1])
        samples = generator.normal(size=[20, 100, 1])
        p_values.append(Calibration(samples, theta, seed=seed).p_value)
    p_values = np.array(p_values)
    for level in (0.05, 0.2):
        assert np.mean(p_values < level) < level + 4 * math.sqrt(level * (1 - level) / 200)
    assert np.mean(p_values < 0.4) > 0.05


def test_structures_and_scalars(tmp_path, figures):
    """Dicts of named parameters and scalars have the ranks of the array of their columns."""
    generator = np.random.default_rng(0)
    theta, samples = generator.normal(size=[50, 3]), generator.normal(size=[9, 50, 3])
    whole = Calibration(samples, theta)
    named = Calibration(*({"a": part[..., 0], "b": part[..., 1:]} for part in (samples, theta)))
    assert [*named.ranks] == ["rank of a", "rank of b 0", "rank of b 1", "TARP"]
    for one, other in zip(whole.ranks.values(), named.ranks.values(), strict=True):
        np.testing.assert_array_equal(one, other)
    pair = Calibration(*([part[..., 0], part[..., 1:]] for part in (samples, theta)))
    assert [*pair.ranks] == ["rank of 0", "rank of 1 0", "rank of 1 1", "TARP"]
    assert [*Calibration(samples[..., 0], theta[:, 0]).ranks] == ["rank of parameter", "TARP"]
    assert Calibration(samples.tolist(), theta.tolist()).p_values == whole.p_values
    assert "coverage" not in whole.p_values and set(whole.p_values) == set(whole.ranks)
    named.figure(tmp_path / "calibration.png", title="T")
    left, right = figures[0].axes
    assert [line.get_label() for line in [*left.lines, *right.lines]] == ["TARP", *list(named.ranks)[:-1]]
    u, curve = left.lines[0].get_data()
    np.testing.assert_allclose(curve, [np.mean(named.ranks["TARP"] <= mass) - mass for mass in u])


def test_what_does_not_fit_is_refused(refused):
    draws, theta = np.zeros([4, 3]), np.zeros([3])
    refused(r"rank of parameter, the samples have the shape \(4, 3\)", Calibration, draws, theta[:2])
    refused("coordinates are \\['a'\\] and \\['a', 'b'\\]", Calibration, {"a": draws}, {"a": theta, "b": theta})
    refused("at least two data sets", Calibration, draws[:, :1], theta[:1])
    for place in range(4):
        values = [draws, theta, draws, theta]
        values[place] = values[place] * np.nan
        refused("Give samples .* without NaN", Calibration, *values)
