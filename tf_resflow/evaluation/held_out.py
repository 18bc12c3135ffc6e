"""Held-out score: bits/dim of integer data, nats of continuous data, with its standard error."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

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
    """Scores a model on held-out examples; traced once, and then used again and again.

    The last batch may be smaller: it is padded, so that nothing is traced anew, and the padding is
    dropped before the mean is taken.

    Args:
      model: a `FlowModel`.
      strategy: the `tf.distribute.Strategy` that the model was built under; by default the current
        one. The rows of a batch are divided between its replicas.
    """

    def __init__(self, model, strategy=None):
        self._strategy = strategy or tf.distribute.get_strategy()

        @tf.function(autograph=False)
        def losses(x, seed):
            def score(x):
                return model.loss_per_example(x, seed, evaluation=True)

            return self._strategy.gather(self._strategy.run(score, (x,)), axis=0)

        self._losses = losses

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
        losses, rows = [], None
        for index, batch in enumerate(batches):
            rows = rows or _round_up(len(batch), self._strategy.num_replicas_in_sync)
            padded = np.concatenate([batch, np.repeat(batch[:1], rows - len(batch), axis=0)])
            values = self._losses(self._divided(padded), tf.constant([seed, index], tf.int32))
            losses.append(values.numpy()[: len(batch)])
        if not losses:
            raise ValueError("There is no example to evaluate: the stream of batches is empty.")
        losses = np.concatenate(losses).astype(np.float64)
        num = len(losses)
        stderr = losses.std(ddof=1) / np.sqrt(num) if num > 1 else float("nan")
        return Score(float(losses.mean()), float(stderr), num)

    def _divided(self, rows):
        num = len(rows) // self._strategy.num_replicas_in_sync

        def part(context):
            start = context.replica_id_in_sync_group * num
            return tf.constant(rows[start : start + num])

        return self._strategy.experimental_distribute_values_from_function(part)


def _round_up(number, multiple):
    return -(-number // multiple) * multiple
