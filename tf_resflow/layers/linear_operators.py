"""Linear operators whose norms the layers constrain: a matrix, and a convolution."""

import dataclasses
import math
from typing import NamedTuple, TypeAlias

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


class Axis(NamedTuple):
    """The height or the width of a convolution: a window of `taps` pixels that moves by `stride` pixels.

    Padding is as in TensorFlow. If "same" needs an odd number of zeros, one more is added after the image.
    """

    pixels: int
    taps: int
    stride: int
    padding: str

    @property
    def num_windows(self) -> int:
        """The number of output pixels, which is not positive if the window is larger than an unpadded image."""
        num_starts = self.pixels if self.padding == "same" else self.pixels - self.taps + 1
        return -(-num_starts // self.stride)

    @property
    def num_zeros(self) -> int:
        return max(0, self.last_start + self.taps - self.pixels)

    @property
    def num_zeros_before(self) -> int:
        return self.num_zeros // 2

    @property
    def last_start(self) -> int:
        """The first pixel of the last window, counted from the first zero."""
        return (self.num_windows - 1) * self.stride

    @property
    def effective_taps(self) -> slice:
        """The taps that meet a pixel of the image in some window. Without the other taps, padding is the same."""
        first = max(0, self.num_zeros_before - self.last_start)
        return slice(first, min(self.taps, self.num_zeros_before + self.pixels))

    @property
    def fewest_pixels(self) -> int:
        """The smallest image size from which on no norm exceeds that for `pixels`.

        The matrix for a smaller image is a block of the matrix for `pixels` if its windows coincide with windows of
        the larger image, up to a shift. With padding "same", all do for strides 1 and 2 and for at most two taps.
        """
        if self.padding == "valid":
            return self.taps
        return self.pixels if self.stride > 2 and self.taps > 2 else 1

    @property
    def num_blocks(self) -> int:
        """The smallest period, in blocks of `stride` pixels, at which no tap wraps around to another pixel.

        The windows cover `num_windows - 1 + blocks_of_window` blocks. On the torus, the blocks of zeros before the
        image coincide with blocks of zeros after the image, of which there are at least as many.
        """
        blocks_of_window = -(-self.taps // self.stride)
        blocks_of_zeros = self.num_zeros_before // self.stride
        return self.num_windows - 1 + blocks_of_window - blocks_of_zeros


@dataclasses.dataclass(frozen=True)
class ConvolutionOperator(_Operator):
    """A convolution with a kernel `[kh, kw, inputs, outputs]`."""

    strides: tuple[int, int] = (1, 1)
    padding: str = "same"

    @property
    def output_size(self) -> tuple[int, ...]:
        return tuple(axis.num_windows for axis in self._axes(self.shape))

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (*self.output_size, self.shape[-1])

    @property
    def smallest_image_size(self) -> tuple[int, ...]:
        """The size of the smallest images for which the norm is at most the norm for `image_size`."""
        return tuple(axis.fewest_pixels for axis in self._axes(self.shape))

    @property
    def has_separate_windows(self) -> bool:
        """Whether each window covers pixels of the image only, and shares no pixel with another window."""
        return all(axis.taps <= axis.stride and axis.num_zeros == 0 for axis in self._axes(self.shape))

    def matvec(self, kernel: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
        return tf.nn.conv2d(v, kernel, self.strides, self.padding.upper())

    def rmatvec(self, kernel: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
        shape = [u.shape[0], *self.image_size, kernel.shape[2]]
        return tf.nn.conv2d_transpose(u, kernel, shape, self.strides, self.padding.upper())

    def outer(self, v: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
        """Returns the gradient of <u, W v> in the kernel."""
        strides = [1, *self.strides, 1]
        return tf.compat.v1.nn.conv2d_backprop_filter(v, self.shape, u, strides, self.padding.upper())

    def row_sums(self, kernel: tf.Tensor) -> tf.Tensor:
        ones = tf.ones([1, *self.image_size, 1], kernel.dtype)
        return self.matvec(tf.reduce_sum(kernel, 2, keepdims=True), ones)

    def column_sums(self, kernel: tf.Tensor) -> tf.Tensor:
        ones = tf.ones([1, *self.output_size, 1], kernel.dtype)
        return self.rmatvec(tf.reduce_sum(kernel, 3, keepdims=True), ones)

    def _axes(self, kernel_shape):
        sizes = zip(self.image_size, kernel_shape[:2], self.strides, strict=True)
        return [Axis(*size, self.padding) for size in sizes]

    def effective_kernel(self, kernel: tf.Tensor) -> tf.Tensor:
        """Returns the taps that connect two pixels. On a small image, some taps never do."""
        rows, columns = (axis.effective_taps for axis in self._axes(kernel.shape))
        return kernel[rows, columns]

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

    def _kernel_of_blocks(self, kernel):
        """Returns the kernel of the convolution with stride 1 whose input channels are blocks of `strides` pixels.

        It has the same matrix, except for the order of the inputs.
        """
        height, width = self.strides
        inputs, outputs = kernel.shape[2:]
        padding = [[0, -kernel.shape[0] % height], [0, -kernel.shape[1] % width], [0, 0], [0, 0]]
        kernel = tf.pad(kernel, padding)
        rows, columns = kernel.shape[0] // height, kernel.shape[1] // width
        blocks = tf.reshape(kernel, [rows, height, columns, width, inputs, outputs])
        blocks = tf.transpose(blocks, [0, 2, 1, 3, 4, 5])
        return tf.reshape(blocks, [rows, columns, height * width * inputs, outputs])

    def _gram_of_symbols(self, kernel, torus, rows):
        """Returns the Gram matrices of the Fourier symbols of a periodic convolution with stride 1.

        If no tap wraps around on the torus from one pixel of the image to another, the convolution of the image is
        a compression of the periodic one, whose norm is the largest norm of its symbols. At the frequency w,
        sum_ab e^(-i <w, a - b>) K_a K_b' is a Gram matrix. The result has the frequencies of the given rows, one of
        each two conjugate ones.

        References:
          Sedghi, Gupta and Long, "The singular values of convolutional layers" (2019).
        """
        if kernel.shape[2] > kernel.shape[3]:
            kernel = tf.transpose(kernel, [0, 1, 3, 2])
        height, width = torus
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
        torus = [axis.num_blocks for axis in self._axes(kernel.shape)]
        kernel_of_blocks = self._kernel_of_blocks(kernel)

        def largest_eigenvalue(row):
            gram = self._gram_of_symbols(kernel_of_blocks, torus, row)
            return tf.reduce_max(tf.math.real(tf.linalg.eigvalsh(gram)))

        rows = tf.range(torus[0])
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
