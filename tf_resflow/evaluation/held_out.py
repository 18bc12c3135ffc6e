"""Held-out score: bits/dim of integer data, nats of continuous data, with its standard error."""

from typing import NamedTuple

import numpy as np

from tf_resflow.evaluation.per_example import PerExample

__all__ = ["HeldOut", "Score"]


class Score(NamedTuple):
    """A mean over examples.

    Attributes:
      mean: mean over the examples: bits/dim, or nats for continuous data.
      stderr: its standard error, over the examples. The noise of the estimator, which draws anew
        for each example, is part of it.
      num_examples: number of examples.
    """

    mean: float
    stderr: float
    num_examples: int


class HeldOut:
    """Scores a model on held-out examples, each of them once; see `PerExample`.

    Args:
      model: a `FlowModel`.
      strategy: the `tf.distribute.Strategy` that the model was built under; by default the current
        one. The rows of a batch are divided between its replicas.
    """

    def __init__(self, model, strategy=None):
        def losses(x, seed):
            return model.loss_per_example(x, seed, evaluation=True)

        self._losses = PerExample(losses, strategy)

    def __call__(self, batches, seed):
        """Scores a finite stream of batches.

        Args:
          batches: iterable of arrays or tensors `[<= batch, *event_shape]`; the first one is the
            largest.
          seed: integer, for the dequantisation and the estimator.

        Returns:
          A `Score`.

        Raises:
          ValueError: when there is no batch.
        """
        losses = self._losses(batches, seed).astype(np.float64)
        num = len(losses)
        stderr = losses.std(ddof=1) / np.sqrt(num) if num > 1 else float("nan")
        return Score(float(losses.mean()), float(stderr), num)
