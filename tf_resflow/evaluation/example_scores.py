"""The log-likelihood of each example with its standard error, and its place among other examples."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from tf_resflow.evaluation.likelihood_plan import LikelihoodPlan
from tf_resflow.evaluation.log_likelihood import mixture_of_classes
from tf_resflow.evaluation.log_prob_samples import LogProbSamples, mean_and_stderr
from tf_resflow.evaluation.per_example import PerExample
from tf_resflow.models import FlowModel

__all__ = ["ExampleScores", "quantiles"]

_DEFAULT = LikelihoodPlan(num_samples=8)  # as a served model takes


class ExampleScores:
    """Scores examples one by one: the mean of several estimates of log p(x), and its standard error, in nats.

    ```python
    import tensorflow as tf
    import tf_resflow as resflow
    flow = resflow.flows.vector_flow(2, num_blocks=2, hidden=(8,))
    model = resflow.FlowModel(flow, event_shape=[2], evaluation_log_det=resflow.logdet.Exact())
    scores = resflow.evaluation.ExampleScores(model)([tf.constant([[0.1, 0.2], [9.0, 9.0]])], seed=0)
    print(scores["log_prob"][0] > scores["log_prob"][1], scores["stderr"].tolist())
    # True [0.0, 0.0]
    ```

    Args:
      model: a `FlowModel`.
      plan: how log p(x) is estimated; by default by 8 estimates of the model's evaluation estimator. One estimate
        of noisy ones has no standard error: it is NaN.
      strategy: the `tf.distribute.Strategy` that the model was built under; by default the current one.
    """

    def __init__(
        self,
        model: FlowModel,
        plan: LikelihoodPlan | None = None,
        *,
        strategy: tf.distribute.Strategy | None = None,
    ):
        samples = LogProbSamples(model, plan or _DEFAULT)

        def scores(batch, seed):
            if model.condition.num_classes is None or isinstance(batch, tuple):
                estimates = samples(batch, seed)
            else:
                estimates = mixture_of_classes(model, samples, batch, seed)
            return mean_and_stderr(estimates, samples.is_noisy)._asdict()

        self._scores = PerExample(scores, strategy)

    def __call__(self, batches: Iterable[Any], seed: int) -> dict[str, np.ndarray]:
        """Scores a finite stream of batches.

        Args:
          batches: iterable of batches `[<= batch, *event_shape]`, arrays or tensors, of a conditional model in
            tuples with their conditions; the first one is the largest. Examples without their labels have the
            score of the mixture of the classes, equally frequent.
          seed: integer, of the estimates.

        Returns:
          A dict of "log_prob" and "stderr", arrays `[num]`.

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

    Args:
      scores: array `[num]`.
      reference: array `[num_reference]`.

    Returns:
      An array `[num]`.

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
