"""Encodes the rows of a table as standardized vectors, and decodes them.

A value of a table, such as "rain" or 0.5, becomes a number (`Column.to_numbers`). A number becomes a place on the
real line, or a cell of places (`Column.cells_class`). A place becomes a standardized coordinate (`Coordinates`).
The coordinates of a row are its vector. Decoding takes the same steps back.
"""

import warnings
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tf_resflow._internal.extras import LazyPackage
from tf_resflow._internal.messages import shortened, suggest
from tf_resflow.tables.columns.fitting import column_from_json, fit_column
from tf_resflow.tables.columns.kinds import Bounds
from tf_resflow.tables.columns.types import plain
from tf_resflow.tables.columns.values import to_text
from tf_resflow.tables.coordinates import Coordinates
from tf_resflow.tables.cycles import TimeDensity, choose_cycles, features
from tf_resflow.tables.level_order import reorder_levels
from tf_resflow.tables.vectors import Vectors

pandas: Any = LazyPackage("pandas", "data")

_MOST_VALUES = 2**16  # maximum number of values encoded at once
_MISSING = "missing"
_DEPENDENT = 1e-9  # largest relative variance of a linear combination that counts as constant


class FaultCount(NamedTuple):
    """The number of values of a column that have the same fault, and a text that names the column and the fault."""

    num: int
    text: str


class Numbers(NamedTuple):
    """The values of the rows of a table as numbers, and what is wrong with them.

    Attributes:
      array: float64 `[num, columns]`. NaN if a value is missing or cannot be read, infinity if it cannot occur.
      faults: `[num, columns]`, what is wrong with a value, or "". A missing value is a fault in a condition column,
        and in a column without missing values in the fit.
      is_blocking: Bool `[num, columns]`, whether a fault leaves its row without a score: the value cannot be read,
        or it is a condition that cannot occur.
      table: The values before encoding.
    """

    array: np.ndarray
    faults: np.ndarray
    is_blocking: np.ndarray
    table: Any

    @property
    def has_score(self) -> np.ndarray:
        """Whether a row has a score, bool `[num]`."""
        return np.logical_not(self.is_blocking.any(axis=1))

    @property
    def reasons(self) -> np.ndarray:
        """Why a row has no score, or the score minus infinity: the first such fault, or "", `[num]`."""
        reasons = np.full(len(self.array), "", object)
        is_cause = np.where(self.has_score[:, np.newaxis], self.faults != "", self.is_blocking)
        names = self.table.columns.tolist()
        for row in np.flatnonzero(is_cause.any(axis=1)):
            column_index = np.argmax(is_cause[row])
            fault = self.faults[row, column_index]
            text = "the value" if fault == _MISSING else self._value_text(row, column_index)
            reasons[row] = f"column {names[column_index]!r}: {text} is {fault}"
        return reasons

    def fault_counts(self, is_counted: Any = True) -> list[FaultCount]:
        """Returns how many values have the same fault in the same column, the most frequent fault first.

        Args:
          is_counted: Bool `[num, columns]`, which values to count. By default, all.
        """
        counts = []
        counted_faults = np.where(is_counted, self.faults, "")
        for column_index, name in enumerate(self.table.columns):
            faults = counted_faults[:, column_index]
            for fault in np.unique(faults[faults != ""]):
                rows = np.flatnonzero(faults == fault)
                verb = "is" if len(rows) == 1 else "are"
                text = f"column {name!r}: {len(rows):,} of {len(faults):,} values {verb} {fault}"
                if fault != _MISSING:
                    text += f", such as {self._value_text(rows[0], column_index)}"
                counts.append(FaultCount(len(rows), text))
        return sorted(counts, key=lambda count: count.num, reverse=True)

    def _value_text(self, row, column_index):
        return repr(to_text(self.table.iloc[row, column_index])[:40])


