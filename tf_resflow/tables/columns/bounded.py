"""Columns of numbers with bounds."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tf_resflow.tables.columns.cells import Cells, points
from tf_resflow.tables.columns.column import Column
from tf_resflow.tables.columns.values import numbers_of_fit, numpy_dtype, read_numbers, to_floats, to_integers


class BoundedPoints:
    r"""The places of bounded numbers, which have no cells; see `Points`.

    The place of a number x with the bounds (a, b) is \\(\log(x - a)\\), \\(-\log(b - x)\\) or their sum.
    """

    def __init__(self, columns: Sequence["BoundedColumn"]):
        low = np.array([column.low for column in columns])
        high = np.array([column.high for column in columns])
        self._low = low
        self._high = high
        self._has_low = np.isfinite(low)
        self._has_high = np.isfinite(high)
        self._finite_low = np.where(self._has_low, low, 0.0)
        self._finite_high = np.where(self._has_high, high, 0.0)
        self._width = np.where(self._has_low & self._has_high, self._finite_high - self._finite_low, 1.0)

    def cells(self, numbers: tf.Tensor) -> Cells:
        """Returns the places of numbers."""
        log_above = tf.where(self._has_low, tf.math.log(numbers - self._finite_low), 0.0)
        log_below = tf.where(self._has_high, tf.math.log(self._finite_high - numbers), 0.0)
        return points(log_above - log_below, np.log(self._width) - log_above - log_below)

    def to_numbers(self, places: tf.Tensor) -> tf.Tensor:
        """Returns the numbers at places."""
        from_low = self._finite_low + tf.exp(places)
        from_high = self._finite_high - tf.exp(-places)
        between = self._finite_low + self._width * tf.sigmoid(places)
        return tf.where(self._has_low & self._has_high, between, tf.where(self._has_low, from_low, from_high))

    def are_impossible(self, numbers: tf.Tensor) -> tf.Tensor:
        """Returns which numbers are outside the bounds."""
        return (numbers <= self._low) | (numbers >= self._high)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BoundedColumn(Column):
    """Continuous numbers between bounds.

    Attributes:
      low: The lower bound, exclusive; minus infinity for none.
      high: The upper bound, exclusive; infinity for none.
    """

    json_kind: ClassVar[str] = "number"
    cells_class: ClassVar[Any] = BoundedPoints

    low: float = -math.inf
    high: float = math.inf

    @classmethod
    def fit(cls, series, kind, base):
        _, base = numbers_of_fit(series, base)
        low, high = kind
        return cls(**base, low=-math.inf if low is None else low, high=math.inf if high is None else high)

    @property
    def kind(self):
        return "number"

    def to_numbers(self, series, date_format=None):
        x, faults = read_numbers(series)
        numbers = to_floats(x)
        is_outside = (numbers <= self.low) | (numbers >= self.high)
        return numbers, np.where(is_outside, "outside the bounds", faults)

    def to_values(self, numbers):
        dtype = numpy_dtype(self.dtype)
        if dtype.kind in "iu":
            return to_integers(numbers, 0, dtype, self.low, self.high)
        number_type = dtype.type
        least = np.nextafter(number_type(self.low), number_type(np.inf))
        most = np.nextafter(number_type(self.high), number_type(-np.inf))
        return np.clip(numbers.astype(dtype), least, most)
