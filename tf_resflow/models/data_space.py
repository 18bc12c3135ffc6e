"""Conversion between the data of a model and the input space of its flow, and the units of losses."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_resflow.bijectors import Networks
from tf_resflow.models import dequantization
from tf_resflow.models.dequantizer import Dequantizer, FlowDequantizer
from tf_resflow.typing import TensorLike

_LEVEL_FRACTION = 1 / 32  # residual of a block's inverse, in levels, that changes few pixels of integer data
_DEVIATION_FRACTION = 1e-5  # the same for continuous data, which have about unit variance in a block


class DataSpace:
    r"""Converts between the data of a `FlowModel` and the input space of its flow.

    Integers x become \\(z = (x + u) / L\\), with noise u that is uniform or from a `Dequantizer`. Continuous data
    do not change.

    Args:
      levels: L, the number of integer values; None for continuous data.
      dtype: dtype of the flow's input space.

    Attributes:
      num_dimensions: D, the number of coordinates of an example.
      unit: unit of losses: "bits_per_dim" for integer data, otherwise "nats".
      nats_per_unit: number of nats in one `unit` of an example's loss.
      log_num_cells: \\(D \log L\\) for integers, which is the log-density of z minus the log-likelihood of the data
        under uniform noise; 0 for continuous data.
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
    ):
        if dequantizer is not None and levels is None:
            raise ValueError("Continuous data are not dequantized. Leave out the dequantizer, or give levels=.")
        if not isinstance(dequantizer, keras.Layer) and getattr(dequantizer, "variables", None):
            raise ValueError("The dequantizer has variables that fit would not train. Make it a keras.Layer.")
        self.event_shape, self.levels, self.dequantizer = tuple(event_shape), levels, dequantizer
        self._dtype = tf.as_dtype(dtype)
        self.num_dimensions = math.prod(self.event_shape)
        self.log_num_cells = self.num_dimensions * math.log(levels or 1)
        if levels is None:
            self.unit, self.nats_per_unit, self.inverse_atol, self.dequantization = "nats", 1.0, 0.0, None
            self.unseen = _DEVIATION_FRACTION
        else:
            self.unit, self.nats_per_unit = "bits_per_dim", self.num_dimensions * math.log(2.0)
            self.inverse_atol = self.unseen = _LEVEL_FRACTION / levels
            self.dequantization = "uniform" if dequantizer is None else "variational"

    @property
    def noise_flow(self) -> Any:
        """The flow of a `FlowDequantizer`, or None."""
        return self.dequantizer.flow if isinstance(self.dequantizer, FlowDequantizer) else None

    def to_loss(self, log_prob: TensorLike) -> TensorLike:
        """Converts a log-likelihood in nats to a loss in `unit`s."""
        return -log_prob if self.levels is None else -log_prob / self.nats_per_unit

    def to_data(self, z: tf.Tensor) -> tf.Tensor:
        """Converts the flow's input space to data: uint8 for integers, otherwise unchanged."""
        return z if self.levels is None else dequantization.quantize(z, self.levels)

    def dequantize(
        self,
        x: TensorLike,
        seed: tf.Tensor,
        *,
        log_det_estimator: Any = None,
        sets: int | None = None,
        networks: Networks | None = None,
    ) -> tuple[tf.Tensor, TensorLike]:
        """Draws z from a density q(z | x), and returns z and log q(z | x). See `Dequantizer` for the arguments."""
        z = self.checked(x)
        log_q: TensorLike = self.log_num_cells
        if self.levels is not None and self.dequantizer is None:
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

    def centers(self, x: TensorLike) -> tf.Tensor:
        """Converts data to the flow's input space without noise: integers become the centers of their cells."""
        x = tf.cast(self.checked(x), self._dtype)
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
