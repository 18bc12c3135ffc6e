"""The weights of the members of an ensemble, as a part of the file of a model (`sbi.posterior_model`).

Densities of tables save all members in an .npz file (`tables.flow_density`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_resflow.models.repeated_training import permuted


class Ensemble:
    """The weights of networks of one architecture. The weights of the first member are those of the model itself.

    The weights of a member are a list of arrays, like the result of `model.get_weights()`. `RepeatedTraining`
    trains the members. The members share the statistics of the data, which are not weights.

    Args:
      model: The built model. Its present weights are the initial weights of the first member.
    """

    def __init__(self, model: keras.Model):
        self._model = model
        self._initial_weights = model.get_weights()
        self._others: list[list[np.ndarray]] = []

    @property
    def members(self) -> list[list[np.ndarray]]:
        """The weights of each member. In a `tf.function`, those at the time of tracing."""
        with tf.init_scope():
            return [self._model.get_weights(), *self._others]

    @members.setter
    def members(self, members: Sequence[Sequence[np.ndarray]]) -> None:
        first, *others = members
        self._model.set_weights(first)
        self._others = [list(weights) for weights in others]

    def initial_weights(self, seed: Any) -> list[np.ndarray]:
        """Returns other initial weights for each seed of `np.random.default_rng`."""
        return permuted(self._initial_weights, np.random.default_rng(seed))

    def to_json(self) -> list[dict[str, Any]]:
        """Returns the weights by name of the members after the first, whose weights Keras saves with the model."""
        names = self._names()
        members = []
        for weights in self._others:
            lists = [values.tolist() for values in weights]
            members.append(dict(zip(names, lists, strict=True)))
        return members

    def restore(self, members: Sequence[Mapping[str, Any]]) -> None:
        """Sets the members after the first to a result of `to_json`."""
        variables = dict(zip(self._names(), self._model.weights, strict=True))
        self._others = []
        for weights in members:
            arrays = [np.asarray(weights[name], variable.dtype) for name, variable in variables.items()]
            self._others.append(arrays)

    def _names(self):
        """Returns a name for each weight. The number replaces the layer's name, which Keras changes per process."""
        return [f"{index}/{weight.name}" for index, weight in enumerate(self._model.weights)]
