"""The columns of a table as coordinates of vectors: numbers, dates, whole numbers, levels and categories."""

import dataclasses
import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import special, stats

from tf_resflow.extras import extra

__all__ = ["Columns", "Encoded"]

_FEW = 10  # rows for each value of a column of floats, from which on it may be levels on a grid
_ON_GRID = 0.01  # of a step: the largest distance of a value from a grid
_COARSE = 50.0  # steps that a standard deviation has at most, if a column is dequantized
_NARROW = 1e-6  # width of the cell of a column of one value, beside the value
_MOST_LEVELS = 100  # of a category
_SHOWN = 8  # names in a message
_DEPENDENT = 1e-9  # variance of a combination of standardized columns that is constant
_LEAST_POWERED = 20  # rows
_TIME, _DAY = "datetime64[us]", np.timedelta64(1, "D")


class Encoded(NamedTuple):
    """Rows as vectors.

    Attributes:
      values: `[num, size]` float64, standardized; of a discrete coordinate the lower edge of its cell; NaN where a
        value is missing.
      log_scale: `[num]`: the log-density of a row is that of its vector plus it.
      known: `[num]`, whether all categories are those of the fit: the probability of others is 0.
    """

    values: np.ndarray
    log_scale: np.ndarray
    known: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Number:
    """A real number, in the units of the table; a bounded one through the logarithm or the logit."""

    name: Any
    dtype: Any
    low: float = -math.inf
    high: float = math.inf
    is_discrete = False
    kind = "number"

    def encode(self, column):
        x = _floats(self.name, column)
        known = np.isnan(x) | ((x > self.low) & (x < self.high))
        x = np.where(known, x, np.nan)
        is_low, is_high = math.isfinite(self.low), math.isfinite(self.high)
        log_above = np.log(x - self.low) if is_low else 0.0
        log_below = np.log(self.high - x) if is_high else 0.0
        if is_low and is_high:
            return log_above - log_below, np.log(self.high - self.low) - log_above - log_below, known
        return (log_above - log_below, -log_above - log_below, known) if is_low or is_high else (x, 0.0, known)

    def decode(self, y):
        if math.isfinite(self.low) and math.isfinite(self.high):
            y = self.low + (self.high - self.low) * special.expit(y)
        elif math.isfinite(self.low):
            y = self.low + np.exp(y)
        elif math.isfinite(self.high):
            y = self.high - np.exp(-y)
        if np.dtype(self.dtype).kind in "iu":
            limits = np.iinfo(self.dtype)
            least = max(math.floor(self.low) + 1, limits.min) if math.isfinite(self.low) else limits.min
            most = min(math.ceil(self.high) - 1, limits.max) if math.isfinite(self.high) else limits.max
            most_float = float(most) if float(most) <= most else np.nextafter(float(most), 0)
            return np.clip(np.round(y), least, most_float).astype(self.dtype)
        kind = np.dtype(self.dtype).type
        low, high = np.nextafter(kind(self.low), kind(np.inf)), np.nextafter(kind(self.high), kind(-np.inf))
        return np.clip(y.astype(self.dtype), low, high)


@dataclasses.dataclass(frozen=True)
class _Date:
    """A time, as days since a first one."""

    name: Any
    first: np.datetime64
    is_whole: bool
    is_discrete = False
    kind = "date"

    def encode(self, column):
        values = column.to_numpy(_TIME)
        return np.where(np.isnat(values), np.nan, (values - self.first) / _DAY), 0.0, True

    def decode(self, y):
        days = np.round(y) if self.is_whole else y
        return self.first + np.round(days * 86400e3).astype("timedelta64[ms]")


@dataclasses.dataclass(frozen=True)
class _Grid:
    """Whole multiples of a step: the number of the cell."""

    name: Any
    dtype: Any
    first: float
    step: float
    num: int
    is_discrete = True
    kind = "whole number"

    def encode(self, column):
        return np.round((_floats(self.name, column) - self.first) / self.step), 0.0, True

    def decode(self, y):
        values = self.first + self.step * np.clip(np.floor(y), 0, self.num - 1)
        return values.astype(self.dtype)


@dataclasses.dataclass(frozen=True)
class _Levels:
    """One of some values: its number."""

    name: Any
    levels: tuple[Any, ...]
    kind: str
    is_discrete = True

    def encode(self, column):
        with extra("sklearn"):
            import pandas

        codes = pandas.Index(self.levels).get_indexer(pandas.Index(column))
        is_missing = column.isna().to_numpy()
        return np.where(codes < 0, np.nan, codes), 0.0, is_missing | (codes >= 0)

    def decode(self, y):
        codes = np.clip(np.floor(y), 0, len(self.levels) - 1)
        return np.asarray(self.levels, object)[codes.astype(int)]


