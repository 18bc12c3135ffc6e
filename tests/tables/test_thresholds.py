"""Thresholds for outliers."""

import numpy as np
import pytest
from scipy import stats

from tf_resflow.tables.thresholds import threshold

SCORES = {
    "normal in 3 dimensions": stats.chi2(3),
    "normal in 20 dimensions": stats.chi2(20),
    "heavy tails": stats.pareto(2),
}
"""Distributions of scores: of minus the score."""


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize(
    "num, share, bias",
    [(60, 0.01, 0.25), (150, 0.01, 0.15), (300, 0.01, 0.1), (750, 0.01, 0.0), (60, 0.1, 0.0)],
)
def test_the_expected_share_of_new_scores_is_below(name, num, share, bias):
    """On average over 100 samples, within 4 standard errors. The model of a tail, for few scores, may have a bias.

    At least 90 % of the 95 % intervals contain the share. A model makes it less variable than a quantile.
    """
    rng = np.random.default_rng(0)
    samples = -SCORES[name].rvs([100, num], random_state=rng)
    thresholds = [threshold(scores, np.ones(num), share) for scores in samples]
    shares = SCORES[name].sf([-found.score for found in thresholds])
    error = shares.std() / np.sqrt(len(shares))
    assert abs(shares.mean() - share) < 4 * error + bias * share
    low, high = np.transpose([found.interval for found in thresholds])
    assert np.mean((low <= shares) & (shares <= high)) >= 0.9
    assert np.mean(high - low) < 6 * shares.std()
    if bias:
        ranks = SCORES[name].sf(-np.quantile(samples, share, axis=1, method="inverted_cdf"))
        assert shares.std() < ranks.std()


@pytest.mark.parametrize("seed", range(20))
def test_units_and_order_do_not_matter(seed):
    """In other units of the scores and weights, the threshold is the same, and so is its interval."""
    rng = np.random.default_rng(seed)
    num = int(rng.integers(2, 200))
    share = rng.uniform(0.001, 0.5)
    scores = rng.standard_t(3, size=num)
    weights = rng.uniform(0.5, 2.0, size=num)
    order = rng.permutation(num)
    found = threshold(scores, weights, share)
    changed = threshold(1e3 * scores[order] - 1e4, 7 * weights[order], share)
    assert changed.score == pytest.approx(1e3 * found.score - 1e4, rel=1e-6)
    np.testing.assert_allclose(changed.interval, found.interval, rtol=1e-6)


@pytest.mark.parametrize("num_infinite, is_infinite", [(0, False), (1, False), (2, True), (100, True)])
def test_impossible_held_out_rows(num_infinite, is_infinite):
    """The threshold is minus infinity if the scores minus infinity reach the share. One of 100 does not."""
    scores = np.random.default_rng(0).normal(size=100)
    scores[:num_infinite] = -np.inf
    found = threshold(scores, np.ones(100), 0.015)
    assert np.isneginf(found.score) == is_infinite
    low, high = found.interval
    assert 0 <= low <= high < 0.1
    assert is_infinite or low > 0


@pytest.mark.parametrize("scores", [[2.0], [2.0] * 50, [1.0, 2.0] * 50, [2.0] * 9 + [3.0] * 200])
def test_without_different_scores_no_threshold_is_below_the_smallest_one(scores):
    scores = np.array(scores)
    assert threshold(scores, np.ones(len(scores)), 0.001).score == scores.min()


@pytest.mark.parametrize("num", [60, 150, 600])
def test_one_outlier_moves_the_threshold_little(num):
    """How far the smallest of 60 or more scores is from the others makes no difference."""
    scores = np.random.default_rng(0).normal(size=num)
    contaminated = [threshold(np.append(scores, outlier), np.ones(num + 1), 0.01).score for outlier in (-9.0, -1e6)]
    assert contaminated[0] == contaminated[1] > scores.min() - 2
