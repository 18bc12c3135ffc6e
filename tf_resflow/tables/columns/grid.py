"""Columns of whole numbers, and of numbers on another grid."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tf_resflow._internal.extras import LazyPackage
from tf_resflow.tables.columns.cells import Cells
from tf_resflow.tables.columns.column import MOST_LEVELS, Column
from tf_resflow.tables.columns.values import (
    float_eps,
    numbers_of_fit,
    numpy_dtype,
    read_numbers,
    round_offset,
    round_to_grid,
    smallest,
    to_floats,
    to_integers,
)

pandas: Any = LazyPackage("pandas", "data")

OFF_GRID = 1e-6
"""The largest distance of a value from the middle of its cell, in steps, beyond rounding errors."""

NO_ROUNDING = 2 * np.finfo(np.float64).eps, 0.0
"""The `rounding_error` of whole numbers."""


class GridCells:
    """Cells of values on a grid, one step wide; see `Points`.

    The middles of the cells are the numbers `first_number + cell_width * k` for whole k. If a column has a first
    and a last k, the end cells include everything beyond them.

    The columns have two more attributes than a `Column`: `ends`, the first and the last k, and `rounding_error`.
    """

    def __init__(self, columns: Sequence[Any]):
        self._origin = np.array([column.first_number for column in columns])
        self._step = np.array([column.cell_width for column in columns], np.float64)
        self._first, self._last = np.array([column.ends for column in columns]).T
        self._eps, self._first_in_steps = np.array([column.rounding_error() for column in columns]).T

    def cells(self, numbers: tf.Tensor) -> Cells:
        """Returns the cells that contain numbers."""
        k = tf.round(self._k(numbers))
        zeros = tf.zeros_like(numbers)
        ends = tf.stack([tf.equal(k, self._first), tf.equal(k, self._last)], axis=-1)
        return Cells(self._origin + self._step * (k - 0.5), zeros + self._step, ends, zeros, zeros)

    def to_numbers(self, places: tf.Tensor) -> tf.Tensor:
        """Returns the middles of the cells that contain places."""
        k = tf.clip_by_value(tf.round(self._k(places)), self._first, self._last)
        return self._origin + self._step * k

    def are_impossible(self, numbers: tf.Tensor) -> tf.Tensor:
        """Returns which numbers are not in the middles of cells."""
        k = self._k(numbers)
        return tf.abs(k - tf.round(k)) > OFF_GRID + self._eps * (self._first_in_steps + tf.abs(k))

    def _k(self, places):
        return (places - self._origin) / self._step


@dataclasses.dataclass(frozen=True, kw_only=True)
class GridColumn(Column):
    """Whole numbers, or multiples of a step. They are encoded as `first - offset + step * k`, k = 0, ..., num - 1.

    If there are more than `MOST_LEVELS` values, the cells continue on both sides.

    Attributes:
      step: The step of the grid.
      first: The smallest value of the fit. `num` is the number of values from it to the largest one.
    """

    json_kind: ClassVar[str] = "number"
    cells_class: ClassVar[Any] = GridCells
    has_cells: ClassVar[bool] = True

    first: Any = 0
    step: Any
    num: int

    @classmethod
    def fit(cls, series, kind, base):
        x, base = numbers_of_fit(series, base)
        step = 1 if kind == "whole" else kind
        step = int(step) if step == int(step) else float(step)
        first = smallest(x)
        if isinstance(step, int) and first == int(first):
            first = int(first) // step * step
        else:
            first = float(round_to_grid(step * round(first / step), step))
        num = int(np.round(to_floats(x, first).max() / step)) + 1
        return cls(**base, step=step, first=first, num=num, offset=first if round_offset(x, step) else 0)

    @property
    def kind(self):
        return "whole" if self.step == 1 else self.step

    @property
    def cell_width(self):
        return self.step

    @property
    def first_number(self):
        return float(self.first - self.offset)

    @property
    def num_cells(self):
        return self.num

    @property
    def ends(self):
        """The first and the last k; infinite if the cells continue on that side. Integers end with their type."""
        if self.num <= MOST_LEVELS:
            return 0.0, self.num - 1.0
        is_period = isinstance(self.dtype, pandas.PeriodDtype)
        if not is_period and not pandas.api.types.is_integer_dtype(self.dtype):
            return -math.inf, math.inf
        limits = np.iinfo(numpy_dtype(self.dtype))
        below = self.first - int(limits.min)
        above = int(limits.max) - self.first
        return -float(below // self.step), float(above // self.step)

    def rounding_error(self, dtype: Any = None) -> tuple[float, float]:
        """Returns (eps, steps): values k steps from the first one have errors up to eps (steps + |k|) steps.

        Args:
          dtype: The type of the values, if it is not that of the fit.
        """
        if self.step % 1 == 0 and self.first % 1 == 0:
            return NO_ROUNDING
        eps = max(float_eps(self.dtype), float_eps(self.dtype if dtype is None else dtype))
        return 4 * eps, abs(self.first) / self.step

    def to_numbers(self, series, date_format=None):
        x, faults = read_numbers(series)
        k, is_between = snap(to_floats(x, self.first) / self.step, *self.rounding_error(x.dtype))
        fault = "not a whole number" if self.step == 1 else f"not a multiple of {self.step:g}"
        return self.first_number + self.step * k, np.where(is_between, fault, faults)

    def to_values(self, numbers):
        dtype = numpy_dtype(self.dtype)
        if dtype.kind in "iu":
            return to_integers(numbers, self.offset, dtype, -math.inf, math.inf)
        return round_to_grid(numbers + self.offset, self.step).astype(dtype)

    def description(self):
        last = self.first + (self.num - 1) * self.step
        return f"{self.first:.9g} to {last:.9g} in steps of {self.step:.9g}"


def snap(k: np.ndarray, eps: float, steps: float) -> tuple[np.ndarray, np.ndarray]:
    """Rounds numbers of steps that differ from whole ones by rounding errors, and returns which others are between.

    Args:
      k: Numbers of steps from the first value.
      eps: See `GridColumn.rounding_error`, also for `steps`.
    """
    nearest = np.round(k)
    is_between = np.abs(k - nearest) > OFF_GRID + eps * (steps + np.abs(k))
    return np.where(is_between, k, nearest), is_between
