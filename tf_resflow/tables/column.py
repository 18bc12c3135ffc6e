"""The columns of tables. Each class maps values to numbers, and back."""

import base64
import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import numpy as np

from tf_resflow.extras import LazyPackage
from tf_resflow.messages import shortened

pandas: Any = LazyPackage("pandas", "data")
pyarrow: Any = LazyPackage("pyarrow", "data")

Bounds = tuple[float | None, float | None]
"""The lower and the upper bound of a column, both exclusive. None means no bound."""

MOST_LEVELS = 100
"""The maximum number of levels of a category, and of values of a grid with a first and a last cell."""

EXACT = 2**53
"""Float64 represents every whole number up to this magnitude exactly."""

OFF_GRID = 1e-6
"""The largest distance of a value from the middle of its cell, in steps, beyond rounding errors."""

_LEAST_SHARE, _LEAST_RATIO = 0.05, 5  # of an atom: share of the rows, and ratio to the most frequent other value
_MOST_ATOMS, _LEAST_OTHERS = 3, 5  # of a column: number of atoms, and of other values
_SIGNIFICANT = 15  # significant digits of grid values
_RESOLUTION = 1e-4  # largest float32 spacing that needs no offset, in standard deviations or grid steps
_TIME, _DAY = "datetime64[us]", np.timedelta64(1, "D")
_SETS = (set, frozenset)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table: of numbers, or, in a subclass, of times or levels, which are read as numbers.

    Values on a grid are encoded as `first - offset + step * k`, k = 0, ..., num - 1, the middles of their cells. If
    there are more than `MOST_LEVELS` values, the cells continue on both sides. Other values are encoded as numbers
    minus the offset.

    Attributes:
      name: name of the column.
      dtype: the pandas type of its values.
      types: the types that decoded values are converted to, one after the other.
      is_given: whether the kind was given, not implied by the type.
      step: the step of the grid, 0 for none.
      first: the smallest value of the fit, in a grid. `num` is the number of values from it to the largest one.
      low: the lower bound of a column of numbers, exclusive; minus infinity for none. `high` is the upper one. A
        column with bounds has no offset.
      atoms: in a column of numbers, rows (value, width of the cell, end). The end is -1 if the atom is the smallest
        value of the fit, 1 if it is the largest one, otherwise 0.
      decimals: the number of decimals of numbers, or None.
      start: the first time, which has the number 0. `resolution` divides all times of day, in microseconds.
      levels: the values numbered from 0, if the numbers stand for levels. `is_ordered` says whether their order is
        given. Then there may be levels that the data lack.
    """

    name: Any
    dtype: Any
    types: tuple[Any, ...] = ()
    is_given: bool = False
    first: Any = 0
    step: Any = 0
    num: int = 0
    offset: Any = 0
    low: float = -math.inf
    high: float = math.inf
    atoms: Any = ()
    decimals: int | None = None
    start: Any = None
    resolution: int = 1000
    levels: Any = None
    is_ordered: bool = False

    @classmethod
    def fit(cls, name: Any, column: Any, kind: Any, bounds: Bounds | None) -> "Column":
        """Fits a column of this kind to a `pandas.Series` without missing values."""
        x = _check(name, column, *_numbers(column))
        if bounds is not None:
            low, high = (
                end if value is None else value for end, value in zip((-np.inf, np.inf), bounds, strict=True)
            )
            return cls(name=name, dtype=x.dtype, low=low, high=high)
        is_whole = kind == "whole" or (isinstance(kind, _SETS) and _are_whole(x))
        step: Any = kind if isinstance(kind, Real) else int(is_whole)
        step = int(step) if step == int(step) else float(step)
        own = {"name": name, "dtype": x.dtype, "step": step, "atoms": _atoms(name, x, kind, step)}
        if not step:
            return cls(**own, offset=_offset(x), decimals=_decimals(x))
        first = _smallest(x)
        if isinstance(step, int) and first == int(first):
            first = int(first) // step * step
        else:
            first = float(_rounded(step * round(first / step), step))
        num = int(np.round(_minus(x, first).max() / step)) + 1
        return cls(**own, first=first, num=num, offset=first if _offset(x, step) else 0)

    @property
    def kind(self) -> Any:
        """The kind, in the form of the argument `kinds` of `TableEncoder`."""
        return {value for value, *_ in self.atoms} or {0: "number", 1: "whole"}.get(self.step, self.step)

    @property
    def ends(self) -> tuple[float, float]:
        """The first and the last k; infinite if the cells continue on that side."""
        if 0 < self.num <= MOST_LEVELS:
            return 0.0, self.num - 1.0
        if not self.step or not (
            pandas.api.types.is_integer_dtype(self.dtype) or isinstance(self.dtype, pandas.PeriodDtype)
        ):
            return -math.inf, math.inf
        limits = np.iinfo(_numpy_dtype(self.dtype))
        below, above = self.first - int(limits.min), int(limits.max) - self.first
        return -float(below // self.step), float(above // self.step)

    def encode(self, column: Any, date_format: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Returns the float64 numbers of values, and their faults ("" for none).

        The number is NaN if the value is missing or cannot be read. A number with a fault is a value that cannot
        occur.
        """
        x, faults = _numbers(column)
        for value, _, end in self.atoms:
            faults = np.where(end * (_minus(x) - value) > 0, "beyond an atom at the end of the column", faults)
        if self.step:
            fault = "not a whole number" if self.step == 1 else f"not a multiple of {self.step:g}"
            return self._on_grid(_minus(x, self.first) / self.step, faults, fault, x.dtype)
        numbers = _minus(x, self.offset)
        is_outside = (numbers <= self.low) | (numbers >= self.high)
        return numbers, np.where(is_outside, "outside the bounds", faults)

    def rounding_error(self, dtype: Any = None) -> tuple[float, float]:
        """Returns (eps, steps): values k steps from the first one have errors up to eps (steps + |k|) steps.

        Args:
          dtype: the type of the values, if it is not that of the fit.
        """
        if self.step % 1 == 0 and self.first % 1 == 0:  # whole numbers have no rounding errors
            return 2 * np.finfo(np.float64).eps, 0.0
        types = [_numpy_dtype(self.dtype), _numpy_dtype(self.dtype if dtype is None else dtype)]
        eps = max(np.finfo(own if own.kind == "f" else np.float64).eps for own in types)
        return 4 * eps, abs(self.first) / self.step

    def is_singleton(self, column: Any) -> np.ndarray:
        """Returns whether each value of the fit would be impossible in a fit without its row, `[num]`."""
        x = _minus(_numbers(column)[0])
        is_fraction = (x != np.round(x)) & ~np.isnan(x)
        groups = [x < value for value, *_ in self.atoms] + [x > value for value, *_ in self.atoms]
        groups += [] if self.step or self.is_given else [is_fraction]
        return np.any([np.zeros(len(x), bool), *(group for group in groups if group.sum() == 1)], axis=0)

    def decode(self, numbers: np.ndarray) -> Any:
        """Returns the values of float64 numbers, which are in the middles of their cells."""
        dtype, values = _numpy_dtype(self.dtype), numbers + self.offset
        if dtype.kind in "iu":
            return _integers(numbers, self.offset, dtype, self.low, self.high)
        if self.step:
            return _rounded(values, self.step).astype(dtype)
        kind = dtype.type
        values = values if self.decimals is None else np.round(values, self.decimals)
        for value, *_ in self.atoms:
            values = np.where(np.float32(numbers) == np.float32(value - self.offset), value, values)
        low, high = np.nextafter(kind(self.low), kind(np.inf)), np.nextafter(kind(self.high), kind(-np.inf))
        return np.clip(values.astype(dtype), low, high)

    def description(self) -> str:
        """Returns what the numbers mean, or "" if they are the values."""
        if self.step:
            last = self.first + (self.num - 1) * self.step
            return f"{self.first:.9g} to {last:.9g} in steps of {self.step:.9g}"
        return f"a probability at {shortened(map(to_text, self.kind))}, a density elsewhere" if self.atoms else ""

    def to_series(self, numbers: np.ndarray) -> Any:
        """Returns the values of float64 numbers as a `pandas.Series` of the type of the fit."""
        column = pandas.Series(self.decode(numbers))
        if isinstance(self.dtype, pandas.PeriodDtype):
            return pandas.Series(pandas.PeriodIndex.from_ordinals(column, freq=self.dtype.freq))
        for dtype in (self.dtype, *self.types):
            if (scale := getattr(getattr(dtype, "pyarrow_dtype", None), "scale", None)) is not None:
                most = (1 - 1e-15) * 10.0 ** (dtype.pyarrow_dtype.precision - scale) - 10.0**-scale
                column = column.clip(-most, most)
            column = column.astype(dtype)
        return column

    def to_json(self) -> dict[str, Any]:
        """Returns a description for `column_from_json`, as values that JSON can hold."""
        found: dict[str, Any] = {"kind": _KINDS[type(self)]}
        for field in dataclasses.fields(self):
            value, (in_json, _) = getattr(self, field.name), _JSON.get(field.name, (lambda x: x, None))
            if field.default is dataclasses.MISSING or value != field.default:
                found[field.name] = in_json(value)
        return found

    def _on_grid(self, places, faults, fault, dtype=None):
        """Returns the numbers of values, given in steps from the first one, and marks those between steps."""
        k, (eps, steps) = np.round(places), self.rounding_error(dtype)
        is_between = np.abs(places - k) > OFF_GRID + eps * (steps + np.abs(places))
        numbers = float(self.first - self.offset) + self.step * np.where(is_between, places, k)
        return numbers, np.where(is_between, fault, faults)


