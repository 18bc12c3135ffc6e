"""Conversion between the data of a model and the input space of its flow, dequantization, and units of losses."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_resflow._internal.seeds import random_integers
from tf_resflow._internal.typing import Seed, TensorLike
from tf_resflow.bijectors import Networks
from tf_resflow.models.dequantizer import Dequantizer, FlowDequantizer

_LEVEL_FRACTION = 1 / 32  # residual of a block's inverse, in levels, that changes few pixels of integer data
_DEVIATION_FRACTION = 1e-5  # the same for continuous data, which have about unit variance in a block


class DataSpace:
    r"""Converts between the data of a `FlowModel` and the input space of its flow.

    Integers x become \\(z = (x + u) / L\\), with noise u that is uniform or from a `Dequantizer`. Continuous data
    do not change.

    Args:
      levels: L, the number of integer values; None for continuous data.
      dtype: Dtype of the flow's input space.

    Attributes:
      num_dimensions: D, the number of coordinates of an example.
      unit: Unit of losses: "bits_per_dim" for integer data, otherwise "nats".
      nats_per_unit: Number of nats in one `unit` of an example's loss.
      dequantization: Density of the noise: "uniform", "variational", or None for continuous data.
      inverse_atol: Tolerance of the inverse of a block that has no `inverse_solver`: 1/32 of a level for integer
        data, and 0, which means rounding errors, for continuous data.
      warning_threshold: No warning is issued below this residual: `inverse_atol` for integer data, otherwise 1e-5.
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
        levels = None if levels is None else _valid_levels(levels)
        self.event_shape = tuple(event_shape)
        self.levels = levels
        self.dequantizer = dequantizer
        self._dtype = tf.as_dtype(dtype)
        self.num_dimensions = math.prod(self.event_shape)
        if levels is None:
            self.unit = "nats"
            self.nats_per_unit = 1.0
            self.inverse_atol = 0.0
            self.dequantization = None
            self.warning_threshold = _DEVIATION_FRACTION
        else:
            self.unit = "bits_per_dim"
            self.nats_per_unit = self.num_dimensions * math.log(2.0)
            self.inverse_atol = self.warning_threshold = _LEVEL_FRACTION / levels
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
        return z if self.levels is None else quantize(z, self.levels)

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
        log_q: Any = self.num_dimensions * math.log(self.levels or 1)
        if self.dequantizer is not None and self.levels is not None:
            options: dict[str, Any] = {"log_det_estimator": log_det_estimator, "sets": sets}
            if self.noise_flow is not None:
                options["networks"] = networks
            u, log_q = self.dequantizer.sample_and_log_prob(self.centers(z), seed, **options)
            z, width = place_in_cells(z, tf.cast(u, self._dtype), self.levels)
            log_q = tf.cast(log_q, self._dtype) - self.num_dimensions * math.log(width)
        elif self.levels is not None:
            z = dequantize(z, self.levels, seed, sets=sets)
        return tf.identity(tf.cast(z, self._dtype)), log_q  # a new tensor, which no bijector has cached

    def centers(self, x: TensorLike) -> tf.Tensor:
        """Converts data to the flow's input space without noise: integers become the centers of their cells."""
        x = tf.cast(self.checked(x), self._dtype)
        return x if self.levels is None else (x + 0.5) / self.levels

    def checked(self, x: TensorLike) -> tf.Tensor:
        """Returns a batch of examples as a tensor of known shape, after checking its shape and dtype."""
        try:
            x = tf.convert_to_tensor(x)
        except (TypeError, ValueError):
            shape = ", ".join(map(str, ("batch", *self.event_shape)))
            raise ValueError(f"The data are a {type(x).__name__}. Give one array [{shape}].") from None
        if x.dtype.is_integer != (self.levels is not None):
            wanted = "floats" if self.levels is None else f"integers 0, ..., {self.levels - 1}"
            raise ValueError(f"The data are {x.dtype.name}, but the model needs {wanted}. Convert them.")
        batch = [None] if x.shape.rank is None else x.shape[: max(1, x.shape.rank - len(self.event_shape))]
        if not x.shape.is_compatible_with([*batch, *self.event_shape]):
            raise ValueError(
                f"The data have the shape {x.shape}. Give batches of examples of shape {self.event_shape}."
            )
        return x if x.shape[1:].is_fully_defined() else tf.ensure_shape(x, [*batch, *self.event_shape])


