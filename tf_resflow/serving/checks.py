"""Checks inside a graph, whose errors a client can read."""

import math
from collections.abc import Sequence

import tensorflow as tf

__all__ = ["check_finite", "check_levels", "check_one_or_each", "check_range", "check_rows"]


def check_rows(name: str, tensor: tf.Tensor, most: int | None = None) -> tf.Tensor:
    """`tensor`, after a check of the shape of its rows, and that there is one, and at most `most`."""
    shape = tf.shape(tensor)
    message = f"{name} must have at least one example, but its shape is"
    checks = [_assertion(shape[0] > 0, message, shape), _rows_fit(name, tensor)]
    if most is not None:
        message = f"{name} must have at most {most} examples (max_batch): split the request. Its shape is"
        checks.append(_assertion(shape[0] <= most, message, shape))
    with tf.control_dependencies(checks):
        return tf.identity(tensor)


def check_one_or_each(name: str, tensor: tf.Tensor, num: tf.Tensor) -> tf.Tensor:
    """`tensor`, after a check that it has one row, or as many as there are examples."""
    rows = tf.shape(tensor)[0]
    message = f"{name} must have one row, or one for each example, but the numbers of its rows and of examples are"
    checks = [_assertion((rows == 1) | (rows == num), message, tf.stack([rows, num])), _rows_fit(name, tensor)]
    with tf.control_dependencies(checks):
        return tf.identity(tensor)


def check_finite(name: str, tensor: tf.Tensor) -> tf.Tensor:
    """`tensor`, after a check that it holds neither NaN nor infinity."""
    number = tf.math.count_nonzero(~tf.math.is_finite(tensor))
    message = f"{name} must be finite, but the number of its values that are NaN or infinite is"
    with tf.control_dependencies([_assertion(tf.equal(number, 0), message, number)]):
        return tf.identity(tensor)


def check_levels(name: str, tensor: tf.Tensor, nums: Sequence[int | None]) -> tf.Tensor:
    """`tensor`, after a check that its columns of levels, whose numbers are not None, hold codes of theirs."""
    most = tf.constant([math.inf if num is None else num - 1 for num in nums], tensor.dtype)
    is_code = tf.equal(tensor, tf.floor(tensor)) & (tensor >= 0) & (tensor <= most)
    number = tf.math.count_nonzero(~is_code & tf.math.is_finite(most))
    message = f"{name} must have the codes 0, 1, ... of levels (see signatures.json), but the number of others is"
    with tf.control_dependencies([_assertion(tf.equal(number, 0), message, number)]):
        return tf.identity(tensor)


def check_range(name: str, tensor: tf.Tensor, least: float, most: float) -> tf.Tensor:
    """`tensor`, after a check that its values lie in [least, most]."""
    lowest, highest = tf.reduce_min(tensor), tf.reduce_max(tensor)
    message = f"{name} must lie in {least}, ..., {most}, but its least and its greatest value are"
    check = _assertion((lowest >= least) & (highest <= most), message, tf.stack([lowest, highest]))
    with tf.control_dependencies([check]):
        return tf.identity(tensor)


def _rows_fit(name, tensor):
    """A check of the shape of a row. It compares texts: TensorFlow answers for static shapes without a look."""
    shape, row = tf.shape(tensor), tensor.shape[1:].as_list()
    found, expected = (
        tf.strings.format("{}", values, summarize=-1) for values in (shape, tf.concat([shape[:1], row], 0))
    )
    message = f"{name} must have the shape {[-1, *row]}, -1 for the number of examples, but its shape is"
    return _assertion(tf.equal(found, expected), message, shape)


def _assertion(condition, message, found):
    return tf.debugging.Assert(condition, [message, found], summarize=8)
