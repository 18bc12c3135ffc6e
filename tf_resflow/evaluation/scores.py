"""The score of a model on held-out examples, and the log-likelihood of each of them."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from tf_resflow.evaluation.log_likelihood import LogProbSamples, mixture_of_classes
from tf_resflow.evaluation.planning import LikelihoodPlan, default_num_samples, held_out_plan
from tf_resflow.models import FlowModel
from tf_resflow.typing import TensorLike

__all__ = ["ExampleScores", "HeldOut", "PerExample", "Score", "quantiles"]


class Score(NamedTuple):
    """A mean over examples with its standard error, and the root mean square of the errors of each example."""

    mean: float
    stderr: float
    num_examples: int
    example_stderr: float | None = None


class HeldOut:
    r"""Scores a model on held-out examples, each of them once.

    The loss of an example is that of the mean of the plan's K estimates of its log-likelihood, or, if it is
    `importance_weighted`, of the bound of integer data

        log P(x) >= E log (1 / K) sum_k p((x + u_k) / L) / (L^D q(u_k | x)),

    with q = 1 for uniform noise, which is the usual one at K = 1, never loosens in expectation as K grows, and
    tends to log P(x). (The loss of vectors with `cells` is always that of this bound.) It is a bound for exact
    log-determinants only, including those of a dequantizer. An estimate whose noise has the variance
    \(\sigma^2\), in nats, raises it by up to \(\log E e^\epsilon \approx \sigma^2 / 2\) (Jensen's inequality, in
    the opposite direction): use `Exact` or several probes.

    Args:
      model: a `FlowModel`.
      plan: K and the estimators; by default one estimate by the model's evaluation estimator, or as many as a score
        in cells has.
      importance_weighted: whether the score is that of the bound.
      strategy: the `tf.distribute.Strategy` that the model was built under; by default the current one. The rows
        of a batch are divided between its replicas.

    Attributes:
      num_samples: K, rounded up if the estimates are computed in parts.

    Raises:
      ValueError: for the bound of continuous data, which are not dequantized.

    Warns:
      UserWarning: if a plan that was not measured estimates the log-determinants of a bound.

    References:
      Burda et al., "Importance Weighted Autoencoders" (2016), Theorem 1.
      Ho et al., "Flow++" (2019), section 3.1: the same bound with a learned dequantization.
    """

    def __init__(
        self,
        model: FlowModel,
        plan: LikelihoodPlan | None = None,
        *,
        importance_weighted: bool = False,
        strategy: tf.distribute.Strategy | None = None,
    ):
        if importance_weighted and not model.data_space.is_dequantized:
            raise ValueError("Continuous data are not dequantized, and have no importance-weighted bound.")
        plan = plan or held_out_plan(model)
        samples = LogProbSamples(model, plan, of_probabilities=importance_weighted)
        self.num_samples = samples.num_samples
        has_stderr = plan.stderr is not None or samples.num_samples > 1
        losses = functools.partial(_means, model.data_space, samples, has_stderr)
        self._losses = PerExample(losses, strategy)

    def __call__(self, batches: Iterable[TensorLike], seed: int) -> Score:
        """Scores a finite stream of batches.

        Args:
          batches: arrays or tensors `[<= batch, *event_shape]`, of a conditional model in pairs with their
            conditions; the first one is the largest.
          seed: integer, for the dequantization and the estimator.

        Returns:
          A named tuple: `mean`, in bits/dim, or nats for continuous data; `stderr`, its standard error over the
          examples, which includes the noise of the estimator; `num_examples`; and `example_stderr`, the root mean
          square of the measured standard errors of the examples, None for one estimate of each.

        Raises:
          ValueError: when there is no batch.
        """
        values = {name: value.astype(np.float64) for name, value in self._losses(batches, seed).items()}
        losses, num = values["loss"], len(values["loss"])
        stderr = losses.std(ddof=1) / np.sqrt(num) if num > 1 else float("nan")
        example_stderr = float(np.sqrt(np.mean(values["stderr"] ** 2))) if "stderr" in values else None
        return Score(float(losses.mean()), float(stderr), num, example_stderr)


def _means(space, samples, has_stderr, batch, seed):
    log_prob, stderr = samples.mean(samples(batch, seed))
    losses = {"loss": space.to_loss(log_prob)}
    return {**losses, "stderr": stderr / space.nats_per_unit} if has_stderr else losses


class ExampleScores:
    """Scores examples one by one: the mean of several estimates of log p(x), and its standard error, in nats.

    For vectors with `cells` a score is the logarithm of the mean of the probabilities, and it does not depend on
    the other examples. An interval of 95 % is +- 2.36 standard errors for 8 estimates, see `LogProbEstimate`.

    Args:
      model: a `FlowModel`.
      plan: how log p(x) is estimated; by default by 8 estimates of the model's evaluation estimator, or 32 in
        cells. One estimate of noisy ones has no standard error: it is NaN.
      strategy: as for `HeldOut`.
    """

    def __init__(
        self,
        model: FlowModel,
        plan: LikelihoodPlan | None = None,
        *,
        strategy: tf.distribute.Strategy | None = None,
    ):
        in_cells = model.data_space.cells is not None
        plan = plan or LikelihoodPlan(num_samples=default_num_samples(model))
        samples = LogProbSamples(model, plan, common=in_cells)

        def scores(batch, seed):
            seed = tf.stack([seed[0], 0]) if in_cells else seed  # the same for all batches
            if model.condition.num_classes is None or isinstance(batch, tuple):
                estimates = samples(batch, seed)
            else:
                estimates = mixture_of_classes(model, samples, batch, seed)
            return samples.mean(estimates)._asdict()

        self._scores = PerExample(scores, strategy)

    def __call__(self, batches: Iterable[Any], seed: int) -> dict[str, np.ndarray]:
        """Scores a finite stream of batches: a dict of "log_prob" and "stderr", arrays `[num]`.

        Args:
          batches: as for `HeldOut`. Examples without their labels have the score of the mixture of the classes,
            equally frequent.
          seed: integer, of the estimates.

        Raises:
          ValueError: when there is no batch.
        """
        return self._scores((tf.nest.map_structure(np.asarray, batch) for batch in batches), seed)


def quantiles(scores: ArrayLike, reference: ArrayLike) -> np.ndarray:
    """The fraction of a reference with a lower score, ties counted by half: near 0 for an anomaly.

    If the reference are log-likelihoods of held-out examples of the data, the quantile of another example of the
    data is uniform in [0, 1]: one of at most 0.01 is significant at the level 0.01. (Log-likelihoods of images know
    texture better than content: other images may score higher than the data.)

    ```python
    import tf_resflow as resflow
    print(resflow.evaluation.quantiles([-9.0, 2.5], [1.0, 2.0, 3.0, 4.0]))
    # [0.  0.5]
    ```

    Raises:
      ValueError: for a reference that is empty or holds NaN.

    References:
      Nalisnick et al., "Do deep generative models know what they don't know?" (2019).
    """
    reference = np.sort(np.asarray(reference, np.float64))
    if reference.ndim != 1 or not reference.size or np.isnan(reference[-1]):
        raise ValueError(
            f"The reference must be scores [num] without NaN, at least one; got the shape {reference.shape} and "
            f"{np.isnan(reference).sum()} NaN."
        )
    ranks = [np.searchsorted(reference, scores, side) for side in ("left", "right")]
    return np.where(np.isnan(scores), np.nan, np.sum(ranks, axis=0) / (2 * len(reference)))


class PerExample:
    """A function of a batch (a tensor, or a nest of them) and a seed `[2]`, applied to a stream of batches.

    It is traced once, and returns a tensor or a nest of them with the rows of the batch, which are divided between
    the replicas of the strategy. A smaller last batch is padded to the size of the others, and the results of the
    padding are dropped.
    """

    def __init__(self, function: Callable, strategy: tf.distribute.Strategy | None = None):
        self._strategy = strategy or tf.distribute.get_strategy()

        @tf.function(autograph=False)
        def apply(batch, seed):
            values = self._strategy.run(function, (batch, seed))
            return tf.nest.map_structure(lambda value: self._strategy.gather(value, axis=0), values)

        self._apply = apply

    def __call__(self, batches: Iterable[Any], seed: int) -> Any:
        """The results for all examples, as arrays; the seed of a batch is this number and the batch's index."""
        values: list[Any] = []
        rows: int | None = None
        for index, batch in enumerate(batches):
            num, replicas = len(tf.nest.flatten(batch)[0]), self._strategy.num_replicas_in_sync
            rows = rows or -(-num // replicas) * replicas
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
