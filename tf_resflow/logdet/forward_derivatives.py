"""Derivatives of a chain of layers, carried forward with the values."""

from typing import Any

import keras
import tensorflow as tf

from tf_resflow.layers import LipschitzConv2D, LipschitzCube, LipschitzDense, LipSwish, scaled_kernels
from tf_resflow.layers.lipschitz_constants import known_slope

__all__ = ["dense_chain", "forward_jacobian", "known_chain", "value_and_derivative"]

_CONSTRAINED = (LipschitzConv2D, LipschitzDense)
_RESHAPING = (keras.layers.Flatten, keras.layers.Reshape)


def known_chain(branch: Any) -> list[keras.Layer]:
    """The layers of a `keras.Sequential` of which the derivatives are known; else an empty list."""
    layers = branch.layers if type(branch) is keras.Sequential else []
    known = (*_CONSTRAINED, *_RESHAPING)
    return layers if all(type(layer) in known or _is_elementwise(layer) for layer in layers) else []


def dense_chain(branch: Any) -> list[keras.Layer]:
    """Those layers if they begin with a dense one, and all are dense or elementwise; else an empty list."""
    layers = known_chain(branch)
    dense = all(type(layer) is LipschitzDense or _is_elementwise(layer) for layer in layers)
    starts = layers and type(layers[0]) is LipschitzDense and len(branch.input_shape) == 2
    return layers if dense and starts else []


def _is_elementwise(layer):
    if type(layer) is keras.layers.Activation:
        return known_slope(layer) is not None
    return type(layer) in (LipSwish, LipschitzCube)


def value_and_derivative(layers: list[keras.Layer], x: tf.Tensor, v: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """g(x) and J v for a chain g of layers, `[rows, *event]`; differentiable once.

    It serves the gradient of u'J v and g(x): pairs of tensors go once through each layer and once back, and what an
    activation computes of a pair takes few passes over memory.
    """
    with scaled_kernels(layers):
        for layer in layers:
            x, v = (tf.cast(tensor, layer.compute_dtype) for tensor in (x, v))
            if isinstance(layer, LipSwish):
                x, v = layer.value_and_derivative(x, v)
            elif isinstance(layer, _CONSTRAINED):
                x, v = layer(x), layer.linear_part(v)
            elif isinstance(layer, _RESHAPING):
                x, v = layer(x), layer(v)
            else:
                x, slope = _value_and_slope(layer, x)
                v = slope * v
    return x, v


def forward_jacobian(layers: list[keras.Layer], x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The value of a chain `[batch, outputs]`, and its derivatives in each coordinate, `[inputs, batch, outputs]`.

    For a `dense_chain`, differentiable any number of times. It takes a product for each dense layer, instead of a
    reverse pass for each coordinate.
    """
    tangents: Any = None
    with scaled_kernels(layers):
        for layer in layers:
            if type(layer) is LipschitzDense:
                kernel = layer._applied_kernel()
                tangents = kernel[:, tf.newaxis] if tangents is None else _product(tangents, kernel)
                x = layer(x)
            else:
                x, slope = _value_and_slope(layer, x)
                tangents = slope * tangents
    return x, tangents + tf.zeros([tf.shape(x)[0], 1], tangents.dtype)


def _value_and_slope(layer, x):
    """What an elementwise layer computes of x, and its derivative."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        y = layer(x)
    return y, tape.gradient(y, x)


def _product(tangents, kernel):
    """The product of the last axis with a matrix."""
    rows = tf.matmul(tf.reshape(tangents, [-1, kernel.shape[0]]), kernel)
    return tf.reshape(rows, [tangents.shape[0], -1, kernel.shape[1]])