class _Times(Column):
    """Times in UTC, as days since the first one. If they have a grid, whole days in their own time zone."""

    @classmethod
    def fit(cls, name, column, kind, bounds):
        times = _check(name, column, *_times(column, _zone(column.dtype) if kind == "day" else "UTC"))
        resolution = math.gcd(86_400_000_000, *np.unique((times - times.astype("M8[D]")).astype(int)).tolist())
        own = {"name": name, "dtype": column.dtype, "start": times.min(), "resolution": resolution}
        return cls(**own, step=1, num=math.floor(np.ptp(times) / _DAY) + 1) if kind == "day" else cls(**own)

    @property
    def kind(self):
        return "day" if self.step else "date"

    @property
    def _zone(self):
        return _zone(self.dtype) if self.step else "UTC"

    def encode(self, column, date_format=None):
        times, faults = _times(column, self._zone, date_format)
        days = np.where(np.isnat(times), np.nan, (times - self.start) / _DAY)
        return self._on_grid(days, faults, "not a whole day") if self.step else (days, faults)

    def is_singleton(self, column):
        times, _ = _times(column, _zone(self.dtype))
        _, place, counts = np.unique(times - times.astype("M8[D]"), return_inverse=True, return_counts=True)
        return (counts[place] == 1) & (not self.is_given and not self.step and len(counts) == 2) & ~np.isnat(times)

    def decode(self, numbers):
        midnight = self.start.astype("M8[D]").astype(_TIME)
        units = np.round(((self.start - midnight) / _DAY + numbers) * (86400e6 / self.resolution)).astype(int)
        times = pandas.DatetimeIndex(midnight + units * np.timedelta64(self.resolution, "us"))
        times = times.tz_localize(self._zone, ambiguous=np.ones(len(times), bool), nonexistent="shift_forward")
        return times.tz_convert(getattr(self.dtype, "tz", None))

    def description(self):
        return f"days since {str(self.start).removesuffix('T00:00:00.000000')}"


