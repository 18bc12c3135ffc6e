"""The Jacobian of a chain of dense layers and elementwise activations, carried forward with the values."""

from typing import Any

import keras
import tensorflow as tf

from tf_resflow.layers import LipschitzCube, LipschitzDense, LipSwish, scaled_kernels
from tf_resflow.layers.lipschitz_constants import known_slope

__all__ = ["dense_chain", "forward_jacobian"]


def dense_chain(branch: Any) -> list[keras.Layer]:
    """The layers of a branch of vectors that is such a chain, beginning with a dense one; else an empty list."""
    known = type(branch) is keras.Sequential and len(branch.input_shape) == 2
    layers = branch.layers if known else []
    is_chain = all(type(layer) is LipschitzDense or _is_elementwise(layer) for layer in layers)
    return layers if is_chain and layers and type(layers[0]) is LipschitzDense else []


def _is_elementwise(layer):
    if type(layer) is keras.layers.Activation:
        return known_slope(layer) is not None
    return type(layer) in (LipSwish, LipschitzCube)


def forward_jacobian(layers: list[keras.layers.Layer], x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The value of a chain `[batch, outputs]`, and its derivatives in each coordinate, `[inputs, batch, outputs]`.

    It takes a product for each dense layer, instead of a reverse pass for each coordinate.
    """
    tangents: Any = None
    with scaled_kernels(layers):
        for layer in layers:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(x)
                y = layer(x)
            if type(layer) is LipschitzDense:
                kernel = layer._applied_kernel()
                tangents = kernel[:, tf.newaxis] if tangents is None else _product(tangents, kernel)
            else:
                tangents = tape.gradient(y, x) * tangents
            x = y
    return x, tangents + tf.zeros([tf.shape(x)[0], 1], tangents.dtype)


def _product(tangents, kernel):
    """The product of the last axis with a matrix."""
    rows = tf.matmul(tf.reshape(tangents, [-1, kernel.shape[0]]), kernel)
    return tf.reshape(rows, [tangents.shape[0], -1, kernel.shape[1]])
