"""A model under its averaged weights, for evaluation."""

import keras
import tensorflow as tf

from tf_resflow import layers
from tf_resflow.models import FlowModel
from tf_resflow.progress import stage

__all__ = ["AveragedWeights"]


class AveragedWeights:
    """Replaces a model's weights with their average, which its optimizer keeps.

    The norms of the layers are then brought up to date: they depend on the weights.

    ```python
    averaged = AveragedWeights(model, optimizer)
    with averaged:
        score = report.score()
    ```

    Args:
      model: a `FlowModel`.
      optimizer: the built optimizer of its trainable variables. Without an average, or before the
        first step, the weights stay; the norms are brought up to date all the same.
    """

    def __init__(self, model: FlowModel, optimizer: keras.optimizers.Optimizer):
        self._model, self._optimizer = model, optimizer
        self._saved: list[tf.Tensor] = []
        self._converge_norms = tf.function(lambda: layers.converge_norms(model.flow), autograph=False)

    def apply(self) -> None:
        """Replaces the weights with their average, permanently."""
        if self._optimizer.use_ema and self._optimizer.iterations.numpy() > 0:
            self._optimizer.finalize_variable_values(self._model.trainable_variables)
        with stage("norms of the layers"):
            self._converge_norms()

    def __enter__(self):
        self._saved = [tf.identity(weight) for weight in self._model.weights]
        self.apply()
        return self

    def __exit__(self, *_):
        for weight, value in zip(self._model.weights, self._saved, strict=True):
            weight.assign(value)
        self._saved = []
