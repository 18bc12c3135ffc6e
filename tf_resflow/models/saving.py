"""Weights and checkpoints that know which model they belong to."""

import json
import warnings
from typing import Any

import numpy as np
import tensorflow as tf

from tf_resflow.models.settings import differences, flow_statistics, model_settings
from tf_resflow.private_api import OnlyInSavedModels, eager_mode

__all__ = ["SavedSettings"]

_KEY = "settings"  # in a file of weights, beside the variables 0, 1, ...
_SHOWN = 3


class SavedSettings(OnlyInSavedModels, tf.train.experimental.PythonState):
    """A mixin of `FlowModel`: its settings, and the statistics of its data, are saved with its weights.

    They are one text, in files of weights and in checkpoints. When it is read, the settings are compared, and the
    statistics are restored. A file of a version that did not write it is read without.
    """

    _only_in_saved_models = ("condition",)

    @property
    def statistics(self) -> dict[str, tf.Variable]:
        """The statistics of data by which the model standardizes, variables that are saved and not trained."""
        condition = {f"condition/{key}": value for key, value in self.condition.statistics.items()}
        return flow_statistics(self.flow) | condition

    def serialize(self) -> str:
        """The settings and the statistics as JSON, for checkpoints."""
        with eager_mode():  # a SavedModel is written inside of a graph
            statistics = {name: variable.numpy().tolist() for name, variable in self.statistics.items()}
            return json.dumps({"settings": model_settings(self), "statistics": statistics})

    def deserialize(self, text: bytes | str) -> None:
        """Takes the statistics that were saved, if the settings are those of this model.

        Raises:
          ValueError: when a setting differs.
        """
        saved = json.loads(text)
        if found := differences(saved["settings"], json.loads(self.serialize())["settings"]):
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
        if _KEY in store.keys():
            self.deserialize(np.asarray(store[_KEY]).tobytes())
        else:
            warnings.warn(
                "The file of weights was written by an older version, which did not save the settings of a model: "
                f"whether they are those of {self.name} is unknown. Save it again.",
                stacklevel=2,
            )
        super().load_own_variables({key: store[key] for key in store.keys() if key != _KEY})
