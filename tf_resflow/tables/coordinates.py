"""Maps the numbers of the columns of a table to standardized vectors and back."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_resflow.tables.columns.cells import RowCells
from tf_resflow.tables.columns.column import Column
from tf_resflow.tables.standardization import PowerTransform, Standardization
from tf_resflow.tables.vectors import Vectors, quasirandom_points

_ENTROPY = 0.5 * math.log(2 * math.pi * math.e)  # of the standard normal distribution


class Coordinates:
    r"""Maps the numbers of columns to standardized vectors and back, in float64.

    Numbers are those of `Column.to_numbers`. NaN means that a value is missing, and infinity that it cannot occur.
    The methods use TensorFlow's operations, so an exported model computes the same vectors.

    `Column.cells_class` maps a number to a place on the real line. A discrete value has a cell, and so has an atom.
    Columns that a `PowerTransform` brings closer to a normal distribution are transformed. All coordinates are
    standardized.

    Levels, and grids of at most 100 values, have a first and a last cell. These include everything beyond them,
    both in scores and in samples, as does an atom that is the smallest or the largest value of the fit. The
    probabilities of the values of the fit therefore add up to one. Integers also end at the limits of their type.

    Args:
      columns: The `Column` objects.
      numbers: The numbers of the fit `[num, columns]`.

    Attributes:
      size: Number of coordinates.
      has_cells: Bool `[size]`, whether some values of a column have cells.
      has_levels: Bool `[size]`, whether the values of a column are levels.

    References:
      Theis, van den Oord and Bethge, A note on the evaluation of generative models, 2016, Section 3.1.
    """

    def __init__(self, columns: Sequence[Column], numbers: np.ndarray):
        self._set_columns(columns)
        cells = self._cells.cells(tf.constant(numbers))
        x = cells.lower.numpy() + cells.widths.numpy() * quasirandom_points(len(numbers))
        varies = np.nanmax(numbers, axis=0) > np.nanmin(numbers, axis=0)  # x may have rounding errors
        varies |= self.has_cells
        self._standardization = Standardization.fit(x, varies, varies & ~self.has_levels)
        self._mean_log_density = np.zeros(self.size)
        if np.isnan(numbers).any():
            cells = self._standardized_cells(tf.constant(numbers))
            log_scales = np.where(np.isnan(numbers), np.nan, cells.log_scales + cells.log_units)
            self._mean_log_density = np.nanmean(log_scales, axis=0) - _ENTROPY

    def _set_columns(self, columns):
        self.columns = list(columns)
        self.size = len(columns)
        self.has_cells = np.array([column.has_cells for column in columns], bool)
        self.has_levels = np.array([column.has_levels for column in columns], bool)
        self._cells = RowCells(columns)

    def to_json(self) -> dict[str, Any]:
        """Returns the fitted parameters, as values that JSON can hold."""
        power = dataclasses.astuple(self._standardization.power)
        return {
            "_mean": self._standardization.mean.tolist(),
            "_scale": self._standardization.scale.tolist(),
            "_power": [parameters.tolist() for parameters in power],
            "_mean_log_density": self._mean_log_density.tolist(),
        }

    @classmethod
    def from_json(cls, columns: Sequence[Column], description: dict[str, Any]) -> "Coordinates":
        """Restores the coordinates of columns from the output of `to_json`."""
        arrays = {name: np.array(values, np.float64) for name, values in description.items()}
        coordinates = cls.__new__(cls)
        coordinates._set_columns(columns)
        power = PowerTransform(*arrays["_power"])
        coordinates._standardization = Standardization(arrays["_mean"], arrays["_scale"], power)
        coordinates._mean_log_density = arrays["_mean_log_density"]
        return coordinates

    def mark_impossible(self, numbers: tf.Tensor) -> tf.Tensor:
        """Replaces numbers that cannot occur by infinity, such as 2.5 in a column of whole numbers."""
        return tf.where(self._cells.are_impossible(numbers), np.float64(math.inf), numbers)

    def vectors(self, numbers: tf.Tensor) -> Vectors:
        """Returns the standardized vectors of numbers `[num, columns]`."""
        cells = self._standardized_cells(numbers)
        is_missing = tf.math.is_nan(numbers)
        is_blank = ~tf.math.is_finite(numbers)
        return Vectors(
            lower=tf.where(is_blank, np.float64(0.0), cells.lower),
            widths=tf.where(is_blank, np.float64(0.0), cells.widths),
            ends=cells.ends & ~is_blank[..., tf.newaxis],
            is_blank=is_blank,
            log_scale=tf.reduce_sum(tf.where(is_missing, np.float64(0.0), cells.log_scales), axis=1),
            log_unit=tf.reduce_sum(tf.where(is_missing, self._mean_log_density, cells.log_units), axis=1),
        )

    def limits(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the smallest and largest centers of numbers with cycles, `[2, columns]`; infinite for others."""
        vectors = self.vectors(tf.constant(numbers))
        centers = np.where(vectors.is_blank, np.nan, vectors.lower + vectors.widths / 2)
        has_cycles = [bool(column.cycles) for column in self.columns]
        low = np.where(has_cycles, np.nanmin(centers, axis=0), -math.inf)
        high = np.where(has_cycles, np.nanmax(centers, axis=0), math.inf)
        return np.stack([low, high])

    def _standardized_cells(self, numbers):
        """Returns the standardized `Cells` of numbers. Their log-scales include the logarithms of the widths."""
        cells = self._cells.cells(numbers)
        lower, log_slopes = self._standardization.forward(cells.lower)
        upper, _ = self._standardization.forward(cells.lower + cells.widths)
        is_cell = cells.widths > 0
        widths = tf.where(is_cell, upper - lower, 0.0)
        log_widths = tf.math.log(tf.where(widths > 0, widths, 1.0))
        log_scales = tf.where(is_cell, log_widths, log_slopes + cells.log_scales)
        log_scales = tf.where(tf.math.is_inf(numbers), np.float64(-math.inf), log_scales)
        return cells._replace(lower=lower, widths=widths, log_scales=log_scales)

    def to_numbers(self, z: tf.Tensor) -> tf.Tensor:
        """Returns the numbers `[num, columns]` of vectors."""
        return self._cells.to_numbers(self._standardization.inverse(z))
