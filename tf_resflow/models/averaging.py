"""The moving average of a model's weights, in the training loop and in `fit`."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_resflow import layers
from tf_resflow._internal.private_api import untracked


class WeightAverage(tf.Module):
    r"""An exponential moving average of a model's trainable weights.

    At step t = 0, 1, ..., the momentum is \\(\min(m, (1 + t) / (10 + t))\\), where m is `momentum`. The average
    therefore spans about a tenth of the steps, but at most \\(1 / (1 - m)\\) steps.

    Args:
      model: A built Keras model.
      momentum: Largest momentum, in [0, 1). With 0, the average equals the last weights.

    Attributes:
      values: Variables with the average, in the order of `model.trainable_variables`.
      steps: Number of updates, a variable.
    """

    def __init__(self, model: keras.Model, momentum: float):
        super().__init__(name="average")
        self._model = untracked(model)
        self._momentum = momentum
        self.values = [tf.Variable(weight.value, trainable=False) for weight in model.trainable_variables]
        self.steps = tf.Variable(0, dtype=tf.int64, trainable=False)

    def start(self) -> None:
        """Sets the average to the current weights."""
        for value, weight in zip(self.values, self._model.trainable_variables, strict=True):
            value.assign(weight.value)

    def update(self) -> None:
        """Moves the average towards the weights. Call it after each step."""
        t = tf.cast(self.steps, tf.float64)
        share = 1.0 - tf.minimum(tf.constant(self._momentum, t.dtype), (1.0 + t) / (10.0 + t))
        shares = {dtype: tf.cast(share, dtype) for dtype in {value.dtype for value in self.values}}
        for value, weight in zip(self.values, self._model.trainable_variables, strict=True):
            value.assign_add(shares[value.dtype] * (weight.value - value), read_value=False)
        self.steps.assign_add(1, read_value=False)

    def apply(self) -> None:
        """Replaces the weights with their average, and converges the norms of the layers."""
        for value, weight in zip(self.values, self._model.trainable_variables, strict=True):
            weight.assign(value)
        layers.converge_norms(self._model)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Returns a context in which the model has the average of its weights. All weights are restored on exit."""
        saved = self._model.get_weights()
        try:
            self.apply()
            yield
        finally:
            self._model.set_weights(saved)


class AverageWeights(keras.callbacks.Callback):
    r"""A callback of `fit` that averages the weights (see `WeightAverage`).

    Validation, and the callbacks that follow at the end of an epoch, use the average. The last weights are restored
    before the next epoch. `fit` ends with the average, and each fit starts a new one. The momentum at step t is
    \\(\min(m, (1 + t) / (10 + t))\\), so unlike with `use_ema=True`, a short fit forgets its first weights.

    Args:
      momentum: m, in [0, 1).
    """

    def __init__(self, momentum: float = 0.99):
        super().__init__()
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"momentum is {momentum}; it must be at least 0 and below 1.")
        self.momentum = momentum
        self._last: list[np.ndarray] = []  # the last weights while the average is in place

    def on_train_begin(self, logs: Any = None) -> None:
        """Starts the average at the current weights."""
        self._last = []  # the previous fit ended with the average in place
        self._average = WeightAverage(self.model, self.momentum)
        self._update = tf.function(self._average.update, autograph=False)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Updates the average."""
        self._update()

    def on_epoch_begin(self, *_: Any) -> None:
        """Restores the last weights if the average is in place."""
        if self._last:
            self.model.set_weights(self._last)
            self._last = []

    def on_epoch_end(self, *_: Any) -> None:
        """Puts the average in place, even without validation."""
        if not self._last:
            self._last = self.model.get_weights()
            self._average.apply()

    on_test_begin = on_epoch_end
