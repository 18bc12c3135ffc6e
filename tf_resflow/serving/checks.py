"""Checks inside a graph, whose errors a client can read."""

import tensorflow as tf

__all__ = ["check_examples", "check_finite", "check_range", "check_scalar"]


def check_examples(name, tensor, event_shape):
    """`tensor` with its static shape, after a check that it is `[batch, *event_shape]` of at least one example."""
    event_shape = list(event_shape)
    shape = tf.shape(tensor)
    wanted = ", ".join(map(str, ["batch", *event_shape]))
    message = f"{name} must have the shape [{wanted}] with at least one example, but its shape is"
    with _asserted(tf.equal(tf.size(shape), len(event_shape) + 1), message, shape):
        fits = tf.reduce_all(tf.equal(tf.identity(shape)[1:], event_shape)) & (shape[0] > 0)
    with _asserted(fits, message, shape):
        return tf.ensure_shape(tensor, [None, *event_shape])


def check_scalar(name, tensor):
    """`tensor` with the static shape of a scalar, after a check that it is one.

    (Of an `ensure_shape` that follows, TensorFlow would conclude that the check must pass.)
    """
    shape = tf.shape(tensor)
    with _asserted(tf.equal(tf.size(shape), 0), f"{name} must be a scalar, but its shape is", shape):
        return tf.reshape(tensor, [])


def check_finite(name, tensor):
    """`tensor`, after a check that it holds neither NaN nor infinity."""
    number = tf.math.count_nonzero(~tf.math.is_finite(tensor))
    message = f"{name} must be finite, but the number of its values that are NaN or infinite is"
    with _asserted(tf.equal(number, 0), message, number):
        return tf.identity(tensor)


def check_range(name, tensor, least, most):
    """`tensor`, after a check that its values lie in [least, most]."""
    lowest, highest = tf.reduce_min(tensor), tf.reduce_max(tensor)
    message = f"{name} must lie in {least}, ..., {most}, but its least and its greatest value are"
    with _asserted((lowest >= least) & (highest <= most), message, tf.stack([lowest, highest])):
        return tf.identity(tensor)


def _asserted(condition, message, found):
    return tf.control_dependencies([tf.debugging.Assert(condition, [message, found], summarize=8)])
