"""Finds the Keras layers and variables in the attributes of bijectors and other modules."""

from collections.abc import Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

_PARAMETERS = "_parameters"  # TFP's attribute with the constructor arguments


def networks_of(module: tf.Module) -> list[Any]:
    """Returns the networks that a module evaluates itself, without those of modules inside it.

    These are the elements of its attribute `networks`, if there is one, and the Keras layers in its other
    attributes, also in lists, tuples and dicts.
    """
    networks = list(getattr(module, "networks", ()))
    layers = [network for network in networks if isinstance(network, keras.layers.Layer)]
    known = {id(variable) for layer in layers for variable in layer.variables}
    for layer in _in_attributes(module, keras.layers.Layer):
        variables = {id(variable) for variable in layer.variables}
        if not variables <= known:  # a layer may be a part of a listed network
            networks.append(layer)
            known |= variables
    return networks


def variables_of(module: tf.Module) -> list[keras.Variable]:
    """Returns the distinct `keras.Variable`s in the attributes of a module that do not belong to its networks."""
    layers = [network for network in networks_of(module) if isinstance(network, keras.layers.Layer)]
    known = {id(variable) for layer in layers for variable in layer.variables}
    variables = {id(variable): variable for variable in _in_attributes(module, keras.Variable)}
    return [variable for key, variable in variables.items() if key not in known]


def _in_attributes(module, kind):
    for name, value in vars(module).items():
        if name != _PARAMETERS:
            yield from _elements(value, kind)


def _elements(value: Any, kind: type) -> Iterator[Any]:
    if isinstance(value, kind):
        yield value
    elif isinstance(value, Mapping):
        for element in value.values():
            yield from _elements(element, kind)
    elif isinstance(value, (list, tuple)):
        for element in value:
            yield from _elements(element, kind)
