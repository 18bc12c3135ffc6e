"""The base of the bijectors whose parameters are a few Keras variables."""

from collections.abc import Collection, Mapping
from typing import Any

import keras
import tensorflow as tf

from tf_resflow.bijectors.base import FlowBijector
from tf_resflow.bijectors.networks import share_trainable
from tf_resflow.typing import DType

__all__ = ["VariableBijector"]


class VariableBijector(FlowBijector):
    """A bijector that holds Keras variables by name: Keras trains and saves them, and TFP sees them.

    The `frozen` ones are not trained. Other arguments are those of `tfb.Bijector`.
    """

    def __init__(
        self,
        initial_values: Mapping[str, Any],
        dtype: DType,
        frozen: Collection[str] = (),
        *,
        name: str,
        **kwargs: Any,
    ) -> None:
        super().__init__(dtype=tf.as_dtype(dtype), name=name, **kwargs)
        variables = {
            key: keras.Variable(
                value, dtype=dtype, trainable=key not in frozen, autocast=False, name=f"{self.name}_{key}"
            )
            for key, value in initial_values.items()
        }
        self._keras_variables = self._no_dependency(variables)
        self._tf_variables = self._no_dependency({key: share_trainable(v) for key, v in variables.items()})
        # Checkpoints have the variables under this key since version 0.1.
        self._track_trackable(tf.__internal__.tracking.wrap(self._tf_variables), name="_affine")

    def _get_parameterization(self):
        # Bijectors of equal arguments would share a cache, and these have different variables.
        return id(self)

    def _value(self, key):
        """The `tf.Variable` of this name; within a `keras.StatelessScope` that replaces it, the tensor."""
        return self._keras_variables[key].value

    @property
    def keras_variables(self) -> list[keras.Variable]:
        return list(self._keras_variables.values())

    keras_parts = keras_variables
