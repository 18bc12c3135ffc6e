"""Norms ||x||_p of vectors, and their dual vectors.

An order is a Python float in [1, inf] or, if it is learned, a scalar tensor. Vectors have a leading axis of starts:
`x` is `[starts, ...]`, and a norm reduces all other axes.
"""

import math
from typing import TypeAlias

import tensorflow as tf

Order: TypeAlias = "float | tf.Tensor"


def is_order(order: Order, value: float) -> bool:
    """Whether `order` is known statically to be `value`."""
    return isinstance(order, float) and order == value


def dual_order(order: Order) -> Order:
    """Returns p* with 1/p + 1/p* = 1."""
    if is_order(order, 1.0):
        return math.inf
    return 1.0 if is_order(order, math.inf) else order / (order - 1.0)


def in_dtype(order: Order, x: tf.Tensor) -> Order:
    """Returns the order in the dtype of x. A float has no dtype."""
    return order if isinstance(order, float) else tf.cast(order, x.dtype)


def lp_norm(x: tf.Tensor, order: Order) -> tf.Tensor:
    """Returns ||x||_p of each start, `[starts]`. The gradient at zero is zero."""
    axes = vector_axes(x)
    order = in_dtype(order, x)
    if is_order(order, math.inf):
        return tf.reduce_max(tf.abs(x), axes)
    if is_order(order, 1.0):
        return tf.reduce_sum(tf.abs(x), axes)
    peak = peaks(x)
    y = x / nonzero(peak)
    powers = tf.square(y) if is_order(order, 2.0) else tf.abs(y) ** order
    total = tf.reduce_sum(powers, axes)  # at least 1, unless x is zero
    return tf.reshape(peak, [-1]) * tf.maximum(total, 0.5) ** (1.0 / order)


def dual_vector(x: tf.Tensor, order: Order) -> tf.Tensor:
    """Returns sgn(x) |x|^(p-1), normalized: the y with <x, y> = ||x||_p and ||y||_{p*} = 1, for p < inf."""
    y = x / nonzero(peaks(x))
    order = in_dtype(order, x)
    if not is_order(order, 2.0):
        y = tf.sign(y) * tf.abs(y) ** (order - 1.0)
    return y / per_start(nonzero(lp_norm(y, dual_order(order))), x)


def vector_axes(x: tf.Tensor) -> list[int]:
    """Returns all axes except the axis of starts."""
    return list(range(1, len(x.shape)))


def per_start(numbers: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Reshapes one number per start to the rank of x."""
    return tf.reshape(numbers, [-1] + [1] * (len(x.shape) - 1))


def peaks(x: tf.Tensor) -> tf.Tensor:
    """Returns the largest magnitude of each start, with all axes and without a gradient."""
    return tf.stop_gradient(tf.reduce_max(tf.abs(x), vector_axes(x), keepdims=True))


def lengths(x: tf.Tensor) -> tf.Tensor:
    """Returns the 2-norm of each start, with all axes. Squares must neither overflow nor underflow."""
    return tf.sqrt(tf.reduce_sum(tf.square(x), vector_axes(x), keepdims=True))


def inner(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Returns the inner product of each start, with all axes."""
    return tf.reduce_sum(x * y, vector_axes(x), keepdims=True)


def nonzero(x: tf.Tensor) -> tf.Tensor:
    """Returns x with 1 instead of numbers that are not positive, so that it can be a divisor."""
    return tf.where(x > 0, x, tf.ones_like(x))


def random_like(x: tf.Tensor, shape: tf.TensorShape | list[int]) -> tf.Tensor:
    """Returns normal numbers. The values of x determine the seed, so each step of a training has other numbers."""
    sums = tf.stack([tf.reduce_sum(x), tf.reduce_sum(tf.abs(x))])
    seed = tf.bitcast(tf.cast(sums, tf.float32), tf.int32)
    return tf.random.stateless_normal(shape, seed, dtype=x.dtype)
