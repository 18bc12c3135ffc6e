"""Linear operators whose norms the layers constrain: a matrix, and a zero-padded convolution."""

import dataclasses
import math
from typing import TypeAlias

import numpy as np
import tensorflow as tf
from scipy.sparse import linalg

_MAX_GRAM_SIZE = 4096  # largest Gram matrix of a convolution that is factorized
_EXCESS = 1e-9  # relative excess of the first attempted bound over the guess


@dataclasses.dataclass(frozen=True)
class _Operator:
    """A linear map W with a kernel of `shape` `[..., inputs, outputs]`.

    W mixes the positions of an image of `image_size`, which is empty for a matrix. `copies` is the number of
    positions at which W acts separately. For p <= q, all copies together have the norm of W.
    """

    shape: tuple[int, ...]
    image_size: tuple[int, ...] = ()
    copies: float = 1.0

    @property
    def vector_shape(self) -> tuple[int, ...]:
        return (*self.image_size, self.shape[-2])

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (*self.image_size, self.shape[-1])

    @property
    def num_inputs(self) -> float:
        return float(math.prod(self.vector_shape))

    @property
    def num_outputs(self) -> float:
        return float(math.prod(self.output_shape))

    @property
    def smaller_side(self) -> float:
        """The smaller of the numbers of inputs and outputs."""
        return min(self.num_inputs, self.num_outputs)

    def is_stacked(self, kernel: tf.Tensor) -> bool:
        """Whether the kernel consists of several kernels of this shape."""
        return len(kernel.shape) > len(self.shape)

    def matvec(self, kernel: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
        """Returns W v for each start v."""
        raise NotImplementedError

    def rmatvec(self, kernel: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
        """Returns W' u for each start u."""
        raise NotImplementedError

    def gram(self, kernel: tf.Tensor) -> tf.Tensor:
        """Returns W W' or W'W, whichever is smaller, `[n, n]`."""
        size = int(self.smaller_side)
        unit = tf.eye(size, dtype=kernel.dtype)
        if self.num_outputs < self.num_inputs:
            columns = self.rmatvec(kernel, tf.reshape(unit, [size, *self.output_shape]))
            gram = self.matvec(kernel, columns)
        else:
            columns = self.matvec(kernel, tf.reshape(unit, [size, *self.vector_shape]))
            gram = self.rmatvec(kernel, columns)
        return tf.reshape(gram, [size, size])


class MatrixOperator(_Operator):
    """v -> v W with a kernel W of `shape` `[inputs, outputs]`, or stacked kernels `[matrices, inputs, outputs]`."""

    def matvec(self, kernel: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
        if kernel.shape.rank == 2:
            return tf.matmul(v, kernel)
        return tf.squeeze(tf.matmul(tf.expand_dims(v, 1), kernel), 1)  # one vector per kernel, `[matrices, inputs]`

    def rmatvec(self, kernel: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
        if kernel.shape.rank == 2:
            return tf.matmul(u, kernel, transpose_b=True)
        return tf.squeeze(tf.matmul(tf.expand_dims(u, 1), kernel, transpose_b=True), 1)

    def outer(self, v: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
        """Returns the gradient of <u, W v> in the kernel."""
        if len(self.shape) == 2 and v.shape[0] == 1:
            return tf.matmul(v, u, transpose_a=True)
        return tf.expand_dims(v, 2) * tf.expand_dims(u, 1)

    def gram(self, kernel: tf.Tensor) -> tf.Tensor:
        of_outputs = self.num_outputs < self.num_inputs
        return tf.matmul(kernel, kernel, transpose_a=of_outputs, transpose_b=not of_outputs)

    def row_sums(self, kernel: tf.Tensor) -> tf.Tensor:
        """Returns the sum of each output's weights, in the shape of an output (with a leading axis for images)."""
        return tf.reduce_sum(kernel, 0)

    def column_sums(self, kernel: tf.Tensor) -> tf.Tensor:
        """Returns the sum of each input's weights, in the shape of an input (with a leading axis for images)."""
        return tf.reduce_sum(kernel, 1)

    def effective_kernel(self, kernel: tf.Tensor) -> tf.Tensor:
        """Returns the entries of the kernel that act on some input."""
        return kernel

    def spectral_bound(self, kernel: tf.Tensor) -> tf.Tensor:
        """Returns ||W||_2 or an upper bound of it."""
        return _root_of_largest(tf.linalg.eigvalsh(self.gram(kernel)))


class ConvolutionOperator(_Operator):
    """A convolution with stride 1, zero padding and an odd kernel `[kh, kw, inputs, outputs]`."""

    def matvec(self, kernel: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
        return tf.nn.conv2d(v, kernel, 1, "SAME")

    def rmatvec(self, kernel: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
        return tf.nn.conv2d_transpose(u, kernel, [u.shape[0], *self.vector_shape], 1, "SAME")

    def outer(self, v: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
        """Returns the gradient of <u, W v> in the kernel."""
        return tf.compat.v1.nn.conv2d_backprop_filter(v, self.shape, u, [1, 1, 1, 1], "SAME")

    def row_sums(self, kernel: tf.Tensor) -> tf.Tensor:
        return self.matvec(tf.reduce_sum(kernel, 2, keepdims=True), self._ones(kernel.dtype))

    def column_sums(self, kernel: tf.Tensor) -> tf.Tensor:
        return self.rmatvec(tf.reduce_sum(kernel, 3, keepdims=True), self._ones(kernel.dtype))

    def _ones(self, dtype):
        return tf.ones([1, *self.image_size, 1], dtype)

    def effective_kernel(self, kernel: tf.Tensor) -> tf.Tensor:
        """Returns the taps that connect two pixels of the image. On a small image, some taps never do."""
        top, left = (
            max(0, (taps + 1) // 2 - pixels) for taps, pixels in zip(self.shape[:2], self.image_size, strict=True)
        )
        return kernel[top : kernel.shape[0] - top, left : kernel.shape[1] - left]

    def spectral_bound(self, kernel: tf.Tensor) -> tf.Tensor:
        """Returns ||W||_2 if the smaller side has at most 4,096 dimensions, else a bound from Fourier symbols.

        In eager mode, `eigenvalue_bound` proves the norm to a relative 1e-9. In a graph, the norm is computed from
        all eigenvalues.
        """
        kernel = self.effective_kernel(kernel)
        if self.smaller_side > _MAX_GRAM_SIZE:
            return self._fourier_bound(kernel)
        gram = self.gram(kernel)
        if not tf.executing_eagerly():  # a SavedModel cannot use NumPy
            return _root_of_largest(tf.linalg.eigvalsh(gram))
        return tf.constant(math.sqrt(eigenvalue_bound(gram.numpy())), tf.float64)

    def _torus(self, kernel):
        """Returns the smallest periods at which no tap wraps around from one pixel of the image to another."""
        return [pixels + taps // 2 for pixels, taps in zip(self.image_size, kernel.shape[:2], strict=True)]

    def _gram_of_symbols(self, kernel, rows):
        """Returns the Gram matrices of the Fourier symbols of a periodic convolution on the `_torus`.

        The zero-padded convolution is a compression of the periodic one, whose norm is the largest norm of its
        symbols. At the frequency w, sum_ab e^(-i <w, a - b>) K_a K_b' is a Gram matrix. The result has the
        frequencies of the given rows, one of each two conjugate ones.

        References:
          Sedghi, Gupta and Long, "The singular values of convolutional layers" (2019).
        """
        if kernel.shape[2] > kernel.shape[3]:
            kernel = tf.transpose(kernel, [0, 1, 3, 2])
        height, width = self._torus(kernel)
        size = kernel.shape[2]
        a, b = np.divmod(np.arange(kernel.shape[0] * kernel.shape[1]), kernel.shape[1])
        columns = np.reshape(np.arange(width // 2 + 1), [-1, 1])
        turns = tf.cast(tf.reshape(rows, [-1, 1, 1]), tf.float64) * (a / height) + columns * (b / width)
        turns = tf.reshape(turns[..., tf.newaxis] - turns[..., tf.newaxis, :], [-1, len(a) ** 2])
        angles = tf.cast(2.0 * math.pi * turns, kernel.dtype)
        products = tf.einsum("abio,cdjo->abcdij", kernel, kernel)  # K_a K_b'
        products = tf.reshape(products, [-1, size * size])
        blocks = tf.complex(tf.cos(angles) @ products, tf.sin(angles) @ products)
        return tf.reshape(blocks, [-1, size, size])

    def _fourier_bound(self, kernel):
        """Returns an upper bound of ||W||_2, the largest norm of the Fourier symbols."""

        def largest_eigenvalue(row):
            return tf.reduce_max(tf.math.real(tf.linalg.eigvalsh(self._gram_of_symbols(kernel, row))))

        rows = tf.range(self._torus(kernel)[0])
        return _root_of_largest(tf.map_fn(largest_eigenvalue, rows, fn_output_signature=tf.float64))


LinearOperator: TypeAlias = MatrixOperator | ConvolutionOperator


def _root_of_largest(eigenvalues):
    return tf.sqrt(tf.maximum(tf.reduce_max(eigenvalues), 0.0))


def eigenvalue_bound(matrix: np.ndarray) -> float:
    r"""Returns an upper bound of the largest eigenvalue of a symmetric semidefinite matrix G in float64.

    \\(\mu I - G\\) has a Cholesky factor if and only if \\(\mu\\) exceeds all eigenvalues. The first
    \\(\mu\\) exceeds a Ritz value by a relative \\(10^{-9}\\). This excess grows by a factor of 100 per
    attempt, until \\(\mu\\) reaches the largest row sum, which is always a bound.

    References:
      Golub and Van Loan, "Matrix Computations", sections 4.2 and 10.1.
    """
    most = float(np.abs(matrix).sum(1).max())
    if not 0.0 < most < np.inf:
        return most
    matrix = matrix / most
    guess = _ritz_value(matrix)
    excess = _EXCESS
    while guess * (1.0 + excess) < 1.0:
        try:
            np.linalg.cholesky(guess * (1.0 + excess) * np.eye(len(matrix)) - matrix)
            return most * guess * (1.0 + excess)
        except np.linalg.LinAlgError:
            excess *= 100.0
    return most


def _ritz_value(matrix):
    """Returns a lower bound of the largest eigenvalue, up to rounding, which is usually equal to it."""
    if len(matrix) < 3:
        return float(np.linalg.eigvalsh(matrix)[-1])
    start = np.random.default_rng(0).normal(size=len(matrix))
    return float(linalg.eigsh(matrix, 1, v0=start, return_eigenvectors=False)[0])
