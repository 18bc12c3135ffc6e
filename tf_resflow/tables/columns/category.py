"""Columns of levels."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tf_resflow._internal.extras import LazyPackage
from tf_resflow.tables.columns.column import MOST_LEVELS, Column
from tf_resflow.tables.columns.grid import NO_ROUNDING, GridCells
from tf_resflow.tables.columns.types import levels_in_json
from tf_resflow.tables.columns.values import to_text

pandas: Any = LazyPackage("pandas", "data")

_MOST_COMPARED = 20  # maximum number of levels with a code in `comparable`


class LevelCells(GridCells):
    """Cells of levels, one wide; see `GridCells`."""

    def are_impossible(self, numbers: tf.Tensor) -> tf.Tensor:
        """Returns which numbers are not those of levels."""
        is_unknown = (numbers < self._first - 0.5) | (numbers > self._last + 0.5)
        return super().are_impossible(numbers) | is_unknown


@dataclasses.dataclass(frozen=True, kw_only=True)
class CategoryColumn(Column):
    """One of several levels, as its number in the order of `levels`.

    Attributes:
      levels: The levels. If their order is given, there may be some that the data lack.
      is_ordered: Whether the order of the levels is given.
    """

    json_kind: ClassVar[str] = "category"
    cells_class: ClassVar[Any] = LevelCells
    has_cells: ClassVar[bool] = True
    has_levels: ClassVar[bool] = True

    levels: Any
    is_ordered: bool = False

    @classmethod
    def fit(cls, series, kind, base):
        is_ordered = kind != "category"
        levels = tuple(series.value_counts().index)
        if is_ordered:
            level_of_text = {to_text(level): level for level in levels}
            levels = tuple(level_of_text.get(to_text(level), level) for level in kind)
        if len(levels) > MOST_LEVELS:
            raise ValueError(
                f"Column {base['name']!r} has {len(levels)} different values, such as {levels[0]!r}; a category "
                f"can have at most {MOST_LEVELS}. Leave it out, or convert it with pandas.to_numeric or "
                "pandas.to_datetime."
            )
        return cls(**base, levels=levels, is_ordered=is_ordered)

    @property
    def kind(self):
        return list(self.levels) if self.is_ordered else "category"

    @property
    def is_text(self):
        return any(isinstance(level, str) for level in self.levels)

    @property
    def cell_width(self):
        return 1

    @property
    def num_cells(self):
        return len(self.levels)

    @property
    def ends(self):
        """The first and the last number."""
        return 0.0, len(self.levels) - 1.0

    def rounding_error(self) -> tuple[float, float]:
        """See `GridColumn.rounding_error`."""
        return NO_ROUNDING

    def to_numbers(self, series, date_format=None):
        """Levels are compared as values, then as text."""
        is_missing = series.isna().to_numpy()
        k = pandas.Index(self.levels).get_indexer(pandas.Index(series))
        unmatched_rows = np.flatnonzero((k < 0) & ~is_missing)
        number_of_text = {to_text(level): number for number, level in enumerate(self.levels)}
        k[unmatched_rows] = [number_of_text.get(to_text(value), -1) for value in series.iloc[unmatched_rows]]
        is_unknown = (k < 0) & ~is_missing
        return np.where(is_missing, np.nan, k), np.where(is_unknown, "not a known level", "")

    def to_values(self, numbers):
        return np.asarray(self.levels, object)[numbers.astype(int)]

    def is_singleton(self, series):
        numbers, _ = self.to_numbers(series)
        counts = np.bincount(numbers[~np.isnan(numbers)].astype(int))
        return np.isin(numbers, np.flatnonzero(counts == 1)) & (not self.is_ordered)

    def description(self):
        return "the number of the level: " + ", ".join(f"{i} {level}" for i, level in enumerate(self.levels))

    def to_json(self):
        levels = levels_in_json(self.levels)
        return super().to_json() | {"levels": levels, "step": self.cell_width, "num": len(levels)}

    @classmethod
    def from_json(cls, description: Mapping[str, Any]):
        return super().from_json({**description, "levels": tuple(description["levels"])})

    def comparable(self, numbers):
        """Levels without an order have standardized one-hot codes, others have normal scores."""
        if self.is_ordered:
            return super().comparable(numbers)
        codes = (numbers[:, np.newaxis] == np.arange(min(len(self.levels), _MOST_COMPARED))).astype(float)
        shares = codes.mean(axis=0)
        scale = np.sqrt(shares + 1 / len(numbers)) * np.sqrt(max(codes.shape[1] - 1, 1))
        return np.where(np.isnan(numbers)[:, np.newaxis], 0.0, (codes - shares) / scale)

    @property
    def num_free_levels(self):
        return 0 if self.is_ordered else len(self.levels)

    def reordered(self, order):
        return dataclasses.replace(self, levels=tuple(self.levels[number] for number in order))

    def tick_labels(self):
        return [to_text(level) for level in self.levels]
