"""Conversion between the data of a model and the input space of its flow, and the units of losses."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_resflow.bijectors import Networks
from tf_resflow.models import dequantization
from tf_resflow.models.dequantization import Cells
from tf_resflow.models.dequantizer import Dequantizer, FlowDequantizer
from tf_resflow.typing import TensorLike

_LEVEL_FRACTION = 1 / 32  # residual of a block's inverse, in levels, that changes few pixels of integer data
_DEVIATION_FRACTION = 1e-5  # the same for continuous data, which have about unit variance in a block


class DataSpace:
    r"""Converts between the data of a `FlowModel` and the input space of its flow.

    Integers x become \\(z = (x + u) / L\\), with noise u that is uniform or from a `Dequantizer`. Continuous data
    do not change. In training, discrete coordinates of vectors become \\(z = x + w (u - 1/2)\\), where w is the
    width of their cells; for atoms, see `Cells`. P(x) is the integral of p over the cell of x: a probability in the
    discrete coordinates and a density in the others. The first and the last cell of a coordinate extend to
    infinity, so the probabilities of all values in the range add up to one. A value outside the range has the
    probability of its own cell, which is a part of the first or the last cell.

    Args:
      levels: L, the number of integer values; None for continuous data.
      dtype: dtype of the flow's input space.
      cells: the `tf_resflow.models.Cells` of vectors with discrete coordinates, or None.

    Attributes:
      num_dimensions: D, the number of coordinates of an example.
      unit: unit of losses: "bits_per_dim" for integer data, otherwise "nats".
      nats_per_unit: number of nats in one `unit` of an example's loss.
      log_num_cells: the log-density of z minus the log-likelihood of the data under uniform noise: \\(D \log L\\)
        for integers, \\(-\sum \log w\\) for vectors with cells, 0 for continuous data.
      dequantization: density of the noise: "uniform", "variational", or None for continuous data.
      inverse_atol: tolerance of the inverse of a block that has no `inverse_solver`: 1/32 of a level for integer
        data, and 0, which means rounding errors, for continuous data.
      unseen: No warning is issued below this residual: `inverse_atol` for integer data, 1e-5 for continuous data.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        levels: int | None,
        dequantizer: Dequantizer | None,
        dtype: tf.DType,
        cells: Cells | None = None,
    ):
        if dequantizer is not None and levels is None:
            raise ValueError("Continuous data are not dequantized. Leave out the dequantizer, or give levels=.")
        if not isinstance(dequantizer, keras.Layer) and getattr(dequantizer, "variables", None):
            raise ValueError("The dequantizer has variables that fit would not train. Make it a keras.Layer.")
        self.event_shape, self.levels, self.dequantizer = tuple(event_shape), levels, dequantizer
        self.cells: Cells | None = None if cells is None else _checked_cells(cells, self.event_shape, levels)
        self._dtype = tf.as_dtype(dtype)
        self.num_dimensions = math.prod(self.event_shape)
        self.log_num_cells = self.num_dimensions * math.log(levels or 1)
        if levels is None:
            self.unit, self.nats_per_unit, self.inverse_atol, self.dequantization = "nats", 1.0, 0.0, None
            self.unseen = _DEVIATION_FRACTION
            if self.cells is not None:
                self.dequantization = "uniform"
                self.log_num_cells = -float(np.log(self.cells.step[self.cells.step > 0]).sum())
        else:
            self.unit, self.nats_per_unit = "bits_per_dim", self.num_dimensions * math.log(2.0)
            self.inverse_atol = self.unseen = _LEVEL_FRACTION / levels
            self.dequantization = "uniform" if dequantizer is None else "variational"

    @property
    def noise_flow(self) -> Any:
        """The flow of a `FlowDequantizer`, or None."""
        return self.dequantizer.flow if isinstance(self.dequantizer, FlowDequantizer) else None

    @property
    def is_dequantized(self) -> bool:
        """Whether noise is added to the data, or to some of their coordinates."""
        return self.levels is not None or self.cells is not None

    def to_loss(self, log_prob: TensorLike) -> TensorLike:
        """Converts a log-likelihood in nats to a loss in `unit`s."""
        return -log_prob if self.levels is None else -log_prob / self.nats_per_unit

    def to_data(self, z: tf.Tensor) -> tf.Tensor:
        """Converts the flow's input space to data: integers are uint8, others are the centers of their cells."""
        if self.cells is not None:
            return dequantization.quantize_in_cells(z, self.cells)
        return z if self.levels is None else dequantization.quantize(z, self.levels)

    def dequantize(
        self,
        x: TensorLike,
        seed: tf.Tensor,
        *,
        log_det_estimator: Any = None,
        sets: int | None = None,
        networks: Networks | None = None,
        point_sets: tuple[int, int] | None = None,
    ) -> tuple[tf.Tensor, TensorLike]:
        """Draws z from a density q(z | x) on the cells of the data, and returns z and log q(z | x).

        For the arguments, see `Dequantizer` and `dequantize_in_cells`. With `sets`, examples share their points in
        the cells.
        """
        z = self.checked(x)
        log_q: TensorLike = self.log_num_cells
        if self.cells is not None:
            given = tf.cast(z, self._dtype), self.cells, seed, point_sets
            z, log_q = dequantization.dequantize_in_cells(*given, common=sets is not None)
        elif self.levels is not None and self.dequantizer is None:
            z = dequantization.dequantize(z, self.levels, seed, sets=sets)
        elif self.levels is not None and self.dequantizer is not None:
            bound = {} if self.noise_flow is None else {"networks": networks}
            u, log_q = self.dequantizer.sample_and_log_prob(
                self.centers(z), seed, log_det_estimator=log_det_estimator, sets=sets, **bound
            )
            z = dequantization.place_in_cells(z, tf.cast(u, self._dtype), self.levels)
            width = dequantization.cell_width(self.levels)
            log_q = tf.cast(log_q, self._dtype) - self.num_dimensions * math.log(width)
        return tf.identity(tf.cast(z, self._dtype)), log_q  # a new tensor, which no bijector has cached

    def comparable(self, log_prob: TensorLike, x: TensorLike) -> TensorLike:
        """Returns log-likelihoods divided by the widths of the atoms in x, so that their ranking has no units."""
        if self.cells is None or not len(self.cells.atoms):
            return log_prob
        return log_prob - tf.cast(dequantization.log_atom_widths(x, self.cells), tf.as_dtype(log_prob.dtype))

    def centers(self, x: TensorLike) -> tf.Tensor:
        """Converts data to the flow's input space without noise: values become the centers of their cells."""
        x = tf.cast(self.checked(x), self._dtype)
        if self.cells is not None:
            lower, widths, _ = dequantization.cell_edges(x, self.cells)
            return lower + widths / 2
        return x if self.levels is None else (x + 0.5) / self.levels

    def checked(self, x: TensorLike) -> tf.Tensor:
        """Returns a batch of examples as a tensor of known shape, after checking its shape and dtype."""
        x = tf.convert_to_tensor(x)
        if x.dtype.is_integer != (self.levels is not None):
            wanted = "floats" if self.levels is None else f"integers 0, ..., {self.levels - 1}"
            raise ValueError(f"The data are {x.dtype.name}, but the model needs {wanted}. Convert them.")
        if not x.shape[1:].is_compatible_with(self.event_shape):
            raise ValueError(
                f"The data have the shape {x.shape}. Give batches of examples of shape {self.event_shape}."
            )
        return x if x.shape[1:].is_fully_defined() else tf.ensure_shape(x, [None, *self.event_shape])


def _checked_cells(cells, event_shape, levels):
    cells = Cells(*(np.asarray(part, np.float64) for part in cells))
    cells = cells._replace(atoms=cells.atoms.reshape(-1, 4))
    fits = levels is None and len(event_shape) == 1 and all(part.shape == event_shape for part in cells[:3])
    has_places = (
        fits and np.isin(cells.atoms[:, 0], np.arange(*event_shape)).all() and np.all(cells.atoms[:, 2] > 0)
    )
    if not (has_places and np.all(cells.step >= 0) and np.all(cells.num[cells.step > 0] >= 1)):
        raise ValueError(
            f"Got {cells} and levels={levels}. Cells need vectors without levels, and three arrays of shape "
            f"{event_shape}: first values, steps of at least 0, and at least one cell for each positive step. Each "
            "row of atoms is an index of a coordinate, a value, a positive width, and -1, 0 or 1."
        )
    return cells