class _Levels(Column):
    """One of several levels, as its number in the order of `levels`."""

    @classmethod
    def fit(cls, name, column, kind, bounds):
        levels = tuple(column.value_counts().index)
        if is_ordered := kind != "category":
            found = {to_text(value): value for value in levels}
            levels = tuple(found.get(to_text(level), level) for level in kind)
        return cls(name=name, dtype=column.dtype, levels=levels, is_ordered=is_ordered, step=1, num=len(levels))

    @property
    def kind(self):
        return list(self.levels) if self.is_ordered else "category"

    def encode(self, column, date_format=None):
        k, is_missing = pandas.Index(self.levels).get_indexer(pandas.Index(column)), column.isna().to_numpy()
        others = np.flatnonzero((k < 0) & ~is_missing)
        known = {to_text(level): place for place, level in enumerate(self.levels)}
        k[others] = [known.get(to_text(value), -1) for value in column.iloc[others]]
        return np.where(is_missing, np.nan, k), np.where((k < 0) & ~is_missing, "not a known level", "")

    def is_singleton(self, column):
        k, _ = self.encode(column)
        counts = np.bincount(k[~np.isnan(k)].astype(int))
        return np.isin(k, np.flatnonzero(counts == 1)) & (not self.is_ordered)

    def decode(self, numbers):
        return np.asarray(self.levels, object)[numbers.astype(int)]

    def description(self):
        return "the number of the level: " + ", ".join(f"{i} {level}" for i, level in enumerate(self.levels))


