"""Log-determinants and inverses of small matrices I + J, with a norm of J below 1."""

import numpy as np
import tensorflow as tf

from tf_resflow.private_api import custom_gradient, is_xla, unrecorded

__all__ = ["MOST_ELIMINATED", "inverse_of", "log_abs_det"]

MOST_ELIMINATED = 16  # size of a matrix that is inverted by operations that XLA and TFLite have, too


def log_abs_det(matrix: tf.Tensor) -> tf.Tensor:
    """log|det| of matrices I + J with a norm of J below 1, `[batch, size, size]`; differentiable."""
    size = matrix.shape[-1]
    if size == 2:
        a, b, c, d = tf.unstack(tf.reshape(matrix, [-1, 4]), axis=1)
        return tf.math.log(tf.abs(a * d - b * c))
    if size <= MOST_ELIMINATED:
        with unrecorded():
            log_det, inverse = _eliminate(matrix)
        return _with_inverse(matrix, log_det, inverse)
    return _log_abs_det_by_qr(matrix) if is_xla() else tf.linalg.slogdet(matrix)[1]


def inverse_of(matrix: tf.Tensor) -> tf.Tensor:
    """The inverses of such matrices, differentiable."""
    return _eliminate(matrix)[1] if matrix.shape[-1] <= MOST_ELIMINATED else tf.linalg.inv(matrix)


@custom_gradient
def _log_abs_det_by_qr(matrix):
    """log|det| in what XLA compiles, which has no `slogdet`."""
    diagonal = tf.linalg.diag_part(tf.linalg.qr(matrix)[1])
    log_det = tf.reduce_sum(tf.math.log(tf.abs(diagonal)), -1)
    return log_det, lambda upstream: upstream[..., tf.newaxis, tf.newaxis] * tf.linalg.inv(matrix, adjoint=True)


def _eliminate(matrix):
    r"""log|det| and the inverse of matrices `[batch, size, size]`, by Gauss-Jordan sweeps.

    The sweep of coordinate k is \\(A - (a_k - e_k)(a^k + e_k)^T / A_{kk}\\), with the column \\(a_k\\) and the row
    \\(a^k\\). Rows need not be exchanged: if \\(\|J\|_p \le L < 1\\) for any p, the pivots of \\(A = I + J\\) are
    at least 1 - L. With M the leading block up to k, the pivot is \\(1 / (M^{-1})_{kk}\\). M is I + K, where K is J
    between two projections on coordinates, whose norms are 1. So \\(\|K\|_p \le L\\), and
    \\(|(M^{-1})_{kk}| \le \|M^{-1}\|_p \le 1 / (1 - L)\\).
    """
    pivots = []
    for k, unit in enumerate(np.eye(matrix.shape[-1], dtype=matrix.dtype.as_numpy_dtype)):
        pivots.append(matrix[:, k : k + 1, k : k + 1])
        row = (matrix[:, k : k + 1] + unit) / pivots[-1]
        matrix -= (matrix[:, :, k : k + 1] - unit[:, np.newaxis]) * row
    return tf.reduce_sum(tf.math.log(tf.abs(tf.concat(pivots, axis=1))), axis=[1, 2]), matrix


@custom_gradient
def _with_inverse(matrix, log_det, inverse):
    """log|det| of a matrix whose inverse is known; differentiable any number of times."""

    def grad(upstream):
        transposed = tf.linalg.matrix_transpose(_inverse(matrix, inverse))
        return upstream[:, tf.newaxis, tf.newaxis] * transposed, None, None

    return tf.identity(log_det), grad


@custom_gradient
def _inverse(matrix, inverse):
    """The known inverse of a matrix, differentiable in the matrix."""

    def grad(upstream):
        transposed = tf.linalg.matrix_transpose(_inverse(matrix, inverse))
        return -tf.matmul(tf.matmul(transposed, upstream), transposed), None

    return tf.identity(inverse), grad
