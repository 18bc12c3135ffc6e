"""How the data of a model become values of its flow's input space and back, and their units."""

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

_OF_A_LEVEL = 1 / 32  # residual of a block's inverse that changes few pixels of integer data
_OF_A_DEVIATION = 1e-5  # the same for continuous data, which have about unit variance in a block


class DataSpace:
    r"""The data of a `FlowModel`, and how they become values of its flow's input space.

    Integers x become \\(z = (x + u) / L\\), with uniform noise u or that of a `Dequantizer`; continuous data stay
    as they are. Some coordinates of vectors can be discrete. In training they become \\(z = x + w (u - 1/2)\\),
    with the width w of their cells. P(x), a probability in the discrete coordinates and a density in the others, is
    the integral of p over the cell. The first and the last cell of a coordinate include what lies beyond them, so
    the probabilities of the values within the range add up to one. A number beyond the range has the probability of
    its own cell, which is part of the edge's.

    Args:
      event_shape: shape of an example.
      levels: L, the number of integer values; None for continuous data.
      dequantizer: a `Dequantizer` or None.
      dtype: dtype of the flow's input space.
      cells: the `tf_resflow.models.Cells` of vectors with discrete coordinates, or None.

    Attributes:
      num_dimensions: D, the number of coordinates of an example.
      unit: unit of losses: "bits_per_dim" for integer data, otherwise "nats".
      nats_per_unit: nats of an example's log-likelihood in one `unit` of its loss.
      log_num_cells: the log-density of z minus the log-likelihood of the data under uniform noise: \\(D \log L\\)
        for integers, \\(-\sum \log w\\) for vectors with cells, 0 for continuous data.
      dequantization: density of the noise: "uniform", "variational", or None for continuous data.
      inverse_atol: residual at which the inverse of a block without a solver of its own stops: 1/32 of a level for
        integer data, and the rounding of the dtype, 0, for continuous data.
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
            raise ValueError("Continuous data are not dequantized: leave out the dequantizer, or give levels=.")
        if not isinstance(dequantizer, keras.Layer) and getattr(dequantizer, "variables", None):
            raise ValueError("fit would not train the variables of the dequantizer. Hold them in a keras.Layer.")
        self.event_shape, self.levels, self.dequantizer = tuple(event_shape), levels, dequantizer
        self.cells: Cells | None = None if cells is None else _checked_cells(cells, self.event_shape, levels)
        self._dtype = tf.as_dtype(dtype)
        self.num_dimensions = math.prod(self.event_shape)
        self.log_num_cells = self.num_dimensions * math.log(levels or 1)
        if levels is None:
            self.unit, self.nats_per_unit, self.inverse_atol, self.dequantization = "nats", 1.0, 0.0, None
            self.unseen = _OF_A_DEVIATION
            if self.cells is not None:
                self.dequantization, self.log_num_cells = "uniform", -self.cells.log_volume
        else:
            self.unit, self.nats_per_unit = "bits_per_dim", self.num_dimensions * math.log(2.0)
            self.inverse_atol = self.unseen = _OF_A_LEVEL / levels
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
        """The loss, in `unit`s, of a log-likelihood in nats."""
        return -log_prob if self.levels is None else -log_prob / self.nats_per_unit

    def to_data(self, z: tf.Tensor) -> tf.Tensor:
        """Values of the flow's input space as data: integers as uint8, others in the middle of their cells."""
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

        The arguments are those of a `Dequantizer` and of `dequantize_in_cells`, whose points examples share if
        `sets` is given.
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
        return tf.identity(tf.cast(z, self._dtype)), log_q  # a new tensor, which is in no cache

    def centers(self, x: TensorLike) -> tf.Tensor:
        """The data in the flow's input space without randomness: the centers of the cells of integers."""
        x = tf.cast(self.checked(x), self._dtype)
        return x if self.levels is None else (x + 0.5) / self.levels

    def checked(self, x: TensorLike) -> tf.Tensor:
        """A batch of examples as a tensor of known shape; a ValueError if its shape or dtype is wrong."""
        x = tf.convert_to_tensor(x)
        if x.dtype.is_integer != (self.levels is not None):
            wanted = "floats" if self.levels is None else f"integers 0, ..., {self.levels - 1}"
            raise ValueError(f"The model takes {wanted}; got {x.dtype.name}.")
        if not x.shape[1:].is_compatible_with(self.event_shape):
            raise ValueError(f"The model takes batches of examples of shape {self.event_shape}; got {x.shape}.")
        return x if x.shape[1:].is_fully_defined() else tf.ensure_shape(x, [None, *self.event_shape])


def _checked_cells(cells, event_shape, levels):
    """The cells as arrays, if they fit the data."""
    cells = Cells(*(np.asarray(part, np.float64) for part in cells))
    fits = levels is None and len(event_shape) == 1 and all(part.shape == event_shape for part in cells)
    if not (fits and np.all(cells.step >= 0) and np.all(cells.num[cells.step > 0] >= 1)):
        raise ValueError(
            f"Cells belong to vectors without levels. They need first values, steps of at least 0, and numbers of "
            f"cells, three arrays of shape {event_shape}; got {cells} and levels={levels}."
        )
    return cells
