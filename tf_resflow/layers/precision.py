"""Mixed precision: bound networks compute in bfloat16 in training steps, and in float32 everywhere else."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from tf_resflow._internal.private_api import sublayers

# One rounding unit of the kernel, or eight where norms are computed in the same dtype.
_ROUNDING = {"bfloat16": 2.0**-7, "float16": 2.0**-10, "float32": 2.0**-20, "float64": 2.0**-49}


def evaluation_dtype(layer: keras.Layer) -> str:
    """Returns the dtype in which a layer of a bound network computes outside of training steps."""
    return layer.variable_dtype if type(layer.dtype_policy) is keras.DTypePolicy else layer.compute_dtype


@contextlib.contextmanager
def in_evaluation_dtype(network: Any) -> Iterator[None]:
    """Context manager in which a layer and the layers inside it compute in their `evaluation_dtype` when called."""
    layers = _with_sublayers(network) if isinstance(network, keras.Layer) else []
    mixed = {layer: layer.dtype_policy for layer in layers if layer.compute_dtype != evaluation_dtype(layer)}
    for layer in mixed:
        layer.dtype_policy = layer.variable_dtype
    try:
        yield
    finally:
        for layer, policy in mixed.items():
            layer.dtype_policy = policy


def _with_sublayers(network):
    layers = [network]
    for sublayer in sublayers(network):
        layers.extend(_with_sublayers(sublayer))
    return layers


def leaves(network: keras.Layer) -> list[keras.Layer]:
    """Returns the layers of a network that contain no other layers, in order."""
    return [layer for layer in _with_sublayers(network) if not sublayers(layer)]


def rounding_error(layer: keras.layers.Layer) -> float:
    """Returns the relative margin between a layer's norm and its limit that allows for the kernel's rounding."""
    return _ROUNDING[layer.compute_dtype]