_KINDS: dict[type[Column], str] = {_Times: "date", Column: "number", _Levels: "category"}
"""The names of the classes in JSON."""


def _implied_kind(column):
    """Returns the kind that the type of a column implies, in which no value is missing."""
    if pandas.api.types.is_datetime64_any_dtype(column.dtype):
        times, _ = _times(column, _zone(column.dtype))
        days = (times - times.min()) / _DAY
        return "day" if (days == np.floor(days)).all() else "date"
    if _is_number(column.dtype):
        numbers, _ = _numbers(column)
        is_narrow = (is_whole := _are_whole(numbers)) and np.ptp(_minus(numbers)) < MOST_LEVELS
        return (not is_narrow and _frequent_values(numbers)) or ("whole" if is_whole else "number")
    is_ordered = isinstance(column.dtype, pandas.CategoricalDtype) and column.dtype.ordered
    return list(column.dtype.categories) if is_ordered else "category"


def _class_of(kind):
    """Returns the class of a kind, or None if it is not valid."""
    if isinstance(kind, (list, tuple)) or kind == "category":
        return _Levels
    is_step = isinstance(kind, Real) and not isinstance(kind, bool) and 0 < float(kind) < math.inf
    if is_step or isinstance(kind, _SETS) or kind in ("number", "whole"):
        return Column
    return _Times if kind in ("date", "day") else None


def fit_column(name: Any, column: Any, kind: Any = None, bounds: Bounds | None = None) -> Column:
    """Fits a `Column` to a `pandas.Series`. Its type implies the kind if none is given; see `TableEncoder`."""
    present, types = plain(column.dropna(), column.dtype)
    if not len(present):
        raise ValueError(f"Column {name!r}: all values are missing. Leave this column out.")
    is_nested = present.dtype == object and present.map(pandas.api.types.is_list_like).any()
    if isinstance(present.dtype, pandas.SparseDtype) or present.dtype.kind in "mc" or is_nested:
        raise ValueError(
            f"Column {name!r} has values of type {type(present.iloc[0]).__name__}. Leave it out, or convert it: "
            "durations to seconds, complex numbers to two columns, and lists to one column per element."
        )
    is_given = kind is not None or bounds is not None
    if is_period := isinstance(column.dtype, pandas.PeriodDtype):
        kind = kind or math.gcd(column.dtype.freq.n, *present)
    if kind is None:
        kind = _implied_kind(present) if bounds is None else "number"
    cls = _class_of(kind)
    if cls is None or (bounds is not None and kind != "number"):
        raise ValueError(
            f"Column {name!r} has the kind {kind!r} and the bounds {bounds}. A kind must be number, whole, date, "
            "day or category, the step of a grid such as 0.1, a list of levels, or a set of atoms such as {0.0}. "
            "Only the kind 'number' can have bounds."
        )
    fitted = cls.fit(name, present, kind, bounds)
    levels: Any = fitted.levels or ()
    if len(levels) > MOST_LEVELS:
        raise ValueError(
            f"Column {name!r} has {len(levels)} different values, such as {levels[0]!r}; a category can have at "
            f"most {MOST_LEVELS}. Leave it out, or convert it with pandas.to_numeric or pandas.to_datetime."
        )
    _check(name, present, None, fitted.encode(present)[1])
    dtype = column.dtype if is_period else fitted.dtype
    return dataclasses.replace(fitted, dtype=dtype, types=types, is_given=is_given)


