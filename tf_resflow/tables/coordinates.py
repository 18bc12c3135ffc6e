"""Maps the numbers of the columns of a table to standardized vectors and back, and draws in the cells of values."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import optimize, stats

from tf_resflow.tables.column import OFF_GRID, Column
from tf_resflow.typing import TensorLike

_LEAST_POWERED, _MOST_POWERED = 20, 20_000  # minimum and maximum number of rows to fit a transform
_EXTREME = 0.02  # share of the gains clipped on each side, since the gain of a single row has no bound
_BEYOND = ((0.5, 0.75), (1.5, 0.25))  # of each component: mean number of coordinates beyond their cells, and weight
_IDENTITY = (0.0, 1.0, 1.0, -math.inf, math.inf, 0.0, 1.0)  # parameters of a transform that changes nothing
_FITTED = ("_mean", "_scale", "_power", "_mean_log_density")
_STANDARD = tfp.distributions.Normal(tf.constant(0.0, tf.float64), 1.0)


class Vectors(NamedTuple):
    """The values of rows as standardized vectors: arrays or tensors `[num, size]` unless stated otherwise.

    A vector is drawn from `values + widths * uniform`, and a missing value from a standard normal distribution.

    Attributes:
      values: the value of a continuous coordinate, or the lower edge of a cell; 0 if missing.
      widths: the widths of the cells, otherwise 0.
      ends: bool `[num, size, 2]`, whether a cell is the first one, and whether it is the last one.
      is_missing: bool, whether the value is missing or cannot occur.
      log_scale: `[num]`. The log-density of a row is the log-density of its vector plus this value. It includes the
        logarithms of the widths. Minus infinity if a value cannot occur.
      log_unit: `[num]`, added to the log-density of a row to compare it with others: minus the logarithms of the
        widths of atoms, and the mean log-densities of missing columns. So units do not change the ranking.
      condition: `[num, condition_size]`, the condition of the densities of the rows: which values are missing, for
        columns with missing values in the fit, and the centers of the vectors of the condition columns.
    """

    values: Any
    widths: Any
    ends: Any
    is_missing: Any
    log_scale: Any
    log_unit: Any
    condition: Any = None


class Coordinates:
    r"""Maps the numbers of columns to standardized vectors and back, in float64.

    Numbers are those of `Column.encode`. NaN means that a value is missing, and infinity that it cannot occur. The
    methods use TensorFlow's operations, so an exported model computes the same vectors.

    A number x with bounds (a, b) becomes \\(\log(x - a)\\), \\(-\log(b - x)\\) or their sum. A discrete value has a
    cell, one step wide, and so has an atom: all larger values of its column are moved up by the difference between
    the width of the atom and the step. Columns that a Yeo-Johnson transform brings closer to a normal distribution
    are transformed. All coordinates are standardized.

    Levels, and grids of at most 100 values, have a first and a last cell. These include everything beyond them,
    both in scores and in samples, as does an atom that is the smallest or the largest value of the fit. The
    probabilities of the values of the fit therefore add up to one. Integers also end at the limits of their type.

    The transform of a standardized number z: let m be the median, a the distance from m to the nearer quartile, and
    \\(t = (z - m) / a\\). If \\(t \ge 0\\), \\(y = ((1 + t)^\lambda - 1) / \lambda\\). If \\(t < 0\\), y is minus
    the transform of \\(-t\\) with \\(2 - \lambda\\). The parameter \\(0 \le \lambda \le 2\\) maximizes the normal
    likelihood. Beyond the range of the fit, y continues linearly. A column is transformed if, on each half of the
    rows, the parameters of the other half raise the normal log-likelihood by more than two standard errors.

    Args:
      columns: the `Column` objects.
      numbers: the numbers of the fit `[num, columns]`.

    Attributes:
      size: number of coordinates.
      has_cells: bool `[size]`, whether some values of a column have cells.
      has_levels: bool `[size]`, whether the values of a column are levels.

    References:
      Theis, van den Oord and Bethge, A note on the evaluation of generative models, 2016, Section 3.1.
      Yeo and Johnson, A new family of power transformations to improve normality or symmetry, 2000.
    """

    def __init__(self, columns: Sequence[Column], numbers: np.ndarray):
        self._set_columns(columns)
        lower, widths, _ = (part.numpy() for part in self._edges(self._unbounded(tf.constant(numbers))[0]))
        x = lower + widths * quasirandom_points(len(lower))
        varies = np.nanmax(numbers, axis=0) > np.nanmin(numbers, axis=0)  # x may have rounding errors
        varies |= self._step > 0
        self._mean, self._scale = np.nanmean(x, axis=0), np.where(varies, np.nanstd(x, axis=0), 1.0)
        pairs = zip(((x - self._mean) / self._scale).T, varies & ~self.has_levels, strict=True)
        powers = [_power(z[~np.isnan(z)]) if ok else None for z, ok in pairs]
        self._power = np.reshape([_IDENTITY if power is None else power for power in powers], [-1, 7]).T
        self._mean_log_density = np.zeros(self.size)
        if np.isnan(numbers).any():
            *_, log_scales, units = (part.numpy() for part in self._parts(tf.constant(numbers)))
            means = np.nanmean(np.where(np.isnan(numbers), np.nan, log_scales + units), axis=0)
            self._mean_log_density = means - 0.5 * math.log(2 * math.pi * math.e)

    def _set_columns(self, columns):
        self.columns, self.size = list(columns), len(columns)
        rows = [[float(c.first - c.offset), c.step, *c.ends, c.low, c.high, len(c.levels or ())] for c in columns]
        self._first, self._step, *ends, self._low, self._high, self._num_levels = np.reshape(rows, [-1, 7]).T
        self._rounding = np.reshape([c.rounding_error() for c in columns], [-1, 2]).T
        self._ends = np.stack(ends, axis=-1)
        atoms = [(i, float(value - c.offset), *rest) for i, c in enumerate(columns) for value, *rest in c.atoms]
        self._atoms = np.reshape(atoms, [-1, 4])
        self._has_atoms = np.isin(np.arange(self.size), self._atoms[:, 0])
        self.has_cells, self.has_levels = (self._step > 0) | self._has_atoms, self._num_levels > 0

    def to_json(self) -> dict[str, Any]:
        """Returns the fitted parameters, as values that JSON can hold."""
        return {name: getattr(self, name).tolist() for name in _FITTED}

    @classmethod
    def from_json(cls, columns: Sequence[Column], found: dict[str, Any]) -> "Coordinates":
        """Restores the coordinates of columns from the output of `to_json`."""
        own = cls.__new__(cls)
        own._set_columns(columns)
        for name in _FITTED:
            setattr(own, name, np.array(found[name], np.float64))
        return own

    def mark_impossible(self, numbers: tf.Tensor) -> tf.Tensor:
        """Replaces numbers that cannot occur by infinity, such as 2.5 in a column of whole numbers."""
        k = (numbers - self._first) / np.where(self._step > 0, self._step, 1.0)
        eps, steps = self._rounding
        is_wrong = (tf.abs(k - tf.round(k)) > OFF_GRID + eps * (steps + tf.abs(k))) & (self._step > 0)
        is_wrong |= (numbers <= self._low) | (numbers >= self._high)
        is_wrong |= self.has_levels & ((k < -0.5) | (k > self._num_levels - 0.5))
        places, values, _, ends = self._atoms.T
        is_beyond = (tf.gather(numbers, places.astype(int), axis=1) - values) * ends > 0
        is_wrong |= tf.cast(is_beyond, tf.float64) @ self._atom_columns() > 0
        return tf.where(is_wrong, np.float64(math.inf), numbers)

    def vectors(self, numbers: tf.Tensor) -> Vectors:
        """Returns the standardized vectors of numbers `[num, columns]`."""
        values, widths, ends, log_scales, units = self._parts(numbers)
        is_missing, is_blank = tf.math.is_nan(numbers), ~tf.math.is_finite(numbers)
        return Vectors(
            tf.where(is_blank, np.float64(0.0), values),
            tf.where(is_blank, np.float64(0.0), widths),
            ends & ~is_blank[..., tf.newaxis],
            is_blank,
            tf.reduce_sum(tf.where(is_missing, np.float64(0.0), log_scales), axis=1),
            tf.reduce_sum(tf.where(is_missing, self._mean_log_density, units), axis=1),
        )

    def _parts(self, numbers):
        """Returns the first parts of `Vectors`, and the log-scales and units `[num, columns]` of each column."""
        x, log_bounds = self._unbounded(numbers)
        lower, widths, ends = self._edges(x)
        values, own_widths, log_slopes = self._standardized(lower, widths)
        log_widths = tf.math.log(tf.where(own_widths > 0, own_widths, 1.0))
        log_scales = tf.where(widths > 0, log_widths, log_slopes + log_bounds)
        log_scales = tf.where(tf.math.is_inf(numbers), np.float64(-math.inf), log_scales)
        units = tf.where(self._has_atoms, -tf.math.log(tf.where(widths > 0, widths, 1.0)), 0.0)
        return values, own_widths, ends, log_scales, units

    def dequantize(self, vectors: Vectors, u: TensorLike) -> tuple[tf.Tensor, tf.Tensor]:
        r"""Draws vectors of rows from a density q, with points u in the unit cube `[rows, size + 1]`.

        If p is the density of vectors, the density of a row is \\(E[p(z) / q(z)]\\) times its scale. In cells that
        are ends, the density at a distance of y cells from the inner edge is 1 - t for y < 1, and
        \\((1 - t) / (1 + (y - 1)(1 - t) / t)^2\\) for larger y. This tail has the mass t. If n coordinates of a row
        are in such cells, t is 0.5 / n with probability 3/4, otherwise min(1/2, 1.5 / n), and q is the density of
        this mixture, which the last coordinate of u chooses.

        Returns:
          z `[rows, size]`, and log q(z) for each row, in cells as wide as 1.
        """
        u = tf.convert_to_tensor(u, tf.float64)
        y, log_q = _in_cells(u, vectors.ends)
        z = tf.where(vectors.is_missing, tf.math.ndtri(u[:, :-1]), vectors.values + vectors.widths * (y + 0.5))
        return z, log_q + tf.reduce_sum(tf.where(vectors.is_missing, _STANDARD.log_prob(z), 0.0), axis=1)

    def numbers(self, z: tf.Tensor) -> tf.Tensor:
        """Returns the numbers `[num, columns]` of vectors."""
        return self._inverse_bounds(self._inverse_edges(self._inverse_standardized(z)))

    def _unbounded(self, x):
        """Returns the logarithms of numbers with bounds, and the logarithms of the slopes of this map."""
        has_low, has_high = np.isfinite(self._low), np.isfinite(self._high)
        width = np.where(has_low & has_high, self._high - self._low, 1.0)
        log_above = tf.where(has_low, tf.math.log(x - np.where(has_low, self._low, 0.0)), 0.0)
        log_below = tf.where(has_high, tf.math.log(np.where(has_high, self._high, 0.0) - x), 0.0)
        has_bounds = has_low | has_high
        return tf.where(has_bounds, log_above - log_below, x), np.log(width) - log_above - log_below

    def _inverse_bounds(self, x):
        has_low, has_high = np.isfinite(self._low), np.isfinite(self._high)
        low, high = np.where(has_low, self._low, 0.0), np.where(has_high, self._high, 0.0)
        x = tf.where(has_low & has_high, low + (high - low) * tf.sigmoid(x), x)
        x = tf.where(has_low & ~has_high, low + tf.exp(x), x)
        return tf.where(has_high & ~has_low, high - tf.exp(-x), x)

    def _edges(self, x):
        """Returns the lower edges and the widths of the cells of numbers (0 without a cell), and which are ends."""
        k = tf.round((x - self._first) / np.where(self._step > 0, self._step, 1.0))
        is_cell = tf.broadcast_to(self._step > 0, tf.shape(x))
        lower, widths = tf.where(is_cell, self._first + self._step * (k - 0.5), x), tf.zeros_like(x) + self._step
        ends = is_cell[..., tf.newaxis] & tf.equal(k[..., tf.newaxis], self._ends)
        places, values, growth, *_ = self._atom_cells()
        distance, nearest = tf.gather(x, places, axis=1) - values, self._step[places] / 4
        is_atom, own = tf.abs(distance) <= nearest, self._atom_columns()  # equal, if the step is 0
        lower += tf.cast(distance > nearest, x.dtype) * growth @ own
        widths += tf.cast(is_atom, x.dtype) * growth @ own
        of_atoms = [tf.cast(is_atom & (self._atoms[:, 3] == sign), x.dtype) @ own > 0 for sign in (-1, 1)]
        return lower, widths, ends | tf.stack(of_atoms, axis=-1)

    def _inverse_edges(self, z):
        """Returns the numbers whose cells contain z."""
        places, values, growth, low, high = self._atom_cells()
        placed, own = tf.gather(z, places, axis=1), self._atom_columns()
        is_own = tf.cast((placed >= low) & (placed < high), z.dtype)
        x = z - tf.cast(placed >= high, z.dtype) * growth @ own
        k = tf.round((x - self._first) / np.where(self._step > 0, self._step, 1.0))
        k = tf.clip_by_value(k, *self._ends.T)
        x = tf.where(tf.broadcast_to(self._step > 0, tf.shape(x)), self._first + self._step * k, x)
        return tf.where(is_own @ own > 0, is_own * values @ own, x)

    def _atom_cells(self):
        """Returns the columns and values of the atoms, how far they move larger values, and their edges."""
        places, values, widths, ends = self._atoms.T
        steps = self._step[places.astype(int)]
        is_below = (places == places[:, np.newaxis]) & (values < values[:, np.newaxis])
        lower = values - steps / 2 + is_below @ (widths - steps)
        low, high = np.where(ends < 0, -math.inf, lower), np.where(ends > 0, math.inf, lower + widths)
        return places.astype(int), values, widths - steps, low, high

    def _atom_columns(self):
        """Returns the columns of the atoms, one-hot `[atoms, columns]`."""
        return np.eye(self.size)[self._atoms[:, 0].astype(int)]

    def _standardized(self, lower, widths):
        """Returns standardized numbers, the widths of their cells, and the logarithms of the slopes."""
        (values, log_slopes), (upper, _) = (
            self._transformed((x - self._mean) / self._scale) for x in (lower, lower + widths)
        )
        return values, tf.where(widths > 0, upper - values, 0.0), log_slopes - np.log(self._scale)

    def _transformed(self, z):
        median, unit, power, low, high, mean, scale = self._power
        t = (z - median) / unit
        inside = tf.clip_by_value(t, low, high)
        y, log_slopes = _yeo_johnson(inside, power)
        # Without this, a product of infinity and 0 would make far values NaN.
        beyond = tf.where(tf.equal(t, inside), np.float64(0.0), tf.exp(log_slopes) * (t - inside))
        return (y + beyond - mean) / scale, log_slopes - np.log(scale * unit)

    def _inverse_standardized(self, values):
        median, unit, power, low, high, mean, scale = self._power
        y = values * scale + mean
        finite = [np.where(np.isinf(end), 0.0, end) for end in (low, high)]
        of_fit = [_yeo_johnson(end, power)[0] for end in finite]
        ends = [tf.where(np.isinf(end), end, y) for end, y in zip((low, high), of_fit, strict=True)]
        inside = tf.clip_by_value(y, *ends)
        above, below = _inverse_box_cox(tf.nn.relu(inside), power), _inverse_box_cox(tf.nn.relu(-inside), 2 - power)
        t = tf.where(inside >= 0, above, -below)
        beyond = tf.where(tf.equal(y, inside), np.float64(0.0), (y - inside) / tf.exp(_yeo_johnson(t, power)[1]))
        return ((t + beyond) * unit + median) * self._scale + self._mean


def quasirandom_points(num: int) -> np.ndarray:
    """Returns points in the unit interval, `[num, 1]`. Any consecutive points are spread evenly."""
    return (np.arange(num) * (math.sqrt(5) - 1) / 2 % 1)[:, np.newaxis]


def _in_cells(u, ends):
    """Returns the places of points in cells, from their centers in units of their widths, and log q of each row.

    See `Coordinates.dequantize`.
    """
    u, chosen = u[:, :-1], u[:, -1:]
    sides = tf.reduce_sum(tf.cast(ends, u.dtype), axis=-1)
    edges = tf.maximum(tf.reduce_sum(tf.minimum(sides, 1.0), -1, keepdims=True), 1.0)
    tails = [tf.where(sides > 0, tf.minimum(mean / edges, 0.5), 0.0) for mean, _ in _BEYOND]
    t = tf.where(chosen < _BEYOND[0][1], *tails)
    depth = 1 / tf.maximum(sides, 1.0)  # of a cell, from its inner edge, or from its center if it has two tails
    a = tf.where(sides > 1, tf.abs(2 * u - 1), u)
    rest = tf.maximum(1 - a, 2.0**-24)
    y = tf.where(rest < t, 1 - 2 * t + t**2 / rest, a) * depth / (1 - t)
    y = tf.where(sides > 1, tf.sign(u - 0.5) * y, tf.where(ends[..., 0], 0.5 - y, y - 0.5))
    beyond = tf.nn.relu(tf.abs(y) - 0.5) / depth

    def log_density(t, weight):
        scale = tf.where(sides > 0, t / (1 - t), 1.0)
        return math.log(weight) + tf.reduce_sum(tf.math.log1p(-t) - 2 * tf.math.log1p(beyond / scale), -1)

    parts = [log_density(t, weight) for t, (_, weight) in zip(tails, _BEYOND, strict=True)]
    return y, tf.reduce_logsumexp(parts, 0)


def _yeo_johnson(t, power):
    """Returns the transforms of columns, and the logarithms of their slopes."""
    above, below = _box_cox(tf.nn.relu(t), power), _box_cox(tf.nn.relu(-t), 2 - power)
    return tf.where(t >= 0, above, -below), (power - 1) * tf.sign(t) * tf.math.log1p(tf.abs(t))


def _box_cox(t, power):
    """Returns ((1 + t)^power - 1) / power."""
    is_log = np.abs(power) < 1e-12
    return tf.where(
        is_log, tf.math.log1p(t), tf.math.expm1(power * tf.math.log1p(t)) / np.where(is_log, 1.0, power)
    )


def _inverse_box_cox(y, power):
    is_log = np.abs(power) < 1e-12
    return tf.where(
        is_log, tf.math.expm1(y), tf.math.expm1(tf.math.log1p(power * y) / np.where(is_log, 1.0, power))
    )


def _power(z):
    """Returns the parameters of a column's transform, as in `_IDENTITY`, or None if it does not help."""
    all_z, z = z, z if len(z) <= _MOST_POWERED else np.random.default_rng(0).choice(z, _MOST_POWERED, replace=False)
    if len(z) < _LEAST_POWERED or not np.ptp(z):
        return None
    low, median, high = np.quantile(z, [0.25, 0.5, 0.75])
    t = (z - median) / (unit := min(median - low, high - median) or z.std())
    halves, gains = np.array_split(np.random.default_rng(0).permutation(t), 2), []
    for half, other in (halves, halves[::-1]):
        power = _best_power(half)
        y, y_new = (stats.yeojohnson(part, power) for part in (half, other))
        log_slopes = (power - 1) * np.sign(other) * np.log1p(np.abs(other))
        gain = _normal(y_new, y) + log_slopes - _normal(other, half)
        gains.append(np.clip(gain, *np.quantile(gain, [_EXTREME, 1 - _EXTREME])))
    if not all(gain.mean() > 2 * gain.std() / math.sqrt(len(gain)) for gain in gains):
        return None
    power, t = _best_power(t), (all_z - median) / unit
    y = stats.yeojohnson(t, power)
    return median, unit, power, t.min(), t.max(), y.mean(), y.std()


def _best_power(t):
    return optimize.fminbound(lambda power: -stats.yeojohnson_llf(power, t), 0, 2)


def _normal(x, rows):
    """Returns the log-densities of x under the normal distribution fitted to `rows`."""
    return stats.norm.logpdf(x, rows.mean(), max(rows.std(), 1e-9))
