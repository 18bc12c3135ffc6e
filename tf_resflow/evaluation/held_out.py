"""Held-out score: bits/dim of integer data, nats of continuous data, with its standard error."""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tf_resflow.evaluation.estimator_noise import Noise
from tf_resflow.evaluation.per_example import PerExample
from tf_resflow.models import FlowModel
from tf_resflow.seeds import split_seed
from tf_resflow.typing import TensorLike

__all__ = ["HeldOut", "Score", "stderr_parts"]


class Score(NamedTuple):
    """A mean over examples.

    Attributes:
      mean: mean over the examples: bits/dim, or nats for continuous data.
      stderr: its standard error, over the examples. It includes the noise of the estimator, which draws
        independently for each example.
      num_examples: number of examples.
    """

    mean: float
    stderr: float
    num_examples: int


def stderr_parts(score: Score, noise: Noise) -> dict[str, float]:
    r"""Splits the standard error of a score by its sources.

    The loss of example i is \(y_i = m_i + d_i + e_i\): its true bound, the noise of its one
    dequantization, and that of its log-determinants. All three are independent between the examples.
    The squared standard error of the mean of n is therefore

        stderr^2 = (s^2 + d^2 + e^2) / n,

    where \(d^2\) and \(e^2\) are the variances in `noise`, and \(s^2\), that of the data, is the rest.
    More examples reduce all three; more probes or exact terms reduce e alone.

    Args:
      score: a `Score`.
      noise: a `Noise` of the same model and estimator, on some of the examples.

    Returns:
      A dict of the standard errors due to "data", "dequantization" and "estimator".
    """
    dequantization = noise.dequantization_std / math.sqrt(score.num_examples)
    estimator = noise.estimator_std / math.sqrt(score.num_examples)
    rest = score.stderr**2 - dequantization**2 - estimator**2
    return {
        "data": math.sqrt(max(rest, 0.0)) if not math.isnan(rest) else rest,
        "dequantization": dequantization,
        "estimator": estimator,
    }


class HeldOut:
    r"""Scores a model on held-out examples, each of them once.

    With `num_samples` K > 1 the score is that of the importance-weighted bound of integer data

        log P(x) >= E log (1 / K) sum_k p((x + u_k) / L) / L^D,

    which is the usual one at K = 1, never loosens in expectation as K grows, and tends to log P(x). It
    is a bound for exact log-determinants only. An estimate whose noise has the variance
    \(\sigma^2\), in nats, raises it by up to \(\log E e^\epsilon \approx \sigma^2 / 2\)
    (Jensen's inequality, in the opposite direction): use `Exact` or several probes.

    Args:
      model: a `FlowModel`.
      log_det: estimator of the log-determinants; by default the model's evaluation estimator.
      strategy: the `tf.distribute.Strategy` that the model was built under; by default the current
        one. The rows of a batch are divided between its replicas.
      num_samples: K.

    Raises:
      ValueError: for K > 1 and continuous data, or K < 1.

    References:
      Burda et al., "Importance Weighted Autoencoders" (2016), Theorem 1.
      Ho et al., "Flow++" (2019), section 3.1: the same bound with a learned dequantization.
    """

    def __init__(
        self,
        model: FlowModel,
        log_det: Callable[..., Any] | None = None,
        *,
        strategy: tf.distribute.Strategy | None = None,
        num_samples: int = 1,
    ):
        _check_samples(num_samples, model)

        def losses(x, seed):
            return _bound(model, log_det, x, seed, num_samples)

        self._losses = PerExample(losses, strategy)

    def __call__(self, batches: Iterable[TensorLike], seed: int) -> Score:
        """Scores a finite stream of batches.

        Args:
          batches: iterable of arrays or tensors `[<= batch, *event_shape]`; the first one is the
            largest.
          seed: integer, for the dequantization and the estimator.

        Returns:
          A `Score`.

        Raises:
          ValueError: when there is no batch.
        """
        losses = self._losses(batches, seed).astype(np.float64)
        num = len(losses)
        stderr = losses.std(ddof=1) / np.sqrt(num) if num > 1 else float("nan")
        return Score(float(losses.mean()), float(stderr), num)


def _check_samples(num_samples, model):
    if num_samples < 1:
        raise ValueError(f"num_samples is at least 1; got {num_samples}.")
    if num_samples > 1 and model.levels is None:
        raise ValueError(
            "Continuous data are not dequantized and have no importance-weighted bound: leave num_samples at 1."
        )


def _bound(model, log_det, x, seed, num_samples):
    """The loss of each example, by a log-mean-exp over K draws; one after the other, for memory."""
    if num_samples == 1:
        return model.loss_per_example(x, seed, evaluation=True, log_det=log_det)
    nats = model.nats_per_unit
    seeds = split_seed(seed, num_samples)

    def add(k, log_sum):
        losses = model.loss_per_example(x, seeds[k], evaluation=True, log_det=log_det)
        return k + 1, tfp.math.log_add_exp(log_sum, -nats * tf.cast(losses, tf.float64))

    nothing = tf.fill(tf.shape(x)[:1], tf.constant(-math.inf, tf.float64))
    _, log_sum = tf.while_loop(lambda k, _: k < num_samples, add, (0, nothing))
    return (math.log(num_samples) - log_sum) / nats
