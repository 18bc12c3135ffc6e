"""Encodes the rows of a table as standardized vectors."""

import math
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize, special, stats

from tf_resflow.data.column_codes import ColumnCodes, dependent
from tf_resflow.data.column_kinds import Bounds
from tf_resflow.messages import shortened
from tf_resflow.models.dequantization import cell_edges, log_atom_widths, quantize_in_cells

_LEAST_POWERED, _MOST_POWERED = 20, 20_000  # minimum and maximum number of rows to fit a transform
MOST_CELLS = 2**20  # maximum number of values encoded at once
_EXTREME = 0.02  # share of the gains clipped on each side, since the gain of a single row has no bound


class Encoded(NamedTuple):
    """The rows of a table as standardized vectors, arrays `[num, size]` unless stated otherwise.

    Attributes:
      values: float64. The value of a continuous coordinate, or the lower edge of the cell of a discrete one. NaN
        marks a missing value.
      widths: the widths of the cells, 0 in continuous coordinates.
      ends: bool `[2, num, size]`, whether the cell is the first one, and whether it is the last one.
      log_scale: `[num]`. The log-density of a row is the log-density of its vector plus this value. It includes the
        logarithms of the widths.
      known: bool `[num]`, whether all values can occur; otherwise the row has probability 0.
    """

    values: np.ndarray
    widths: np.ndarray
    ends: np.ndarray
    log_scale: np.ndarray
    known: np.ndarray


