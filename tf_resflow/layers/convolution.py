"""A 2-D convolution that chooses the fastest algorithm for the numbers of taps and channels."""

import math

import numpy as np
import tensorflow as tf

from tf_resflow._internal.private_api import custom_gradient
from tf_resflow.layers import tracing

_FEW = 4  # largest number of channels for which multiplying all taps at once is faster for large images
_SOME = 128  # largest number of channels for which a kernel with one tap is faster as a matrix product


def convolution(
    x: tf.Tensor,
    kernel: tf.Tensor,
    bias: tf.Tensor | None = None,
    strides: tuple[int, int] = (1, 1),
    padding: str = "same",
) -> tf.Tensor:
    """Computes `tf.nn.conv2d(x, kernel, strides, padding.upper())`, plus the bias.

    Convolutions on CPUs work on blocks of 8 or 16 channels, and are slow for fewer channels. For large images with
    few channels and for one tap, this function uses matrix products. In bfloat16, it then rounds the product of
    each tap before adding the products. All this is for odd kernels, stride 1 and padding "same".
    """
    height, width, inputs, outputs = kernel.shape
    is_centered = height % 2 == width % 2 == 1 and strides == (1, 1) and padding == "same"
    if not is_centered or kernel.dtype == tf.float16 or tf.config.list_logical_devices("GPU"):
        return _plus(tf.nn.conv2d(x, kernel, strides, padding.upper()), bias)
    if height * width == 1 and max(inputs, outputs) <= _SOME:
        return _product(x, kernel, bias)
    return _plus(_convolution(x, kernel, _mirrored(kernel)), bias)


@custom_gradient
def _convolution(x, kernel, mirrored):
    """Returns the convolution. Its gradient in x is a convolution with the mirrored kernel.

    On CPUs, this takes 0.7 to 0.9 times as long as TensorFlow's gradient. The gradient in the kernel is faster with
    fewer inputs than outputs, so they are exchanged if necessary.
    """
    inputs, outputs = kernel.shape[2:]

    def grad(upstream):
        # With few channels in bfloat16, TensorFlow rounds this gradient too often.
        kernel_gradient = tracing.in_wide(_kernel_gradient) if min(inputs, outputs) <= _FEW else _kernel_gradient
        if inputs > outputs:
            of_kernel = _mirrored(kernel_gradient(upstream, mirrored, x))
        else:
            of_kernel = kernel_gradient(x, kernel, upstream)
        return _convolution(upstream, mirrored, kernel), of_kernel, None

    if not _multiplies_patches(x, kernel):
        return tf.nn.conv2d(x, kernel, 1, "SAME"), grad
    if inputs <= outputs:
        return _product(tracing.in_one_pass(_patches, x, kernel), kernel), grad
    products = _product(x, tf.concat(tf.unstack(tf.reshape(kernel, [-1, inputs, outputs])), 1))
    return tracing.in_one_pass(_sum_of_taps, products, kernel, wide=True), grad


def _multiplies_patches(x, kernel):
    channels = kernel.shape[2:]
    is_large = tracing.is_large([*x.shape[:3], max(channels)]) and math.prod(kernel.shape[:2]) > 1
    return is_large and min(channels) <= _FEW


def _kernel_gradient(x, kernel, upstream):
    if not _multiplies_patches(x, kernel):
        return tf.compat.v1.nn.conv2d_backprop_filter(x, kernel.shape, upstream, [1, 1, 1, 1], "SAME")
    patches = tracing.in_one_pass(_patches, x, kernel)
    patches_of_pixels = tf.reshape(patches, [-1, patches.shape[-1]])
    upstream_of_pixels = tf.reshape(upstream, [-1, upstream.shape[-1]])
    return tf.reshape(matmul(patches_of_pixels, upstream_of_pixels, transpose_a=True), kernel.shape)


def _mirrored(kernel):
    return tf.transpose(kernel[::-1, ::-1], [0, 1, 3, 2])


def _patches(x, kernel):
    """Returns the flattened patch around each pixel that a kernel covers."""
    return tf.concat(_shifted([x] * math.prod(kernel.shape[:2]), kernel), -1)


def _sum_of_taps(products, kernel):
    """Adds the products of all taps, which divide the last axis, at their output pixels."""
    return tf.add_n(_shifted(tf.split(products, math.prod(kernel.shape[:2]), -1), kernel))


def _shifted(tensors, kernel):
    """Returns a tensor for each tap, moved from the input pixel of the tap to the output pixel."""
    height, width = kernel.shape[:2]
    rows, columns = tf.unstack(tf.shape(tensors[0])[1:3])
    padding = [[0, 0], [height // 2] * 2, [width // 2] * 2, [0, 0]]
    padded = [tf.pad(tensor, padding) for tensor in tensors]
    pairs = zip(padded, np.ndindex(height, width), strict=True)
    return [tensor[:, i : i + rows, j : j + columns] for tensor, (i, j) in pairs]


def matmul(x: tf.Tensor, y: tf.Tensor, **options: bool) -> tf.Tensor:
    """Computes `tf.matmul` for a matrix y. Products in bfloat16 are rounded on CPUs, where TensorFlow can truncate.

    If x has further axes, the product is of all its rows at once. With oneDNN, the process can crash in a batched
    product that broadcasts y, such as the product of [256, 1, 64, 4] and [4, 4], or in its vectorized gradient.
    """
    if x.shape.rank > 2:
        batch, *positions = x.shape[:-1]
        sizes = [tf.shape(x)[i] if size is None else size for i, size in enumerate(positions, 1)]
        rows = matmul(tf.reshape(x, [-1, y.shape[0]]), y)
        return tf.reshape(rows, [-1 if batch is None else batch, *sizes, y.shape[1]])
    if x.dtype != tf.bfloat16 or tf.config.list_logical_devices("GPU"):
        return tf.matmul(x, y, **options)
    return tf.cast(tf.matmul(tf.cast(x, tf.float32), tf.cast(y, tf.float32), **options), x.dtype)


def _plus(x, bias):
    return x if bias is None else tf.nn.bias_add(x, bias)


def _product(x, kernel, bias=None):
    return _plus(matmul(x, tf.reshape(kernel, [-1, kernel.shape[-1]])), bias)
