"""How much more likely rows would be with another value in one column."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tf_resflow.tables.density import TableDensity

_NUM_POINTS = 8  # of the score of a row, and of its best candidates
_NUM_ROUGH_POINTS = 2  # of the scores that select the best candidates
_NUM_BEST = 3  # candidates per column


def gains(
    density: TableDensity, reference: Mapping[Any, tuple[int, Sequence[float]]], numbers: np.ndarray
) -> np.ndarray:
    """Returns by how many nats the best value of a column raises the comparable scores, `[num, len(reference)]`.

    A candidate is a row with another value in one column. Candidates that are integrated over cells are scored
    with few points first. The best of each column are scored again with more points, which are those of the row.

    Args:
      density: The density of the rows.
      reference: See `FlowDensity`, the values to try.
      numbers: See `TableEncoder.numbers`.
    """
    counts = [len(values) for _, values in reference.values()]
    starts = np.cumsum([0, *counts[:-1]])
    columns = np.repeat([column_index for column_index, _ in reference.values()], counts)
    values = np.concatenate([values for _, values in reference.values()])
    is_changed = numbers[:, columns] != values  # otherwise the candidate is the row itself
    row_indices, candidates = np.nonzero(is_changed)
    changed = numbers[row_indices]
    changed[np.arange(len(changed)), columns[candidates]] = values[candidates]

    scores_of_rows = density.score(numbers, num_points=_NUM_POINTS)[1][:, np.newaxis]
    scores = np.repeat(scores_of_rows, len(values), axis=1)
    scores[is_changed] = density.score(changed, num_points=_NUM_ROUGH_POINTS)[1]
    is_rough = np.zeros(scores.shape, bool)
    is_rough[is_changed] = density.is_integrated(changed)
    is_refined = is_rough & _are_best(np.where(is_changed, scores, -np.inf), starts)
    scores[is_rough] = -np.inf
    scores[is_refined] = density.score(changed[is_refined[is_changed]], num_points=_NUM_POINTS)[1]
    highest = np.maximum.reduceat(scores, starts, axis=1)
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        return np.where(highest == scores_of_rows, 0.0, highest - scores_of_rows)


def _are_best(scores, starts):
    """Returns which scores `[num, candidates]` are the best of a column, which begins at one of `starts`."""
    is_best = np.zeros(scores.shape, bool)
    for start, scores_of_column in zip(starts, np.split(scores, starts[1:], axis=1), strict=True):
        best = np.argsort(-scores_of_column, axis=1)[:, :_NUM_BEST]
        np.put_along_axis(is_best, start + best, True, axis=1)
    return is_best
