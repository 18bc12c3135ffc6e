"""The columns of a table as coordinates of vectors."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tf_resflow.data.column_kinds import MOST_LEVELS, Column, column_from_json, fit_column, in_words, real_column
from tf_resflow.extras import LazyPackage
from tf_resflow.plurals import shortened

if TYPE_CHECKING:
    from tf_resflow.data.column_kinds import Bounds
    from tf_resflow.models.dequantization import Cells

pandas: Any = LazyPackage("pandas", "data")

_DEPENDENT = 1e-9  # variance of a combination of standardized columns that is constant


class EncodedRows(NamedTuple):
    """Rows of a table as vectors.

    Attributes:
      values: `[num, size]` float64: NaN for values that are missing or cannot be read, -1 if they cannot occur.
      known: `[num, size]`, whether a value can occur.
      faults: `[num, size]`, what is wrong with a value, or "".
      log_slopes: `[num]`, the log-determinants of the maps of values to numbers.
      table: the columns as they were.
    """

    values: np.ndarray
    known: np.ndarray
    faults: np.ndarray
    log_slopes: np.ndarray
    table: Any

    @property
    def unreadable(self) -> np.ndarray:
        """`[num]`, whether a row has a value that cannot be read or cannot occur."""
        return (self.faults != "").any(axis=1)

    @property
    def reasons(self) -> np.ndarray:
        """`[num]`, what is wrong with a row, or "": its first fault, or else its first missing value."""
        reasons = np.full(len(self.values), "", object)
        is_wrong, is_missing = self.faults != "", np.isnan(self.values)
        for row in np.flatnonzero(is_wrong.any(axis=1) | is_missing.any(axis=1)):
            place = np.argmax(is_wrong[row] if is_wrong[row].any() else is_missing[row])
            value, name = in_words(self.table.iloc[row, place])[:40], self.table.columns[place]
            fault = f"{value!r} is {self.faults[row, place]}" if is_wrong[row, place] else "the value is missing"
            reasons[row] = f"column {name!r}: {fault}"
        return reasons


class ColumnCodes:
    """The columns of a table as coordinates of vectors.

    The type of a column decides its kind, unless `kinds` does:

    - "number": floats.
    - "whole": integers, and floats that are all integers.
    - a number: the step of a grid, such as 0.1. No grid is guessed.
    - "category": booleans, text and categories, numbered by frequency.
    - a list: the levels of an ordered column, lowest first.
    - "date": times, as days since the first one. "day": times that are whole days apart.

    A vector holds a number itself, the number of a level, or the number of days. If float32 cannot resolve the
    values of a column, an offset is subtracted from them. A discrete value is in the middle of its cell.

    Args:
      table: `pandas.DataFrame` of the rows of the fit.
      kinds: the kinds of columns by their names, instead of those that the types imply. Ordered levels are found
        by their text.
      bounds: pairs (low, high) by the names of columns of numbers. Either end may be None.

    Attributes:
      columns: the `Column`s.
      kinds: the kind of each column, by its name, in the form of the argument.
      size: number of columns.
      is_discrete: `[size]`, which columns have cells.
      offsets: `[size]`, what is subtracted from the values of a column.

    Raises:
      ValueError: if a column cannot be read as its kind, all its values are missing, or it has over 100 levels.
    """

    def __init__(self, table: Any, *, kinds: Mapping | None = None, bounds: "Mapping[Any, Bounds] | None" = None):
        kinds, bounds, names = dict(kinds or {}), dict(bounds or {}), list(table.columns)
        if not table.columns.is_unique:
            raise ValueError(f"Two columns have the same name: {shortened(names)}. Rename one of them.")
        if unknown := [name for name in [*kinds, *bounds] if name not in names]:
            raise ValueError(f"There is no column {unknown[0]!r}; the columns are {shortened(names)}.")
        self._set([fit_column(name, table[name], kinds.get(name), bounds.get(name)) for name in names])

    def _set(self, columns):
        self.columns, self.size = columns, len(columns)
        self.kinds = {column.name: column.kind for column in columns}
        self.is_discrete = np.array([column.is_discrete for column in columns], bool)
        self.offsets = np.array([float(column.offset) for column in columns])

    @functools.cached_property
    def cells(self) -> "Cells | None":
        """The cells of the discrete columns; None if there are none."""
        from tf_resflow.models.dequantization import Cells  # which imports TensorFlow

        if not self.is_discrete.any():
            return None
        first, step = [float(c.first - c.offset) for c in self.columns], [c.step for c in self.columns]
        num = [c.num if c.num <= MOST_LEVELS else math.inf for c in self.columns]
        return Cells(*(np.where(self.is_discrete, part, 0.0) for part in (first, step, num)))

    @classmethod
    def of_columns(cls, columns: Sequence[Column]) -> "ColumnCodes":
        """The codes of fitted columns."""
        codes = cls.__new__(cls)
        codes._set([*columns])
        return codes

    @classmethod
    def of_numbers(cls, names: Sequence[Any]) -> "ColumnCodes":
        """The columns of a table of real numbers."""
        return cls.of_columns([real_column(name) for name in names])

    @classmethod
    def from_json(cls, columns: Sequence[Mapping[str, Any]]) -> "ColumnCodes":
        """The columns that `to_json` of this version or an earlier one describes."""
        return cls.of_columns([column_from_json(column) for column in columns])

    def to_json(self) -> list[dict[str, Any]]:
        """The name, kind, type and settings of each column."""
        return [{"name": c.name, "kind": c.json_name, "dtype": str(c.dtype), **c.to_json()} for c in self.columns]

    @property
    def texts(self) -> list[Any]:
        """The names of the columns whose levels are text."""
        return [c.name for c in self.columns if any(isinstance(level, str) for level in c.levels or ())]

    @property
    def labels(self) -> list[list[str] | None]:
        """The levels of each column in words; None for columns without levels."""
        return [None if c.levels is None else [in_words(level) for level in c.levels] for c in self.columns]

    def encode(self, table: Any, *, date_format: str | None = None) -> EncodedRows:
        """The rows of any table with these columns, in any order.

        Args:
          table: `pandas.DataFrame`. Values may be text.
          date_format: format of dates that are text; ISO 8601 by default.
        """
        num, table = len(table), table[list(self.kinds)].reset_index(drop=True)
        values, known, log_slopes = np.empty([num, self.size]), np.ones([num, self.size], bool), np.zeros(num)
        faults = np.full([num, self.size], "", object)
        for place, column in enumerate(self.columns):
            numbers, faults[:, place], slopes = column.encode(table[column.name], date_format)
            known[:, place] = faults[:, place] != column.impossible
            values[:, place] = np.where(known[:, place], numbers, -1.0)
            log_slopes += np.nan_to_num(slopes)
        return EncodedRows(values, known, faults, log_slopes, table)

    def decode(self, values: np.ndarray) -> Any:
        """A `pandas.DataFrame` of vectors, in the types and the order of the columns."""
        values, found = values.astype(np.float64), {}
        for place, own in enumerate(self.columns):
            column = pandas.Series(own.decode(values[:, place]))
            if getattr(column.dtype, "tz", None) is not None:
                column = column.dt.tz_convert(getattr(own.dtype, "tz", None))
            found[own.name] = column.astype(own.dtype)
        return pandas.DataFrame(found, columns=list(self.kinds))

    def with_offsets(self, values: np.ndarray) -> np.ndarray:
        """Vectors with the offsets added again, in float64 if there are offsets."""
        return values + self.offsets if self.offsets.any() else values

    def describe(self) -> dict[Any, str]:
        """What the numbers of discrete columns and of dates mean, by the names of the columns."""
        return {column.name: text for column in self.columns if (text := column.description())}


def dependent(values: np.ndarray) -> np.ndarray:
    """Which columns `[size]` of vectors, which vary, repeat or depend on each other linearly."""
    values = values[~np.isnan(values).any(axis=1)]
    if not 2 <= values.shape[1] < len(values):
        return np.zeros(values.shape[1], bool)
    variances, axes = np.linalg.eigh(np.atleast_2d(np.cov(values.T)))
    return np.abs(axes[:, variances < _DEPENDENT * variances[-1]]).max(axis=1, initial=0.0) > 1e-3
