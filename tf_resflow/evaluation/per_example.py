"""A function of each example in a stream of batches."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tensorflow as tf

__all__ = ["PerExample"]


class PerExample:
    """Applies a function of batches to a stream of them, on every replica. It is traced once.

    The last batch may be smaller: it is padded to the size of the others, and the results of the padding are
    dropped.

    Args:
      function: of a batch (a tensor, or a nest of tensors with the same number of rows) and of a seed, a tensor
        `[2]`; it returns a tensor, or a nest of them, with these rows.
      strategy: the `tf.distribute.Strategy` that the model was built under; by default the current one. The rows
        of a batch are divided between its replicas.
    """

    def __init__(self, function: Callable, strategy: tf.distribute.Strategy | None = None):
        self._strategy = strategy or tf.distribute.get_strategy()

        @tf.function(autograph=False)
        def apply(batch, seed):
            values = self._strategy.run(function, (batch, seed))
            return tf.nest.map_structure(lambda value: self._strategy.gather(value, axis=0), values)

        self._apply = apply

    def __call__(self, batches: Iterable[Any], seed: int) -> Any:
        """Applies the function.

        Args:
          batches: finite iterable of batches, arrays or tensors of `<= batch` rows; the first one is the largest.
          seed: integer; the seed of a batch is this number and the batch's index.

        Returns:
          The function's results for all examples, as arrays.

        Raises:
          ValueError: when there is no batch.
        """
        values: list[Any] = []
        rows: int | None = None
        for index, batch in enumerate(batches):
            num = len(tf.nest.flatten(batch)[0])
            rows = rows or _round_up(num, self._strategy.num_replicas_in_sync)
            value = self._apply(self._divided(batch, rows), tf.constant([seed, index], tf.int32))
            values.append(tf.nest.map_structure(lambda v, num=num: v.numpy()[:num], value))
        if not values:
            raise ValueError("There is no example to evaluate: the stream of batches is empty.")
        return tf.nest.map_structure(lambda *parts: np.concatenate(parts), *values)

    def _divided(self, batch, rows):
        """The batch, padded by copies of its first row, on the replicas."""
        share = rows // self._strategy.num_replicas_in_sync

        def pad(values):
            return np.concatenate([values, np.repeat(values[:1], rows - len(values), axis=0)])

        def part(context):
            start = context.replica_id_in_sync_group * share
            return tf.nest.map_structure(lambda values: tf.constant(values[start : start + share]), padded)

        padded = tf.nest.map_structure(pad, batch)
        return self._strategy.experimental_distribute_values_from_function(part)


def _round_up(number, multiple):
    return -(-number // multiple) * multiple