def dequantize(x: TensorLike, levels: int, seed: Seed, *, sets: int | None = None) -> tf.Tensor:
    r"""Adds uniform noise u ~ U(0, 1) to integers and scales them to the unit interval: (x + u) / levels.

    If p is the density of the result and D is the number of coordinates, then

        log P(x) >= E_u[log p((x + u) / levels)] - D log(levels),

    so a density model of the result gives a lower bound of the log-likelihood. In float32, a sum such as 255 + u
    could round up to the next integer. Therefore u is drawn from the midpoints of a uniform grid with spacing
    2^-(21 - b), where 2^b is the smallest power of two that is at least `levels`. Then x + u is exact, and
    `quantize` returns x.

    Args:
      x: Integer tensor of any shape, with values 0, ..., levels - 1.
      levels: Number of values, from 2 to 256.
      seed: See `tf_resflow.stateless_seed`; not `None`. The result is a pure function of the seed and x.
      sets: Number of equal, consecutive parts of the batch. All examples in a part share their noise, so the result
        for an example does not depend on the other examples. `None` for independent noise everywhere.

    Returns:
      A float32 tensor with the shape of x and values strictly between 0 and 1.

    References:
      L. Theis, A. van den Oord, M. Bethge. A note on the evaluation of generative models. ICLR 2016, section 3.1.
    """
    levels = _valid_levels(levels)
    x = checked_integers(x, levels)
    cells = round(0.5 / _margin(levels))
    shape = tf.shape(x)
    cell = random_integers(shape if sets is None else tf.concat([[sets], shape[1:]], 0), seed, cells)
    u = (tf.cast(cell, tf.float32) + 0.5) / cells
    if sets is not None:
        u = tf.repeat(u, shape[0] // sets, axis=0)
    return (tf.cast(x, tf.float32) + tf.ensure_shape(u, x.shape)) * (1 / levels)


def place_in_cells(x: TensorLike, u: tf.Tensor, levels: int) -> tuple[tf.Tensor, float]:
    r"""Moves numbers u in the unit interval to the cells of integers: (x + m + (1 - 2 m) u) / levels.

    The margin m is 2^(b - 22), where 2^b is the smallest power of two that is at least `levels`. It exceeds the
    rounding errors of float32, so `quantize` returns x, even for u = 0 and u = 1.

    Returns:
      The numbers, and the width of the part of a cell that they reach, (1 - 2 m) / levels. A density q(u) of one
      coordinate is divided by this width.
    """
    margin = _margin(levels)
    z = (tf.cast(checked_integers(x, levels), u.dtype) + (margin + (1 - 2 * margin) * u)) * (1 / levels)
    return z, (1 - 2 * margin) / levels


def quantize(x: TensorLike, levels: int) -> tf.Tensor:
    """Inverts `dequantize`: returns floor(x * levels), clipped to 0, ..., levels - 1, as uint8."""
    levels = _valid_levels(levels)
    return tf.cast(tf.clip_by_value(tf.floor(tf.convert_to_tensor(x) * levels), 0, levels - 1), tf.uint8)


def checked_integers(x: TensorLike, num: int, name: str = "data") -> tf.Tensor:
    """Returns integers as a tensor, after checking that they are in 0, ..., num - 1."""
    x = tf.convert_to_tensor(x)
    message = f"{name} must be integers 0, ..., {num - 1}"
    if not x.dtype.is_integer:
        raise ValueError(f"{message}, but are {x.dtype.name}. Convert them.")
    if x.dtype == tf.uint8 and num == 256:
        return x
    x = tf.cast(x, tf.int32)
    checks = [tf.debugging.assert_non_negative(x, message), tf.debugging.assert_less(x, num, message)]
    with tf.control_dependencies([check for check in checks if check is not None]):
        return tf.identity(x)


def _margin(levels):
    """Returns the least distance from integers at which scaling and rounding in float32 keep floor(x + u)."""
    return 2.0 ** ((levels - 1).bit_length() - 22)


def _valid_levels(levels):
    if levels != int(levels) or not 2 <= levels <= 256:
        raise ValueError(f"levels is {levels}, but must be an integer from 2 to 256.")
    return int(levels)
