"""The convolution of the layers, in the form that is fast for few channels."""

__all__ = ["convolution"]

import itertools

import tensorflow as tf

from tf_resflow.layers.fusion import in_one_pass

_FEW = 4  # channels, at the most, for which the other form was measured to be faster


def convolution(x, kernel):
    """`tf.nn.conv2d(x, kernel, 1, "SAME")` with an odd kernel, differentiable any number of times.

    The first and the last layer of a branch lead from and to the few channels of an image. CPU kernels of
    convolutions compute in blocks of 8 or 16 channels, so that one to a single channel costs as much as one to 8.
    Here the few channels of all taps stand beside each other, so that what is left is a matrix product: before it
    the patches of the image are gathered, or after it the taps are shifted and added. A training step becomes 1.1
    to 1.3 times as fast. With a GPU at hand, and for dtypes whose sums would lose digits, it is TensorFlow's.

    Args:
        x: `[batch, height, width, inputs]`.
        kernel: tensor `[kh, kw, inputs, outputs]`, kh and kw odd.

    Returns:
        `[batch, height, width, outputs]`.
    """
    few = min(kernel.shape[2:]) <= _FEW and tuple(kernel.shape[:2]) != (1, 1)
    precise = kernel.dtype in (tf.float32, tf.float64)
    if few and precise and not tf.config.list_logical_devices("GPU"):
        return _convolution(x, kernel)
    return tf.nn.conv2d(x, kernel, 1, "SAME")


def _convolution(x, kernel):
    height, width, inputs, outputs = kernel.shape
    size = height, width
    if inputs < outputs:
        all_taps = tf.reshape(kernel, [height * width * inputs, outputs])
        return tf.tensordot(_patches(x, size), all_taps, 1)
    all_taps = tf.transpose(kernel[::-1, ::-1], [2, 0, 1, 3])
    all_taps = tf.reshape(all_taps, [inputs, height * width * outputs])
    return _sum_of_patches(tf.tensordot(x, all_taps, 1), size)


def _patches(x, size):
    """From `[batch, H, W, c]` the pixels around each pixel, `[batch, H, W, height * width * c]`."""

    @tf.custom_gradient
    def patches(x):
        y = in_one_pass(_gather, x, *size)
        return y, lambda upstream: _sum_of_patches(tf.ensure_shape(upstream, y.shape), size)

    return patches(x)


def _sum_of_patches(x, size):
    """The transpose of `_patches`: each value is added to the pixel that it would be from."""

    @tf.custom_gradient
    def sum_of_patches(x):
        y = in_one_pass(_scatter, x, *size)
        return y, lambda upstream: _patches(tf.ensure_shape(upstream, y.shape), size)

    return sum_of_patches(x)


def _gather(x, height, width):
    x = _padded(x, height, width)
    return tf.concat([x[window] for window in _windows(height, width)], -1)


def _scatter(x, height, width):
    taps = tf.split(_padded(x, height, width), height * width, -1)
    return tf.add_n([tap[window] for tap, window in zip(reversed(taps), _windows(height, width), strict=True)])


def _padded(x, height, width):
    return tf.pad(x, [[0, 0], [height // 2] * 2, [width // 2] * 2, [0, 0]])


def _windows(height, width):
    for i, j in itertools.product(range(height), range(width)):
        yield slice(None), slice(i, i - height + 1 or None), slice(j, j - width + 1 or None)