class Columns:
    r"""Maps the rows of a table to standardized vectors and back.

    Each column becomes one coordinate, and its type or `kinds` implies how; see `ColumnCodes`. A number with
    `bounds` (a, b) becomes \\(\log(x - a)\\), \\(-\log(b - x)\\) or their sum. A discrete value (a whole number, a
    value on a grid, a day, a level) becomes a cell, one step wide. An atom becomes a wide cell, see
    `tf_resflow.models.Cells`. Numbers that a Yeo-Johnson transform brings
    closer to a normal distribution are transformed. All coordinates are standardized.

    The log-density of a row is \\(\log p(x) = \log E_u\, p(z + w u) + \mathrm{log\_scale}\\). Here z is its vector,
    w are the widths of its cells, and u is uniform in [0, 1) in the coordinates with cells. The result is a
    probability in the discrete columns and at atoms, and a density in the units of the columns elsewhere. A value
    that cannot occur (an unknown level, 2.5 in a column of whole numbers, a number outside its bounds) has
    probability 0.

    Levels, and grids of at most 100 values, have a first and a last cell. These include everything beyond them,
    both in scores and in samples, as does an atom that is the smallest or the largest value of the fit. Numbers
    beyond such an atom have probability 0. The probabilities of all values therefore add up to one.

    ```python
    import pandas
    from tf_resflow.data import Columns
    table = pandas.DataFrame(
        {"size": [1.5, 2.5, 3.5], "color": ["red", "blue", "red"], "children": [0, 2, 1]}
    )
    columns = Columns(table)
    print(columns.kinds)
    # {'size': 'number', 'color': 'category', 'children': 'whole'}
    rows = columns.encode(table)
    print(columns.decode(rows.values + rows.widths / 2)["color"].tolist())
    # ['red', 'blue', 'red']
    ```

    Args:
      table: `pandas.DataFrame` of the rows to fit.
      kinds: see `ColumnCodes`.
      bounds: see `ColumnCodes`.

    Attributes:
      kinds: the kind of each column by name, in the form of the argument.
      size: number of coordinates.
      has_cells: `[size]`, whether some values of a coordinate have cells.
      has_levels: `[size]`, whether the values of a coordinate are levels.

    References:
      Theis, van den Oord and Bethge, A note on the evaluation of generative models, 2016, Section 3.1.
    """

    def __init__(self, table: Any, *, kinds: Mapping | None = None, bounds: Mapping[Any, Bounds] | None = None):
        self._codes = ColumnCodes(table, kinds=kinds, bounds=bounds)
        self._given = {*(kinds or {}), *(bounds or {})}
        self.kinds, self.size, self.has_cells = self._codes.kinds, self._codes.size, self._codes.has_cells
        parts = [self._placed(part)[:2] for part in in_parts(table)]
        lower, widths = map(np.concatenate, zip(*parts, strict=True))
        x = lower + widths * evenly_spread(len(table))
        varies = np.nanmax(x, axis=0) > np.nanmin(x, axis=0)
        self._mean, self._scale = np.nanmean(x, axis=0), np.where(varies, np.nanstd(x, axis=0), 1.0)
        self.has_levels = np.array([labels is not None for labels in self._codes.labels], bool)
        self._powers = _Powers((x - self._mean) / self._scale, ~self.has_levels)
        self._warn(self.encode(table).values)

    def encode(self, table: Any) -> Encoded:
        """Encodes the rows of a table that has the columns of the fit, in any order."""
        found = zip(*map(self._encode, in_parts(table)), strict=True)
        return Encoded(*(np.concatenate(arrays, axis=max(arrays[0].ndim - 2, 0)) for arrays in found))

    def _encode(self, table):
        lower, widths, ends, rows = self._placed(table)
        values, log_slopes = self._powers.transform((lower - self._mean) / self._scale)
        upper, _ = self._powers.transform((lower + widths - self._mean) / self._scale)
        own_widths = np.where(widths > 0, upper - values, 0.0)
        log_widths = np.log(np.where(own_widths > 0, own_widths, 1.0))
        log_slopes = np.where(widths > 0, log_widths, log_slopes - np.log(self._scale))
        log_scale = rows.log_slopes + np.where(np.isnan(lower), 0.0, log_slopes).sum(axis=1)
        return Encoded(values, own_widths, ends, log_scale, rows.known.all(axis=1))

    def decode(self, values: np.ndarray) -> Any:
        """Returns a `pandas.DataFrame` of the rows of vectors, with the column types and order of the fit."""
        numbers = self._powers.inverse(values.astype(np.float64)) * self._scale + self._mean
        cells = self._codes.cells
        return self._codes.decode(numbers if cells is None else quantize_in_cells(numbers, cells).numpy())

    def is_alone(self, table: Any) -> np.ndarray:
        """Says which rows of the fit would have probability 0 without them, such as the only row with a level."""
        return self._codes.is_alone(table, self._given)

    def log_atom_widths(self, table: Any) -> np.ndarray:
        """Returns the sum of the log-widths of the atoms of each row; see `tf_resflow.models.Cells`."""
        cells = self._codes.cells
        if cells is None or not len(cells.atoms):
            return np.zeros(len(table))
        parts = [log_atom_widths(self._codes.encode(part).values, cells) for part in in_parts(table)]
        return np.concatenate(parts)

    def _placed(self, table):
        """Returns the lower edges and widths of the cells of rows, which cells are ends, and the `EncodedRows`."""
        rows, cells = self._codes.encode(table), self._codes.cells
        if len(unread := np.flatnonzero(((rows.faults != "") & rows.known).any(axis=1))):
            index, reason = table.index[unread[0]], rows.reasons[unread[0]]
            raise ValueError(f"Row with index {index}, {reason}. Correct such values, or leave out their rows.")
        x = rows.values
        if cells is None:
            return x, np.zeros_like(x), np.zeros([2, *x.shape], bool), rows
        lower, widths, ends = cell_edges(x, cells)
        numbers = np.round((x - cells.first) / np.where(cells.step > 0, cells.step, np.inf))
        limits = np.reshape([column.ends for column in self._codes.columns], [-1, 2]).T[:, np.newaxis]
        ends = np.array(ends) | ((numbers == limits) & (cells.step > 0))  # including the limits of integer types
        return lower.numpy(), widths.numpy(), ends, rows

    def _warn(self, values):
        names = np.array(list(self.kinds), object)
        varies = np.nanmax(values, axis=0) > np.nanmin(values, axis=0)
        if not varies.all():
            constant = shortened(names[~varies])
            warnings.warn(f"These columns are constant: {constant}. Leave them out.", stacklevel=4)
        if (involved := dependent(values[:, varies])).any():
            warnings.warn(
                f"These columns are duplicates or linearly dependent: {shortened(names[varies][involved])}. Leave "
                "some of them out. Otherwise only the noise of the training keeps the density bounded.",
                stacklevel=4,
            )


