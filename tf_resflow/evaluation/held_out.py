"""Held-out score: bits/dim of integer data, nats of continuous data, with its standard error."""

import functools
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tf_resflow.evaluation.estimator_noise import Noise
from tf_resflow.evaluation.likelihood_plan import LikelihoodPlan
from tf_resflow.evaluation.log_prob_samples import LogProbSamples, mean_and_stderr
from tf_resflow.evaluation.per_example import PerExample
from tf_resflow.models import FlowModel
from tf_resflow.typing import TensorLike

__all__ = ["HeldOut", "Score", "stderr_parts"]


class Score(NamedTuple):
    """A mean over examples.

    Attributes:
      mean: mean over the examples: bits/dim, nats for continuous data, or the accuracy of `c2st`.
      stderr: its standard error, over the examples. It includes the noise of the estimator, which draws
        independently for each example.
      num_examples: number of examples.
      example_stderr: root mean square of the measured standard error of each example's score; None if each was
        estimated once, or by a bound.
    """

    mean: float
    stderr: float
    num_examples: int
    example_stderr: float | None = None


def stderr_parts(score: Score, noise: Noise, num_samples: int = 1) -> dict[str, float]:
    r"""Splits the standard error of a score by its sources.

    The loss of example i is \(y_i = m_i + d_i + e_i\): its true bound, the noise of its one
    dequantization, and that of its log-determinants. All three are independent between the examples.
    The squared standard error of the mean of n is therefore

        stderr^2 = (s^2 + (d^2 + e^2) / K) / n,

    with K = `num_samples`, where \(d^2\) and \(e^2\) are the variances in `noise`, and \(s^2\), that of the
    data, is the rest. More examples reduce all three; more probes or exact terms reduce e alone.

    Args:
      score: a `Score`.
      noise: a `Noise` of the same model and estimator, on some of the examples.
      num_samples: number of estimates of each example of which its score is the mean.

    Returns:
      A dict of the standard errors due to "data", "dequantization" and "estimator".
    """
    dequantization = noise.dequantization_std / math.sqrt(score.num_examples * num_samples)
    estimator = noise.estimator_std / math.sqrt(score.num_examples * num_samples)
    rest = score.stderr**2 - dequantization**2 - estimator**2
    return {
        "data": math.sqrt(max(rest, 0.0)) if not math.isnan(rest) else rest,
        "dequantization": dequantization,
        "estimator": estimator,
    }


class HeldOut:
    r"""Scores a model on held-out examples, each of them once.

    The loss of an example is that of the mean of the plan's K estimates of its log-likelihood, or, if it is
    `importance_weighted`, of the bound of integer data

        log P(x) >= E log (1 / K) sum_k p((x + u_k) / L) / (L^D q(u_k | x)),

    with q = 1 for uniform noise, which is the usual one at K = 1, never loosens in expectation as K grows, and
    tends to log P(x). It is a bound for exact log-determinants only, those of a dequantizer among them. An estimate
    whose noise has the variance \(\sigma^2\), in nats, raises it by up to
    \(\log E e^\epsilon \approx \sigma^2 / 2\) (Jensen's inequality, in the opposite direction): use `Exact` or
    several probes.

    Args:
      model: a `FlowModel`.
      plan: K and the estimators; by default one estimate by the model's evaluation estimator.
      importance_weighted: whether the score is that of the bound.
      strategy: the `tf.distribute.Strategy` that the model was built under; by default the current
        one. The rows of a batch are divided between its replicas.

    Attributes:
      num_samples: K, rounded up if the estimates are computed in parts.

    Raises:
      ValueError: for the bound of continuous data, which are not dequantized.

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
        if importance_weighted and model.data_space.levels is None:
            raise ValueError("Continuous data are not dequantized, and have no importance-weighted bound.")
        samples = LogProbSamples(model, plan or LikelihoodPlan())
        self.num_samples = samples.num_samples
        losses = _importance_weighted if importance_weighted else _means
        self._losses = PerExample(functools.partial(losses, model.data_space, samples), strategy)

    def __call__(self, batches: Iterable[TensorLike], seed: int) -> Score:
        """Scores a finite stream of batches.

        Args:
          batches: iterable of arrays or tensors `[<= batch, *event_shape]`, of a conditional model in pairs with
            their conditions; the first one is the largest.
          seed: integer, for the dequantization and the estimator.

        Returns:
          A `Score`.

        Raises:
          ValueError: when there is no batch.
        """
        values = {name: value.astype(np.float64) for name, value in self._losses(batches, seed).items()}
        losses, num = values["loss"], len(values["loss"])
        stderr = losses.std(ddof=1) / np.sqrt(num) if num > 1 else float("nan")
        example_stderr = float(np.sqrt(np.mean(values["stderr"] ** 2))) if "stderr" in values else None
        return Score(float(losses.mean()), float(stderr), num, example_stderr)


def _means(space, samples, batch, seed):
    log_prob, stderr = mean_and_stderr(samples(batch, seed), samples.is_noisy)
    losses = {"loss": space.to_loss(log_prob)}
    return losses if samples.num_samples == 1 else {**losses, "stderr": stderr / space.nats_per_unit}


def _importance_weighted(space, samples, batch, seed):
    log_probs = tf.cast(samples(batch, seed), tf.float64)
    return {"loss": space.to_loss(tf.reduce_logsumexp(log_probs, 0) - math.log(samples.num_samples))}
