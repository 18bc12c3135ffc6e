"""The derivative of a chain of layers along a vector, carried forward with the values."""

from typing import Any

import keras
import tensorflow as tf

from tf_resflow.layers import LipschitzConv2D, LipschitzCube, LipschitzDense, LipSwish, scaled_kernels
from tf_resflow.layers.lipschitz_constants import known_slope

__all__ = ["known_chain", "value_and_derivative"]

_LINEAR = (keras.layers.Flatten, keras.layers.Reshape)


def known_chain(branch: Any) -> list[keras.Layer]:
    """The layers of a `keras.Sequential` of which the derivative is known; else an empty list."""
    layers = branch.layers if type(branch) is keras.Sequential else []
    known = (LipschitzConv2D, LipschitzDense, LipSwish, *_LINEAR)
    return layers if all(type(layer) in known or is_elementwise(layer) for layer in layers) else []


def is_elementwise(layer: keras.Layer) -> bool:
    """Whether a layer is a known function of each element."""
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
            elif isinstance(layer, (LipschitzConv2D, LipschitzDense)):
                x, v = layer(x), layer.linear_part(v)
            elif isinstance(layer, _LINEAR):
                x, v = layer(x), layer(v)
            else:
                with tf.GradientTape(watch_accessed_variables=False) as tape:
                    tape.watch(x)
                    y = layer(x)
                x, v = y, tape.gradient(y, x, v)
    return x, v
