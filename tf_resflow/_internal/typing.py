"""Type aliases that many functions share."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

DType = str | tf.DType
LogDet = Callable[..., Any] | Mapping[str, Callable[..., Any]]
"""An estimator of log-determinants, or a dict that maps block names to estimators."""

Seed = int | Sequence[int] | tf.Tensor | None
Shape = Sequence[int | None] | tf.TensorShape
TensorLike = tf.types.experimental.TensorLike
