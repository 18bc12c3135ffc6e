"""The average of a model's weights: its momentum, a model with averaged weights, and the average in `fit`."""

from typing import Any

import keras
import tensorflow as tf

from tf_resflow import layers
from tf_resflow.models.updates import update_average
from tf_resflow.private_api import moving_averages, set_average_rule


def warm_up_average(optimizer: keras.Optimizer, first: Any = 0) -> None:
    r"""Makes an optimizer with `use_ema` warm up its average of the weights.

    At step t after the step `first`, the momentum is \\(\min(m, (1 + t) / (10 + t))\\), where m is `ema_momentum`.
    With a constant momentum, the average includes the first weights for about \\(1 / (1 - m)\\) steps, so in short
    runs it is worse than the last weights. With the warm-up, it spans about a tenth of the run, but at most
    \\(1 / (1 - m)\\) steps.
    """

    def momentum():
        t = tf.cast(optimizer.iterations - first, tf.float32)
        return tf.minimum(optimizer.ema_momentum, (1.0 + t) / (10.0 + t))

    set_average_rule(optimizer, momentum, update_average)


class AveragedWeights:
    """A context in which a model has the optimizer's average of its weights, and converged norms.

    Without an average, or before the first step, only the norms change. On exit, all weights are restored.
    """

    def __init__(self, model: keras.Model, optimizer: keras.Optimizer):
        self._model, self._optimizer = model, optimizer
        self._converge_norms = tf.function(lambda: layers.converge_norms(model), autograph=False)

    def apply(self) -> None:
        """Replaces the weights with their average permanently."""
        if self._optimizer.use_ema and self._optimizer.iterations.numpy() > 0:
            self._optimizer.finalize_variable_values(self._model.trainable_variables)
        self._converge_norms()

    def __enter__(self) -> "AveragedWeights":
        self._saved = [tf.identity(weight) for weight in self._model.weights]
        self.apply()
        return self

    def __exit__(self, *_: object) -> None:
        for weight, value in zip(self._model.weights, self._saved, strict=True):
            weight.assign(value)
        self._saved = []


class FitUnderAverage(keras.callbacks.Callback):
    """A callback that uses the average of the weights for validation and for the callbacks that follow it.

    Each fit starts a new average at the current weights. The last weights are restored before the next epoch, or by
    `put_back` after an interruption.
    """

    def __init__(self, model: keras.Model):
        super().__init__()
        steps = model.optimizer.iterations
        options = {"trainable": False, "aggregation": "only_first_replica"}
        self._first = keras.Variable(steps, dtype=steps.dtype, **options)  # not part of checkpoints
        self._averaged, self._is_in_place = AveragedWeights(model, model.optimizer), False
        warm_up_average(model.optimizer, self._first)

    def on_train_begin(self, logs: Any = None) -> None:
        """Starts the average at the current weights."""
        optimizer = self.model.optimizer
        self._is_in_place = False  # the previous fit ended with the average in place
        self._first.assign(optimizer.iterations)
        for average, variable in zip(moving_averages(optimizer), self.model.trainable_variables, strict=True):
            average.assign(variable)

    def put_back(self) -> None:
        """Restores the last weights if the average is in place."""
        if self._is_in_place:
            self._averaged.__exit__()
            self._is_in_place = False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Restores the last weights."""
        self.put_back()

    def on_test_begin(self, logs: Any = None) -> None:
        """Puts the average in place."""
        if not self._is_in_place:
            self._averaged.__enter__()
            self._is_in_place = True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Puts the average in place, even without validation."""
        self.on_test_begin()
