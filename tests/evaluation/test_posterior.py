"""Importance weights of Gaussian approximations, and the classifier two-sample test."""

import math

import numpy as np
import pytest
from scipy import stats

from tf_resflow.evaluation import c2st, importance_check


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
