"""Scores data sets: log-likelihoods, p-values, and the accuracy and calibration of classifiers."""

import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from numpy.typing import ArrayLike
from scipy import special

from tf_resflow.evaluation.log_likelihood import NUM_SAMPLES, LogProbSamples, mean_of_probabilities
from tf_resflow.models import FlowModel
from tf_resflow.typing import LogDet


class Score(NamedTuple):
    """A mean over examples, its standard error, and the root mean square of the examples' standard errors."""

    mean: float
    stderr: float
    num_examples: int
    example_stderr: float | None = None


class LogLikelihood:
    r"""Estimates the log-likelihood of a data set, or of each of its examples.

    The log-likelihood of an example is the mean of K estimates of log p(x). With `importance_weighted`,
    it is instead an estimate of the bound

        log P(x) >= E log (1 / K) sum_k p((x + u_k) / L) / (L^D q(u_k | x)),

    with q = 1 for uniform noise. At K = 1 this is the usual bound. As K grows, it never loosens in expectation, and
    tends to log P(x). It holds only for exact log-determinants: noise with variance \\(\sigma^2\\), in nats, raises
    it by up to about \\(\sigma^2 / 2\\).

    Args:
      model: a `FlowModel`.
      num_samples: K. The default is 1 for `score` and 8 for `score_examples`. See `required_samples`.
      log_det_estimator: see `estimate_log_prob`.
      importance_weighted: whether to estimate the bound. Requires integer data.
      strategy: `tf.distribute.Strategy` whose replicas share a batch; by default, the current strategy.

    Raises:
      ValueError: if `importance_weighted` is set and the data are not dequantized.

    References:
      Burda et al., "Importance Weighted Autoencoders" (2016), Theorem 1.
      Ho et al., "Flow++" (2019), section 3.1: the same bound with a learned dequantization.
    """

    def __init__(
        self,
        model: FlowModel,
        *,
        num_samples: int | None = None,
        log_det_estimator: LogDet | None = None,
        importance_weighted: bool = False,
        strategy: tf.distribute.Strategy | None = None,
    ):
        if importance_weighted and model.data_space.levels is None:
            raise ValueError(
                "Continuous data are not dequantized, so they have no importance-weighted bound. "
                "Leave out importance_weighted."
            )
        self._model, self._num_samples, self._strategy = model, num_samples, strategy
        self._log_det_estimator, self._importance_weighted = log_det_estimator, importance_weighted
        self._functions: dict[int, PerExample] = {}  # by the number of estimates

    def score(self, batches: Iterable[Any], seed: int) -> Score:
        """Returns the mean loss of a data set, and its standard error.

        Args:
          batches: as for `score_examples`.
          seed: integer seed of the dequantization and the estimator.

        Returns:
          A named tuple: `mean`, the negative log-likelihood in bits/dim (integer data) or nats; `stderr`, its
          standard error over examples, including the noise of the estimates; `num_examples`; and `example_stderr`,
          the root mean square of the examples' standard errors (None for a single noisy estimate).
        """
        space, scores = self._model.data_space, self._scores(batches, seed, 1)
        losses = space.to_loss(scores["log_prob"]).astype(np.float64)
        stderrs = (scores["stderr"] / space.nats_per_unit).astype(np.float64)
        num, finite = len(losses), stderrs[np.isfinite(stderrs)]
        stderr = losses.std(ddof=1) / np.sqrt(num) if num > 1 else math.nan
        example_stderr = float(np.sqrt(np.mean(finite**2))) if len(finite) else None
        return Score(float(losses.mean()), float(stderr), num, example_stderr)

    def score_examples(self, batches: Iterable[Any], seed: int) -> dict[str, np.ndarray]:
        """Returns the log-likelihood of each example and its standard error, in nats.

        Args:
          batches: finite stream of arrays or tensors `[<= batch, *event_shape]`, or for a conditional model, of
            pairs with their conditions. The first batch must be the largest. Examples without labels are scored by
            an equal mixture of all classes.
          seed: integer seed of the estimates.

        Returns:
          A dict of arrays `[num]`: "log_prob" and "stderr", which is NaN for a single noisy estimate.
        """
        return self._scores(batches, seed, NUM_SAMPLES)

    def _scores(self, batches, seed, default):
        num_samples = default if self._num_samples is None else self._num_samples
        if num_samples not in self._functions:
            self._functions[num_samples] = PerExample(self._estimator(num_samples), self._strategy)
        batches = (tf.nest.map_structure(np.asarray, batch) for batch in batches)
        return self._functions[num_samples](batches, seed)

    def _estimator(self, num_samples):
        """Returns a function of a batch and a seed that estimates each example from K samples."""
        condition = self._model.condition
        samples = LogProbSamples(self._model, num_samples, log_det_estimator=self._log_det_estimator)
        mean = mean_of_probabilities if self._importance_weighted else samples.mean
        if self._importance_weighted and not samples.is_exact:
            warnings.warn(
                "The log-determinants are estimated, so the log of the mean probability is too large by up to half "
                "the variance of an example's log-determinants, in nats. Use exact ones, or more probes.",
                stacklevel=4,
            )

        def estimate(batch, seed):
            if condition.num_classes is None or isinstance(batch, tuple):
                x, given = condition.split(batch)
                return mean(samples(x, seed, given))._asdict()
            by_class = samples.by_class(batch, seed)
            return mean(tf.reduce_logsumexp(by_class, axis=0) - math.log(condition.num_classes))._asdict()

        return estimate


