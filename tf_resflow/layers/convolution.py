"""A 2-D convolution that chooses the fastest algorithm for the numbers of taps and channels."""

import tensorflow as tf

from tf_resflow.private_api import custom_gradient

_FEW = 4  # largest number of output channels for which multiplying by all taps at once is faster
_SOME = 128  # largest number of channels for which a kernel with one tap is faster as a matrix product


def convolution(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None = None) -> tf.Tensor:
    """Computes `tf.nn.conv2d(x, kernel, 1, "SAME")` with an odd kernel, plus the bias.

    Convolutions on CPUs work on blocks of 8 or 16 channels, and gradients of kernels with few output channels are
    slow. For few output channels and for one tap, this function uses matrix products. In bfloat16, it then rounds
    the product of each tap before adding the products.
    """
    height, width, inputs, outputs = kernel.shape
    if kernel.dtype == tf.float16 or tf.config.list_logical_devices("GPU"):
        return _plus(tf.nn.conv2d(x, kernel, 1, "SAME"), bias)
    if height * width == 1 and max(inputs, outputs) <= _SOME:
        return _product(x, kernel, bias)
    if min(inputs, outputs) > _FEW:
        return _plus(_convolution(x, kernel, tf.transpose(kernel[::-1, ::-1], [0, 1, 3, 2])), bias)
    if inputs <= outputs:
        return _plus(tf.nn.conv2d(x, kernel, 1, "SAME"), bias)
    taps = height * width * outputs
    products = _product(x, tf.concat(tf.unstack(tf.reshape(kernel, [-1, inputs, outputs])), 1))
    # A convolution with a kernel of ones and zeros shifts the product of each tap to its output pixel, and adds.
    shifts = tf.reshape(tf.eye(taps, dtype=x.dtype), [height, width, outputs, taps])
    return _plus(tf.nn.conv2d(products, tf.transpose(shifts, [0, 1, 3, 2]), 1, "SAME"), bias)


@custom_gradient
def _convolution(x, kernel, mirrored):
    """Returns the convolution. Its gradient in x is a convolution with the mirrored kernel.

    On CPUs, this takes 0.7 to 0.9 times as long as TensorFlow's gradient.
    """

    def grad(upstream):
        of_kernel = tf.compat.v1.nn.conv2d_backprop_filter(x, kernel.shape, upstream, [1, 1, 1, 1], "SAME")
        return _convolution(upstream, mirrored, kernel), of_kernel, None

    return tf.nn.conv2d(x, kernel, 1, "SAME"), grad


def matmul(x: tf.Tensor, y: tf.Tensor, **options: bool) -> tf.Tensor:
    """Computes `tf.matmul`, but rounds products in bfloat16 on CPUs, where TensorFlow can truncate them."""
    if x.dtype != tf.bfloat16 or tf.config.list_logical_devices("GPU"):
        return tf.matmul(x, y, **options)
    return tf.cast(tf.matmul(tf.cast(x, tf.float32), tf.cast(y, tf.float32), **options), x.dtype)


def _plus(x, bias):
    return x if bias is None else tf.nn.bias_add(x, bias)


def _product(x, kernel, bias=None):
    matrix = tf.reshape(kernel, [-1, kernel.shape[-1]])
    size = x.shape[1:3] if x.shape[1:3].is_fully_defined() else tf.unstack(tf.shape(x)[1:3])
    rows = _plus(matmul(tf.reshape(x, [-1, matrix.shape[0]]), matrix), bias)
    return tf.reshape(rows, [-1, *size, matrix.shape[1]])
