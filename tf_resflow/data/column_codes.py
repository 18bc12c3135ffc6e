"""Encodes the columns of a table as coordinates of vectors."""

import functools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tf_resflow.data.column_kinds import BEYOND, MOST_LEVELS, Column, column_from_json, fit_column, in_words, plain
from tf_resflow.extras import LazyPackage
from tf_resflow.messages import shortened

if TYPE_CHECKING:
    from tf_resflow.data.column_kinds import Bounds
    from tf_resflow.models.dequantization import Cells

pandas: Any = LazyPackage("pandas", "data")

_DEPENDENT = 1e-9  # largest relative variance of a linear combination that counts as constant


class EncodedRows(NamedTuple):
    """The rows of a table as vectors.

    Attributes:
      values: float64 `[num, size]`; NaN if a value is missing or cannot be read, -1 if it cannot occur.
      known: bool `[num, size]`, whether a value can occur.
      faults: `[num, size]`, what is wrong with a value, or "".
      log_slopes: `[num]`, the log-determinants of the maps from values to numbers.
      table: the columns before encoding.
    """

    values: np.ndarray
    known: np.ndarray
    faults: np.ndarray
    log_slopes: np.ndarray
    table: Any

    @property
    def reasons(self) -> np.ndarray:
        """The first fault of each row, `[num]`; if it has none, its first missing value, otherwise ""."""
        reasons = np.full(len(self.values), "", object)
        is_wrong, is_missing = self.faults != "", np.isnan(self.values)
        for row in np.flatnonzero(is_wrong.any(axis=1) | is_missing.any(axis=1)):
            place = np.argmax(is_wrong[row] if is_wrong[row].any() else is_missing[row])
            value, name = in_words(self.table.iloc[row, place])[:40], self.table.columns.tolist()[place]
            fault = f"{value!r} is {self.faults[row, place]}" if is_wrong[row, place] else "the value is missing"
            reasons[row] = f"column {name!r}: {fault}"
        return reasons


