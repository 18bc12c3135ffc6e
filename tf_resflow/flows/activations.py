"""The activations of branches: by name, as a Keras layer, or as a function."""

from collections.abc import Callable
from typing import Any

__all__ = ["ACTIVATIONS", "Activation", "make_activation"]

Activation = str | Callable[..., Any]

# The names that a config may give: a class of `tf_resflow.layers`, or a function of `keras.activations`.
ACTIVATIONS = {
    "lipswish": "LipSwish",
    "clipswish": "CLipSwish",
    "cpila": "CPila",
    "maxmin": "MaxMin",
    "fullsort": "FullSort",
    "lipschitz_cube": "LipschitzCube",
    "elu": "elu",
    "softplus": "softplus",
    "relu": "relu",
    "tanh": "tanh",
}


def make_activation(activation: Activation, **kwargs: Any) -> Any:
    """Returns a new Keras layer.

    Args:
      activation: a name; a Keras layer, which is copied without its weights; a class of Keras layers; or a function
        of a tensor.
      **kwargs: `name` and `dtype` of the layer.
    """
    import keras  # here, since a config needs the names without TensorFlow

    from tf_resflow import layers

    if isinstance(activation, keras.layers.Layer):
        return type(activation).from_config({**activation.get_config(), **kwargs})
    if isinstance(activation, type):
        return activation(**kwargs)
    kind = getattr(layers, ACTIVATIONS[activation], None) if activation in ACTIVATIONS else None
    if kind is not None:
        return kind(**kwargs)
    if isinstance(activation, str) and not hasattr(keras.activations, activation):
        known = ", ".join(ACTIVATIONS)
        raise ValueError(
            f"activation must be one of {known}, another name in keras.activations, a Keras layer or a function; "
            f"got {activation!r}."
        )
    return keras.layers.Activation(activation, **kwargs)
