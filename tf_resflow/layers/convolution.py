"""The convolution of the layers, in the form that is fast for few channels."""

__all__ = ["convolution"]

import itertools

import tensorflow as tf

from tf_resflow.layers.fusion import in_one_pass

_FEW = 4  # channels, at the most, for which the other form was measured to be faster


def convolution(x, kernel):
    """`tf.nn.conv2d(x, kernel, 1, "SAME")` with an odd kernel, differentiable any number of times.

    The first and the last layer of a branch lead from and to the few channels of an image. CPU kernels of
    convolutions compute in blocks of 8 or 16 channels, so that an output of 1 costs as much as one of 8. Here
    such an output is a product by 1x1, to all taps at once, and a sum of shifted images; and the gradient of its
    kernel is computed as that of the adjoint convolution, from few channels to many. It makes a training step
    1.1 (4 channels) to 1.3 times (1 channel) as fast, and costs a block some memory (see docs/results.md). With a
    GPU at hand, and for dtypes whose sums would lose digits, it is TensorFlow's.

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


@tf.custom_gradient
def _convolution(x, kernel):
    few = kernel.shape[3] <= _FEW
    y = _products_and_shifts(x, kernel) if few else tf.nn.conv2d(x, kernel, 1, "SAME")

    def grad(upstream):
        upstream = tf.ensure_shape(upstream, y.shape)  # some activations' gradients forget their shape in a graph
        return _convolution(upstream, _adjoint(kernel)), _correlation(x, upstream, kernel.shape[:2])

    return y, grad


def _correlation(x, upstream, size):
    """The gradient in the kernel of <upstream, x * kernel>: bilinear, as the convolution."""

    @tf.custom_gradient
    def correlation(x, upstream):
        def grad(kernel):
            return _convolution(upstream, _adjoint(kernel)), _convolution(x, kernel)

        if upstream.shape[3] < x.shape[3]:
            return _adjoint(_kernel_gradient(upstream, x, size)), grad
        return _kernel_gradient(x, upstream, size), grad

    return correlation(x, upstream)


def _kernel_gradient(x, upstream, size):
    shape = [*size, x.shape[3], upstream.shape[3]]
    return tf.raw_ops.Conv2DBackpropFilter(
        input=x, filter_sizes=shape, out_backprop=upstream, strides=[1, 1, 1, 1], padding="SAME"
    )


def _adjoint(kernel):
    """The kernel of the transposed convolution: its taps mirrored, its channels exchanged."""
    return tf.transpose(kernel[::-1, ::-1], [0, 1, 3, 2])


def _products_and_shifts(x, kernel):
    """One 1x1 convolution, to all taps, and the sum of the taps' images, each shifted to its place."""
    height, width, inputs, outputs = kernel.shape
    all_taps = tf.reshape(tf.transpose(kernel, [2, 0, 1, 3]), [1, 1, inputs, height * width * outputs])
    return in_one_pass(_sum_of_shifts, tf.nn.conv2d(x, all_taps, 1, "VALID"), height, width)


def _sum_of_shifts(products, height, width):
    """From `[batch, H, W, height * width * outputs]` to `[batch, H, W, outputs]`."""
    rows, columns = height - 1, width - 1
    padded = tf.pad(products, [[0, 0], [rows // 2, rows // 2], [columns // 2, columns // 2], [0, 0]])
    taps = tf.split(padded, height * width, -1)
    return tf.add_n([
        tap[:, i : i - rows or None, j : j - columns or None]
        for tap, (i, j) in zip(taps, itertools.product(range(height), range(width)), strict=True)
    ])