class ColumnCodes:
    """Encodes the columns of a table as coordinates of vectors, and decodes them.

    The type of a column implies its kind, unless `kinds` sets it:

    - "number": floats and decimals.
    - "whole": integers, periods, and floats or decimals that are all integers.
    - a set of atoms, such as {0.0}: numbers with frequent values, such as the zeros of rainfall. A value is an atom
      if it holds at least 5 % of the rows and is five times as frequent as any other value. Whole numbers
      need no atoms if their range is less than 100.
    - a number: the step of a grid, such as 0.1. Only periods of several units, such as 15 minutes, imply it.
    - "category": booleans, text and categories. The most frequent level has the number 0.
    - a list: the levels of an ordered column, lowest first.
    - "date": times, as days since the first one. "day": times that are whole days apart.

    A coordinate is the value itself, the number of a level, or a number of days. If float32 cannot resolve the
    values of a column, an offset is subtracted from them. A discrete value is in the middle of its cell.

    Args:
      table: `pandas.DataFrame` of the rows to fit.
      kinds: kinds of columns by name, overriding their types. Ordered levels are matched by their text.
      bounds: pairs (low, high) by the names of columns of numbers. Either end may be None.

    Attributes:
      columns: the `Column` objects.
      kinds: the kind of each column by name, in the form of the argument.
      size: number of columns.
      is_discrete: `[size]`, whether all values of a column have cells.
      has_cells: `[size]`, whether some values have cells: in discrete columns, and in columns with atoms.
      offsets: `[size]`, the offsets that are subtracted from the values.

    Raises:
      ValueError: if a column cannot be read as its kind, has no values, or has more than 100 levels.
    """

    def __init__(self, table: Any, *, kinds: Mapping | None = None, bounds: "Mapping[Any, Bounds] | None" = None):
        kinds, bounds, names = dict(kinds or {}), dict(bounds or {}), list(table.columns)
        check_unique(names)
        if unknown := [name for name in [*kinds, *bounds] if name not in names]:
            raise ValueError(f"There is no column {unknown[0]!r}; the columns are {shortened(names)}.")
        self._set([fit_column(name, table[name], kinds.get(name), bounds.get(name)) for name in names])

    def _set(self, columns):
        self.columns, self.size = columns, len(columns)
        self.kinds = {column.name: column.kind for column in columns}
        self.is_discrete = np.array([column.is_discrete for column in columns], bool)
        self.has_cells = self.is_discrete | np.array([len(column.atoms) > 0 for column in columns], bool)
        self.offsets = np.array([float(column.offset) for column in columns])

    @functools.cached_property
    def cells(self) -> "Cells | None":
        """The cells of the columns, or None if there are none."""
        from tf_resflow.models.dequantization import Cells  # imports TensorFlow

        if not self.has_cells.any():
            return None
        parts = [
            [float(c.first - c.offset), c.step, c.num if c.num <= MOST_LEVELS else math.inf] for c in self.columns
        ]
        first, step, num = np.where(self.is_discrete, np.transpose(parts), 0.0)
        columns = enumerate(self.columns)
        atoms = [(i, float(value - c.offset), *rest) for i, c in columns for value, *rest in c.atoms]
        return Cells(first, step, num, np.reshape(atoms, [-1, 4]))

    @classmethod
    def of_columns(cls, columns: Sequence[Column]) -> "ColumnCodes":
        """Returns the codes of fitted columns."""
        codes = cls.__new__(cls)
        codes._set([*columns])
        return codes

    @classmethod
    def of_numbers(cls, names: Sequence[Any]) -> "ColumnCodes":
        """Returns the codes of columns of real numbers with these names."""
        return cls.from_json([{"name": name, "kind": "number", "dtype": "float32"} for name in names])

    @classmethod
    def from_json(cls, columns: Sequence[Mapping[str, Any]]) -> "ColumnCodes":
        """Restores the codes from the output of `to_json`, of this version or an earlier one."""
        return cls.of_columns([column_from_json(column) for column in columns])

    def to_json(self) -> list[dict[str, Any]]:
        """Returns the name, kind, type and settings of each column, as values that JSON can hold."""
        return [{"name": c.name, "kind": c.json_name, "dtype": str(c.dtype), **c.to_json()} for c in self.columns]

    @property
    def labels(self) -> list[list[str] | None]:
        """The levels of each column as text; None for a column without levels."""
        return [None if c.levels is None else [in_words(level) for level in c.levels] for c in self.columns]

    def encode(self, table: Any, *, date_format: str | None = None) -> EncodedRows:
        """Encodes the rows of a table that has these columns, in any order.

        Args:
          table: `pandas.DataFrame`. Values may be text, and other columns are ignored.
          date_format: format of dates given as text; ISO 8601 by default.
        """
        num, table = len(table), table[list(self.kinds)].reset_index(drop=True)
        values, known, log_slopes = np.empty([num, self.size]), np.ones([num, self.size], bool), np.zeros(num)
        faults = np.full([num, self.size], "", object)
        for place, column in enumerate(self.columns):
            own, _ = plain(table[column.name], column.dtype)
            numbers, faults[:, place], slopes = column.encode(own, date_format)
            known[:, place] = (faults[:, place] != column.impossible) & (faults[:, place] != BEYOND)
            values[:, place] = np.where(known[:, place], numbers, -1.0)
            log_slopes += np.nan_to_num(slopes)
        return EncodedRows(values, known, faults, log_slopes, table)

    def is_alone(self, table: Any, given: Collection[Any]) -> np.ndarray:
        """Returns which rows of the fit would have an impossible value in a fit without them, `[num]`.

        `given` are the names of the columns whose kinds were given.
        """
        found = [c.is_alone(plain(table[c.name], c.dtype)[0], c.name in given) for c in self.columns]
        return np.any(found, axis=0)

    def decode(self, values: np.ndarray) -> Any:
        """Returns a `pandas.DataFrame` of the rows of vectors, with the types and order of the columns."""
        found = {c.name: c.sampled(x) for c, x in zip(self.columns, values.astype(np.float64).T, strict=True)}
        return pandas.DataFrame(found, columns=list(self.kinds))

    def with_offsets(self, values: np.ndarray) -> np.ndarray:
        """Adds the offsets back to vectors. The result is float64 if there are offsets."""
        return values + self.offsets if self.offsets.any() else values

    def describe(self) -> dict[Any, str]:
        """Returns what the numbers of discrete columns and of dates mean, by column name."""
        return {column.name: text for column in self.columns if (text := column.description())}


def check_unique(names: Sequence[Any]) -> None:
    """Raises ValueError if two columns have the same name."""
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"Two columns have the name {repeated[0]!r}. Rename one of them, or leave it out.")


def dependent(values: np.ndarray) -> np.ndarray:
    """Returns which of the columns of vectors are linearly dependent, `[size]`. All of them must vary."""
    values = values[~np.isnan(values).any(axis=1)]
    if not 2 <= values.shape[1] < len(values):
        return np.zeros(values.shape[1], bool)
    variances, axes = np.linalg.eigh(np.atleast_2d(np.cov(values.T)))
    return np.abs(axes[:, variances < _DEPENDENT * variances[-1]]).max(axis=1, initial=0.0) > 1e-3
