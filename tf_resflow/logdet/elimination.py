"""Log-determinants and inverses of small matrices I + J, with a norm of J below 1."""

import tensorflow as tf

from tf_resflow.private_api import custom_gradient, is_xla, unrecorded

__all__ = ["MOST_ELIMINATED", "inverse_of", "log_abs_det"]

MOST_ELIMINATED = 16  # size of a matrix that is inverted by operations that TFLite has, too


def log_abs_det(matrix: tf.Tensor) -> tf.Tensor:
    """log|det| of matrices I + J with a norm of J below 1, `[batch, size, size]`; differentiable."""
    size = matrix.shape[-1]
    if size == 2:
        a, b, c, d = tf.unstack(tf.reshape(matrix, [-1, 4]), axis=1)
        return tf.math.log(tf.abs(a * d - b * c))
    if not _eliminates(size):
        return tf.linalg.slogdet(matrix)[1]
    with unrecorded():
        log_det, inverse = _eliminate(matrix)
    return _with_inverse(matrix, log_det, inverse)


def inverse_of(matrix: tf.Tensor) -> tf.Tensor:
    """The inverses of such matrices, differentiable."""
    if not _eliminates(matrix.shape[-1]):
        return tf.linalg.inv(matrix)
    with unrecorded():
        inverse = _eliminate(matrix)[1]
    return _inverse(matrix, inverse)


def _eliminates(size):
    return size <= MOST_ELIMINATED or is_xla()  # which has no `slogdet`, and whose `qr` takes three times as long


def _eliminate(matrix):
    r"""log|det| and the inverse of matrices `[batch, size, size]`, by Gauss-Jordan sweeps.

    The sweep of coordinate k is \\(A - (a_k - e_k)(a^k + e_k)^T / A_{kk}\\), with the column \\(a_k\\) and the row
    \\(a^k\\). Rows need not be exchanged: if \\(\|J\|_p \le L < 1\\) for any p, the pivots of \\(A = I + J\\) are
    at least 1 - L. With M the leading block up to k, the pivot is \\(1 / (M^{-1})_{kk}\\). M is I + K, where K is J
    between two projections on coordinates, whose norms are 1. So \\(\|K\|_p \le L\\), and
    \\(|(M^{-1})_{kk}| \le \|M^{-1}\|_p \le 1 / (1 - L)\\).
    """
    size, dtype = matrix.shape[-1], matrix.dtype

    def sweep(k, matrix, log_det):
        unit = tf.one_hot(k, size, dtype=dtype)
        pivot = matrix[:, k, k]
        row = (matrix[:, k] + unit) / pivot[:, tf.newaxis]
        column = matrix[:, :, k] - unit
        return k + 1, matrix - column[:, :, tf.newaxis] * row[:, tf.newaxis], log_det + tf.math.log(tf.abs(pivot))

    state = 0, matrix, tf.zeros(tf.shape(matrix)[:1], dtype)
    if is_xla():  # to compile one sweep
        state = tf.while_loop(lambda k, *_: k < size, sweep, state, maximum_iterations=size)
    else:
        for _ in range(size):
            state = sweep(*state)
    return state[2], state[1]


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
