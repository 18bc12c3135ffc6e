"""Columns of numbers without bounds, grid or atoms."""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from tf_resflow.tables.columns.cells import Points
from tf_resflow.tables.columns.column import Column
from tf_resflow.tables.columns.values import (
    float_eps,
    numbers_of_fit,
    numpy_dtype,
    read_numbers,
    round_offset,
    to_floats,
    to_integers,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NumberColumn(Column):
    """Continuous numbers. They are encoded as numbers minus the offset.

    Attributes:
      decimals: The number of decimals of the values, or None.
    """

    json_kind: ClassVar[str] = "number"
    cells_class: ClassVar[Any] = Points

    decimals: int | None = None

    @classmethod
    def fit(cls, series, kind, base):
        x, base = numbers_of_fit(series, base)
        return cls(**base, offset=round_offset(x), decimals=_decimals(x))

    @property
    def kind(self):
        return "number"

    def to_numbers(self, series, date_format=None):
        x, faults = read_numbers(series)
        return to_floats(x, self.offset), faults

    def to_values(self, numbers):
        dtype = numpy_dtype(self.dtype)
        if dtype.kind in "iu":
            return to_integers(numbers, self.offset, dtype, -np.inf, np.inf)
        values = numbers + self.offset
        if self.decimals is not None:
            values = np.round(values, self.decimals)
        largest = np.finfo(dtype).max
        return np.clip(values.astype(dtype), -largest, largest)

    def is_singleton(self, series):
        """The only fraction among whole numbers is alone, unless the kind was given."""
        x = to_floats(read_numbers(series)[0])
        is_fraction = (x != np.round(x)) & ~np.isnan(x)
        return is_fraction & (is_fraction.sum() == 1) & (not self.is_given)

    def with_all_decimals(self):
        return dataclasses.replace(self, decimals=None)


def _decimals(numbers):
    """Returns the number of decimals that all numbers have at most, or None if they have more than six."""
    x = numbers.to_numpy(np.float64, na_value=np.nan)
    rounding = 4 * float_eps(numbers.dtype) * np.nanmax(np.abs(x))
    clear = [num for num in range(7) if 10.0**-num > 100 * rounding]
    return next((num for num in clear if np.all(np.abs(np.round(x, num) - x) <= rounding)), None)
