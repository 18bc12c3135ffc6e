"""Log-determinants and inverses of small matrices I + J, with a norm of J below 1.

The batch is the last axis, `[size, size, batch]`, so that operations on all matrices read memory in order.
"""

import numpy as np
import tensorflow as tf

from tf_resflow._internal.private_api import custom_gradient, is_xla, unrecorded

MOST_ELIMINATED = 16  # largest size of matrices that are inverted only by operations that TFLite supports


def log_abs_det(matrix: tf.Tensor) -> tf.Tensor:
    """Returns log|det| of matrices I + J."""
    if matrix.shape[0] <= MOST_ELIMINATED or is_xla():
        return log_det_and_inverse(matrix)[0]
    return tf.linalg.slogdet(tf.transpose(matrix, [2, 0, 1]))[1]


def log_det_and_inverse(matrix: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the result of `log_abs_det` and the inverses. Both are differentiable any number of times."""
    with unrecorded():
        log_det, inverse = _solved(matrix)
    return _with_inverse(matrix, log_det, inverse), _inverse(matrix, inverse)


def _solved(matrix):
    if is_xla():
        return _eliminate_in_loop(matrix)
    if matrix.shape[0] <= MOST_ELIMINATED:
        return _eliminate(matrix)
    rows = tf.transpose(matrix, [2, 0, 1])
    return tf.linalg.slogdet(rows)[1], tf.transpose(tf.linalg.inv(rows), [1, 2, 0])


def _eliminate(matrix):
    r"""Returns log|det| and the inverse of matrices `[size, size, batch]`, by Gauss-Jordan sweeps.

    The sweep of coordinate k is \\(A - (a_k - e_k)(a^k + e_k)^T / A_{kk}\\), with the column \\(a_k\\) and the row
    \\(a^k\\). Row exchanges are unnecessary: if \\(\|J\|_p \le L < 1\\) for any p, the pivots of \\(A = I + J\\)
    are at least 1 - L. Let \\(M = I + K\\) be the leading block up to k. The pivot is \\(1 / (M^{-1})_{kk}\\). K is
    J between two projections on coordinates, so \\(\|K\|_p \le L\\), and
    \\(|(M^{-1})_{kk}| \le \|M^{-1}\|_p \le 1 / (1 - L)\\).
    """
    pivots = []
    for k, unit in enumerate(np.eye(matrix.shape[0], dtype=matrix.dtype.as_numpy_dtype)[..., np.newaxis]):
        pivots.append(matrix[k, k])
        matrix -= (matrix[:, k] - unit)[:, tf.newaxis] * ((matrix[k] + unit) / pivots[-1])
    return tf.reduce_sum(tf.math.log(tf.abs(tf.stack(pivots))), 0), matrix


def _eliminate_in_loop(matrix):
    """Does the same in a loop, so that XLA compiles the sweep only once."""
    size = matrix.shape[0]

    def sweep(k, matrix, log_det):
        row = tf.gather(matrix, k)
        column = tf.gather(matrix, k, axis=1)
        pivot = tf.gather(row, k)
        unit = tf.one_hot(k, size, dtype=matrix.dtype)[:, tf.newaxis]
        swept = matrix - (column - unit)[:, tf.newaxis] * ((row + unit) / pivot)
        return k + 1, swept, log_det + tf.math.log(tf.abs(pivot))

    start = (tf.constant(0), matrix, tf.zeros_like(matrix[0, 0]))
    _, inverse, log_det = tf.while_loop(lambda k, *_: k < size, sweep, start, maximum_iterations=size)
    return log_det, inverse


@custom_gradient
def _with_inverse(matrix, log_det, inverse):
    """Returns log|det| of a matrix with a known inverse, differentiable any number of times."""

    def grad(upstream):
        return upstream * tf.transpose(_inverse(matrix, inverse), [1, 0, 2]), None, None

    return tf.identity(log_det), grad


@custom_gradient
def _inverse(matrix, inverse):
    """Returns the known inverse of a matrix, differentiable with respect to the matrix."""

    def grad(upstream):
        transposed = tf.transpose(_inverse(matrix, inverse), [1, 0, 2])
        return -tf.einsum("ijn,jkn,kln->iln", transposed, upstream, transposed), None

    return tf.identity(inverse), grad
