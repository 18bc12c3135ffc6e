"""Orders the levels of categories."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from tf_resflow.tables.column import Column

_MOST_LEVELS = 20  # maximum number of levels of another column that are compared
_RIDGE = 0.1  # of the covariance of the other columns, in units of its mean variance
_ROWS = 10  # added to the number of rows of a level, so that rare levels are near the middle


def reorder_levels(columns: Sequence[Column], numbers: np.ndarray) -> list[Column]:
    r"""Returns columns whose categories have similar levels side by side, and changes the numbers accordingly.

    The rows of the other columns, as normal scores and standardized one-hot codes with the covariance C, have the
    mean \\(\mu_k\\) for level k, which is shrunken if the level is rare. The order of the levels is the order of
    \\(C^{-1/2} \mu_k\\) along their first principal axis, weighted by the shares of the levels. This axis is the
    first one of a canonical correlation analysis. Ordered levels keep their order.

    Args:
      columns: the columns.
      numbers: the numbers of the fit `[num, columns]`, NaN if missing. Levels are numbered from the most frequent.
    """
    blocks = [_block(column, x) for column, x in zip(columns, numbers.T, strict=True)]
    found: list[Any] = list(columns)
    for place, column in enumerate(found):
        others = [block for i, block in enumerate(blocks) if i != place]
        if column.kind == "category" and len(column.levels) > 2 and others:
            order = _order(np.concatenate(others, axis=1), numbers[:, place], len(column.levels))
            found[place] = dataclasses.replace(column, levels=tuple(column.levels[k] for k in order))
            is_level = ~np.isnan(numbers[:, place])
            numbers[is_level, place] = np.argsort(order)[numbers[is_level, place].astype(int)]
    return found


def _block(column, x):
    """Returns coordinates of a column with mean 0 and total variance 1, `[num, size]`; 0 if missing."""
    if column.kind == "category":
        one_hot = (x[:, np.newaxis] == np.arange(min(len(column.levels), _MOST_LEVELS))).astype(float)
        shares = one_hot.mean(axis=0)
        scale = np.sqrt(shares + 1 / len(x)) * np.sqrt(max(one_hot.shape[1] - 1, 1))
        return np.where(np.isnan(x)[:, np.newaxis], 0.0, (one_hot - shares) / scale)
    ranks = stats.rankdata(x, nan_policy="omit")
    scores = stats.norm.ppf(ranks / (np.count_nonzero(~np.isnan(x)) + 1))
    deviation = np.nanstd(scores) or 1.0
    return np.nan_to_num((scores - np.nanmean(scores)) / deviation)[:, np.newaxis]


def _order(x, k, num_levels):
    """Returns the order of the levels, given the coordinates of the other columns and the numbers of levels."""
    x, k = x[~np.isnan(k)], k[~np.isnan(k)].astype(int)
    x = x - x.mean(axis=0)
    counts = np.bincount(k, minlength=num_levels)
    sums = np.zeros([num_levels, x.shape[1]])
    np.add.at(sums, k, x)
    variances, axes = np.linalg.eigh(x.T @ x / len(x))
    whitened = (
        (sums / (counts + _ROWS)[:, np.newaxis]) @ axes / np.sqrt(variances + _RIDGE * variances.mean() + 1e-12)
    )
    shares = counts / counts.sum()
    whitened = whitened - shares @ whitened
    *_, (axis, *_) = np.linalg.svd(np.sqrt(shares)[:, np.newaxis] * whitened, full_matrices=False)
    scores = whitened @ axis
    return np.argsort(scores * np.sign(scores[np.argmax(np.abs(scores))]), kind="stable")
