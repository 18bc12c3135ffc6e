"""Weights and checkpoints with the settings of their model and the statistics of its data."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tf_resflow.bijectors.flow import parts_by_name
from tf_resflow.layers.program import is_graph, read
from tf_resflow.models.dequantizer import FlowDequantizer
from tf_resflow.private_api import OnlyInSavedModels, eager_mode, sublayers

Settings: TypeAlias = dict[str, dict[str, Any]]
"""The settings of each part of a model by its name, as values that JSON can hold."""

# Settings that affect neither the density nor the weights: names, initial values, dtypes, and what views replace.
_FREE = re.compile(
    "name|registered_name|module|dtype|autocast|trainable|seed|initial|.*initializer|.*regularizer|.*constraint|"
    "quantization_config|validate_args|allow_nan_stats|event_shape|"
    "log_det|inverse_solver|lipschitz_constant|tolerance|max_iterations"
)
_MOST_SHOWN = 8  # numbers of an array that is saved itself, not as its hash
_WIDTH = 100  # of a setting in a message
_KEY = "settings"  # in a file of weights
_SHOWN = 3  # differences in a message


class SavedSettings(OnlyInSavedModels, tf.train.experimental.PythonState):
    """A mixin of `FlowModel` that saves its settings and the statistics of its data, one text, with its weights.

    Loading compares the settings and restores the statistics.
    """

    _only_in_saved_models: tuple[str, ...] = ("condition",)

    @property
    def statistics(self) -> dict[str, tf.Variable]:
        """The variables with which the model standardizes data, which are saved and not trained."""
        found = {
            f"{name}/{key}": variable
            for name, part in parts_by_name(self.flow).items()
            for key, variable in getattr(part, "statistics", {}).items()
        }
        return found | {f"condition/{key}": variable for key, variable in self.condition.statistics.items()}

    def serialize(self) -> str:
        """The settings and the statistics as JSON, for checkpoints."""
        with eager_mode():  # a SavedModel is written inside a graph
            statistics = {name: variable.numpy().tolist() for name, variable in self.statistics.items()}
            return json.dumps({"settings": _settings(self), "statistics": statistics})

    def deserialize(self, text: bytes | str) -> None:
        """Restores the saved statistics, or raises a ValueError if a setting differs."""
        saved = json.loads(text)
        if found := _differences(saved["settings"], json.loads(self.serialize())["settings"]):
            more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            raise ValueError(
                f"The file is of another model than {self.name}: {'; '.join(found[:_SHOWN])}{more}. Build the "
                "model as it was when the file was written."
            )
        for name, variable in self.statistics.items():
            if name in saved["statistics"]:
                variable.assign(np.asarray(saved["statistics"][name], variable.dtype.as_numpy_dtype))

    def save_own_variables(self, store: Any) -> None:
        """Keras' hook: the variables that the model holds itself, and the settings."""
        super().save_own_variables(store)
        store[_KEY] = np.frombuffer(self.serialize().encode(), np.uint8)

    def load_own_variables(self, store: Any) -> None:
        """Keras' hook, see `save_own_variables`."""
        self.deserialize(np.asarray(store[_KEY]).tobytes())
        super().load_own_variables({key: store[key] for key in store.keys() if key != _KEY})


def _settings(model: Any) -> Settings:
    """The settings of a model: its data and base distribution, and each bijector and layer of its parts."""
    found: Settings = {
        "the model": {
            "event_shape": model.data_space.event_shape,
            "levels": model.data_space.levels,
            "cells": _plain(model.data_space.cells, {}),
            "condition_shape": model.condition.shape,
            "num_classes": model.condition.num_classes,
            "statistics": {name: list(variable.shape) for name, variable in sorted(model.statistics.items())},
            **_flat("base", _plain(model.distribution.distribution, {})),
        }
    }
    found |= _flow(model.flow, "")
    dequantizer = model.data_space.dequantizer
    networks = {"condition": model.condition.network, "classifier": model.classifier}
    if dequantizer is not None:
        found["dequantizer"] = {"type": type(dequantizer).__name__}
    if isinstance(dequantizer, FlowDequantizer):
        found |= _flow(dequantizer.flow, "dequantizer/")
        networks = {"dequantizer/context": dequantizer.context, **networks}
    elif isinstance(dequantizer, keras.Layer):
        networks = {"dequantizer": dequantizer, **networks}
    for name, network in networks.items():
        found |= {} if network is None else _network(network, name)
    return found


