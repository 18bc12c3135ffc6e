"""A 2-D convolution that chooses the fastest algorithm for the numbers of taps and channels."""

import math

import numpy as np
import tensorflow as tf

from tf_resflow.layers.tracing import in_one_pass, is_large, wide_dtype
from tf_resflow.private_api import custom_gradient

_FEW = 4  # largest number of channels for which multiplying patches was measured to be faster
_SOME = 128  # the same for kernels with one tap


def convolution(
    x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None = None, *, fused: bool = False
) -> tf.Tensor:
    """Computes `tf.nn.conv2d(x, kernel, 1, "SAME")` with an odd kernel, plus the bias.

    Convolutions on CPUs work on blocks of 8 or 16 channels and are slow for few channels. This function then
    uses matrix products of image patches. In bfloat16, it rounds the product of each tap before adding the
    products. With `fused`, it gathers and adds patches of large images in one pass over memory (see `in_one_pass`).
    """
    height, width, inputs, outputs = kernel.shape
    if kernel.dtype == tf.float16 or tf.config.list_logical_devices("GPU"):
        return _plus(tf.nn.conv2d(x, kernel, 1, "SAME"), bias)
    if height * width == 1 and max(inputs, outputs) <= _SOME:
        return _product(x, kernel, bias)
    if min(inputs, outputs) > _FEW:
        return _plus(_convolution(x, kernel, tf.transpose(kernel[::-1, ::-1], [0, 1, 3, 2])), bias)
    if inputs < outputs:
        if fused and is_large(x):
            return _product(_patches(x, (height, width), fused), kernel, bias)
        return _plus(tf.nn.conv2d(x, kernel, 1, "SAME"), bias)
    mirrored = tf.unstack(tf.reshape(kernel, [height * width, inputs, outputs]))[::-1]
    return _plus(_overlap_add(_product(x, tf.concat(mirrored, 1)), (height, width), fused), bias)


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


# `_patches` and `_overlap_add` are transposes of each other. XLA combines the shifted images in one pass over
# memory. Without XLA, a convolution with a kernel of ones and zeros is faster.


def _patches(x, size, fused):
    """Returns the flattened patch around each pixel, `[batch, height, width, taps channels]`."""
    shifted = fused and is_large(x) and x.dtype != tf.bfloat16  # XLA would move it in float32
    gather = _shifts if shifted else _gather_by_convolution

    @custom_gradient
    def operation(x):
        return in_one_pass(gather, x, size, fused=shifted), lambda upstream: _overlap_add(upstream, size, fused)

    return operation(x)


def _overlap_add(patches, size, fused):
    """Returns the sum of the patches that cover each pixel, `[batch, height, width, channels]`."""
    one_pass = fused and is_large(patches)
    add = _sum_of_shifts if one_pass else _add_by_convolution

    @custom_gradient
    def operation(patches):
        return in_one_pass(add, patches, size, fused=one_pass), lambda upstream: _patches(upstream, size, fused)

    return operation(patches)


def _shifts(x, size):
    return tf.concat([_crop(_pad(x, size), shift, x) for shift in np.ndindex(size)], -1)


def _sum_of_shifts(patches, size):
    taps = tf.split(_pad(tf.cast(patches, wide_dtype(patches.dtype)), size), math.prod(size), -1)
    shifts = list(np.ndindex(size))[::-1]
    total = tf.add_n([_crop(tap, shift, patches) for tap, shift in zip(taps, shifts, strict=True)])
    return tf.cast(total, patches.dtype)


def _pad(x, size):
    return tf.pad(x, [[0, 0], *([taps // 2, taps // 2] for taps in size), [0, 0]])


def _crop(padded, shift, like):
    (top, left), shape = shift, tf.shape(like)
    return padded[:, top : top + shape[1], left : left + shape[2]]


def _gather_by_convolution(x, size):
    return tf.nn.conv2d(x, _one_hot(size, x.shape[-1], x.dtype), 1, "SAME")


def _add_by_convolution(patches, size):
    kernel = _one_hot(size, patches.shape[-1] // math.prod(size), patches.dtype)
    return tf.nn.conv2d(patches, tf.transpose(kernel[::-1, ::-1], [0, 1, 3, 2]), 1, "SAME")


def _one_hot(size, channels, dtype):
    """Returns the kernel of a convolution that gathers patches, `[*size, channels, taps channels]`."""
    taps = math.prod(size) * channels
    return tf.reshape(tf.eye(taps, dtype=dtype), [*size, channels, taps])
