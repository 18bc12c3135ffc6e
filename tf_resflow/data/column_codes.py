"""The kinds of the columns of a table, and their values as numbers."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from tf_resflow.extras import extra
from tf_resflow.models.dequantization import OFF_GRID, Cells
from tf_resflow.plurals import shortened

__all__ = [
    "EXACT",
    "KINDS",
    "MOST_LEVELS",
    "ColumnCodes",
    "Encoded",
    "ReadRows",
    "dependent",
    "in_words",
    "kinds_in_words",
]

KINDS = ("number", "whole", "category", "date", "day")
"""The kinds of columns. A positive number is a kind, too, the step of a grid; so is a list of ordered levels."""

MOST_LEVELS = 100
"""The largest number of levels of a category, and of values of a grid that has ends."""

EXACT = 2**53
"""Float64 holds every whole number of at most this magnitude."""

_SIGNIFICANT = 15  # digits of the values of a grid
_RESOLUTION = 1e-4  # of a deviation: the coarsest spacing of float32 that needs no offset
_DEPENDENT = 1e-9  # variance of a combination of standardized columns that is constant
_TIME, _DAY = "datetime64[us]", np.timedelta64(1, "D")
_OLD_KINDS = {"whole number": "whole", "ordered levels": "ordered"}  # in the data.json of earlier versions


class Encoded(NamedTuple):
    """The rows of a table as codes, arrays `[num, size]` unless stated otherwise.

    Attributes:
      values: float64. The value of a continuous coordinate, or the lower edge of the cell of a discrete one. NaN
        marks a missing value.
      widths: the widths of the cells, 0 in continuous coordinates.
      ends: bool, `[2, num, size]`: whether the cell is the first one and whether it is the last one. These cells
        include what lies beyond them.
      log_scale: `[num]`. The log-density of a row is the log-density of its vector plus this value. It includes the
        logarithms of the widths.
      known: `[num]`, whether every value can occur. A row with a value that cannot has probability 0.
    """

    values: np.ndarray
    widths: np.ndarray
    ends: np.ndarray
    log_scale: np.ndarray
    known: np.ndarray


class ReadRows(NamedTuple):
    """Rows of another table as vectors in the units of a `ColumnCodes`.

    Attributes:
      values: `[num, size]` float64. NaN marks a value that is missing or cannot be read.
      known: `[num]`, whether every value can occur. The number of an unknown level is -1.
      unreadable: `[num]`, whether a row has a value that cannot be read or cannot occur.
      reasons: `[num]`, what is wrong with a row, or "".
    """

    values: np.ndarray
    known: np.ndarray
    unreadable: np.ndarray
    reasons: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Column:
    """A column, with its name and its type in pandas.

    `encode` maps values to codes. A value of a discrete column is the number k = 0, 1, ... of its cell [k, k + 1).
    In units, a vector holds `first` + `step` k.
    """

    name: Any
    dtype: Any

    is_discrete = True
    first, step, num, offset = 0.0, 1.0, 0, 0
    levels = start = None

    @property
    def ends(self) -> tuple[float, float]:
        """The first and the last code; infinite without an end."""
        return (0.0, self.num - 1.0) if self.num <= MOST_LEVELS else (-math.inf, math.inf)

    def readable(self, column, date_format):
        """A column of any table in the type of this one, and the reasons why values cannot be read."""
        _check_is_number(self.name, column)
        with extra("data"):
            import pandas

        x = pandas.to_numeric(column, errors="coerce")
        is_infinite = np.isinf(x.to_numpy(np.float64, na_value=np.nan))
        wrong = np.where(x.isna() & column.notna(), "not a number", np.where(is_infinite, "infinite", ""))
        return x.mask(is_infinite), wrong

    def description(self):
        """What the numbers of the column mean."""
        return ""


@dataclasses.dataclass(frozen=True)
class _Number(_Column):
    """A real number less an offset; a bounded number through the logarithm or the logit."""

    low: float = -math.inf
    high: float = math.inf
    offset: Any = 0
    is_discrete = False
    kind = "number"
    impossible = "outside of the bounds"

    @classmethod
    def fit(cls, name, column, bounds):
        if bounds is None:
            return cls(name, column.dtype, offset=_offset(name, column))
        low, high = (
            fill if end is None else float(end) for end, fill in zip(bounds, (-math.inf, math.inf), strict=True)
        )
        if not low < high:
            raise ValueError(f"Column {name!r}: the bounds are (low, high), with low < high; got {bounds}.")
        x = _floats(name, column)
        if outside := np.count_nonzero((x <= low) | (x >= high)):
            raise ValueError(
                f"Column {name!r}: {outside} values are not strictly between its bounds {low} and {high}. Leave "
                "these rows out, or give other bounds."
            )
        return cls(name, column.dtype, low, high)

    def as_dict(self):
        bounds = {"low": self.low, "high": self.high}
        found = {name: bound for name, bound in bounds.items() if math.isfinite(bound)}
        return found | ({"offset": self.offset} if self.offset else {})

    def encode(self, column):
        x = _floats(self.name, column, self.offset)
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
        dtype = _numpy_dtype(self.dtype)
        if dtype.kind in "iu":
            least = math.floor(self.low) + 1 if math.isfinite(self.low) else -math.inf
            most = math.ceil(self.high) - 1 if math.isfinite(self.high) else math.inf
            return _integers(np.round(y), self.offset, dtype, least, most)
        kind = dtype.type
        low, high = np.nextafter(kind(self.low), kind(np.inf)), np.nextafter(kind(self.high), kind(-np.inf))
        return np.clip((y + self.offset).astype(dtype), low, high)


@dataclasses.dataclass(frozen=True)
class _Grid(_Column):
    """Numbers on a grid: multiples of a step, which is 1 for whole numbers."""

    origin: Any = 0  # the smallest value of the fit
    step: float = 1.0
    num: int = 1
    offset: Any = 0

    @classmethod
    def fit(cls, name, column, step):
        origin = _smallest(column)
        is_whole = isinstance(step, int) and origin == int(origin)
        origin = int(origin) // step * step if is_whole else float(_rounded(step * round(origin / step), step))
        grid = cls(name, column.dtype, origin, step, offset=origin if _offset(name, column, step) else 0)
        codes, _, known = grid.encode(column)
        if not known.all():
            raise ValueError(
                f"Column {name!r}: {np.count_nonzero(~known)} of {len(known)} values are {grid.impossible}, such "
                f'as {column.iloc[np.argmin(known)]}. Round them, or use kinds={{{name!r}: "number"}}.'
            )
        return dataclasses.replace(grid, num=int(codes.max()) + 1)

    @property
    def kind(self):
        return "whole" if self.step == 1 else self.step

    @property
    def first(self):  # type: ignore[override]
        return float(self.origin - self.offset)

    @property
    def impossible(self):
        return "not a whole number" if self.step == 1 else f"not a multiple of {self.step:g}"

    @property
    def ends(self):
        dtype = _numpy_dtype(self.dtype)
        if self.num <= MOST_LEVELS or dtype.kind not in "iu":
            return super().ends
        below, above = self.origin - int(np.iinfo(dtype).min), int(np.iinfo(dtype).max) - self.origin
        return -float(below // self.step), float(above // self.step)

    def as_dict(self):
        found = {"first": self.origin, "step": self.step, "num": self.num}
        return found | ({"offset": self.offset} if self.offset else {})

    def encode(self, column):
        column = _numeric(self.name, column)
        places = _floats(self.name, column, self.origin) / self.step
        codes, rounding = np.round(places), 2 * np.finfo(np.float64).eps * np.abs(places)
        if self.step % 1 or self.origin % 1:  # whole numbers have no rounding errors
            types = [_numpy_dtype(dtype) for dtype in (column.dtype, self.dtype)]
            eps = max(np.finfo(dtype if dtype.kind == "f" else np.float64).eps for dtype in types)
            rounding = 4 * eps * (abs(self.origin) / self.step + np.abs(places))
        return codes, 0.0, ~(np.abs(places - codes) > OFF_GRID + rounding)

    def decode(self, y):
        codes, dtype = np.clip(np.floor(y), *self.ends), _numpy_dtype(self.dtype)
        if dtype.kind in "iu":
            return _integers(self.step * codes, self.origin, dtype)
        return _rounded(self.origin + self.step * codes, self.step).astype(dtype)

    def description(self):
        last = self.origin + (self.num - 1) * self.step
        return f"{self.origin:.9g} to {last:.9g} in steps of {self.step:.9g}"


@dataclasses.dataclass(frozen=True)
class _Date(_Column):
    """A time, as days since the first one; a whole day if `num` is not 0."""

    start: Any = None
    num: int = 0
    impossible = "not a whole day"

    @classmethod
    def fit(cls, name, column, kind):
        times = _times(name, column, in_zone=True)
        days = (times - times.min()) / _DAY
        is_whole = days == np.floor(days)
        if kind == "dates":
            kind = "day" if is_whole.all() else "date"
        if kind == "day" and not is_whole.all():
            raise ValueError(
                f"Column {name!r}: {times[np.argmin(is_whole)]} and {times.min()} are not whole days apart. Round "
                f'the times by .dt.floor("D"), or give kinds={{{name!r}: "date"}}.'
            )
        if kind == "day":
            return cls(name, column.dtype, times.min(), int(days.max()) + 1)
        return cls(name, column.dtype, _times(name, column).min())

    @property
    def kind(self):
        return "day" if self.num else "date"

    @property
    def is_discrete(self):  # type: ignore[override]
        return self.num > 0

    def readable(self, column, date_format):
        with extra("data"):
            import pandas

        if column.dtype.kind in "iufcbm":
            _times(self.name, column)  # raises, unless all values are missing
        times = pandas.to_datetime(column, format=date_format or "ISO8601", errors="coerce", utc=True)
        times = times.dt.tz_convert(getattr(self.dtype, "tz", None) or "UTC")
        return times, np.where(times.isna() & column.notna(), "not a date", "")

    def as_dict(self):
        return {"start": str(self.start), "num": self.num}

    def encode(self, column):
        values = _times(self.name, column, in_zone=self.num > 0)
        days = np.where(np.isnat(values), np.nan, (values - self.start) / _DAY)
        return (np.round(days), 0.0, np.isnan(days) | (days == np.round(days))) if self.num else (days, 0.0, True)

    def decode(self, y):
        with extra("data"):
            import pandas

        days = np.clip(np.floor(y), *self.ends) if self.num else y
        times = pandas.DatetimeIndex(self.start + np.round(days * 86400e3).astype("timedelta64[ms]"))
        zone = getattr(self.dtype, "tz", None) if self.num else None
        return times.tz_localize(zone or "UTC", ambiguous=np.ones(len(times), bool), nonexistent="shift_forward")

    def description(self):
        return f"days since {str(self.start).removesuffix('T00:00:00.000000')}"


@dataclasses.dataclass(frozen=True)
class _Levels(_Column):
    """One of several levels, as its number."""

    levels: Any = ()
    is_ordered: bool = False
    impossible = "not a level of the training"

    @property
    def kind(self):
        return list(self.levels) if self.is_ordered else "category"

    @property
    def num(self):  # type: ignore[override]
        return len(self.levels)

    @property
    def ends(self):
        return 0.0, self.num - 1.0

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
        codes = np.clip(np.floor(y), *self.ends)
        return np.asarray(self.levels, object)[codes.astype(int)]

    def description(self):
        return "the number of the level: " + ", ".join(f"{i} {level}" for i, level in enumerate(self.levels))


class ColumnCodes:
    """The columns of a table as coordinates of vectors.

    The type of a column decides its kind, unless `kinds` does:

    - "number": floats.
    - "whole": integers, and floats that are all integers.
    - a number: the step of a grid, such as 0.1. No grid is guessed.
    - "category": booleans, text and categories, numbered by frequency.
    - a list: the levels of an ordered column, lowest first.
    - "date": times, as days since the first one. "day": times that are whole days apart.

    In units (`read`, `table`), a vector holds a number itself, the number of a level, or the number of days. A
    discrete value is in the middle of its cell. If float32 cannot resolve the values of a column, an offset is
    subtracted from them. `encode` and `decode` use the lower edges of the cells, numbered from 0; see `Columns`.

    Args:
      table: `pandas.DataFrame` of the rows of the fit.
      kinds: the kinds of columns by their names, instead of those that the types imply.
      bounds: pairs (low, high) by the names of columns of numbers. Either end may be None.

    Attributes:
      kinds: the kind of each column, by its name, in the form of the argument.
      size: number of columns.
      is_discrete: `[size]`, which columns have cells.
      offsets: `[size]`, what is subtracted from the values of a column.
      cells: the `Cells` in units; None if all columns are continuous.

    Raises:
      ValueError: if a column cannot be read as its kind, all its values are missing, or it has over 100 levels.
    """

    def __init__(
        self,
        table: Any,
        *,
        kinds: Mapping[Any, Any] | None = None,
        bounds: Mapping[Any, tuple[float | None, float | None]] | None = None,
    ):
        kinds, bounds, names = dict(kinds or {}), dict(bounds or {}), list(table.columns)
        if twice := sorted({str(name) for name in names if names.count(name) > 1}):
            raise ValueError(f"Two columns have the name {twice[0]!r}. Give each column a name of its own.")
        if unknown := [name for name in [*kinds, *bounds] if name not in names]:
            raise ValueError(f"There is no column {unknown[0]!r}; the columns are {shortened(names)}.")
        self._set([_fitted(name, table[name], kinds.get(name), bounds.get(name)) for name in names])

    def _set(self, columns):
        self._columns, self.size = columns, len(columns)
        self.kinds = {column.name: column.kind for column in columns}
        self.is_discrete = np.array([column.is_discrete for column in columns])
        self.offsets = np.array([float(column.offset) for column in columns])
        self._first, self._step = (np.array([getattr(c, part) for c in columns]) for part in ("first", "step"))
        num = [c.num if c.num <= MOST_LEVELS else math.inf for c in columns]
        parts = (np.where(self.is_discrete, part, 0.0) for part in (self._first, self._step, num))
        self.cells = Cells(*parts) if self.is_discrete.any() else None

    @classmethod
    def of_numbers(cls, names: Sequence[Any]) -> "ColumnCodes":
        """The columns of a table of real numbers."""
        return cls.from_list([{"name": name, "kind": "number", "dtype": "float32"} for name in names])

    @classmethod
    def from_list(cls, columns: Sequence[Mapping[str, Any]]) -> "ColumnCodes":
        """The columns that `as_list` describes."""
        codes = cls.__new__(cls)
        codes._set([_from_dict(column) for column in columns])
        return codes

    def as_list(self) -> list[dict[str, Any]]:
        """The name, kind, type and settings of each column, as values that JSON can hold."""
        names = {_Number: "number", _Grid: "whole", _Date: "date"}
        return [
            {
                "name": c.name,
                "kind": names.get(type(c)) or ("ordered" if c.is_ordered else "category"),
                "dtype": str(c.dtype),
                **c.as_dict(),
            }
            for c in self._columns
        ]

    @property
    def texts(self) -> list[Any]:
        """The names of the columns whose levels are text."""
        return [c.name for c in self._columns if any(isinstance(level, str) for level in c.levels or ())]

    @property
    def labels(self) -> list[list[str] | None]:
        """The levels of each column in words; None for columns without levels."""
        return [None if c.levels is None else [in_words(level) for level in c.levels] for c in self._columns]

    @property
    def starts(self) -> list[Any]:
        """Day 0 of each column of dates; None for other columns."""
        return [c.start for c in self._columns]

    def encode(self, table: Any) -> Encoded:
        """The rows of a table with these columns in any order."""
        num = len(table)
        values, log_scale, known = np.empty([num, self.size]), np.zeros(num), np.ones(num, bool)
        for place, column in enumerate(self._columns):
            values[:, place], slopes, is_known = column.encode(table[column.name])
            log_scale += np.nan_to_num(slopes)
            known &= is_known
        widths = np.broadcast_to(self.is_discrete.astype(np.float64), values.shape)
        limits = np.array([c.ends if c.is_discrete else (math.nan, math.nan) for c in self._columns]).T
        return Encoded(values, widths, values == limits[:, np.newaxis], log_scale, known)

    def decode(self, values: np.ndarray) -> Any:
        """A `pandas.DataFrame` of the rows with these codes, in the types and the order of the columns."""
        with extra("data"):
            import pandas

        found = {
            column.name: _of_dtype(pandas.Series(column.decode(values[:, place])), column.dtype)
            for place, column in enumerate(self._columns)
        }
        return pandas.DataFrame(found, columns=list(self.kinds))

    def read(self, table: Any, *, date_format: str | None = None) -> ReadRows:
        """The rows of any table with these columns, in units.

        Args:
          table: `pandas.DataFrame`. Values may be text.
          date_format: format of dates that are text; ISO 8601 by default.

        Raises:
          ValueError: if a column of numbers has the type of dates, or the other way round.
        """
        num = len(table)
        values, known = np.empty([num, self.size]), np.ones(num, bool)
        unreadable, reasons = np.zeros(num, bool), np.full(num, "", object)
        for place, column in enumerate(self._columns):
            written = table[column.name].reset_index(drop=True)
            readable, wrong = column.readable(written, date_format)
            codes, _, is_known = column.encode(readable)
            codes = np.where(is_known, codes, -1.0)
            values[:, place] = self._first[place] + self._step[place] * codes
            wrong = np.where(is_known, wrong, column.impossible)
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

    def with_offsets(self, values: np.ndarray) -> np.ndarray:
        """Vectors in units with the offsets added again, in float64 if there are offsets."""
        return values + self.offsets if self.offsets.any() else values

    def describe(self) -> dict[Any, str]:
        """What the numbers of discrete columns and of dates mean, by the names of the columns."""
        return {column.name: text for column in self._columns if (text := column.description())}


def _from_dict(column):
    """The column that a dict of `as_list` describes, of earlier versions, too."""
    with extra("data"):
        import pandas

    name, dtype = column["name"], pandas.api.types.pandas_dtype(column["dtype"])
    kind, offset = _OLD_KINDS.get(column["kind"], column["kind"]), column.get("offset", 0)
    if kind == "number":
        return _Number(name, dtype, column.get("low", -math.inf), column.get("high", math.inf), offset)
    if kind == "date":
        return _Date(name, dtype, np.datetime64(column["start"]).astype(_TIME), column["num"])
    if kind == "whole":
        return _Grid(name, dtype, column["first"], column["step"], column["num"], offset)
    return _Levels(name, dtype, tuple(column["levels"]), kind == "ordered")


def dependent(values: np.ndarray) -> np.ndarray:
    """Which columns `[size]` of vectors, which vary, repeat or depend on each other linearly."""
    values = values[~np.isnan(values).any(axis=1)]
    if not 2 <= values.shape[1] < len(values):
        return np.zeros(values.shape[1], bool)
    variances, axes = np.linalg.eigh(np.atleast_2d(np.cov(values.T)))
    return np.abs(axes[:, variances < _DEPENDENT * variances[-1]]).max(axis=1, initial=0.0) > 1e-3


def _fitted(name, column, kind, bounds):
    """The column of a table, of a given kind or of that which its type implies."""
    with extra("data"):
        import pandas

    present, dtype = column.dropna(), column.dtype
    if not len(present):
        raise ValueError(f"Column {name!r}: all values are missing. Leave it out.")
    if isinstance(dtype, (pandas.PeriodDtype, pandas.SparseDtype)) or pandas.api.types.is_timedelta64_dtype(dtype):
        raise ValueError(
            f"Column {name!r} is of type {dtype}: convert periods by .dt.to_timestamp(), durations by "
            ".dt.total_seconds(), and sparse columns by .sparse.to_dense()."
        )
    if kind is None:
        kind = "number" if bounds is not None else _implied_kind(name, present)
    if bounds is not None and (kind != "number" or not pandas.api.types.is_numeric_dtype(dtype)):
        raise ValueError(f"Column {name!r} has bounds, but it is of type {dtype} and not a column of numbers.")
    if isinstance(kind, (list, tuple)):
        if unknown := [value for value in present.unique() if value not in kind]:
            raise ValueError(f"Column {name!r}: {unknown[0]!r} is not one of its ordered levels {list(kind)}.")
        return _checked_levels(_Levels(name, dtype, tuple(kind), is_ordered=True), len(present))
    if kind == "category":
        return _checked_levels(_Levels(name, dtype, tuple(present.value_counts().index)), len(present))
    if kind in ("date", "day", "dates"):
        return _Date.fit(name, present, kind)
    if kind == "number":
        return _Number.fit(name, _numeric(name, present), bounds)
    step: Any = 1 if kind == "whole" else kind
    if isinstance(step, (int, float)) and not isinstance(step, bool) and 0 < step < math.inf:
        return _Grid.fit(name, _numeric(name, present), int(step) if step == int(step) else float(step))
    raise ValueError(
        f"Column {name!r}: a kind is one of {', '.join(KINDS)}, the step of a grid such as 0.1, or a list of "
        f"ordered levels; got {kind!r}."
    )


def _implied_kind(name, present):
    """The kind that the type of a column implies."""
    with extra("data"):
        import pandas

    dtype, types = present.dtype, pandas.api.types
    if isinstance(dtype, pandas.CategoricalDtype):
        return list(dtype.categories) if dtype.ordered else "category"
    if types.is_datetime64_any_dtype(dtype):
        return "dates"  # "day" if all are whole days apart, else "date"
    if types.is_bool_dtype(dtype) or not types.is_numeric_dtype(dtype):
        return "category"
    if types.is_integer_dtype(dtype):
        return "whole"
    x = _floats(name, present)
    return "whole" if np.all((x == np.round(x)) & (np.abs(x) <= EXACT)) else "number"


def _checked_levels(column, num):
    """The column, unless it has too many levels for a category."""
    if len(column.levels) > MOST_LEVELS:
        raise ValueError(
            f"Column {column.name!r} has {len(column.levels)} different values in {num} rows, such as "
            f"{column.levels[0]!r}: too many for a category. Leave it out, or convert it to numbers or times, as "
            "pandas.to_numeric and pandas.to_datetime do."
        )
    return column


def _of_dtype(column, dtype):
    """A column in a type of pandas; times in their zone."""
    if getattr(column.dtype, "tz", None) is not None:
        column = column.dt.tz_convert(getattr(dtype, "tz", None))
    return column.astype(dtype)


def _numpy_dtype(dtype):
    """The type in NumPy of a type in pandas."""
    return np.dtype(getattr(dtype, "numpy_dtype", dtype))


def _numeric(name, column):
    """A column of numbers in a type of numbers."""
    with extra("data"):
        import pandas

    _check_is_number(name, column)
    try:
        column = pandas.to_numeric(column)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Column {name!r} has numbers; got a value that is not one: {error}") from None
    return column.astype("Int8" if column.dtype == "boolean" else "int8") if column.dtype.kind == "b" else column


def _floats(name, column, origin=0):
    """A column of numbers less an origin, as float64; NaN where values are missing.

    Integers that float64 does not hold are subtracted in integer arithmetic.
    """
    with extra("data"):
        import pandas

    column = _numeric(name, column)
    x = column.to_numpy(np.float64, na_value=np.nan)
    if infinite := np.count_nonzero(np.isinf(x)):
        raise ValueError(f"Column {name!r}: {infinite} values are infinite. Leave these rows out.")
    if _numpy_dtype(column.dtype).kind in "iu" and np.nanmax(np.abs(x), initial=0.0) > EXACT:
        return np.array([math.nan if pandas.isna(value) else float(int(value) - origin) for value in column])
    return x - origin


def _smallest(column):
    """The smallest value of a column of numbers, an `int` of a column of integers."""
    return int(column.min()) if _numpy_dtype(column.dtype).kind in "iu" else float(column.min())


def _offset(name, column, step=0.0):
    """A round number near the mean of a column whose values float32 does not resolve, else 0."""
    x = _floats(name, column, origin := _smallest(column))
    resolution = _RESOLUTION * max(deviation := x.std(), step)
    if max(abs(origin), abs(origin + x.max())) * np.finfo(np.float32).eps <= resolution or not deviation:
        return 0
    digits = -math.floor(math.log10(deviation))
    return (
        round(origin + round(x.mean()), min(digits, 0))
        if isinstance(origin, int)
        else round(origin + x.mean(), digits)
    )


def _integers(values, origin, dtype, least=-math.inf, most=math.inf):
    """Integers near `origin + values`, in the range of their type and within limits."""
    limits = np.iinfo(dtype)
    least, most = max(least, int(limits.min)), min(most, int(limits.max))
    return np.array([min(max(round(origin + int(value)), least), most) for value in values], dtype)


def _rounded(values, step):
    """Values on a grid without the rounding errors of their sums and products, such as 3.7000000000000002."""
    largest = max(np.abs(values).max(initial=0.0), step)
    return np.round(values, max(_SIGNIFICANT - math.ceil(math.log10(largest)), 0))


def _check_is_number(name, column):
    """Raises ValueError if a column of numbers holds dates or complex numbers."""
    if column.dtype.kind in "mMc":
        raise ValueError(
            f"Column {name!r} has numbers; got {column.dtype}. Give numbers in the units of the training."
        )


def _times(name, column, in_zone=False):
    """A column of dates as times in UTC, or in its own zone, in which days are whole when the clocks change."""
    with extra("data"):
        import pandas

    if column.dtype.kind in "iufcbm" and column.notna().any():
        raise ValueError(
            f"Column {name!r} has dates; got numbers ({column.dtype}). Convert it by pandas.to_datetime."
        )
    if not pandas.api.types.is_datetime64_any_dtype(column.dtype):
        column = pandas.to_datetime(column)
    if in_zone:
        column = column.dt.tz_localize(None)
    return column.to_numpy(_TIME)


def in_words(value: Any) -> str:
    """A level in words: whole numbers as such."""
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value).strip()


def kinds_in_words(kinds: Mapping[Any, Any]) -> str:
    """The kinds of columns in the form of the field `data.kinds` of a config."""
    words = {name: " < ".join(map(in_words, k)) if isinstance(k, list) else k for name, k in kinds.items()}
    return "; ".join(f"{name}: {kind}" for name, kind in words.items())