def _differences(saved: Settings, own: Settings) -> list[str]:
    """The differences between the settings of a file and those of a model, in words.

    Settings that only one of the two has do not count, because versions of a class may have more or fewer.
    """
    found = []
    for name in {**saved, **own}:
        before, now = saved.get(name, {}), own.get(name, {})
        kind = now.get("type", before.get("type"))
        named = name if kind is None else f"{name} ({kind})"
        if name not in saved or name not in own:
            found.append(f"{named} is only in {'the file' if name in saved else 'the model'}")
        keys = [key for key in before if key in now and before[key] != now[key]]
        keys = [key for key in keys if json.dumps(before[key]) != json.dumps(now[key])]  # NaN equals itself as text
        if "type" in keys:
            keys, named = ["type"], name
        found += [
            f"{named}: {key} is {before[key]!r:.{_WIDTH}} in the file, {now[key]!r:.{_WIDTH}} in the model"
            for key in keys
        ]
    return found


def _flow(flow: tf.Module, prefix: str) -> Settings:
    """The settings of all bijectors in a flow and of their networks."""
    parts = parts_by_name(flow)
    names = {id(part): name for name, part in parts.items()}
    found: Settings = {}
    for name, part in parts.items():
        statistics = getattr(part, "statistics", {})
        values = {
            key: value
            for key, value in part.parameters.items()
            if not isinstance(value, keras.Layer) and key not in statistics
        }
        found[prefix + name] = {"type": type(part).__name__, **_flat("", _plain(values, names))}
        for i, network in enumerate(getattr(part, "networks", ())):
            if isinstance(network, keras.Layer):
                found |= _network(network, f"{prefix}{name}/network{i or ''}")
    return found


def _network(network: Any, name: str) -> Settings:
    """The settings of a layer and the layers in it, and the connections of a graph of layers."""
    if not is_graph(network):
        inside = sublayers(network) if isinstance(network, keras.Layer) else []
        layers = {layer: f"layer{i}" for i, layer in enumerate(inside)}
        own = _flat("", _plain(network, {}))
    else:
        program = read(network)
        steps = [step for step in program.steps if step.layer is not None and not is_graph(step.layer)]
        layers = {layer: f"layer{i}" for i, layer in enumerate(dict.fromkeys(step.layer for step in steps))}
        connections = [[layers.get(step.layer), step.inputs, step.outputs] for step in program.steps]
        shapes = [shape for shape, _ in program.inputs]
        own = {"input_shapes": shapes, "connections": [*connections, program.outputs]}
    found: Settings = {name: own}
    for layer, label in layers.items():
        found |= _network(layer, f"{name}/{label}")
    return found


def _plain(value: Any, names: Mapping[int, str]) -> Any:
    """A setting as JSON can hold it: the name of a bijector, the type of an object of an unknown class."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if id(value) in names:
        return names[id(value)]
    if isinstance(value, Mapping):
        if value.get("class_name") in ("function", "__lambda__"):
            return "function"
        return {str(key): _plain(part, names) for key, part in value.items() if not _FREE.fullmatch(str(key))}
    if isinstance(value, tf.TensorShape):
        return None if value.rank is None else value.as_list()
    if isinstance(value, (list, tuple)):
        return [_plain(part, names) for part in value]
    if isinstance(value, (np.ndarray, np.generic)) or (tf.is_tensor(value) and not tf.is_symbolic_tensor(value)):
        return _array(value)
    kind = {"type": type(value).__name__}
    if isinstance(value, (tfp.bijectors.Bijector, tfp.distributions.Distribution)):
        return {**kind, **_plain(value.parameters, names)}
    if isinstance(value, keras.Layer):
        return {**kind, **_plain(_config(value), names)}
    return kind["type"]


def _array(value):
    if isinstance(value, tf.Variable) or np.asarray(value).dtype.kind not in "biufc":
        kind = "variable" if isinstance(value, tf.Variable) else type(value).__name__
        return {"type": kind, "shape": [*value.shape]}
    array = np.asarray(value)
    if array.size <= _MOST_SHOWN:
        return array.tolist()
    return {"shape": [*array.shape], "sha256": hashlib.sha256(array.tobytes()).hexdigest()[:16]}


def _config(layer):
    """The configuration of a layer, without that of the layers in it, see `_network`."""
    try:
        config = layer.get_config()
    except NotImplementedError:  # a user's layer with arguments that Keras does not know
        return {}
    nested = (dict, list) if sublayers(layer) else ()
    return {key: value for key, value in config.items() if not isinstance(value, nested)}


def _flat(prefix: str, value: Any) -> dict[str, Any]:
    """Nested settings under joined names."""
    if not isinstance(value, Mapping) or "sha256" in value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, part in value.items():
        flat |= _flat(f"{prefix}.{key}" if prefix else key, part)
    return flat