def in_parts(table: Any) -> list[Any]:
    """Splits a table into parts that are small enough to encode, at least one."""
    num = max(MOST_CELLS // max(table.shape[1], 1), 1)
    return [table[start : start + num] for start in range(0, max(len(table), 1), num)]


class _Powers:
    r"""Applies Yeo-Johnson transforms to the coordinates that they bring closer to a normal distribution.

    Let m be the median of a coordinate z, a the distance from m to the nearer quartile, and \\(t = (z - m) / a\\).
    If \\(t \ge 0\\), \\(y = ((1 + t)^\lambda - 1) / \lambda\\). If \\(t < 0\\), y is minus the transform of
    \\(-t\\) with \\(2 - \lambda\\). The parameter \\(0 \le \lambda \le 2\\) maximizes the normal likelihood. Beyond
    the range of the fit, y continues linearly. The results are standardized. A coordinate is transformed if, on
    each half of the rows, the parameters of the other half raise the normal log-likelihood by more than two
    standard errors.

    References:
      Yeo and Johnson, A new family of power transformations to improve normality or symmetry, 2000.
    """

    def __init__(self, values, is_number):
        chosen = [_power(x[~np.isnan(x)]) if ok else None for x, ok in zip(values.T, is_number, strict=True)]
        self._places = [place for place, power in enumerate(chosen) if power is not None]
        found = np.reshape([power for power in chosen if power is not None], [-1, 3])
        self._median, self._unit, self._lambdas = found.T
        t = (values[:, self._places] - self._median) / self._unit
        self._low, self._high = np.nanmin(t, axis=0, initial=np.inf), np.nanmax(t, axis=0, initial=-np.inf)
        y = _yeo_johnson(t, self._lambdas)[0]
        self._mean, self._scale = np.nanmean(y, axis=0), np.nanstd(y, axis=0)

    def transform(self, values):
        """Returns the transformed values and the logarithms of the slopes, both `[num, size]`."""
        values, all_log_slopes = values.copy(), np.zeros_like(values)
        t = (values[:, self._places] - self._median) / self._unit
        inside = np.clip(t, self._low, self._high)
        y, log_slopes = _yeo_johnson(inside, self._lambdas)
        values[:, self._places] = (y + np.exp(log_slopes) * (t - inside) - self._mean) / self._scale
        all_log_slopes[:, self._places] = log_slopes - np.log(self._scale * self._unit)
        return values, all_log_slopes

    def inverse(self, values):
        values = values.copy()
        y = values[:, self._places] * self._scale + self._mean
        inside = np.clip(y, *(_yeo_johnson(end, self._lambdas)[0] for end in (self._low, self._high)))
        above = special.inv_boxcox1p(np.maximum(inside, 0.0), self._lambdas)
        below = special.inv_boxcox1p(np.maximum(-inside, 0.0), 2 - self._lambdas)
        t = np.where(inside >= 0, above, -below)
        t += (y - inside) / np.exp(_yeo_johnson(t, self._lambdas)[1])
        values[:, self._places] = t * self._unit + self._median
        return values


def evenly_spread(num: int) -> np.ndarray:
    """Returns points in the unit interval, `[num, 1]`. Any consecutive points are spread evenly."""
    return (np.arange(num) * (math.sqrt(5) - 1) / 2 % 1)[:, np.newaxis]


def _yeo_johnson(t, lambdas):
    """Returns the transforms of columns, and the logarithms of their slopes."""
    above, below = special.boxcox1p(np.maximum(t, 0.0), lambdas), special.boxcox1p(np.maximum(-t, 0.0), 2 - lambdas)
    return np.where(t >= 0, above, -below), (lambdas - 1) * np.sign(t) * np.log1p(np.abs(t))


def _power(z):
    """Returns the median, unit and parameter of a coordinate's transform, or None if it does not help."""
    z = z if len(z) <= _MOST_POWERED else np.random.default_rng(0).choice(z, _MOST_POWERED, replace=False)
    if len(z) < _LEAST_POWERED or not np.ptp(z):
        return None
    low, median, high = np.quantile(z, [0.25, 0.5, 0.75])
    t = (z - median) / (unit := min(median - low, high - median) or z.std())
    halves, gains = np.array_split(np.random.default_rng(0).permutation(t), 2), []
    for half, other in (halves, halves[::-1]):
        power = _best_power(half)
        (y, _), (y_new, log_slopes) = (_yeo_johnson(part, power) for part in (half, other))
        gain = _normal(y_new, y) + log_slopes - _normal(other, half)
        gains.append(np.clip(gain, *np.quantile(gain, [_EXTREME, 1 - _EXTREME])))
    is_better = all(gain.mean() > 2 * gain.std() / math.sqrt(len(gain)) for gain in gains)
    return (median, unit, _best_power(t)) if is_better else None


def _best_power(t):
    return optimize.fminbound(lambda power: -stats.yeojohnson_llf(power, t), 0, 2)


def _normal(x, rows):
    """Returns the log-densities of x under the normal distribution fitted to `rows`."""
    return stats.norm.logpdf(x, rows.mean(), max(rows.std(), 1e-9))