class TableEncoder:
    """Encodes the rows of a table as standardized vectors, and decodes them.

    The type of a column implies its kind, unless `kinds` sets it:

    - "number": floats and decimals.
    - "whole": integers, periods, and floats or decimals that are all integers.
    - a set of atoms, such as {0.0}: numbers with frequent values, such as the zeros of rainfall. A value is an atom
      if it holds at least 5 % of the rows and is five times as frequent as any value that is not an atom. There
      are at most three. Whole numbers need no atoms if their range is less than 100.
    - a number: the step of a grid, such as 0.1. Only periods of several units, such as 15 minutes, imply it.
    - "category": booleans, text and categories. Levels that occur with similar values of the other columns are
      neighbors, see `reorder_levels`.
    - a list: the levels of an ordered column, lowest first.
    - "date": times, as days since the first one. "day": times that are whole days apart. "date + day + week" names
      the cycles of a time (day, week and year), and "date + none" says that it has none. Otherwise a time has the
      cycles that it spans twice and that help to predict the other columns.

    `Coordinates` describes the vectors. A time column with cycles is not a coordinate. Its `TimeDensity` is a
    factor of the density of a row, and the time and the phases of its cycles are conditions of the other columns.

    The log-density of a row is the log-density of its vector plus `log_scale`. It is a probability in the discrete
    columns and at atoms, and a density in the units of the columns elsewhere. A value that cannot occur (an unknown
    level, 2.5 in a column of whole numbers, a number outside its bounds or beyond an atom at the end of its column)
    has probability 0.

    ```python
    import pandas
    from tf_resflow.tables import TableEncoder
    table = pandas.DataFrame(
        {"size": [1.5, 2.5, 3.5], "color": ["red", "blue", "red"], "children": [0, 2, 1]}
    )
    encoder = TableEncoder(table)
    print(encoder.kinds)
    # {'size': 'number', 'color': 'category', 'children': 'whole'}
    rows = encoder.encode(encoder.numbers(table).array)
    print(rows.lower.shape, encoder.decode(rows.lower + rows.widths / 2).equals(table))
    # (3, 3) True
    ```

    Args:
      table: `pandas.DataFrame` of the rows to fit. Columns with missing values get a condition that marks them.
      kinds: Kinds of columns by name, overriding their types. Ordered levels are matched by their text.
      bounds: Pairs (low, high) by the names of columns of numbers. Either end may be None.
      condition_columns: Names of the columns that are conditions.
      weights: Weights of the rows `[num]` in the choice of cycles, and in the density of a time column with cycles.
        By default, all are 1.

    Attributes:
      columns: The `Column` objects, first those of the density, then the conditions. A time column with cycles is
        the last one of the density.
      kinds: The kind of each column of the table, in its order.
      num_own: The number of columns of the density.
      own: The `Coordinates` of the density. `given` has those of the conditions and of a time column with cycles.
      time: The `TimeDensity` of a time column with cycles, or None.
      is_masked: Bool `[num_own]`, whether a column had missing values in the fit.
      size: Size of the vectors.
      condition_size: Size of the conditions.

    Raises:
      ValueError: If a column cannot be read as its kind, has no values, or has more than 100 levels.
    """

    def __init__(
        self,
        table: Any,
        *,
        kinds: Mapping[Any, Any] | None = None,
        bounds: Mapping[Any, Bounds] | None = None,
        condition_columns: Collection[Any] = (),
        weights: np.ndarray | None = None,
    ):
        names = list(table.columns)
        kinds = dict(kinds or {})
        bounds = dict(bounds or {})
        _check_names(names, condition_columns, [*kinds, *bounds])
        density_columns = [name for name in names if name not in condition_columns]
        order = [*density_columns, *condition_columns]
        self._names = names
        self.num_own = len(density_columns)
        self.is_masked = np.ones(self.num_own, bool)
        self.columns = [fit_column(name, table[name], kinds.get(name), bounds.get(name)) for name in order]
        values = self.numbers(table).array
        weights = np.ones(len(table)) if weights is None else weights
        columns = choose_cycles(reorder_levels(self.columns, values), values, self.num_own, weights)
        order = sorted(range(self.num_own), key=lambda index: bool(columns[index].cycles))
        order.extend(range(self.num_own, len(columns)))
        self.columns = [columns[index] for index in order]
        values = values[:, order]
        has_time = bool(self.columns[self.num_own - 1].cycles)
        size = self.num_own - has_time
        self.own = Coordinates(self.columns[:size], values[:, :size])
        self.given = Coordinates(self.columns[size:], values[:, size:])
        self.time = TimeDensity.fit(self.columns[size], values[:, size], weights) if has_time else None
        self._limits = self.given.limits(values[:, size:]) if self._num_features else None
        self.is_masked = np.isnan(values[:, : self.num_own]).any(axis=0)
        self._warn(values)

    @property
    def kinds(self) -> dict[Any, Any]:
        """The kind of each column by name, in the order of the table."""
        kinds = {column.name: column.kind for column in self.columns}
        return {name: kinds[name] for name in self._names}

    @property
    def size(self) -> int:
        """The size of the vectors."""
        return self.own.size

    @property
    def condition_size(self) -> int:
        """The size of the conditions."""
        return int(self.is_masked.sum()) + self.given.size + self._num_features

    @property
    def _num_features(self):
        """The number of features of the cycles of times."""
        columns = self.given.columns
        return features(columns, tf.zeros([0, len(columns)], tf.float64)).shape[1]

    def to_json(self) -> dict[str, Any]:
        """Returns all settings as values that JSON can hold."""
        return {
            "columns": [column.to_json() for column in self.columns],
            "names": self._names,
            "num_own": self.num_own,
            "own": self.own.to_json(),
            "given": self.given.to_json(),
            "is_masked": self.is_masked.tolist(),
            "time": None if self.time is None else self.time.to_json(),
            "limits": None if self._limits is None else self._limits.tolist(),
        }

    @classmethod
    def from_json(cls, description: Mapping[str, Any]) -> "TableEncoder":
        """Restores an encoder from the output of `to_json`."""
        encoder = cls.__new__(cls)
        num_own = description["num_own"]
        encoder.columns = [column_from_json(column) for column in description["columns"]]
        encoder.num_own = num_own
        encoder.is_masked = np.array(description["is_masked"], bool)
        time = description.get("time")
        limits = description.get("limits")
        size = num_own - (time is not None)
        encoder.own = Coordinates.from_json(encoder.columns[:size], description["own"])
        encoder.given = Coordinates.from_json(encoder.columns[size:], description["given"])
        encoder.time = None if time is None else TimeDensity.from_json(encoder.columns[size], time)
        encoder._limits = None if limits is None else np.array(limits)
        encoder._names = list(description["names"])
        return encoder

    def numbers(self, table: Any, *, date_format: str | None = None, given_only: bool = False) -> Numbers:
        """Returns the numbers of a table that has the columns of the fit, in any order.

        Args:
          table: `pandas.DataFrame`. Values may be text, and other columns are ignored.
          date_format: Format of dates given as text; ISO 8601 by default.
          given_only: Whether to return only the numbers of the condition columns.
        """
        columns = self.columns[self.num_own :] if given_only else self.columns
        table = table[[column.name for column in columns]]
        values = np.empty(table.shape)
        faults = np.full(table.shape, "", object)
        for column_index, column in enumerate(columns):
            series, _ = plain(table[column.name].reset_index(drop=True), column.dtype)
            values[:, column_index], faults[:, column_index] = column.to_numbers(series, date_format)
        values[(faults != "") & ~np.isnan(values)] = np.inf
        num_own = 0 if given_only else self.num_own
        may_miss = np.append(self.is_masked[:num_own], np.zeros(len(columns) - num_own, bool))
        faults[np.isnan(values) & (faults == "") & ~may_miss] = _MISSING
        is_own = np.arange(len(columns)) < num_own
        is_blocking = (faults != "") & ~(np.isinf(values) & is_own)
        return Numbers(values, faults, is_blocking, table)

    def encode(self, numbers: np.ndarray) -> Vectors:
        """Encodes numbers `[num, columns]` as arrays, in parts."""
        size = max(_MOST_VALUES // numbers.shape[1], 1)
        starts = range(0, max(len(numbers), 1), size)
        chunks = [self.rows(tf.constant(numbers[start : start + size])) for start in starts]
        return Vectors(*(np.concatenate(arrays) for arrays in zip(*chunks, strict=True)))

    def rows(self, numbers: tf.Tensor) -> Vectors:
        """Encodes numbers `[num, columns]`, as a graph can do."""
        own, given = tf.split(numbers, [self.size, self.given.size], axis=1)
        is_missing = tf.gather(tf.math.is_nan(numbers), np.flatnonzero(self.is_masked), axis=1)
        condition = self.condition(given)[:, is_missing.shape[1] :]
        vectors = self.own.vectors(own)._replace(
            condition=tf.concat([tf.cast(is_missing, tf.float64), condition], axis=1)
        )
        if self.time is None:
            return vectors
        log_prob, log_unit = self.time.log_prob(given[:, 0])
        return vectors._replace(log_scale=vectors.log_scale + log_prob, log_unit=vectors.log_unit + log_unit)

    def condition(self, given: tf.Tensor) -> tf.Tensor:
        """Returns the conditions of rows without missing values in the columns of the density.

        Args:
          given: The numbers of a time column with cycles, if there is one, and of the condition columns. A time can
            be missing. Beyond the range of the fit, its coordinate is that of the first or the last time.
        """
        vectors = self.given.vectors(given)
        num_masked = int(self.is_masked.sum())
        centers = vectors.lower + vectors.widths / 2
        if self._limits is not None:
            waves = features(self.given.columns, given)
            centers = tf.concat([tf.clip_by_value(centers, *self._limits), waves], axis=1)
        return tf.pad(centers, [[0, 0], [num_masked, 0]])

    def mark_impossible(self, numbers: tf.Tensor) -> tf.Tensor:
        """Replaces numbers `[num, columns]` that cannot occur by infinity."""
        own = self.own.mark_impossible(numbers[:, : self.size])
        given = self.given.mark_impossible(numbers[:, self.size :])
        return tf.concat([own, given], axis=1)

    def decode(self, vectors: np.ndarray, times: np.ndarray | None = None) -> Any:
        """Returns a `pandas.DataFrame` of vectors, without condition columns, with the types of the fit.

        Args:
          vectors: `[num, size]`.
          times: The numbers `[num, 1]` of a time column with cycles. Without them, the frame lacks this column.
        """
        numbers = self.own.to_numbers(tf.constant(vectors, tf.float64)).numpy()
        if times is not None:
            numbers = np.hstack([numbers, times])
        columns = self.columns[: numbers.shape[1]]
        names = [column.name for column in columns]
        series = [column.to_series(x) for column, x in zip(columns, numbers.T, strict=True)]
        return pandas.DataFrame(dict(zip(names, series, strict=True)), columns=names)

    def is_singleton(self, table: Any) -> np.ndarray:
        """Returns which rows of the fit would have probability 0 without them, such as one with a level alone."""
        is_singleton = np.zeros(len(table), bool)
        for column in self.columns[: self.num_own]:
            series, _ = plain(table[column.name], column.dtype)
            is_singleton |= column.is_singleton(series)
        return is_singleton

    def _warn(self, numbers):
        """Warns of constant columns, and of continuous columns that depend linearly on each other."""
        lower = self.encode(numbers).lower
        numbers = numbers[:, : self.size]
        values = np.where(np.isnan(numbers), np.nan, lower)
        names = np.array([column.name for column in self.own.columns], object)
        varies = np.nanmax(numbers, axis=0) > np.nanmin(numbers, axis=0)  # standardized values have rounding errors
        if not varies.all():
            warnings.warn(f"These columns are constant: {shortened(names[~varies])}. Leave them out.", stacklevel=5)
        varies &= ~self.own.has_cells  # probabilities are bounded
        is_dependent = dependent(values[:, varies])
        if is_dependent.any():
            warnings.warn(
                f"These columns are duplicates or linearly dependent: {shortened(names[varies][is_dependent])}. "
                "Leave some of them out. Otherwise only the noise of the training keeps the density bounded.",
                stacklevel=5,
            )


def _check_names(names, condition_columns, others):
    """Raises ValueError if names of columns are repeated or unknown, or if all columns are conditions."""
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise ValueError(f"Two columns have the name {repeated[0]!r}. Rename one of them, or leave it out.")
    unknown = [name for name in [*condition_columns, *others] if name not in names]
    if unknown:
        raise ValueError(
            f"There is no column {unknown[0]!r}; {suggest(str(unknown[0]), map(str, names))} The columns are "
            f"{shortened(names)}."
        )
    if set(names) <= set(condition_columns):
        raise ValueError("condition_columns contains all columns, so none is left. Remove some of them.")


def dependent(values: np.ndarray) -> np.ndarray:
    """Returns which of the columns of vectors are linearly dependent, `[size]`. All of them must vary."""
    values = values[~np.isnan(values).any(axis=1)]
    if not 2 <= values.shape[1] < len(values):
        return np.zeros(values.shape[1], bool)
    variances, axes = np.linalg.eigh(np.atleast_2d(np.cov(values.T)))
    return np.abs(axes[:, variances < _DEPENDENT * variances[-1]]).max(axis=1, initial=0.0) > 1e-3
