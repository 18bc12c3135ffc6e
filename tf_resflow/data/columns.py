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
_MOST_LEVELS = 100  # of a category
_SHOWN = 8  # names in a message
_DEPENDENT = 1e-9  # variance of a combination of standardized columns that is constant
_LEAST_POWERED = 20  # rows
_DAY = np.timedelta64(1, "D")


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
    size = 1
    is_discrete = False
    kind = "number"

    def encode(self, column):
        x = _floats(self.name, column)
        is_low, is_high = math.isfinite(self.low), math.isfinite(self.high)
        if outside := np.count_nonzero((x <= self.low) | (x >= self.high)):
            raise ValueError(
                f"Column {self.name!r}: {outside} values are not strictly between its bounds {self.low} and "
                f"{self.high}. Leave these rows out, or give other bounds."
            )
        above, below = x - self.low if is_low else 1.0, self.high - x if is_high else 1.0
        if is_low and is_high:
            y = np.log(above) - np.log(below)
            return y, np.log(self.high - self.low) - np.log(above) - np.log(below)
        if is_low:
            return np.log(above), -np.log(above)
        if is_high:
            return -np.log(below), -np.log(below)
        return x, np.zeros(len(x))

    def decode(self, y):
        y = y[:, 0]
        if math.isfinite(self.low) and math.isfinite(self.high):
            y = self.low + (self.high - self.low) / (1.0 + np.exp(-y))
        elif math.isfinite(self.low):
            y = self.low + np.exp(y)
        elif math.isfinite(self.high):
            y = self.high - np.exp(-y)
        if np.dtype(self.dtype).kind in "iu":
            limits = np.iinfo(self.dtype)
            y = np.clip(np.round(y), float(limits.min), np.nextafter(float(limits.max), 0))
        return y.astype(self.dtype)


@dataclasses.dataclass(frozen=True)
class _Date:
    """A time, as days since a first one."""

    name: Any
    first: np.datetime64
    is_whole: bool
    size = 1
    is_discrete = False
    kind = "date"

    def encode(self, column):
        values = column.to_numpy("datetime64[ns]")
        days = (values - self.first) / _DAY
        return np.where(np.isnat(values), np.nan, days), np.zeros(len(days))

    def decode(self, y):
        days = np.round(y[:, 0]) if self.is_whole else y[:, 0]
        return self.first + np.round(days * 86400e3).astype("timedelta64[ms]")


@dataclasses.dataclass(frozen=True)
class _Grid:
    """Whole multiples of a step: the number of the cell."""

    name: Any
    dtype: Any
    first: float
    step: float
    num: int
    size = 1
    is_discrete = True
    kind = "whole number"

    def encode(self, column):
        return np.round((_floats(self.name, column) - self.first) / self.step), 0.0

    def decode(self, y):
        values = self.first + self.step * np.clip(np.floor(y[:, 0]), 0, self.num - 1)
        return values.astype(self.dtype)


@dataclasses.dataclass(frozen=True)
class _Levels:
    """One of some values: ordered, or two, its number; else a coordinate for each, of which one is 1."""

    name: Any
    levels: tuple[Any, ...]
    is_ordered: bool
    is_discrete = True

    @property
    def kind(self):
        return "ordered levels" if self.is_ordered else "category"

    @property
    def is_one_hot(self):
        return not self.is_ordered and len(self.levels) > 2

    @property
    def size(self):
        return len(self.levels) if self.is_one_hot else 1

    def encode(self, column):
        with extra("sklearn"):
            import pandas

        codes = pandas.Index(self.levels).get_indexer(pandas.Index(column)).astype(np.float64)
        is_missing = column.isna().to_numpy()
        known = is_missing | (codes >= 0)
        if self.is_one_hot:
            codes = (codes[:, np.newaxis] == np.arange(len(self.levels))).astype(np.float64)
        codes[is_missing] = np.nan
        return codes, 0.0, known

    def decode(self, y):
        codes = y.argmax(axis=1) if self.is_one_hot else np.clip(np.floor(y[:, 0]), 0, len(self.levels) - 1)
        return np.asarray(self.levels, object)[codes.astype(int)]


