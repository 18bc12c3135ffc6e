"""Saves the config of a model and the statistics of its data together with weights and checkpoints."""

import json
import os
import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_resflow._internal.private_api import OnlyInSavedModels, eager_mode, sublayers
from tf_resflow._internal.serialization import constructor_arguments, serialize
from tf_resflow._internal.settings import differences
from tf_resflow.bijectors.flow import parts_by_name

# Arguments that are statistics of the data. Only their shapes are compared.
_STATISTICS: dict[str, tuple[str, ...]] = {
    "FlowModel": ("condition_mean", "condition_std"),
    "Normalize": ("mean", "std"),
    "Whiten": ("mean", "covariance"),
}
# Settings that a model may change when it loads weights, since they affect neither the weights nor the density:
# names, initial values, dtypes, and arguments of views. They are skipped with all that they contain.
_FREE = frozenset(
    (
        *("name", "registered_name", "module", "build_config", "compile_config", "shared_object_id"),
        *("dtype", "autocast", "quantization_config", "trainable", "seed", "initial"),
        *("validate_args", "allow_nan_stats"),
        *("log_det_estimator", "evaluation_log_det_estimator", "inverse_solver", "lipschitz_constant"),
        *("tolerance", "max_iterations"),
    )
)
_FREE_SUFFIXES = ("initializer", "regularizer", "constraint")  # of arguments of Keras layers
_KEY = "settings"  # key in a file of weights
_SHOWN = 3  # largest number of differences in a message


class SavedSettings(OnlyInSavedModels, tf.train.experimental.PythonState):
    """A mixin that saves the config of a model and the statistics of its data, as one string, with the weights."""

    _only_in_saved_models: tuple[str, ...] = ("condition",)

    @property
    def statistics(self) -> dict[str, tf.Variable]:
        """The variables that standardize data. They are saved but not trained."""
        variables = {}
        for name, bijector in parts_by_name(self.flow).items():
            for key, variable in getattr(bijector, "statistics", {}).items():
                variables[f"{name}/{key}"] = variable
        for key, variable in self.condition.statistics.items():
            variables[f"condition/{key}"] = variable
        return variables

    def serialize(self) -> str:
        """Returns the config and the statistics as JSON, for checkpoints."""
        with eager_mode():  # a SavedModel is written inside a graph
            statistics = {name: variable.numpy().tolist() for name, variable in self.statistics.items()}
            return json.dumps({"config": _description(self), "statistics": statistics})

    def deserialize(self, text: bytes | str) -> None:
        """Restores the saved statistics, or raises a ValueError if the saved config differs."""
        saved = json.loads(text)
        config = json.loads(self.serialize())["config"]
        different = _differences(saved.get("config", config), config)  # version 0.2 saved no config
        if different:
            more = f"; and {len(different) - _SHOWN} more" if len(different) > _SHOWN else ""
            raise ValueError(
                f"The file does not belong to the model {self.name}: {'; '.join(different[:_SHOWN])}{more}. Build "
                "the model with the settings in the file."
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
            return [_description(element) for element in value]
        arguments = {}
        if hasattr(value, "parameters"):
            arguments = constructor_arguments(value)
        elif isinstance(value, keras.Layer):
            arguments = {"layers": sublayers(value)}
        config = {name: _description(argument) for name, argument in arguments.items()}
        return {"class_name": type(value).__name__, "config": config}


def _settings(config, path, layers=(), statistics=()):
    """Yields the path and the value of each setting that matters.

    Args:
      config: A config of Keras, or a value in it.
      path: Its path, like model.flow.bijectors[0].branch.layers[1].units.
      layers: Names of the layers of the model that contains the config. Keras numbers them per process.
      statistics: Names of arguments of which only the shape matters.
    """
    name = path.split(".")[-1]
    if isinstance(config, dict) and config.get("class_name") == "OfVariable" and "value" in config["config"]:
        config = config["config"]["value"]
        statistics = (*statistics, name)  # the file has the value of the variable as a weight
    if isinstance(config, dict) and "value" in config.get("config", ()):  # a serialized array
        config = config["config"]["value"]
    if name in statistics and config is not None:
        yield path, f"an array of shape {np.shape(config)}"
    elif isinstance(config, dict):
        layers = [layer["config"].get("name") for layer in config.get("layers", ())] or layers
        for key, value in config.items():
            if key == "config":
                yield from _settings(value, path, layers, _STATISTICS.get(str(config.get("class_name")), ()))
            elif key not in _FREE and not key.endswith(_FREE_SUFFIXES):
                yield from _settings(value, f"{path}.{key}", layers, statistics)
    elif isinstance(config, list) and any(isinstance(element, (dict, list)) for element in config):
        yield f"len({path})", len(config)
        for index, element in enumerate(config):
            yield from _settings(element, f"{path}[{index}]", layers)
    elif isinstance(config, list):
        yield path, [f"layer {layers.index(element)}" if element in layers else element for element in config]
    else:
        yield path, config


def _differences(config_of_file, config_of_model):
    """Describes the differences between the config of a file and the config of a model."""
    in_file = dict(_settings(config_of_file, "model"))
    in_model = dict(_settings(config_of_model, "model"))
    return [
        f"{name} is {in_file[name]!r:.100} in the file, {in_model[name]!r:.100} in the model"
        for name in differences(in_file, in_model)
    ]
