"""Scores data sets: log-likelihoods, p-values, and the accuracy and calibration of classifiers."""

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from numpy.typing import ArrayLike
from scipy import special

from tf_resflow.evaluation.log_prob_samples import NUM_SAMPLES, LogProbSamples
from tf_resflow.models import FlowModel
from tf_resflow.typing import LogDet, TensorLike


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
    tends to log P(x). It holds only for exact log-determinants: noise with variance \(\sigma^2\), in nats, raises
    it by up to about \(\sigma^2 / 2\).

    ```python
    import numpy as np
    import tf_resflow as resflow
    flow = resflow.flows.vector_flow(2, num_blocks=2, hidden=(8,))
    model = resflow.FlowModel(flow, event_shape=[2])
    likelihood = resflow.evaluation.LogLikelihood(model)
    batches = [np.zeros([3, 2], "float32"), np.ones([2, 2], "float32")]
    scores = likelihood.score_examples(batches, 0)
    print(likelihood.score(batches, seed=0).num_examples, scores["log_prob"].shape)
    # 5 (5,)
    ```

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
        self._options: dict[str, Any] = {
            "log_det_estimator": log_det_estimator,
            "of_probabilities": importance_weighted,
        }

    @property
    def num_samples(self) -> int:
        """K of `score`, rounded up if the estimates are computed in parts."""
        return self._samples.num_samples

    def score(self, batches: Iterable[TensorLike], seed: int) -> Score:
        """Returns the mean loss of a data set, and its standard error.

        Args:
          batches: finite stream of arrays or tensors `[<= batch, *event_shape]`, or for a conditional model, of
            pairs with their conditions. The first batch must be the largest.
          seed: integer seed of the dequantization and the estimator.

        Returns:
          A named tuple: `mean`, the negative log-likelihood in bits/dim (integer data) or nats; `stderr`, its
          standard error over examples, including the noise of the estimates; `num_examples`; and `example_stderr`,
          the root mean square of the examples' standard errors (None for a single noisy estimate).
        """
        losses, stderrs = (value.astype(np.float64) for value in self._losses(batches, seed))
        num = len(losses)
        stderr = losses.std(ddof=1) / np.sqrt(num) if num > 1 else float("nan")
        is_measured = self.num_samples > 1 or not self._samples.is_noisy
        finite = stderrs[np.isfinite(stderrs)]
        example_stderr = float(np.sqrt(np.mean(finite**2))) if is_measured and len(finite) else None
        return Score(float(losses.mean()), float(stderr), num, example_stderr)

    def score_examples(self, batches: Iterable[Any], seed: int) -> dict[str, np.ndarray]:
        """Returns the log-likelihood of each example and its standard error, in nats.

        Args:
          batches: as for `score`. Examples without labels are scored by an equal mixture of all classes.
          seed: integer seed of the estimates.

        Returns:
          A dict of arrays `[num]`: "log_prob" and "stderr", which is NaN for a single noisy estimate.
        """
        return self._scores((tf.nest.map_structure(np.asarray, batch) for batch in batches), seed)

    @functools.cached_property
    def _samples(self):
        return LogProbSamples(self._model, 1 if self._num_samples is None else self._num_samples, **self._options)

    @functools.cached_property
    def _losses(self):
        space, samples = self._model.data_space, self._samples

        def losses(batch, seed):
            log_prob, stderr = samples.estimate(batch, seed)
            return space.to_loss(log_prob), stderr / space.nats_per_unit

        return PerExample(losses, self._strategy)

    @functools.cached_property
    def _scores(self):
        model, num_samples = self._model, NUM_SAMPLES if self._num_samples is None else self._num_samples
        samples = LogProbSamples(model, num_samples, **self._options)

        def scores(batch, seed):
            if model.condition.num_classes is None or isinstance(batch, tuple):
                return samples.estimate(batch, seed)._asdict()
            by_class = samples.by_class(batch, seed)
            mixture = tf.reduce_logsumexp(by_class, axis=0) - math.log(by_class.shape[0])
            return samples.mean(mixture)._asdict()

        return PerExample(scores, self._strategy)


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
        rows: int | None = None
        for index, batch in enumerate(batches):
            num, replicas = len(tf.nest.flatten(batch)[0]), self._strategy.num_replicas_in_sync
            rows = rows or -(-num // replicas) * replicas
            value = self._apply(self._divided(batch, rows), tf.constant([seed, index], tf.int32))
            values.append(tf.nest.map_structure(lambda v, num=num: v.numpy()[:num], value))
        if not values:
            raise ValueError("The stream of batches is empty. Pass at least one batch of examples.")
        return tf.nest.map_structure(lambda *parts: np.concatenate(parts), *values)

    def _divided(self, batch, rows):
        """Pads the batch with copies of its first row, and divides it between the replicas."""
        share = rows // self._strategy.num_replicas_in_sync

        def pad(values):
            return np.concatenate([values, np.repeat(values[:1], rows - len(values), axis=0)])

        def part(context):
            start = context.replica_id_in_sync_group * share
            return tf.nest.map_structure(lambda values: tf.constant(values[start : start + share]), padded)

        padded = tf.nest.map_structure(pad, batch)
        return self._strategy.experimental_distribute_values_from_function(part)