def plain(column: Any, dtype: Any) -> tuple[Any, tuple[Any, ...]]:
    """Returns a column as numbers, times or levels, and the types to convert them back. Periods become ordinals."""
    if isinstance(dtype, pandas.PeriodDtype):
        periods = column.astype(dtype).array
        return pandas.Series(pandas.arrays.IntegerArray(periods.asi8, periods.isna()), column.index), ()
    types = (column.dtype,) if isinstance(column.dtype, pandas.ArrowDtype) else ()
    if types and column.dtype.kind not in "iub":
        column = pandas.Series(pyarrow.array(column).to_pandas().array, column.index)
    found = pandas.api.types.infer_dtype(column, skipna=True) if column.dtype == object else ""
    if found in ("floating", "integer", "mixed-integer-float"):
        return pandas.to_numeric(column), types or (object,)
    if found == "decimal":
        exponents = [value.as_tuple().exponent for value in column.dropna() if value.is_finite()]
        decimals = pandas.ArrowDtype(pyarrow.decimal128(38, min(max(0, -min(exponents, default=0)), 18)))
        return pandas.to_numeric(column), types or (decimals, object)
    if found.startswith("date"):
        dates = (pandas.ArrowDtype(pyarrow.date32()), object) if found == "date" else ()
        return pandas.to_datetime(column), types or dates
    return column, types


def column_from_json(description: Mapping[str, Any]) -> Column:
    """Restores a column from the output of `Column.to_json`."""
    found = {name: _JSON[name][1](value) if name in _JSON else value for name, value in description.items()}
    classes = {kind: cls for cls, kind in _KINDS.items()}
    return classes[found.pop("kind")](**found)


def _type_in_json(dtype):
    if isinstance(dtype, pandas.CategoricalDtype):
        return {"categories": _in_json(dtype.categories.tolist()), "ordered": bool(dtype.ordered)}
    if isinstance(dtype, pandas.ArrowDtype):  # its name has no parameters, such as those of decimals
        schema = pyarrow.schema([("", dtype.pyarrow_dtype)]).serialize().to_pybytes()
        return {"arrow": base64.b64encode(schema).decode()}
    return "object" if dtype is object else str(dtype)


def _type_from_json(found):
    if isinstance(found, str):
        return pandas.api.types.pandas_dtype(found)
    if "arrow" in found:
        schema = pyarrow.ipc.read_schema(pyarrow.py_buffer(base64.b64decode(found["arrow"])))
        return pandas.ArrowDtype(schema.field(0).type)
    return pandas.CategoricalDtype(found["categories"], found["ordered"])


def _in_json(levels):
    levels = [level.item() if isinstance(level, np.generic) else level for level in levels]
    return [level if isinstance(level, (str, int, float)) else to_text(level) for level in levels]


_JSON: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "dtype": (_type_in_json, _type_from_json),
    "types": (lambda types: [*map(_type_in_json, types)], lambda types: tuple(map(_type_from_json, types))),
    "start": (str, lambda time: np.datetime64(time).astype(_TIME)),
    "levels": (_in_json, tuple),
}
"""Functions that convert fields of columns to and from values that JSON can hold."""


