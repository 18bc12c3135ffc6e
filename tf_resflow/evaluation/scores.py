"""Scores of streams of batches: functions of examples, p-values, and scores of classifiers."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from numpy.typing import ArrayLike
from scipy import special


def classification_scores(logits: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Scores the class probabilities softmax(logits) `[num, classes]` against the labels `[num]`.

    "cross_entropy" is the mean of -log p(label | x) in nats. "calibration_error" is
    `tfp.stats.expected_calibration_error` with 15 bins.

    References:
      Guo et al., "On Calibration of Modern Neural Networks" (2017), equation 3.
    """
    logits = np.asarray(logits, np.float64)
    labels = np.asarray(labels)
    num = len(labels)
    accuracy = float(np.mean(logits.argmax(axis=1) == labels))
    calibration_error = tfp.stats.expected_calibration_error(15, logits.astype("f4"), labels.astype("i4"))
    return {
        "accuracy": accuracy,
        "accuracy_stderr": math.sqrt(accuracy * (1 - accuracy) / num),
        "cross_entropy": float(-special.log_softmax(logits, axis=1)[np.arange(num), labels].mean()),
        "calibration_error": float(calibration_error),
        "num_examples": num,
    }


def p_values(scores: ArrayLike, reference: ArrayLike, weights: ArrayLike | None = None) -> np.ndarray:
    r"""Returns the conformal p-value of each score: the share of a reference that is at most as large.

    A score s has the p-value \\((1 + |\{i : r_i \le s\}|) / (n + 1)\\) among n reference scores r. If the
    reference contains the log-likelihoods of held-out data, a fresh example of the same data has a p-value of at
    most t with a probability of at most t. The smallest p-value is 1 / (n + 1).

    ```python
    import tf_resflow as resflow
    print(resflow.evaluation.p_values([-9.0, 2.5], [1.0, 2.0, 3.0, 4.0]))
    # [0.2 0.6]
    ```

    Args:
      scores: Scores of any shape. The p-value of NaN is NaN.
      reference: `[n]`.
      weights: `[n]`, weights of the reference. The score itself has their mean as its weight.

    Raises:
      ValueError: If the reference is empty, contains NaN, or is not one-dimensional.

    References:
      Bates et al., Testing for outliers with conformal p-values, 2023, equation 1.
      Nalisnick et al., "Do deep generative models know what they don't know?" (2019).
    """
    reference = np.asarray(reference, np.float64)
    if reference.ndim != 1 or not reference.size or np.isnan(reference).any():
        raise ValueError(f"reference={reference} must be an array of scores [num], not empty and without NaN.")
    weights = np.ones(len(reference)) if weights is None else np.asarray(weights, np.float64)
    order = np.argsort(reference)
    total_weights = np.append(0.0, np.cumsum(weights[order] / weights.mean()))
    weight_below = total_weights[np.searchsorted(reference[order], scores, "right")]
    return np.where(np.isnan(scores), np.nan, (1 + weight_below) / (1 + len(reference)))


class PerExample:
    """Applies a function of a batch and a seed `[2]` to a stream of batches.

    Batches and results are tensors, or nests of tensors, with one row per example. The rows are divided between the
    replicas of the strategy. A smaller last batch is padded to the size of the other batches.
    """

    def __init__(self, function: Callable, strategy: tf.distribute.Strategy | None = None):
        self._strategy = strategy or tf.distribute.get_strategy()

        @tf.function(autograph=False)
        def apply(batch, seed):
            values = self._strategy.run(function, (batch, seed))
            return tf.nest.map_structure(lambda value: self._strategy.gather(value, axis=0), values)

        self._apply = apply

    def __call__(self, batches: Iterable[Any], seed: int) -> Any:
        """Returns the results for all examples as arrays. The seed of a batch is `[seed, index of the batch]`."""
        results: list[Any] = []
        rows_per_replica = 0
        for index, batch in enumerate(batches):
            num_rows = len(tf.nest.flatten(batch)[0])
            rows_per_replica = rows_per_replica or -(-num_rows // self._strategy.num_replicas_in_sync)
            largest = rows_per_replica * self._strategy.num_replicas_in_sync
            if num_rows > largest:
                raise ValueError(
                    f"Batch {index} has {num_rows} examples, but the first batch has at most {largest}. Pass the "
                    "largest batch first."
                )
            divided = self._divide(batch, rows_per_replica)
            result = self._apply(divided, tf.constant([seed, index], tf.int32))
            results.append(_first_rows(result, num_rows))
        if not results:
            raise ValueError("The stream of batches is empty. Pass at least one batch of examples.")
        return tf.nest.map_structure(lambda *arrays: np.concatenate(arrays), *results)

    def _divide(self, batch, rows_per_replica):
        """Divides the rows of a batch between the replicas, and repeats the last row if there are too few."""

        def rows_of_replica(context):
            first = context.replica_id_in_sync_group * rows_per_replica
            rows = first + np.arange(rows_per_replica)
            return tf.nest.map_structure(lambda array: tf.constant(np.take(array, rows, 0, mode="clip")), batch)

        return self._strategy.experimental_distribute_values_from_function(rows_of_replica)


def _first_rows(result, num_rows):
    return tf.nest.map_structure(lambda tensor: tensor.numpy()[:num_rows], result)
