"""A model under its averaged weights, for evaluation."""

import keras
import tensorflow as tf

from tf_resflow import layers
from tf_resflow.progress import stage

__all__ = ["AveragedWeights"]


class AveragedWeights:
    """Gives a model the average of its weights, which its optimizer keeps, and updates the norms of its layers.

    ```python
    averaged = AveragedWeights(model, optimizer)
    with averaged:
        score = report.score()
    ```

    Args:
      model: a `FlowModel`.
      optimizer: the built optimizer of its trainable variables. Without an average, or before the first step, the
        weights stay; the norms are updated all the same.
    """

    def __init__(self, model: keras.Model, optimizer: keras.Optimizer):
        self._model, self._optimizer = model, optimizer
        self._converge_norms = tf.function(lambda: layers.converge_norms(model.lipschitz_parts), autograph=False)

    def apply(self) -> None:
        """Replaces the weights by their average, permanently."""
        if self._optimizer.use_ema and self._optimizer.iterations.numpy() > 0:
            self._optimizer.finalize_variable_values(self._model.trainable_variables)
        with stage("norms of the layers"):
            self._converge_norms()

    def __enter__(self) -> "AveragedWeights":
        self._saved = [tf.identity(weight) for weight in self._model.weights]
        self.apply()
        return self

    def __exit__(self, *_: object) -> None:
        for weight, value in zip(self._model.weights, self._saved, strict=True):
            weight.assign(value)
        self._saved = []
