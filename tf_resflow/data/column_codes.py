"""What the columns of a table are, and their values as numbers: in units of the table, and codes of levels."""

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from tf_resflow.extras import extra
from tf_resflow.plurals import shortened

__all__ = ["MOST_LEVELS", "Cells", "ColumnCodes", "Encoded", "ReadRows", "dependent", "in_words"]

_FEW = 10  # rows for each value of a column of floats, from which on it may be levels on a grid
_ON_GRID = 0.01  # of a step: the largest distance of a value from a grid
_COARSE = 50.0  # steps that a standard deviation has at most, if a column is dequantized
_NARROW = 1e-6  # width of the cell of a column of one value, beside the value
MOST_LEVELS = 100
"""The largest number of levels of a category."""

_DEPENDENT = 1e-9  # variance of a combination of standardized columns that is constant
_TIME, _DAY = "datetime64[us]", np.timedelta64(1, "D")


class Cells(NamedTuple):
    r"""The cells of the discrete coordinates of vectors, arrays `[size]`.

    The values of a coordinate are \\(first + k \cdot step\\), \\(k = 0, \dots, num - 1\\), each in the middle of
    its cell. The step of a continuous coordinate is 0.
    """

    first: np.ndarray
    step: np.ndarray
    num: np.ndarray

    @property
    def log_volume(self) -> float:
        """The logarithm of the volume of a cell in the discrete coordinates."""
        return float(np.log(self.step[self.step > 0]).sum())


class Encoded(NamedTuple):
    """Rows as vectors.

    Attributes:
      values: `[num, size]` float64; of a discrete coordinate the lower edge of its cell; NaN where a value is
        missing.
      log_scale: `[num]`: the log-density of a row is that of its vector plus it.
      known: `[num]`, whether all categories are those of the fit: the probability of others is 0.
    """

    values: np.ndarray
    log_scale: np.ndarray
    known: np.ndarray


class ReadRows(NamedTuple):
    """Rows of another table in the units of a `ColumnCodes`.

    Attributes:
      values: `[num, size]` float64; NaN where a value is missing or cannot be read.
      known: `[num]`, whether all levels are known; the value of another one is -1.
      unreadable: `[num]`, whether a value of a row is there, and cannot be read.
      reasons: `[num]`, what is wrong with a row in words, or "".
    """

    values: np.ndarray
    known: np.ndarray
    unreadable: np.ndarray
    reasons: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Number:
    """A real number, in the units of the table; a bounded one through the logarithm or the logit."""

    name: Any
    dtype: Any
    low: float = -math.inf
    high: float = math.inf
    is_discrete = False
    kind = "number"
    cell = (0.0, 0.0, 0)

    def readable(self, column, date_format):
        return _numbers(column)

    def as_dict(self):
        bounds = {"low": self.low, "high": self.high}
        return {name: bound for name, bound in bounds.items() if math.isfinite(bound)}

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
    """A time, as days since a first one: whole ones if those of the fit are."""

    name: Any
    start: np.datetime64
    num: int  # whole days; 0 if there are parts of days
    is_discrete = False
    kind = "date"

    @property
    def cell(self):
        return 0.0, float(self.num > 0), self.num

    def readable(self, column, date_format):
        with extra("data"):
            import pandas

        times = pandas.to_datetime(column, format=date_format or "ISO8601", errors="coerce", utc=True)
        return times, np.where(times.isna() & column.notna(), "no date", "")

    def as_dict(self):
        return {"start": str(self.start), "num": self.num}

    def encode(self, column):
        values = column.to_numpy(_TIME)
        days = (values - self.start) / _DAY
        return np.where(np.isnat(values), np.nan, np.floor(days) if self.num else days), 0.0, True

    def decode(self, y):
        days = np.round(y) if self.num else y
        return self.start + np.round(days * 86400e3).astype("timedelta64[ms]")


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

    @property
    def cell(self):
        return self.first, self.step, self.num

    def readable(self, column, date_format):
        return _numbers(column)

    def as_dict(self):
        return {"first": self.first, "step": self.step, "num": self.num}

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

    @property
    def cell(self):
        return 0.0, 1.0, len(self.levels)

    def readable(self, column, date_format):
        known = {in_words(level): level for level in self.levels}
        return column.map(lambda value: known.get(in_words(value), value), na_action="ignore"), ""

    def as_dict(self):
        levels = [level.item() if isinstance(level, np.generic) else level for level in self.levels]
        if bad := [level for level in levels if not isinstance(level, (str, bool, int, float))]:
            raise ValueError(
                f"Column {self.name!r}: its levels are of type {type(bad[0]).__name__}; make them text."
            )
        return {"levels": levels}

    def encode(self, column):
        with extra("data"):
            import pandas

        codes = pandas.Index(self.levels).get_indexer(pandas.Index(column))
        is_missing = column.isna().to_numpy()
        return np.where(codes < 0, np.nan, codes), 0.0, is_missing | (codes >= 0)

    def decode(self, y):
        codes = np.clip(np.floor(y), 0, len(self.levels) - 1)
        return np.asarray(self.levels, object)[codes.astype(int)]