class Columns:
    r"""How the rows of a table stand for vectors, standardized by the rows of a fit, and back.

    - Floats are themselves, in the units of the table; with `bounds` through \\(\log(x - a)\\), \\(-\log(b - x)\\)
      or both. So are whole numbers that differ by more than 50 in standard deviation.
    - Other whole numbers, and floats of few different values on a grid, are the number of their cell.
    - Ordered categories, and categories of two values, are the number of their level; other categories have a
      coordinate for each value, of which one is 1. Text is a category.
    - Times are days since the first one of the fit.

    Samples of whole numbers and of grids are within the range of the fit.

    Numbers that a Yeo-Johnson transform makes more normal are transformed, and all coordinates are standardized.

    The log-density of a row is \\(\log p(x) = \log E_u\, p(z + w u) + \mathrm{log\_scale}\\), with its vector z,
    and u uniform in [0, 1) in the discrete coordinates, whose cells have the widths w. It is a probability in the
    discrete columns (for a category of more than two values a lower bound of it) and a density in the units of the
    others. A sample has the category of its largest coordinate; the cell of a category is a part of that region
    (argmax dequantization with a uniform distribution, Hoogeboom et al. 2021).

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
      owners: `[size]`, the number of the column of each coordinate.

    Raises:
      ValueError: if a column cannot be read, all its values are missing, or it has too many categories.

    References:
      Theis, van den Oord and Bethge, A note on the evaluation of generative models, 2016, Section 3.1.
      Hoogeboom et al., Argmax flows and multinomial diffusion, 2021.
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
        self._dtypes = dict(table.dtypes)
        self.kinds = {column.name: column.kind for column in self._columns}
        self.size = sum(column.size for column in self._columns)
        self.owners = np.repeat(np.arange(len(self._columns)), [column.size for column in self._columns])
        is_discrete = np.array([column.is_discrete for column in self._columns])[self.owners]
        self._mean, self._scale = np.zeros(self.size), np.ones(self.size)
        self._powers: _Powers | None = None
        values = self.encode(table).values
        deviation = np.nanstd(values, axis=0)
        deviation = np.where(is_discrete, np.sqrt(deviation**2 + 1 / 12), deviation)
        self._mean = np.nanmean(values, axis=0) + 0.5 * is_discrete
        self._scale = np.where(deviation > 0, deviation, 1.0)
        self.widths = is_discrete / self._scale
        self._powers = _Powers((values - self._mean) / self._scale, is_discrete)
        self._warn(table)

    def encode(self, table: Any) -> Encoded:
        """The rows of a table with the columns of the fit, whatever their order, as vectors."""
        parts, log_scale, known = [], np.zeros(len(table)), np.ones(len(table), bool)
        for column in self._columns:
            values, scale, *rest = column.encode(table[column.name])
            parts.append(values.reshape(len(table), -1))
            log_scale += np.nan_to_num(scale)
            known &= rest[0] if rest else True
        values = (np.concatenate(parts, axis=1) - self._mean) / self._scale
        log_scale -= np.where(np.isnan(values), 0.0, np.log(self._scale)).sum(axis=1)
        if self._powers is not None:
            values, log_slopes = self._powers.transform(values)
            log_scale += log_slopes
        return Encoded(values, log_scale, known)

    def decode(self, values: np.ndarray) -> Any:
        """A `pandas.DataFrame` of the rows that vectors stand for, in the types and the order of the fit."""
        with extra("sklearn"):
            import pandas

        values, start, found = values.astype(np.float64), 0, {}
        values = (values if self._powers is None else self._powers.inverse(values)) * self._scale + self._mean
        for column in self._columns:
            part = values[:, start : start + column.size]
            found[column.name] = _of_dtype(pandas.Series(column.decode(part)), self._dtypes[column.name])
            start += column.size
        return pandas.DataFrame(found, columns=self._names)

    def _warn(self, table):
        """Names the columns that are constant, and those that repeat or depend on others."""
        values = self.encode(table).values
        values = values[~np.isnan(values).any(axis=1)]
        if len(values) < 2:
            return
        varies = np.ptp(values, axis=0) > 0
        constant = [c.name for i, c in enumerate(self._columns) if not varies[self.owners == i].any()]
        if constant:
            warnings.warn(
                f"These columns have one value in all rows, and tell nothing of them: {_short(constant)}.",
                stacklevel=4,
            )
        numbers = np.array([not getattr(c, "is_one_hot", False) for c in self._columns])[self.owners] & varies
        if not 2 <= numbers.sum() < len(values):
            return
        variances, axes = np.linalg.eigh(np.atleast_2d(np.cov(values[:, numbers].T)))
        involved = np.abs(axes[:, variances < _DEPENDENT * variances[-1]]).max(axis=1, initial=0.0) > 1e-3
        if involved.any():
            names = [self._names[i] for i in self.owners[numbers][involved]]
            warnings.warn(
                f"These columns repeat or depend on each other linearly: {_short(names)}. On the plane of their "
                "values the density is bounded by the noise alone: leave some of them out.",
                stacklevel=4,
            )


class _Powers:
    r"""Yeo-Johnson transforms of standardized coordinates, where they help; the results are standardized again.

    For \\(z \ge 0\\), \\(y = ((1 + z)^\lambda - 1) / \lambda\\), and for \\(z < 0\\) it is minus that of \\(-z\\)
    with \\(2 - \lambda\\). With \\(\lambda\\) in [0, 2] y takes all real values. A coordinate is transformed if its
    normal log-likelihood rises by two standard errors on each half of the rows, with the parameters of the other.

    References:
      Yeo and Johnson, A new family of power transformations to improve normality or symmetry, 2000.
    """

    def __init__(self, values, is_discrete):
        chosen = [None if skip else _power(x[~np.isnan(x)]) for x, skip in zip(values.T, is_discrete, strict=True)]
        self._places = [place for place, power in enumerate(chosen) if power is not None]
        self._lambdas = np.array([chosen[place] for place in self._places])
        self._mean, self._scale = 0.0, 1.0
        powered = _yeo_johnson(values[:, self._places], self._lambdas)[0]
        self._mean, self._scale = np.nanmean(powered, axis=0), np.nanstd(powered, axis=0)

    def transform(self, values):
        """The transformed values, and the sum of the logarithms of the slopes."""
        values, powered = values.copy(), values[:, self._places]
        y, log_slopes = _yeo_johnson(powered, self._lambdas)
        values[:, self._places] = (y - self._mean) / self._scale
        return values, np.nan_to_num(log_slopes - np.log(self._scale)).sum(axis=1)

    def inverse(self, values):
        values = values.copy()
        y = values[:, self._places] * self._scale + self._mean
        above, below = (
            special.inv_boxcox1p(np.maximum(sign * y, 0.0), power)
            for sign, power in ((1, self._lambdas), (-1, 2 - self._lambdas))
        )
        values[:, self._places] = np.where(y >= 0, above, -below)
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
        power = _fitted_power(own)
        (y, _), (y_new, log_slopes) = (_yeo_johnson(part, power) for part in (own, other))
        gains.append(_normal(y_new, y) + log_slopes - _normal(other, own))
    is_better = all(gain.mean() > 2 * gain.std() / math.sqrt(len(gain)) for gain in gains)
    return _fitted_power(z) if is_better else None


def _fitted_power(z):
    return np.clip(stats.yeojohnson_normmax(z), 0.0, 2.0)


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
        return _Levels(name, tuple(levels), True)
    if isinstance(dtype, (pandas.PeriodDtype, pandas.SparseDtype)) or pandas.api.types.is_timedelta64_dtype(dtype):
        raise ValueError(
            f"Column {name!r} is of type {dtype}: convert periods by .dt.to_timestamp(), durations by "
            ".dt.total_seconds(), and sparse columns by .sparse.to_dense()."
        )
    is_number = pandas.api.types.is_numeric_dtype(dtype) and not pandas.api.types.is_bool_dtype(dtype)
    if bounds is not None and (is_category or not is_number):
        raise ValueError(f"Column {name!r} has bounds, and is none of numbers: its type is {dtype}.")
    if isinstance(dtype, pandas.CategoricalDtype):
        used = set(present)
        levels = tuple(level for level in dtype.categories if dtype.ordered or level in used)
        return _checked_levels(_Levels(name, levels, bool(dtype.ordered)), len(present))
    if pandas.api.types.is_datetime64_any_dtype(dtype):
        times = present.to_numpy("datetime64[ns]")
        return _Date(name, times.min(), bool(np.all((times - times.min()) % _DAY == np.timedelta64(0))))
    if is_category or not is_number:
        values = sorted(present.unique(), key=lambda value: (str(type(value)), value))
        return _checked_levels(_Levels(name, tuple(values), False), len(present))
    x, kind = _floats(name, present), getattr(dtype, "numpy_dtype", dtype)
    if bounds is not None:
        low, high = (
            fill if end is None else float(end) for end, fill in zip(bounds, (-math.inf, math.inf), strict=True)
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
        return first, 1.0 if is_whole else float(abs(first) or 1.0), 1
    if not is_whole and len(distinct) * _FEW > len(x):
        return None
    step = 1.0 if is_whole else float(np.diff(distinct).min())
    cells = (distinct - first) / step
    if x.std() > _COARSE * step or np.abs(cells - np.round(cells)).max() > _ON_GRID:
        return None
    return first, step, int(np.round(cells[-1])) + 1


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
