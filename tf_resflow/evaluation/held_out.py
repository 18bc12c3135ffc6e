"""Held-out score: bits/dim of integer data, nats of continuous data, with its standard error."""

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tf_resflow.evaluation.per_example import PerExample
from tf_resflow.seeds import split_seed

__all__ = ["HeldOut", "Score", "stderr_parts"]


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


def stderr_parts(score, noise):
    r"""Splits the standard error of a score into what it comes from.

    The loss of example i is \(y_i = m_i + d_i + e_i\): its true bound, the noise of its one
    dequantisation, and that of its log-determinants. All three are independent between the examples,
    so that the squared standard error of the mean of n is

        stderr^2 = (s^2 + d^2 + e^2) / n,

    where \(d^2\) and \(e^2\) are the variances in `noise`, and \(s^2\), that of the data, is the rest.
    More examples lessen all three; more probes or exact terms lessen e alone.

    Args:
      score: a `Score`.
      noise: a `Noise` of the same model and estimator, of some of the examples.

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
    r"""Scores a model on held-out examples, each of them once; see `PerExample`.

    With `num_samples` K > 1 the score is that of the importance-weighted bound of integer data

        log P(x) >= E log (1 / K) sum_k p((x + u_k) / L) / L^D,

    which is the usual one at K = 1, never loosens in expectation as K grows, and tends to log P(x). It
    is a bound for exact log-determinants only. An estimate whose noise has the variance
    \(\sigma^2\), in nats, raises it by up to \(\log E e^\epsilon \approx \sigma^2 / 2\)
    (Jensen's inequality, the other way round): use `Exact` or several probes.

    Args:
      model: a `FlowModel`.
      strategy: the `tf.distribute.Strategy` that the model was built under; by default the current
        one. The rows of a batch are divided between its replicas.
      num_samples: K.

    Raises:
      ValueError: for K > 1 and continuous data, or K < 1.

    References:
      Burda et al., "Importance Weighted Autoencoders" (2016), Theorem 1.
      Ho et al., "Flow++" (2019), section 3.1: the same bound with a learned dequantisation.
    """

    def __init__(self, model, strategy=None, num_samples=1):
        _check_samples(num_samples, model)

        def losses(x, seed):
            return _bound(model, x, seed, num_samples)

        self._losses = PerExample(losses, strategy)

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
        losses = self._losses(batches, seed).astype(np.float64)
        num = len(losses)
        stderr = losses.std(ddof=1) / np.sqrt(num) if num > 1 else float("nan")
        return Score(float(losses.mean()), float(stderr), num)


def _check_samples(num_samples, model):
    if num_samples < 1:
        raise ValueError(f"num_samples is at least 1; got {num_samples}.")
    if num_samples > 1 and model.levels is None:
        raise ValueError(
            "Continuous data are not dequantised, so that there is no importance-weighted bound: "
            "leave num_samples at 1."
        )


def _bound(model, x, seed, num_samples):
    """The loss of each example, of a log-mean-exp over K draws; one after the other, for memory."""
    if num_samples == 1:
        return model.loss_per_example(x, seed, evaluation=True)
    nats = model.num_dimensions * math.log(2.0)
    seeds = split_seed(seed, num_samples)

    def add(k, log_sum):
        losses = model.loss_per_example(x, seeds[k], evaluation=True)
        return k + 1, tfp.math.log_add_exp(log_sum, -nats * tf.cast(losses, tf.float64))

    nothing = tf.fill(tf.shape(x)[:1], tf.constant(-math.inf, tf.float64))
    _, log_sum = tf.while_loop(lambda k, _: k < num_samples, add, (0, nothing))
    return (math.log(num_samples) - log_sum) / nats