def _check(name, column, values, faults):
    """Returns `values`, or raises ValueError if the column has faults."""
    places = np.flatnonzero(faults != "")
    if len(places):
        raise ValueError(
            f"Column {name!r}: {len(places)} of {len(column)} values are {faults[places[0]]}, such as "
            f"{to_text(column.iloc[places[0]])[:40]}. Correct them, leave out these rows, or choose another kind."
        )
    return values


def _is_number(dtype):
    return pandas.api.types.is_numeric_dtype(dtype) and not pandas.api.types.is_bool_dtype(dtype)


def _numpy_dtype(dtype):
    return np.dtype("int64" if isinstance(dtype, pandas.PeriodDtype) else getattr(dtype, "numpy_dtype", dtype))


def _numbers(column):
    """Returns a column as finite numbers, and the faults of its values."""
    if column.dtype.kind in "mMc":
        x = pandas.Series(np.nan, column.index)
    else:
        x = pandas.to_numeric(column, errors="coerce")
    if x.dtype.kind == "b":
        x = x.astype("Int8" if x.dtype == "boolean" else "int8")
    is_infinite = np.isinf(x.to_numpy(np.float64, na_value=np.nan))
    faults = np.where(x.isna() & column.notna(), "not a number", np.where(is_infinite, "infinite", ""))
    return x.mask(is_infinite), faults


def _minus(x, origin=0):
    """Returns x - origin as float64, NaN for missing values. Large integers lose no digits."""
    floats = x.to_numpy(np.float64, na_value=np.nan)
    if _numpy_dtype(x.dtype).kind in "iu" and np.nanmax(np.abs(floats), initial=0.0) > EXACT:
        exact = x.to_numpy(_numpy_dtype(x.dtype), na_value=0).astype(object) - origin
        return np.where(np.isnan(floats), np.nan, exact.astype(np.float64))
    return floats - origin


def _are_whole(numbers):
    """Returns whether numbers have an integer type, or are floats that are all integers."""
    x = _minus(numbers)
    return numbers.dtype.kind in "iu" or bool(np.all((x == np.round(x)) & (np.abs(x) <= EXACT)))


def _smallest(x):
    return int(x.min()) if _numpy_dtype(x.dtype).kind in "iu" else float(x.min())


def _offset(numbers, step=0.0):
    """Returns a round number near the mean if float32 cannot resolve the numbers, otherwise 0."""
    x = _minus(numbers, origin := _smallest(numbers))
    resolution = _RESOLUTION * max(deviation := x.std(), step)
    if max(abs(origin), abs(origin + x.max())) * np.finfo(np.float32).eps <= resolution or not deviation:
        return 0
    digits = -math.floor(math.log10(deviation))
    if isinstance(origin, int):
        return round(origin + round(x.mean()), min(digits, 0))
    return round(origin + x.mean(), digits)


def _frequent_values(numbers):
    """Returns the set of values that are far more frequent than all other values, such as 0 in rainfall."""
    counts = numbers.value_counts()
    for num in range(min(_MOST_ATOMS, len(counts) - _LEAST_OTHERS), 0, -1):
        least, most = counts.iloc[num - 1], counts.iloc[num]
        if least >= max(_LEAST_SHARE * len(numbers), _LEAST_RATIO * most):
            return set(counts.index[:num].tolist())
    return set()


def _atoms(name, numbers, kind, step=0.0):
    """Returns a row of `Column.atoms` for each value of a kind that is a set."""
    if not isinstance(kind, _SETS):
        return ()
    x, dtype = _minus(numbers, origin := _smallest(numbers)), _numpy_dtype(numbers.dtype)
    values = sorted(float(dtype.type(value)) if dtype.kind == "f" else int(value) for value in kind)
    places = np.array([float(value - origin) for value in values])
    if len(absent := np.flatnonzero(~np.isin(places, x))):
        raise ValueError(
            f"Column {name!r}: the atom {values[absent[0]]:.9g} is not among the values. Give atoms that occur."
        )
    if not len(others := x[~np.isin(x, places)]):
        raise ValueError(f"Column {name!r}: all values are atoms. Choose the kind 'category'.")
    width = float(max(others.std() or 1.0, step))
    ends = np.where(places <= x.min(), -1, np.where(places >= x.max(), 1, 0))
    return tuple((value, width, end) for value, end in zip(values, ends.tolist(), strict=True))