def classification_scores(logits: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Scores the class probabilities softmax(logits) `[num, classes]` against the labels `[num]`.

    "cross_entropy" is the mean of -log p(label | x) in nats. "calibration_error" is
    `tfp.stats.expected_calibration_error` with 15 bins.

    References:
      Guo et al., "On Calibration of Modern Neural Networks" (2017), equation 3.
    """
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    num, accuracy = len(labels), float(np.mean(logits.argmax(axis=1) == labels))
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
      scores: scores of any shape. The p-value of NaN is NaN.
      reference: `[n]`.
      weights: `[n]`, weights of the reference. The score itself has their mean as its weight.

    Raises:
      ValueError: if the reference is empty, contains NaN, or is not one-dimensional.

    References:
      Bates et al., Testing for outliers with conformal p-values, 2023, equation 1.
      Nalisnick et al., "Do deep generative models know what they don't know?" (2019).
    """
    reference = np.asarray(reference, np.float64)
    if reference.ndim != 1 or not reference.size or np.isnan(reference).any():
        raise ValueError(f"reference={reference} must be an array of scores [num], not empty and without NaN.")
    weights = np.ones(len(reference)) if weights is None else np.asarray(weights, np.float64)
    order = np.argsort(reference)
    below = np.append(0.0, np.cumsum(weights[order] / weights.mean()))[
        np.searchsorted(reference[order], scores, "right")
    ]
    return np.where(np.isnan(scores), np.nan, (1 + below) / (1 + len(reference)))


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
        values: list[Any] = []
        share = 0  # rows per replica
        for i, batch in enumerate(batches):
            num = len(tf.nest.flatten(batch)[0])
            share = share or -(-num // self._strategy.num_replicas_in_sync)

            def part(context, batch=batch, share=share):
                rows = context.replica_id_in_sync_group * share + np.arange(share)  # clipped to the last row
                return tf.nest.map_structure(lambda part: tf.constant(np.take(part, rows, 0, mode="clip")), batch)

            divided = self._strategy.experimental_distribute_values_from_function(part)
            value = self._apply(divided, tf.constant([seed, i], tf.int32))
            values.append(tf.nest.map_structure(lambda v, num=num: v.numpy()[:num], value))
        if not values:
            raise ValueError("The stream of batches is empty. Pass at least one batch of examples.")
        return tf.nest.map_structure(lambda *parts: np.concatenate(parts), *values)
