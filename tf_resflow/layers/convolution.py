"""The convolution of the layers, in the form that is fast for its numbers of taps and channels."""

import math

import tensorflow as tf

__all__ = ["convolution"]

_FEW = 4  # largest number of channels for which a product of all taps was measured to be faster
_SOME = 128  # likewise for kernels of one tap


def convolution(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """`tf.nn.conv2d(x, kernel, 1, "SAME")` with an odd kernel.

    The first and the last layer of a branch lead from and to the few channels of an image. CPU kernels of
    convolutions compute in blocks of 8 or 16 channels: one to a single channel costs as much as one to 8. Here the
    few channels of all taps are laid side by side, and what remains is a matrix product. Before it the patches of
    the image are gathered, or after it the patches are added in their places; both are cheap convolutions with a
    kernel of ones and zeros. A training step becomes 1.1 (4 channels) to 1.3 times (1 channel) as fast.

    A kernel of one tap is a matrix. Up to 128 channels its product takes as long as the convolution for large
    batches, and a quarter of it for a single image of 8 x 8; the gradient in the kernel takes 0.7 to 0.85 of it.

    In bfloat16 the products of the taps are rounded before they are added, so the error is 1.4 times that of one
    rounding. On a machine with a GPU, and in float16, it is TensorFlow's convolution.

    Args:
      x: `[batch, height, width, inputs]`.
      kernel: tensor `[kh, kw, inputs, outputs]`, kh and kw odd.

    Returns:
      `[batch, height, width, outputs]`.
    """
    height, width, inputs, outputs = kernel.shape
    taps = height * width
    is_fast = max(inputs, outputs) <= _SOME if taps == 1 else min(inputs, outputs) <= _FEW
    if not is_fast or kernel.dtype == tf.float16 or tf.config.list_logical_devices("GPU"):
        return tf.nn.conv2d(x, kernel, 1, "SAME")
    if taps == 1:
        return _product(x, kernel)
    if inputs < outputs:
        return _product(_patches(x, (height, width)), kernel)
    mirrored = tf.unstack(tf.reshape(kernel, [taps, inputs, outputs]))[::-1]
    return _overlap_add(_product(x, tf.concat(mirrored, 1)), (height, width))


def _product(x, kernel):
    """The product of the last axis with a kernel as a matrix of so many rows."""
    matrix = tf.reshape(kernel, [x.shape[-1], -1])
    size = x.shape[1:3] if x.shape[1:3].is_fully_defined() else tf.unstack(tf.shape(x)[1:3])
    return tf.reshape(tf.matmul(tf.reshape(x, [-1, matrix.shape[0]]), matrix), [-1, *size, matrix.shape[1]])


# Each of the two maps is the transpose of the other. As convolutions they take less time than as the gradients of
# convolutions, above all for few images.


def _patches(x, size):
    """The flattened patch of this size around each pixel, `[batch, height, width, taps channels]`."""

    @tf.custom_gradient
    def gather(x):
        kernel = _one_hot(size, x.shape[-1], x.dtype)
        return tf.nn.conv2d(x, kernel, 1, "SAME"), lambda upstream: _overlap_add(upstream, size)

    return gather(x)


def _overlap_add(patches, size):
    """The sum of the patches that cover each pixel, `[batch, height, width, channels]`."""

    @tf.custom_gradient
    def add(patches):
        kernel = _one_hot(size, patches.shape[-1] // math.prod(size), patches.dtype)
        kernel = tf.transpose(kernel[::-1, ::-1], [0, 1, 3, 2])
        return tf.nn.conv2d(patches, kernel, 1, "SAME"), lambda upstream: _patches(upstream, size)

    return add(patches)


def _one_hot(size, channels, dtype):
    """The kernel of a convolution that gathers patches, `[*size, channels, taps channels]`."""
    taps = math.prod(size) * channels
    return tf.reshape(tf.eye(taps, dtype=dtype), [*size, channels, taps])