def _decimals(numbers):
    """Returns the number of decimals that all numbers have at most, or None if they have more than six."""
    x, dtype = numbers.to_numpy(np.float64, na_value=np.nan), _numpy_dtype(numbers.dtype)
    rounding = 4 * np.finfo(dtype if dtype.kind == "f" else np.float64).eps * np.nanmax(np.abs(x))
    clear = [num for num in range(7) if 10.0**-num > 100 * rounding]
    return next((num for num in clear if np.all(np.abs(np.round(x, num) - x) <= rounding)), None)


def _integers(values, origin, dtype, low, high):
    """Returns `origin + values` as integers between the bounds, clipped to the range of the type."""
    limits = np.iinfo(dtype)
    least = max(math.floor(low) + 1 if math.isfinite(low) else -math.inf, int(limits.min))
    most = min(math.ceil(high) - 1 if math.isfinite(high) else math.inf, int(limits.max))
    return np.array([min(max(round(origin + int(value)), least), most) for value in np.round(values)], dtype)


def _rounded(values, step):
    """Removes the rounding errors of values on a grid, such as 3.7000000000000002."""
    largest = max(np.abs(values).max(initial=0.0), step)
    return np.round(values, max(_SIGNIFICANT - math.ceil(math.log10(largest)), 0))


def _zone(dtype):
    return getattr(dtype, "tz", None) or "UTC"


def _times(column, zone, date_format=None):
    if column.dtype.kind in "iufcbm":
        times = pandas.Series(np.datetime64("NaT", "us"), column.index)
    else:
        times = pandas.to_datetime(column, format=date_format or "ISO8601", errors="coerce", utc=True)
        times = times.dt.tz_convert(zone).dt.tz_localize(None)
    return times.to_numpy(_TIME), np.where(times.isna() & column.notna(), "not a date", "")


def to_text(value: Any) -> str:
    """Returns a level as text. Whole numbers have no decimal point."""
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value).strip()


def is_text(kind: Any) -> bool:
    """Returns whether text in columns of a kind stays text, even if it looks like numbers or dates."""
    return _class_of(kind) is _Levels


def format_kinds(kinds: Mapping[Any, Any]) -> str:
    """Formats the kinds of columns as the field `data.kinds` of a config."""

    def words(kind):
        if isinstance(kind, set):
            return f"{{{', '.join(map(to_text, sorted(kind)))}}}"
        return " < ".join(map(to_text, kind)) if isinstance(kind, list) else kind

    return "; ".join(f"{name}: {words(kind)}" for name, kind in kinds.items())


def parse_kinds(text: str) -> dict[str, Any]:
    """Parses the field `data.kinds` of a config; the inverse of `format_kinds`."""
    found: dict[str, Any] = {}
    for part in filter(None, map(str.strip, text.split(";"))):
        name, colon, kind = part.rpartition(":")
        words: list[Any] = [word.strip() for word in kind.strip(" {}").split("," if "{" in kind else "<")]
        with contextlib.suppress(ValueError):
            words = [float(word) for word in words] if len(words) == 1 or "{" in kind else words
        is_set = "{" in kind and isinstance(words[0], float)
        if not colon or "" in words or is_set != ("{" in kind):
            raise ValueError(
                f"data.kinds = {text!r} is malformed. Write it like 'wind: number; temp: 0.1; rooms: whole; "
                "code: category; size: S < M < L; rain: {0}'."
            )
        found[name.strip()] = set(words) if is_set else words if len(words) > 1 else words[0]
    return found
