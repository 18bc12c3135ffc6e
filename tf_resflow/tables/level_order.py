"""Orders the levels of categories."""

from collections.abc import Sequence

import numpy as np

from tf_resflow.tables.columns.column import Column

_RIDGE = 0.1  # of the covariance of the other columns, in units of its mean variance
_ROWS = 10  # added to the number of rows of a level, so that rare levels are near the middle


def reorder_levels(columns: Sequence[Column], numbers: np.ndarray) -> list[Column]:
    r"""Returns columns whose categories have similar levels side by side, and changes the numbers accordingly.

    The rows of the other columns, as normal scores and standardized one-hot codes with the covariance C, have the
    mean \\(\mu_k\\) for level k, which is shrunken if the level is rare. The order of the levels is the order of
    \\(C^{-1/2} \mu_k\\) along their first principal axis, weighted by the shares of the levels. This axis is the
    first one of a canonical correlation analysis. Ordered levels keep their order.

    Args:
      columns: The columns.
      numbers: The numbers of the fit `[num, columns]`, NaN if missing. Levels are numbered from the most frequent.
    """
    scores = [column.comparable(x) for column, x in zip(columns, numbers.T, strict=True)]
    reordered = list(columns)
    for index, column in enumerate(columns):
        if column.num_free_levels <= 2 or len(columns) == 1:
            continue
        other_scores = np.concatenate(scores[:index] + scores[index + 1 :], axis=1)
        order = _order(other_scores, numbers[:, index], column.num_free_levels)
        reordered[index] = column.reordered(order)
        is_level = ~np.isnan(numbers[:, index])
        numbers[is_level, index] = np.argsort(order)[numbers[is_level, index].astype(int)]
    return reordered


def _order(x, k, num_levels):
    """Returns the order of the levels, given the coordinates of the other columns and the numbers of levels."""
    is_level = ~np.isnan(k)
    x = x[is_level]
    k = k[is_level].astype(int)
    x = x - x.mean(axis=0)
    counts = np.bincount(k, minlength=num_levels)
    sums = np.zeros([num_levels, x.shape[1]])
    np.add.at(sums, k, x)
    shrunken_means = sums / (counts + _ROWS)[:, np.newaxis]
    variances, axes = np.linalg.eigh(x.T @ x / len(x))
    whitened = shrunken_means @ axes / np.sqrt(variances + _RIDGE * variances.mean() + 1e-12)
    shares = counts / counts.sum()
    whitened = whitened - shares @ whitened
    _, _, principal_axes = np.linalg.svd(np.sqrt(shares)[:, np.newaxis] * whitened, full_matrices=False)
    scores = whitened @ principal_axes[0]
    sign = np.sign(scores[np.argmax(np.abs(scores))])
    return np.argsort(scores * sign, kind="stable")
