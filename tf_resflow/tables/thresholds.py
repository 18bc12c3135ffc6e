"""Thresholds below which a given share of new scores is expected."""

from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

_TAIL = 30  # scores that determine the model of the tail
_LARGEST_TAIL = 2 / 3  # of all scores
_LEAST_DIFFERENT = 10  # different scores in the tail
_LEAST_BELOW = 5  # expected number of scores below a threshold that needs no model
_SHAPES = np.linspace(-1.0, 1.5, 61)[:, np.newaxis]
_SCALES = np.exp(np.linspace(-2.5, 2.5, 101))  # in units of the median excess
_NUM_DRAWS = 10_000
_ENDS = (0.025, 0.975)


class Threshold(NamedTuple):
    """A threshold, and the ends of a 95 % interval of the share of new scores below it."""

    score: float
    interval: tuple[float, float]


def threshold(scores: np.ndarray, weights: np.ndarray, share: float) -> Threshold:
    r"""Returns the threshold below which a share of new scores is expected, on average over samples of scores.

    A new score is below the k-th smallest of n scores with probability \\(k / (n + 1)\\). The threshold is an
    interpolated quantile if its rank k is at least 5. Otherwise a model of the tail makes it less variable:
    the excesses y, the differences of the largest of the 30 smallest scores from the others, have a generalized
    Pareto distribution, \\(P(Y > y) = (1 + \xi y / \sigma)^{-1 / \xi}\\). The probability of a new excess is the
    mean over the posterior of \\(\xi\\) and \\(\sigma\\) for the prior density
    \\(e^{-\xi^2 / 2} / \sigma\\), so it includes the uncertainty of the model. The smallest score is censored,
    because it may be an outlier: its distance from the second smallest one does not matter. With fewer than 10
    different excesses, there is no model, and no threshold below the smallest score.

    Args:
      scores: `[n]`. They may be minus infinity.
      weights: `[n]`. Scores count in proportion to them, like repeated scores.
      share: The expected share. If it is at most the share of scores minus infinity, so is the threshold.

    References:
      Pickands, Statistical inference using extreme order statistics, 1975.
      Coles and Tawn, A Bayesian analysis of extreme rainfall data, 1996: means over the posterior.
    """
    order = np.argsort(scores)
    scores = scores[order]
    weights = weights[order] / weights.mean()
    total = len(scores) + 1
    rank = share * total
    num_infinite = weights[np.isneginf(scores)].sum()
    if rank <= num_infinite:
        return Threshold(-np.inf, (0.0, 0.0))
    is_finite = np.isfinite(scores)
    ranks = np.cumsum(weights)[is_finite]
    scores = scores[is_finite]
    if rank >= _LEAST_BELOW:
        return Threshold(float(np.interp(rank, ranks, scores)), _interval(rank, total))
    start = min(np.searchsorted(ranks, num_infinite + _TAIL), int(_LARGEST_TAIL * len(scores)))
    excesses = (scores[start] - scores)[scores < scores[start]]
    start_rank = ranks[len(excesses)]
    if rank >= start_rank or len(np.unique(excesses)) < _LEAST_DIFFERENT:
        nearest = np.searchsorted(ranks, rank)
        return Threshold(float(scores[nearest]), _interval(ranks[nearest], total))
    tail = _Tail(excesses, weights[is_finite][: len(excesses)])
    share_infinite = num_infinite / start_rank
    excess = tail.quantile((rank - num_infinite) / (start_rank - num_infinite))
    rng = np.random.default_rng(0)
    shares = share_infinite + (1 - share_infinite) * tail.draw_probabilities(excess, rng)
    low, high = np.quantile(shares * rng.beta(start_rank, total - start_rank, _NUM_DRAWS), _ENDS)
    return Threshold(float(scores[start] - excess), (float(low), float(high)))


def _interval(rank, total):
    """Returns the interval of the share of new scores below a score with this rank."""
    low, high = stats.beta.ppf(_ENDS, rank, total - rank)
    return float(low), float(high)


class _Tail:
    """The posterior of a generalized Pareto distribution of excesses, on a grid of shapes and scales.

    Args:
      excesses: The differences from the start of the tail, in decreasing order. The first one is only known to be
        at least as large as the second one.
      weights: Their weights.
    """

    def __init__(self, excesses, weights):
        self._unit = np.median(excesses)
        log_densities = stats.genpareto.logpdf(
            excesses[1:, np.newaxis, np.newaxis] / self._unit, _SHAPES, scale=_SCALES
        )
        log_likelihood = np.tensordot(weights[1:], log_densities, 1)
        log_likelihood += weights[0] * self._log_probabilities(excesses[1])
        log_posterior = log_likelihood - _SHAPES**2 / 2
        self._posterior = np.exp(log_posterior - log_posterior.max())
        self._posterior /= self._posterior.sum()

    def probability(self, excess):
        """Returns the probability that a new excess is larger."""
        return float((self._posterior * np.exp(self._log_probabilities(excess))).sum())

    def quantile(self, probability):
        """Returns the excess that a new one exceeds with a probability."""
        largest = self._unit
        while self.probability(largest) > probability:
            largest *= 2
        return optimize.brentq(lambda excess: self.probability(excess) - probability, 0, largest)

    def draw_probabilities(self, excess, rng):
        """Draws probabilities that a new excess is larger from the posterior."""
        cells = rng.choice(self._posterior.size, _NUM_DRAWS, p=self._posterior.ravel())
        return np.exp(self._log_probabilities(excess)).ravel()[cells]

    def _log_probabilities(self, excess):
        return stats.genpareto.logsf(excess / self._unit, _SHAPES, scale=_SCALES)
