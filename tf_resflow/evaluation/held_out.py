"""Held-out score: bits/dim of integer data, nats of continuous data, with its standard error."""

import functools
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tf_resflow.evaluation.estimator_noise import Noise
from tf_resflow.evaluation.per_example import PerExample
from tf_resflow.models import FlowModel, LikelihoodPlan, LogProbSamples, mean_and_stderr
from tf_resflow.models.likelihood_plan import LogDet
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
        estimated once, without a `LikelihoodPlan`.
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

    With a `LikelihoodPlan` as `log_det` the loss of an example is a mean of several estimates. With `num_samples`
    K > 1 the score is that of the importance-weighted bound of integer data

        log P(x) >= E log (1 / K) sum_k p((x + u_k) / L) / (L^D q(u_k | x)),

    with q = 1 for uniform noise, which is the usual one at K = 1, never loosens in expectation as K grows, and
    tends to log P(x). It is a bound for exact log-determinants only, those of a dequantizer among them. An estimate
    whose noise has the variance \(\sigma^2\), in nats, raises it by up to
    \(\log E e^\epsilon \approx \sigma^2 / 2\) (Jensen's inequality, in the opposite direction): use `Exact` or
    several probes.

    Args:
      model: a `FlowModel`.
      log_det: estimator of the log-determinants, a dict of them by block, or a `LikelihoodPlan`; by default the
        model's evaluation estimator.
      strategy: the `tf.distribute.Strategy` that the model was built under; by default the current
        one. The rows of a batch are divided between its replicas.
      num_samples: K.

    Attributes:
      num_samples: K, rounded up if the estimates are computed in parts, see `LogProbSamples`.

    Raises:
      ValueError: for K > 1 and continuous data, or K < 1.

    References:
      Burda et al., "Importance Weighted Autoencoders" (2016), Theorem 1.
      Ho et al., "Flow++" (2019), section 3.1: the same bound with a learned dequantization.
    """

    def __init__(
        self,
        model: FlowModel,
        log_det: LogDet | None = None,
        *,
        strategy: tf.distribute.Strategy | None = None,
        num_samples: int = 1,
    ):
        _check_samples(num_samples, model)
        self.num_samples = num_samples
        if num_samples > 1:
            samples = LogProbSamples(model, log_det, num_samples=num_samples)
            self.num_samples = samples.num_samples
            losses = functools.partial(_importance_weighted, model, samples)
        elif isinstance(log_det, LikelihoodPlan):
            losses = _planned(model, log_det)
        else:
            losses = functools.partial(_single, model, log_det)
        self._losses = PerExample(losses, strategy)

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


def _check_samples(num_samples, model):
    if num_samples < 1:
        raise ValueError(f"num_samples is at least 1; got {num_samples}.")
    if num_samples > 1 and model.levels is None:
        raise ValueError(
            "Continuous data are not dequantized and have no importance-weighted bound: leave num_samples at 1."
        )


def _single(model, log_det, batch, seed):
    x, condition = model.examples_and_condition(batch)
    return {"loss": model.loss_per_example(x, seed, condition=condition, evaluation=True, log_det=log_det)}


def _planned(model, plan):
    samples = LogProbSamples(model, plan)

    def losses(batch, seed):
        log_prob, stderr = mean_and_stderr(samples(batch, seed), samples.is_noisy)
        return {"loss": model.to_loss(log_prob), "stderr": stderr / model.nats_per_unit}

    return losses


def _importance_weighted(model, samples, batch, seed):
    log_probs = tf.cast(samples(batch, seed), tf.float64)
    return {"loss": model.to_loss(tf.reduce_logsumexp(log_probs, 0) - math.log(samples.num_samples))}
