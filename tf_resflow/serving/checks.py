"""Checks inside a graph, whose errors a client can read. Each function returns its tensor after the check."""

import math

import tensorflow as tf

from tf_resflow.data.column_codes import ColumnCodes
from tf_resflow.models.dequantization import on_grid


def check_rows(name: str, tensor: tf.Tensor, most: int | None = None) -> tf.Tensor:
    """Checks the shape of the rows of a tensor, and that there are at least one and at most `most` rows."""
    shape = tf.shape(tensor)
    tensor = _row_shape_checked(name, tensor)
    message = f"{name} must have at least one example, but its shape is"
    tensor = _checked(tensor, shape[0] > 0, message, shape)
    if most is None:
        return tensor
    message = f"{name} must have at most {most} examples (max_batch): split the request. Its shape is"
    return _checked(tensor, shape[0] <= most, message, shape)


def check_one_or_each(name: str, tensor: tf.Tensor, num: tf.Tensor) -> tf.Tensor:
    """Checks that a tensor has one row, or as many as there are examples."""
    rows = tf.shape(tensor)[0]
    message = f"{name} must have one row, or one for each example, but the numbers of its rows and of examples are"
    tensor = _row_shape_checked(name, tensor)
    return _checked(tensor, (rows == 1) | (rows == num), message, tf.stack([rows, num]))


def check_finite(name: str, tensor: tf.Tensor) -> tf.Tensor:
    """Checks that a tensor has neither NaN nor infinity."""
    number = tf.math.count_nonzero(~tf.math.is_finite(tensor))
    message = f"{name} must be finite, but the number of its values that are NaN or infinite is"
    return _checked(tensor, tf.equal(number, 0), message, number)


def check_cells(name: str, tensor: tf.Tensor, codes: ColumnCodes) -> tf.Tensor:
    """Checks that the discrete columns of a tensor hold values that can occur, in the units of the codes."""
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
    return _checked(tensor, tf.equal(number, 0), message, number)


def check_range(name: str, tensor: tf.Tensor, least: float, most: float) -> tf.Tensor:
    """Checks that the values of a tensor lie in [least, most]."""
    lowest, highest = tf.reduce_min(tensor), tf.reduce_max(tensor)
    message = f"{name} must lie in {least}, ..., {most}, but its least and its greatest value are"
    return _checked(tensor, (lowest >= least) & (highest <= most), message, tf.stack([lowest, highest]))


def _row_shape_checked(name, tensor):
    """Compares the shapes as text: TensorFlow takes a static shape as given and would remove the comparison."""
    shape, row = tf.shape(tensor), tensor.shape[1:].as_list()
    found, expected = (
        tf.strings.format("{}", values, summarize=-1) for values in (shape, tf.concat([shape[:1], row], 0))
    )
    message = f"{name} must have the shape {[-1, *row]}, -1 for the number of examples, but its shape is"
    return _checked(tensor, tf.equal(found, expected), message, shape)


def _checked(tensor, condition, message, found):
    with tf.control_dependencies([tf.debugging.Assert(condition, [message, found], summarize=8)]):
        return tf.identity(tensor)
