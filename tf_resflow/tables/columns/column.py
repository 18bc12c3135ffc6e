"""`Column`: what every kind of column has."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from scipy import stats

from tf_resflow._internal.extras import LazyPackage
from tf_resflow.tables.columns.types import type_from_json, type_in_json, with_types

pandas: Any = LazyPackage("pandas", "data")

MOST_LEVELS = 100
"""The maximum number of levels of a category, and of values of a grid with a first and a last cell."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table. There is a subclass for each kind, in the module of its name.

    A column reads values as numbers, writes numbers as values, and describes itself. Its `cells_class` maps the
    numbers of all columns of a class to places on the real line, and back.

    Attributes:
      name: Name of the column.
      dtype: The pandas type of its values.
      types: The types that decoded values are converted to, one after the other.
      is_given: Whether the kind was given, not implied by the type.
      offset: The value that becomes the number 0, in columns of numbers.
      cycles: The names of the cycles of times that condition the other columns, see `tf_resflow.tables.cycles`.
      has_named_cycles: Whether the kind names the cycles, or that there are none.
    """

    json_kind: ClassVar[str]
    """The value of "kind" in JSON."""

    cells_class: ClassVar[Any]
    """The class of the cells, see `tf_resflow.tables.columns.cells.Points`."""

    has_cells: ClassVar[bool] = False
    """Whether some of the values have cells, and therefore probabilities."""

    has_levels: ClassVar[bool] = False
    """Whether the values are levels."""

    name: Any
    dtype: Any
    types: tuple[Any, ...] = ()
    is_given: bool = False
    offset: Any = 0
    cycles: tuple[str, ...] = ()
    has_named_cycles: bool = False

    @classmethod
    def fit(cls, series: Any, kind: Any, base: dict[str, Any]) -> "Column":
        """Fits a column of this kind.

        Args:
          series: A `pandas.Series` without missing values.
          kind: The kind in the form of the argument `kinds` of `TableEncoder`, or the bounds.
          base: The fields of `Column`.
        """
        raise NotImplementedError

    @property
    def kind(self) -> Any:
        """The kind, in the form of the argument `kinds` of `TableEncoder`."""
        raise NotImplementedError

    @property
    def cell_width(self) -> Any:
        """The width of the cells of a grid, in numbers; 0 without a grid."""
        return 0

    @property
    def first_number(self) -> float:
        """The number in the middle of the first cell of a grid."""
        return 0.0

    @property
    def num_cells(self) -> int:
        """The number of cells of a grid, from the smallest to the largest value of the fit."""
        return 0

    @property
    def is_text(self) -> bool:
        """Whether values are text, even if they look like numbers or dates."""
        return False

    @property
    def possible_cycles(self) -> tuple[str, ...]:
        """The cycles that times can have."""
        return ()

    @property
    def most_ticks(self) -> int | None:
        """The maximum number of ticks on the axis of a figure, if their labels are long."""
        return 2 if isinstance(self.dtype, pandas.PeriodDtype) else None

    def to_numbers(self, series: Any, date_format: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Returns the float64 numbers of values, and their faults ("" for none).

        The number is NaN if the value is missing or cannot be read. A number with a fault is a value that cannot
        occur.
        """
        raise NotImplementedError

    def to_values(self, numbers: np.ndarray) -> Any:
        """Returns the values of float64 numbers, which are in the middles of their cells: an array or an index."""
        raise NotImplementedError

    def to_series(self, numbers: np.ndarray) -> Any:
        """Returns the values of float64 numbers as a `pandas.Series` of the type of the fit."""
        series = pandas.Series(self.to_values(numbers))
        if isinstance(self.dtype, pandas.PeriodDtype):
            return pandas.Series(pandas.PeriodIndex.from_ordinals(series, freq=self.dtype.freq))
        return with_types(series, (self.dtype, *self.types))

    def is_singleton(self, series: Any) -> np.ndarray:
        """Returns whether each value of the fit would be impossible in a fit without its row, `[num]`."""
        return np.zeros(len(series), bool)

    def description(self) -> str:
        """Returns what the numbers mean, or "" if they are the values."""
        return ""

    def to_json(self) -> dict[str, Any]:
        """Returns a description for `column_from_json`, as values that JSON can hold."""
        description: dict[str, Any] = {"kind": self.json_kind}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.default is dataclasses.MISSING or value != field.default:
                description[field.name] = value
        description["dtype"] = type_in_json(self.dtype)
        if self.types:
            description["types"] = [type_in_json(dtype) for dtype in self.types]
        return description

    @classmethod
    def from_json(cls, description: Mapping[str, Any]) -> "Column":
        """Restores a column of this kind from the output of `to_json`."""
        names = [field.name for field in dataclasses.fields(cls)]
        fields = {name: description[name] for name in names if name in description}
        fields["dtype"] = type_from_json(description["dtype"])
        fields["types"] = tuple(type_from_json(dtype) for dtype in description.get("types", ()))
        return cls(**fields)

    def with_all_decimals(self) -> "Column":
        """Returns a column that does not round values to the decimals of the fit."""
        return self

    def number_groups(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the numbers of the fit by the label under which `FlowDensity.explain` tries them."""
        return {str(self.name): numbers}

    def comparable(self, numbers: np.ndarray) -> np.ndarray:
        """Returns normal scores or codes with mean 0 and total variance 1, `[num, size]`; 0 if missing.

        `reorder_levels` compares levels by them.
        """
        ranks = stats.rankdata(numbers, nan_policy="omit")
        scores = stats.norm.ppf(ranks / (np.count_nonzero(~np.isnan(numbers)) + 1))
        deviation = np.nanstd(scores) or 1.0
        return np.nan_to_num((scores - np.nanmean(scores)) / deviation)[:, np.newaxis]

    @property
    def num_free_levels(self) -> int:
        """The number of levels that may be reordered."""
        return 0

    def reordered(self, order: Sequence[int]) -> "Column":
        """Returns a column of the levels with these numbers, in this order."""
        raise NotImplementedError

    def tick_labels(self) -> list[str]:
        """Returns the labels of the numbers 0, 1, ... on the axis of a figure, if they have names."""
        return []

    def tick_format(self) -> Callable[[float], str] | None:
        """Returns a function that labels a number on the axis of a figure, or None if the number is its label."""
        if isinstance(self.dtype, pandas.PeriodDtype):
            freq = self.dtype.freq
            return lambda number: str(pandas.Period(ordinal=round(number + self.offset), freq=freq))
        if not self.offset:
            return None
        return lambda number: f"{number + self.offset:g}"
