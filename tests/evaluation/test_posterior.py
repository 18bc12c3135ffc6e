"""Diagnostics of approximations q whose standard deviation is that of a Gaussian posterior times a scale."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from tf_resflow.evaluation import c2st, calibration_ranks, coverage_levels, importance_check

CERTAIN = 6e-5  # the probability beyond 4 standard errors


def gaussian_posteriors(draws, num, dimensions, scale):
    """Returns theta ~ N(0, 1), samples of q, and q. The posterior given x ~ N(theta, 1) is N(x/2, 1/2)."""
    generator = np.random.default_rng(0)
    parameters = generator.normal(size=[num, dimensions])
    mean = (parameters + generator.normal(size=parameters.shape)) / 2
    deviation = scale * math.sqrt(0.5)
    samples = mean + deviation * generator.normal(size=[draws, num, dimensions])
    return parameters, samples, stats.norm(mean, deviation)


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_ranks_have_their_distribution(scale):
    """4,000 data sets with 19 draws. Ranks are binomial given z, the standardized error of the mean."""
    draws, num = 19, 4000
    parameters, samples, _ = gaussian_posteriors(draws, num, 2, scale)

    def probability(rank):
        def integrand(z):
            return stats.norm.pdf(z) * stats.binom.pmf(rank, draws, stats.norm.cdf(z / scale))

        return integrate.quad(integrand, -9, 9)[0]

    expected = np.array([probability(rank) for rank in range(draws + 1)])
    for ranks in calibration_ranks(samples, parameters).T:
        counts = np.bincount(ranks, minlength=draws + 1)
        assert stats.chisquare(counts, num * expected / expected.sum()).pvalue > CERTAIN
        uniform = stats.chisquare(counts).pvalue
        assert uniform > CERTAIN if scale == 1.0 else uniform < 1e-20


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_coverage_of_regions(scale):
    """4,000 data sets with 200 draws in 3 dimensions. The regions are balls with chi-square masses."""
    draws, num, dimensions = 200, 4000, 3
    parameters, samples, q = gaussian_posteriors(draws, num, dimensions, scale)
    levels = coverage_levels(q.logpdf(samples).sum(axis=-1), q.logpdf(parameters).sum(axis=-1))
    chi2 = stats.chi2(dimensions)
    for mass in (0.2, 0.5, 0.8):
        expected = chi2.cdf(scale**2 * chi2.ppf(mass))
        tolerance = 4 * math.sqrt(expected * (1 - expected) / num) + 2 / draws
        assert np.mean(levels < mass) == pytest.approx(expected, abs=tolerance)


def test_the_accuracy_of_a_classifier_is_close_to_the_best():
    """For N(0, 1) and N(2, 1), with 500 points each, the best accuracy is Phi(1)."""
    # For equal distributions, it is 1/2 within 4 standard errors, also if a coordinate is constant.
    x = np.random.default_rng(0).normal(size=[2, 500, 1])
    score, best = c2st(x[0], x[1] + 2), stats.norm.cdf(1)
    assert best - 4 * score.stderr - 0.01 < score.mean < best + 4 * score.stderr
    equal = c2st(*np.concatenate([x, np.ones([2, 500, 1])], axis=-1))
    assert equal.num_examples == 1000
    assert equal.stderr == pytest.approx(math.sqrt(equal.mean * (1 - equal.mean) / 1000))
    assert abs(equal.mean - 0.5) < 4 * equal.stderr


@pytest.mark.parametrize("scale", [0.6, 0.9, 1.5])
def test_importance_weights_of_a_gaussian(scale):
    """For p = e^3 N(0, 1) and q = N(0, s^2), a weight exceeds t with probability about t^(-1 / (1 - s^2))."""
    # E[w^2] = s^2 / sqrt(2 s^2 - 1) e^6, which is infinite below s^2 = 1/2, where 1 / k is below 2.
    num, draws = 20_000, 400
    x = scale * np.random.default_rng(0).normal(size=num)
    log_weights = 3 + stats.norm.logpdf(x) - stats.norm.logpdf(x, scale=scale)
    check = importance_check(log_weights)
    assert abs(check.elbo - (3 + math.log(scale) + (1 - scale**2) / 2)) <= 4 * check.stderr
    deviation = abs(1 / 2 - scale**2 / 2) * math.sqrt(2)  # of the log-weight, (1 - 1 / s^2) x^2 / 2
    assert check.stderr == pytest.approx(deviation / math.sqrt(num), rel=0.1)
    if scale < 1:  # k of the largest 3 sqrt(num) = 424 weights has the standard deviation (1 + k) / sqrt(424)
        assert abs(check.pareto_k - (1 - scale**2)) < 4 * (2 - scale**2) / math.sqrt(draws) + 0.05
    else:
        assert check.pareto_k < 0
    if scale > 0.8:
        second = scale**2 / math.sqrt(2 * scale**2 - 1)
        assert check.efficiency == pytest.approx(1 / second, abs=0.03)
        assert abs(check.log_evidence - 3) <= 4 * math.sqrt((second - 1) / num) + 1e-12


def test_good_k_of_few_weights():
    """The limit 1 - 1 / log10(N) is the k that needs N = 10^(1 / (1 - k)) samples. It is at most 0.7."""
    assert importance_check(np.zeros(100)).good_k == pytest.approx(1 / 2)
    k = importance_check(np.zeros(1000)).good_k
    assert 10 ** (1 / (1 - k)) == pytest.approx(1000)
    assert importance_check(np.zeros(3000)).good_k == 0.7


def test_what_does_not_fit_is_refused(refused):
    expected = r"shape \(4, 3, 2\)\. Pass samples \[draws, \*\(4, 2\)\]"
    refused(expected, calibration_ranks, np.zeros([4, 3, 2]), np.zeros([4, 2]))
    refused("NaN, which has no rank", coverage_levels, np.full([4, 3], np.nan), np.zeros([3]))
    refused("NaN, which has no rank", coverage_levels, np.zeros([4, 3]), np.full([3], np.nan))
