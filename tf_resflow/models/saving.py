"""Saves the config of a model and the statistics of its data together with weights and checkpoints."""

import json
import os
import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_resflow.bijectors.flow import parts_by_name
from tf_resflow.private_api import OnlyInSavedModels, eager_mode, sublayers
from tf_resflow.serialization import constructor_arguments, serialize
from tf_resflow.settings import differences

# Arguments that are statistics of the data. Only their shapes are compared.
_STATISTICS: dict[str, tuple[str, ...]] = {
    "FlowModel": ("condition_mean", "condition_std"),
    "Normalize": ("mean", "std"),
    "Whiten": ("mean", "covariance"),
}
_KEY = "settings"  # key in a file of weights
_SHOWN = 3  # largest number of differences in a message


class SavedSettings(OnlyInSavedModels, tf.train.experimental.PythonState):
    """A mixin that saves the config of a model and the statistics of its data, as one string, with the weights."""

    _only_in_saved_models: tuple[str, ...] = ("condition",)

    @property
    def statistics(self) -> dict[str, tf.Variable]:
        """The variables that standardize data. They are saved but not trained."""
        found = {
            f"{name}/{key}": variable
            for name, part in parts_by_name(self.flow).items()
            for key, variable in getattr(part, "statistics", {}).items()
        }
        return found | {f"condition/{key}": variable for key, variable in self.condition.statistics.items()}

    def serialize(self) -> str:
        """Returns the config and the statistics as JSON, for checkpoints."""
        with eager_mode():  # a SavedModel is written inside a graph
            statistics = {name: variable.numpy().tolist() for name, variable in self.statistics.items()}
            return json.dumps({"config": _description(self), "statistics": statistics})

    def deserialize(self, text: bytes | str) -> None:
        """Restores the saved statistics, or raises a ValueError if the saved config differs."""
        saved, own = json.loads(text), json.loads(self.serialize())
        if found := _differences(saved.get("config", own["config"]), own["config"]):  # version 0.2 saved no config
            more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            raise ValueError(
                f"The file does not belong to the model {self.name}: {'; '.join(found[:_SHOWN])}{more}. Build the "
                "model with the settings in the file."
            )
        for name, variable in self.statistics.items():
            if name in saved["statistics"]:
                variable.assign(np.asarray(saved["statistics"][name], variable.dtype.as_numpy_dtype))

    def save_own_variables(self, store: Any) -> None:
        """Keras hook: saves the variables of the model itself, and the config."""
        super().save_own_variables(store)
        store[_KEY] = np.frombuffer(self.serialize().encode(), np.uint8)

    def load_weights(self, filepath: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Like `keras.Model.load_weights`, but an error about settings is raised without Keras's warnings."""
        self._mismatch: list[ValueError] = []
        with warnings.catch_warnings(record=True) as caught:
            try:
                super().load_weights(filepath, *args, **kwargs)
            except ValueError as error:
                raise (self._mismatch or [error])[0] from None
            finally:
                del self._mismatch
        for warning in caught:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)

    def load_own_variables(self, store: Any) -> None:
        """Keras hook, see `save_own_variables`."""
        try:
            self.deserialize(np.asarray(store[_KEY]).tobytes())
        except ValueError as error:
            getattr(self, "_mismatch", []).append(error)
            raise
        super().load_own_variables({key: store[key] for key in store.keys() if key != _KEY})


def _description(value):
    """Returns the config of a value. Objects without a config are described by their class and their parts."""
    try:
        return serialize(value)
    except (NotImplementedError, TypeError, ValueError):
        if isinstance(value, (list, tuple)):
            return [_description(part) for part in value]
        inside = {}
        if hasattr(value, "parameters"):
            inside = constructor_arguments(value)
        elif isinstance(value, keras.Layer):
            inside = {"layers": sublayers(value)}
        config = {key: _description(part) for key, part in inside.items()}
        return {"class_name": type(value).__name__, "config": config}


def _settings(config, place, layers=(), statistics=()):
    """Yields the path and value of each setting. Paths are like model.flow.bijectors[0].branch.layers[1].units."""
    if isinstance(config, dict) and config.get("class_name") == "OfVariable" and "value" in config["config"]:
        config = config["config"]["value"]
        statistics = (*statistics, place.split(".")[-1])  # the file has the value of the variable as a weight
    if isinstance(config, dict) and "value" in config.get("config", ()):  # a serialized array
        config = config["config"]["value"]
    if place.split(".")[-1] in statistics and config is not None:
        yield place, f"an array of shape {np.shape(config)}"
    elif isinstance(config, dict):
        layers = [layer["config"].get("name") for layer in config.get("layers", ())] or layers
        for key, value in config.items():
            if key == "config":
                yield from _settings(value, place, layers, _STATISTICS.get(str(config.get("class_name")), ()))
            else:
                yield from _settings(value, f"{place}.{key}", layers, statistics)
    elif isinstance(config, list) and any(isinstance(part, (dict, list)) for part in config):
        yield f"len({place})", len(config)
        for i, part in enumerate(config):
            yield from _settings(part, f"{place}[{i}]", layers)
    elif isinstance(config, list):  # Keras numbers layer names per process
        yield place, [f"layer {layers.index(part)}" if part in layers else part for part in config]
    else:
        yield place, config


def _differences(saved, own):
    """Describes the differences between the config of a file and the config of a model."""
    before, now = (dict(_settings(config, "model")) for config in (saved, own))
    return [
        f"{name} is {before[name]!r:.100} in the file, {now[name]!r:.100} in the model"
        for name in differences(before, now)
    ]
