"""Checks inside a graph, whose errors a client can read."""

import tensorflow as tf

__all__ = ["check_finite", "check_not_empty", "check_range"]


def check_not_empty(name: str, tensor: tf.Tensor) -> tf.Tensor:
    """`tensor`, after a check that it has at least one row."""
    shape = tf.shape(tensor)
    with _asserted(shape[0] > 0, f"{name} must have at least one example, but its shape is", shape):
        return tf.identity(tensor)


def check_finite(name: str, tensor: tf.Tensor) -> tf.Tensor:
    """`tensor`, after a check that it holds neither NaN nor infinity."""
    number = tf.math.count_nonzero(~tf.math.is_finite(tensor))
    message = f"{name} must be finite, but the number of its values that are NaN or infinite is"
    with _asserted(tf.equal(number, 0), message, number):
        return tf.identity(tensor)


def check_range(name: str, tensor: tf.Tensor, least: float, most: float) -> tf.Tensor:
    """`tensor`, after a check that its values lie in [least, most]."""
    lowest, highest = tf.reduce_min(tensor), tf.reduce_max(tensor)
    message = f"{name} must lie in {least}, ..., {most}, but its least and its greatest value are"
    with _asserted((lowest >= least) & (highest <= most), message, tf.stack([lowest, highest])):
        return tf.identity(tensor)


def _asserted(condition, message, found):
    return tf.control_dependencies([tf.debugging.Assert(condition, [message, found], summarize=8)])