class Columns:
    r"""How the rows of a table stand for vectors, standardized by the rows of a fit, and back.

    Each column is a coordinate:

    - Floats are themselves, in the units of the table; with `bounds` \\(\log(x - a)\\), \\(-\log(b - x)\\) or their
      sum. So are whole numbers whose standard deviation is above 50.
    - Other whole numbers, and floats of few different values on a grid, are the number of their cell.
    - Categories, booleans and text are the number of their level: ordered ones in their order, others with the most
      frequent one first.
    - Times are days since the first one of the fit.

    Numbers that a Yeo-Johnson transform makes more normal are transformed, linearly beyond the range of the fit, so
    that the map has Lipschitz constants; all coordinates are standardized.

    The log-density of a row is \\(\log p(x) = \log E_u\, p(z + w u) + \mathrm{log\_scale}\\), with its vector z
    and u uniform in [0, 1) in the discrete coordinates, whose cells have the widths w. It is a probability in the
    discrete columns and a density in the units of the others. What the density leaves beyond the first and the last
    level belongs to none, so that the probabilities of levels are lower bounds. In samples it is theirs, and whole
    numbers are within the range of the fit.

    ```python
    import pandas
    from tf_resflow.data import Columns
    table = pandas.DataFrame({"size": [1.5, 2.5, 3.5], "color": ["red", "blue", "red"], "children": [0, 2, 1]})
    columns = Columns(table)
    print(columns.kinds)
    # {'size': 'number', 'color': 'category', 'children': 'whole number'}
    print(columns.decode(columns.encode(table).values)["color"].tolist())
    # ['red', 'blue', 'red']
    ```

    Args:
      table: `pandas.DataFrame` of the rows of the fit.
      ordered: the levels of ordered columns, lowest first, by their names.
      categories: names of columns of numbers that are categories.
      bounds: pairs (low, high), either of which may be None, by the names of columns of numbers.

    Attributes:
      kinds: what each column is, by its name.
      size: number of coordinates.
      widths: `[size]`, the widths of the cells of discrete coordinates, 0 of others.

    Raises:
      ValueError: if a column cannot be read, all its values are missing, or it has too many categories.

    References:
      Theis, van den Oord and Bethge, A note on the evaluation of generative models, 2016, Section 3.1.
    """

    def __init__(
        self,
        table: Any,
        *,
        ordered: Mapping[Any, Sequence[Any]] | None = None,
        categories: Collection[Any] = (),
        bounds: Mapping[Any, tuple[float | None, float | None]] | None = None,
    ):
        ordered, bounds = dict(ordered or {}), dict(bounds or {})
        self._names = list(table.columns)
        if twice := sorted({str(name) for name in self._names if self._names.count(name) > 1}):
            raise ValueError(f"Two columns have the name {twice[0]!r}. Give each column a name of its own.")
        if unknown := [name for name in [*ordered, *categories, *bounds] if name not in self._names]:
            raise ValueError(f"There is no column {unknown[0]!r}; the columns are {_short(self._names)}.")
        self._columns = [
            _column(name, table[name], ordered.get(name), name in categories, bounds.get(name))
            for name in self._names
        ]
        self._dtypes, self.size = dict(table.dtypes), len(self._columns)
        self.kinds = {column.name: column.kind for column in self._columns}
        is_discrete = np.array([column.is_discrete for column in self._columns])
        values = self._in_units(table).values
        deviation = np.sqrt(np.nanvar(values, axis=0) + is_discrete / 12)
        self._mean = np.nanmean(values, axis=0) + 0.5 * is_discrete
        self._scale = np.where(deviation > 0, deviation, 1.0)
        self.widths = is_discrete / self._scale
        self._powers = _Powers((values - self._mean) / self._scale, is_discrete)
        self._warn(table)

    def encode(self, table: Any) -> Encoded:
        """The rows of a table with the columns of the fit, whatever their order, as vectors."""
        values, log_scale, known = self._in_units(table)
        log_scale -= np.where(np.isnan(values), 0.0, np.log(self._scale)).sum(axis=1)
        values, log_slopes = self._powers.transform((values - self._mean) / self._scale)
        return Encoded(values, log_scale + log_slopes, known)

    def _in_units(self, table):
        """The same before the coordinates are standardized and transformed."""
        num = len(table)
        values, log_scale, known = np.empty([num, self.size]), np.zeros(num), np.ones(num, bool)
        for place, column in enumerate(self._columns):
            values[:, place], slopes, is_known = column.encode(table[column.name])
            log_scale += np.nan_to_num(slopes)
            known &= is_known
        return Encoded(values, log_scale, known)

    def decode(self, values: np.ndarray) -> Any:
        """A `pandas.DataFrame` of the rows that vectors stand for, in the types and the order of the fit."""
        with extra("sklearn"):
            import pandas

        values = self._powers.inverse(values.astype(np.float64)) * self._scale + self._mean
        found = {
            column.name: _of_dtype(pandas.Series(column.decode(values[:, place])), self._dtypes[column.name])
            for place, column in enumerate(self._columns)
        }
        return pandas.DataFrame(found, columns=self._names)

    def _warn(self, table):
        """Names the columns that are constant, and those that repeat or depend on others."""
        values = self.encode(table).values
        values = values[~np.isnan(values).any(axis=1)]
        if len(values) < 2:
            return
        varies = np.ptp(values, axis=0) > 0
        if constant := [name for name, varying in zip(self._names, varies, strict=True) if not varying]:
            warnings.warn(
                f"These columns have one value in all rows, and tell nothing of them: {_short(constant)}.",
                stacklevel=4,
            )
        if not 2 <= varies.sum() < len(values):
            return
        variances, axes = np.linalg.eigh(np.atleast_2d(np.cov(values[:, varies].T)))
        involved = np.abs(axes[:, variances < _DEPENDENT * variances[-1]]).max(axis=1, initial=0.0) > 1e-3
        if involved.any():
            names = [self._names[i] for i in np.flatnonzero(varies)[involved]]
            warnings.warn(
                f"These columns repeat or depend on each other linearly: {_short(names)}. On the plane of their "
                "values the density is bounded by the noise alone: leave some of them out.",
                stacklevel=4,
            )


