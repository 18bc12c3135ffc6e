"""Types of arguments that many functions share."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

DType = str | tf.DType
LogDet = Callable[..., Any] | Mapping[str, Callable[..., Any]]
"""An estimator of log-determinants, or a dict of them by the names of blocks."""

Seed = int | Sequence[int] | tf.Tensor | None
Shape = Sequence[int | None] | tf.TensorShape
TensorLike = tf.types.experimental.TensorLike