class ColumnCodes:
    """The columns of a table as coordinates of vectors: numbers, dates, whole numbers, levels and categories.

    In the units of the table (`read`, `table`) numbers are as they are, and dates days since the first one. A whole
    number is in the middle of its cell, and so is a level at its number 0, 1, ...: ordered ones in their order,
    others with the most frequent one first. `encode` and `decode` have the number of the cell instead, at its lower
    edge, and the bounds of numbers: see `Columns`, which also has the arguments.

    Attributes:
      kinds: what each column is, by its name.
      size: number of columns.
      is_discrete: `[size]`, which columns have cells in `encode`.
      cells: the `Cells` in units, where whole days have some, too; None if all columns are continuous.
    """

    def __init__(
        self,
        table: Any,
        *,
        ordered: Mapping[Any, Sequence[Any]] | None = None,
        categories: Collection[Any] = (),
        bounds: Mapping[Any, tuple[float | None, float | None]] | None = None,
    ):
        ordered, bounds, names = dict(ordered or {}), dict(bounds or {}), list(table.columns)
        if twice := sorted({str(name) for name in names if names.count(name) > 1}):
            raise ValueError(f"Two columns have the name {twice[0]!r}. Give each column a name of its own.")
        if unknown := [name for name in [*ordered, *categories, *bounds] if name not in names]:
            raise ValueError(f"There is no column {unknown[0]!r}; the columns are {shortened(names)}.")
        self._set(
            [_column(n, table[n], ordered.get(n), n in categories, bounds.get(n)) for n in names],
            dict(table.dtypes),
        )

    def _set(self, columns, dtypes):
        self._columns, self._dtypes, self.size = columns, dtypes, len(columns)
        self.kinds = {column.name: column.kind for column in columns}
        self.is_discrete = np.array([column.is_discrete for column in columns])
        first, step, num = (np.array(part) for part in zip(*(column.cell for column in columns), strict=True))
        self.cells = Cells(first, step, num) if step.any() else None
        self._first, self._step = first, np.where(step > 0, step, 1.0)

    @classmethod
    def of_numbers(cls, names: Sequence[Any]) -> "ColumnCodes":
        """The columns of a table of real numbers."""
        return cls.from_list([{"name": name, "kind": "number", "dtype": "float32"} for name in names])

    @classmethod
    def from_list(cls, columns: Sequence[Mapping[str, Any]]) -> "ColumnCodes":
        """The columns that `as_list` describes."""
        with extra("data"):
            import pandas

        codes = cls.__new__(cls)
        dtypes = {column["name"]: pandas.api.types.pandas_dtype(column["dtype"]) for column in columns}
        codes._set([_from_dict(column, dtypes[column["name"]]) for column in columns], dtypes)
        return codes

    def as_list(self) -> list[dict[str, Any]]:
        """The columns as JSON can hold them: the name, kind and type of each, and its levels, first value, ..."""
        return [
            {"name": c.name, "kind": c.kind, "dtype": str(self._dtypes[c.name]), **c.as_dict()}
            for c in self._columns
        ]

    @property
    def texts(self) -> list[Any]:
        """The names of the columns whose levels are text."""
        return [
            c.name for c in self._columns if isinstance(c, _Levels) and any(isinstance(v, str) for v in c.levels)
        ]

    @property
    def labels(self) -> list[list[str] | None]:
        """The levels of each column in words, None of columns of numbers and dates."""
        return [[in_words(v) for v in c.levels] if isinstance(c, _Levels) else None for c in self._columns]

    @property
    def starts(self) -> list[Any]:
        """The day 0 of each column of dates, None of others."""
        return [c.start if isinstance(c, _Date) else None for c in self._columns]

    def encode(self, table: Any) -> Encoded:
        """The rows of a table with these columns, whatever their order."""
        num = len(table)
        values, log_scale, known = np.empty([num, self.size]), np.zeros(num), np.ones(num, bool)
        for place, column in enumerate(self._columns):
            values[:, place], slopes, is_known = column.encode(table[column.name])
            log_scale += np.nan_to_num(slopes)
            known &= is_known
        return Encoded(values, log_scale, known)

    def decode(self, values: np.ndarray) -> Any:
        """A `pandas.DataFrame` of the rows that have these codes, in the types and the order of the columns."""
        with extra("data"):
            import pandas

        found = {
            column.name: _of_dtype(pandas.Series(column.decode(values[:, place])), self._dtypes[column.name])
            for place, column in enumerate(self._columns)
        }
        return pandas.DataFrame(found, columns=list(self.kinds))

    def read(self, table: Any, *, date_format: str | None = None) -> ReadRows:
        """The rows of any table with these columns, in units; `date_format` is of text, by default ISO 8601."""
        num = len(table)
        values, known = np.empty([num, self.size]), np.ones(num, bool)
        unreadable, reasons = np.zeros(num, bool), np.full(num, "", object)
        for place, column in enumerate(self._columns):
            written = table[column.name].reset_index(drop=True)
            readable, wrong = column.readable(written, date_format)
            codes, _, is_known = column.encode(readable)
            codes = np.where(is_known, codes, -1.0)
            values[:, place] = self._first[place] + self._step[place] * codes
            wrong = np.where(is_known, wrong, "no level of the training")
            for row in np.flatnonzero((wrong != "") | np.isnan(codes)):
                if wrong[row] and not unreadable[row]:
                    reasons[row] = f"column {column.name!r}: {in_words(written[row])[:40]!r} is {wrong[row]}"
                    unreadable[row] = True
                reasons[row] = reasons[row] or f"column {column.name!r}: the value is missing"
            known &= is_known
        return ReadRows(values, known, unreadable, reasons)

    def table(self, values: np.ndarray) -> Any:
        """A `pandas.DataFrame` of vectors in units, in the types and the order of the columns."""
        codes = (values.astype(np.float64) - self._first) / self._step
        return self.decode(codes + 0.5 * self.is_discrete)

    def describe(self) -> dict[Any, str]:
        """What the numbers of discrete columns and of dates stand for, in words, by the names of the columns."""
        return {column.name: text for column in self._columns if (text := _described(column))}