class _Powers:
    r"""Yeo-Johnson transforms of standardized coordinates, where they help; the results are standardized again.

    For \\(z \ge 0\\), \\(y = ((1 + z)^\lambda - 1) / \lambda\\), and for \\(z < 0\\) it is minus that of \\(-z\\)
    with \\(2 - \lambda\\). Beyond the range of the fit y goes on with the slope at its end. A coordinate is
    transformed if its normal log-likelihood rises by two standard errors on each half of the rows, with the
    parameters of the other.

    References:
      Yeo and Johnson, A new family of power transformations to improve normality or symmetry, 2000.
    """

    def __init__(self, values, is_discrete):
        chosen = [None if skip else _power(x[~np.isnan(x)]) for x, skip in zip(values.T, is_discrete, strict=True)]
        self._places = [place for place, power in enumerate(chosen) if power is not None]
        self._lambdas = np.array([chosen[place] for place in self._places])
        z = values[:, self._places]
        self._low, self._high = np.nanmin(z, axis=0, initial=np.inf), np.nanmax(z, axis=0, initial=-np.inf)
        y = _yeo_johnson(z, self._lambdas)[0]
        self._mean, self._scale = np.nanmean(y, axis=0), np.nanstd(y, axis=0)

    def transform(self, values):
        """The transformed values, and the sum of the logarithms of the slopes."""
        values, z = values.copy(), values[:, self._places]
        inside = np.clip(z, self._low, self._high)
        y, log_slopes = _yeo_johnson(inside, self._lambdas)
        values[:, self._places] = (y + np.exp(log_slopes) * (z - inside) - self._mean) / self._scale
        return values, np.nan_to_num(log_slopes - np.log(self._scale)).sum(axis=1)

    def inverse(self, values):
        """What has these transformed values."""
        values = values.copy()
        y = values[:, self._places] * self._scale + self._mean
        inside = np.clip(y, *(_yeo_johnson(end, self._lambdas)[0] for end in (self._low, self._high)))
        above, below = (
            special.inv_boxcox1p(np.maximum(sign * inside, 0.0), power)
            for sign, power in ((1, self._lambdas), (-1, 2 - self._lambdas))
        )
        z = np.where(inside >= 0, above, -below)
        values[:, self._places] = z + (y - inside) / np.exp(_yeo_johnson(z, self._lambdas)[1])
        return values


def _yeo_johnson(z, lambdas):
    """The transform of columns and the logarithms of its slopes."""
    above, below = special.boxcox1p(np.maximum(z, 0.0), lambdas), special.boxcox1p(np.maximum(-z, 0.0), 2 - lambdas)
    return np.where(z >= 0, above, -below), (lambdas - 1) * np.sign(z) * np.log1p(np.abs(z))


def _power(z):
    """The parameter of the transform of a coordinate; None if it does not help."""
    if len(z) < _LEAST_POWERED or not np.ptp(z):
        return None
    halves, gains = (z[::2], z[1::2]), []
    for own, other in (halves, halves[::-1]):
        power = stats.yeojohnson_normmax(own)
        (y, _), (y_new, log_slopes) = (_yeo_johnson(part, power) for part in (own, other))
        gains.append(_normal(y_new, y) + log_slopes - _normal(other, own))
    is_better = all(gain.mean() > 2 * gain.std() / math.sqrt(len(gain)) for gain in gains)
    return stats.yeojohnson_normmax(z) if is_better else None


