"""Checks inside a graph, whose errors a client can read."""

import math

import tensorflow as tf

from tf_resflow.data.column_codes import ColumnCodes
from tf_resflow.models.dequantization import on_grid

__all__ = ["check_cells", "check_finite", "check_one_or_each", "check_range", "check_rows"]


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


def check_cells(name: str, tensor: tf.Tensor, codes: ColumnCodes) -> tf.Tensor:
    """`tensor` in the units of codes, after a check that its discrete columns hold values that can occur."""
    if codes.cells is None:
        return tensor
    is_value = on_grid(tensor, codes.cells, codes.offsets)
    most = [math.inf if labels is None else len(labels) - 1 for labels in codes.labels]
    is_value &= ((tensor > -0.5) & (tensor < tf.constant(most, tensor.dtype) + 0.5)) | [math.isinf(m) for m in most]
    number = tf.math.count_nonzero(~is_value)
    message = (
        f"{name} must have values that can occur in its columns (see signatures.json): the numbers 0, 1, ... of "
        "levels, whole numbers and days, and multiples of a step. The number of other values is"
    )
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