def _from_dict(column, dtype):
    """The column of a dict of `as_list`."""
    name, kind, number = column["name"], column["kind"], getattr(dtype, "numpy_dtype", dtype)
    if kind == "number":
        return _Number(name, number, column.get("low", -math.inf), column.get("high", math.inf))
    if kind == "date":
        return _Date(name, np.datetime64(column["start"]).astype(_TIME), column["num"])
    if kind == "whole number":
        return _Grid(name, number, column["first"], column["step"], column["num"])
    return _Levels(name, tuple(column["levels"]), kind)


def _described(column):
    if isinstance(column, _Levels):
        return "the number of the level: " + ", ".join(f"{i} {level}" for i, level in enumerate(column.levels))
    if isinstance(column, _Date):
        return f"days since {str(column.start).removesuffix('T00:00:00.000000')}"
    if isinstance(column, _Grid):
        last = column.first + (column.num - 1) * column.step
        return f"{column.first:g} to {last:.9g} in steps of {column.step:.9g}"
    return ""


def dependent(values: np.ndarray) -> np.ndarray:
    """Which columns `[size]` of vectors, which vary, repeat or depend on each other linearly."""
    values = values[~np.isnan(values).any(axis=1)]
    if not 2 <= values.shape[1] < len(values):
        return np.zeros(values.shape[1], bool)
    variances, axes = np.linalg.eigh(np.atleast_2d(np.cov(values.T)))
    return np.abs(axes[:, variances < _DEPENDENT * variances[-1]]).max(axis=1, initial=0.0) > 1e-3


def _column(name, column, levels, is_category, bounds):
    """What a column is."""
    with extra("data"):
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
        days = (times - times.min()) / _DAY
        return _Date(name, times.min(), int(days.max()) + 1 if np.all(days == np.floor(days)) else 0)
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
    if len(column.levels) > MOST_LEVELS:
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
    with extra("data"):
        import pandas

    try:
        x = pandas.to_numeric(column).to_numpy(np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Column {name!r} has numbers; got a value that is none: {error}") from None
    if infinite := np.count_nonzero(np.isinf(x)):
        raise ValueError(f"Column {name!r}: {infinite} values are infinite. Leave these rows out.")
    return x


def _numbers(column):
    """A column as finite numbers, and what is wrong with each value."""
    with extra("data"):
        import pandas

    x = pandas.to_numeric(column, errors="coerce")
    is_infinite = np.isinf(x.to_numpy(np.float64, na_value=np.nan))
    return x.mask(is_infinite), np.where(
        x.isna() & column.notna(), "no number", np.where(is_infinite, "infinite", "")
    )


def in_words(value: Any) -> str:
    """A level in words: whole numbers as such."""
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value).strip()