def _normal(x, rows):
    """The log-densities of values, by the normal distribution of others."""
    return stats.norm.logpdf(x, rows.mean(), max(rows.std(), 1e-9))


def _column(name, column, levels, is_category, bounds):
    """What a column is."""
    with extra("sklearn"):
        import pandas

    present, dtype = column.dropna(), column.dtype
    if not len(present):
        raise ValueError(f"Column {name!r}: all values are missing. Leave it out.")
    if levels is not None:
        if unknown := [value for value in present.unique() if value not in levels]:
            raise ValueError(f"Column {name!r}: {unknown[0]!r} is not one of its ordered levels {list(levels)}.")
        return _Levels(name, tuple(levels), "ordered levels")
    if isinstance(dtype, (pandas.PeriodDtype, pandas.SparseDtype)) or pandas.api.types.is_timedelta64_dtype(dtype):
        raise ValueError(
            f"Column {name!r} is of type {dtype}: convert periods by .dt.to_timestamp(), durations by "
            ".dt.total_seconds(), and sparse columns by .sparse.to_dense()."
        )
    is_number = pandas.api.types.is_numeric_dtype(dtype) and not pandas.api.types.is_bool_dtype(dtype)
    if bounds is not None and (is_category or not is_number):
        raise ValueError(f"Column {name!r} has bounds, and is none of numbers: its type is {dtype}.")
    if isinstance(dtype, pandas.CategoricalDtype) and dtype.ordered:
        return _checked_levels(_Levels(name, tuple(dtype.categories), "ordered levels"), len(present))
    if pandas.api.types.is_datetime64_any_dtype(dtype) and not is_category:
        times = present.to_numpy(_TIME)
        return _Date(name, times.min(), bool(np.all((times - times.min()) % _DAY == np.timedelta64(0))))
    if is_category or not is_number:
        return _checked_levels(_Levels(name, tuple(present.value_counts().index), "category"), len(present))
    x, kind = _floats(name, present), getattr(dtype, "numpy_dtype", dtype)
    if bounds is not None:
        low, high = (
            fill if end is None else float(end) for end, fill in zip(bounds, (-math.inf, math.inf), strict=True)
        )
        if not low < high:
            raise ValueError(f"Column {name!r}: the bounds are (low, high), with low < high; got {bounds}.")
        if outside := np.count_nonzero((x <= low) | (x >= high)):
            raise ValueError(
                f"Column {name!r}: {outside} values are not strictly between its bounds {low} and {high}. Leave "
                "these rows out, or give other bounds."
            )
        return _Number(name, kind, low, high)
    grid = _grid(x, kind.kind in "iu")
    return _Number(name, kind) if grid is None else _Grid(name, kind, *grid)


def _checked_levels(column, num):
    """The column, unless it has so many levels that it is no category."""
    if len(column.levels) > _MOST_LEVELS:
        raise ValueError(
            f"Column {column.name!r} has {len(column.levels)} different values in {num} rows, such as "
            f"{column.levels[0]!r}: too many for a category. Leave it out, or convert it to numbers or times, as "
            "pandas.to_numeric and pandas.to_datetime do."
        )
    return column


def _grid(x, is_whole):
    """The first value, the step and the length of a grid that is coarse beside the deviation; None without one."""
    distinct = np.unique(x)
    first = float(distinct[0])
    if len(distinct) == 1:
        return first, 1.0 if is_whole else _NARROW * abs(first) or _NARROW, 1
    if not is_whole and len(distinct) * _FEW > len(x):
        return None
    step = 1.0 if is_whole else float(np.diff(distinct).min())
    cells = np.round((distinct - first) / step)
    step = float(distinct[-1] - first) / cells[-1]
    if x.std() > _COARSE * step or np.abs((distinct - first) / step - cells).max() > _ON_GRID:
        return None
    return first, step, int(cells[-1]) + 1


def _of_dtype(column, dtype):
    """A column in a type of pandas; times in their zone."""
    zone = getattr(dtype, "tz", None)
    return column.astype(dtype) if zone is None else column.dt.tz_localize("UTC").dt.tz_convert(zone).astype(dtype)


def _floats(name, column):
    """A column of numbers as float64, NaN where values are missing."""
    with extra("sklearn"):
        import pandas

    try:
        x = pandas.to_numeric(column).to_numpy(np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Column {name!r} has numbers; got a value that is none: {error}") from None
    if infinite := np.count_nonzero(np.isinf(x)):
        raise ValueError(f"Column {name!r}: {infinite} values are infinite. Leave these rows out.")
    return x


def _short(names):
    return ", ".join([*map(str, names[:_SHOWN]), *(["..."] if len(names) > _SHOWN else [])])
