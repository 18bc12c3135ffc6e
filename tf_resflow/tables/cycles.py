r"""Cycles of times: the day, the week and the year.

A time column with cycles is not a coordinate of the flow. The density of a row with the time t and the other values
x is \\(p(t) p(x | t, c(t))\\), where c(t) has sines and cosines of the phases of t. `TimeDensity` is p(t).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from scipy import ndimage

from tf_resflow.tables.columns.column import Column
from tf_resflow.tables.columns.times import CYCLES
from tf_resflow.tables.coordinates import Coordinates
from tf_resflow.tables.noise_conditioned import is_significant

_MOST_ROWS = 20_000  # that choose cycles
_FEWEST_BLOCKS = 10  # of times, if there are as many cycles
_NUM_FOLDS = 5
_NUM_ERRORS = 3.0  # that the mean gain of a cycle must exceed, because up to three cycles are tried
_RIDGE = 10.0  # rows
_NUM_BINS = 512
_MARGIN = 0.25  # of the bins on each side, in standard deviations
_SMOOTHINGS = 2.0 ** np.arange(-1, 8)  # standard deviations in bins, to choose from
_TAIL_WEIGHT = 0.01
_TAIL_SCALE = 2.0  # standard deviations
_FARTHEST_DRAW = 0.002  # share of the tails that is not drawn, so that drawn times are within some centuries


def features(columns: Sequence[Column], numbers: tf.Tensor) -> tf.Tensor:
    """Returns sines and cosines of the phases of times, `[num, features]`; 0 if missing.

    Args:
      columns: The columns of `numbers`. Those without cycles have no features.
      numbers: See `Column.to_numbers`.
    """
    angles = [tf.zeros_like(numbers[:, :0])]
    for column_index, column in enumerate(columns):
        for name in column.cycles:
            turns = numbers[:, column_index : column_index + 1] / CYCLES[name].days
            angles.append(2 * math.pi * turns * np.arange(1.0, CYCLES[name].num_harmonics + 1))
    angles = tf.concat(angles, axis=1)
    waves = tf.concat([tf.sin(angles), tf.cos(angles)], axis=1)
    return tf.where(tf.math.is_finite(waves), waves, np.float64(0.0))


def choose_cycles(
    columns: Sequence[Column], numbers: np.ndarray, num_own: int, weights: np.ndarray
) -> list[Column]:
    """Returns columns with the cycles that help to predict the other columns.

    Of the columns of the density, only one has cycles: the first one for which some help. It has none if there are
    condition columns, because p(t) would ignore them.

    Args:
      columns: The columns, those of the density first.
      numbers: The numbers of the fit `[num, columns]`, NaN if missing.
      num_own: The number of columns of the density.
      weights: The weights of the rows `[num]`.

    Raises:
      ValueError: If a column has named cycles that it cannot have.
    """
    chosen = list(columns)
    has_own = False
    may_own = num_own > 1 and num_own == len(columns)
    for index, column in enumerate(columns):
        is_own = index < num_own
        is_allowed = not is_own or (may_own and not has_own)
        if column.has_named_cycles:
            if column.cycles and not is_allowed:
                raise ValueError(
                    f"Column {column.name!r} has the kind {column.kind!r}. Of the columns of the density, only one "
                    "can have cycles, and only if there are other columns and no condition_columns. Leave out the "
                    "cycles, or add the column to condition_columns."
                )
        elif is_allowed:
            others = [other for other in range(num_own) if other != index and not columns[other].possible_cycles]
            helpful = _helpful_cycles(columns, numbers, index, others, weights) if others else ()
            column = dataclasses.replace(column, cycles=helpful) if helpful else column
        has_own |= is_own and bool(column.cycles)
        chosen[index] = column
    return chosen


def _helpful_cycles(columns, numbers, index, others, weights):
    """Returns the cycles of a column that help to predict the other columns with these indices."""
    column = columns[index]
    if not column.possible_cycles:
        return ()
    rows = np.flatnonzero(~np.isnan(numbers[:, index]))
    if len(rows) > _MOST_ROWS:
        rows = np.random.default_rng(0).choice(rows, _MOST_ROWS, replace=False)
    days = numbers[rows, index]
    weights = weights[rows] / weights[rows].mean()
    scores = np.concatenate([columns[other].comparable(numbers[:, other])[rows] for other in others], axis=1)
    helpful = []
    for name in column.possible_cycles:
        if np.ptp(days) < 2 * CYCLES[name].days:
            continue
        waves = features([dataclasses.replace(column, cycles=(name,))], tf.constant(days[:, np.newaxis])).numpy()
        if is_significant(_gains(days, CYCLES[name].days, waves, scores, weights), weights, _NUM_ERRORS):
            helpful.append(name)
    return tuple(helpful)


def _gains(days, period, waves, scores, weights):
    """Returns by how much waves reduce the squared errors of the scores of rows, if other blocks of times fit them.

    Blocks consist of whole cycles. A line is subtracted in each block, because a trend is no cycle.
    """
    span = period * max(1, int(np.ptp(days) / period / _FEWEST_BLOCKS))
    blocks = ((days - days.min()) // span).astype(int)
    waves = waves.copy()
    scores = scores.copy()
    for block in np.unique(blocks):
        is_inside = blocks == block
        line = np.vander(days[is_inside] - days[is_inside].mean(), 2)
        roots = np.sqrt(weights[is_inside, np.newaxis])
        for values in (waves, scores):
            coefficients, *_ = np.linalg.lstsq(roots * line, roots * values[is_inside], rcond=None)
            values[is_inside] -= line @ coefficients
    gains = np.zeros(len(days))
    folds = blocks % _NUM_FOLDS
    for fold in np.unique(folds):
        is_held_out = folds == fold
        fitted = waves[~is_held_out]
        weighted = fitted.T * weights[~is_held_out]
        matrix = weighted @ fitted + _RIDGE * np.eye(waves.shape[1])
        predicted = waves[is_held_out] @ np.linalg.solve(matrix, weighted @ scores[~is_held_out])
        errors = scores[is_held_out] - predicted
        gains[is_held_out] = (scores[is_held_out] ** 2 - errors**2).sum(axis=1)
    return gains


class TimeDensity:
    r"""The density p(t) of a time column, which \\(p(x | t)\\) completes to the density of a row.

    99 % is a histogram of 512 bins of the standardized times, smoothed by a normal distribution. Held-out times
    choose the smoothing. 1 % is a Cauchy distribution twice as wide as the data, so that far times stay comparable.

    Args:
      coordinates: The `Coordinates` of the column alone.
      low: The lower end of the first bin.
      step: The width of a bin.
      masses: The probabilities of the bins `[bins]`, which add up to 1.
    """

    def __init__(self, coordinates: Coordinates, low: float, step: float, masses: np.ndarray):
        self.coordinates = coordinates
        self._low = low
        self._step = step
        self._masses = np.asarray(masses, np.float64)
        self._below = np.append(0.0, np.cumsum(self._masses))

    @classmethod
    def fit(cls, column: Column, numbers: np.ndarray, weights: np.ndarray) -> "TimeDensity":
        """Fits the density to the numbers of a column, NaN if missing, with weights of the rows."""
        weights = weights[~np.isnan(numbers)]
        numbers = numbers[~np.isnan(numbers), np.newaxis]
        coordinates = Coordinates([column], numbers)
        vectors = coordinates.vectors(tf.constant(numbers))
        rng = np.random.default_rng(0)
        z = (vectors.lower + vectors.widths * rng.uniform(size=numbers.shape)).numpy().ravel()
        low = z.min() - _MARGIN
        step = (np.ptp(z) + 2 * _MARGIN) / _NUM_BINS
        bins = np.minimum((z - low) / step, _NUM_BINS - 1).astype(int)
        halves = [_counts(bins[rows], weights[rows]) for rows in np.array_split(rng.permutation(len(bins)), 2)]
        log_likelihoods = [
            sum(halves[1 - i] @ np.log(_smoothed(halves[i], smoothing) + 1e-9) for i in range(2))
            for smoothing in _SMOOTHINGS
        ]
        smoothing = _SMOOTHINGS[np.argmax(log_likelihoods)]
        return cls(coordinates, low, step, _smoothed(_counts(bins, weights), smoothing))

    def to_json(self) -> dict[str, Any]:
        """Returns the parameters, as values that JSON can hold."""
        return {
            "coordinates": self.coordinates.to_json(),
            "low": float(self._low),
            "step": float(self._step),
            "masses": self._masses.tolist(),
        }

    @classmethod
    def from_json(cls, column: Column, description: Mapping[str, Any]) -> "TimeDensity":
        """Restores the density of a column from the output of `to_json`."""
        coordinates = Coordinates.from_json([column], description["coordinates"])
        return cls(coordinates, description["low"], description["step"], description["masses"])

    def log_prob(self, numbers: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns log p(t) of numbers `[num]`, and what is added to compare rows, see `Vectors.log_unit`.

        log p(t) is 0 for a missing time, and minus infinity for one that cannot occur.
        """
        vectors = self.coordinates.vectors(numbers[:, tf.newaxis])
        lower = vectors.lower[:, 0]
        upper = lower + vectors.widths[:, 0]
        infinity = np.float64(math.inf)
        of_cell = self._probability(
            tf.where(vectors.ends[:, 0, 0], -infinity, lower), tf.where(vectors.ends[:, 0, 1], infinity, upper)
        )
        is_cell = vectors.widths[:, 0] > 0
        of_point = tf.math.log(self._density(lower)) + vectors.log_scale
        log_prob = tf.where(is_cell, tf.math.log(tf.where(is_cell, of_cell, 1.0)), of_point)
        return tf.where(vectors.is_blank[:, 0], vectors.log_scale, log_prob), vectors.log_unit

    def draw(self, uniform: tf.Tensor) -> tf.Tensor:
        """Returns the numbers of times `[num, 1]`, given uniform numbers `[num, 2]`."""
        u, choice = tf.unstack(tf.cast(uniform, tf.float64), axis=1)
        index = tf.minimum(tf.searchsorted(self._below[1:], u, side="right"), _NUM_BINS - 1)
        mass = tf.maximum(tf.gather(self._masses, index), 1e-300)
        share = tf.clip_by_value((u - tf.gather(self._below, index)) / mass, 0.0, 1.0)
        inside = self._low + self._step * (tf.cast(index, tf.float64) + share)
        tail = _TAIL_SCALE * tf.tan(math.pi * (u - 0.5) * (1 - _FARTHEST_DRAW))
        z = tf.where(choice < _TAIL_WEIGHT, tail, inside)
        return self.coordinates.to_numbers(z[:, tf.newaxis])

    def _density(self, z):
        position = (z - self._low) / self._step
        is_inside = (position >= 0) & (position < _NUM_BINS)
        index = tf.cast(tf.where(is_inside, position, 0.0), tf.int32)
        of_bins = tf.where(is_inside, tf.gather(self._masses, index) / self._step, 0.0)
        of_tails = 1 / (math.pi * _TAIL_SCALE * (1 + (z / _TAIL_SCALE) ** 2))
        return (1 - _TAIL_WEIGHT) * of_bins + _TAIL_WEIGHT * of_tails

    def _probability(self, lower, upper):
        """Returns the probability between two coordinates."""
        a = lower / _TAIL_SCALE
        b = upper / _TAIL_SCALE
        is_finite = tf.math.is_finite(a) & tf.math.is_finite(b)
        # The difference of two arcus tangents loses the digits of far cells.
        has_one_sign = is_finite & (a * b > 0)
        of_far = tf.atan(tf.where(has_one_sign, (b - a) / (1 + a * b), 0.0))
        of_tails = tf.where(has_one_sign, of_far, tf.atan(b) - tf.atan(a)) / math.pi
        of_bins = self._share_below(upper) - self._share_below(lower)
        return (1 - _TAIL_WEIGHT) * of_bins + _TAIL_WEIGHT * of_tails

    def _share_below(self, z):
        """Returns the probability of the bins below coordinates."""
        position = tf.clip_by_value((z - self._low) / self._step, 0.0, float(_NUM_BINS))
        index = tf.minimum(tf.cast(position, tf.int32), _NUM_BINS - 1)
        inside = (position - tf.cast(index, tf.float64)) * tf.gather(self._masses, index)
        return tf.gather(self._below, index) + inside


def _counts(bins, weights):
    """Returns the total weights of the rows in the bins."""
    return np.bincount(bins, weights, minlength=_NUM_BINS)


def _smoothed(counts, smoothing):
    """Returns the probabilities of bins from their counts, smoothed by a normal distribution."""
    masses = ndimage.gaussian_filter1d(counts, smoothing, mode="reflect")
    return masses / masses.sum()
