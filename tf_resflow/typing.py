"""Types of arguments that many functions share."""

from collections.abc import Sequence

import tensorflow as tf

__all__ = ["DType", "Seed", "Shape", "TensorLike"]

DType = str | tf.DType
Seed = int | Sequence[int] | tf.Tensor | None
Shape = Sequence[int | None] | tf.TensorShape
TensorLike = tf.types.experimental.TensorLike
