"""Measures the noise of an example's loss estimate, and how much each source contributes."""

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tf_resflow.bijectors import with_log_det_estimator
from tf_resflow.console import track
from tf_resflow.evaluation.scores import Score
from tf_resflow.models import FlowModel
from tf_resflow.models.dequantizer import noise_log_det_estimator
from tf_resflow.typing import LogDet, TensorLike


class Noise(NamedTuple):
    """Moments of an example's loss estimates, in bits/dim for integer data, otherwise in nats.

    Attributes:
      mean: mean over examples and draws.
      dequantization_std: standard deviation due to the dequantization; 0 for continuous data.
      estimator_std: standard deviation due to the log-determinant estimates.
      estimator_kurtosis: excess kurtosis of the log-determinant noise: 0 for normal noise, NaN without noise. A
        value in the tens means rare, large outliers.
    """

    mean: float
    dequantization_std: float
    estimator_std: float
    estimator_kurtosis: float


class EstimatorNoise:
    r"""Measures the noise of a model's loss estimates by nested repetition.

    The dequantization of example i is drawn J times. For each draw, the log-determinants are estimated K times:
    \(y_{jki} = m_i + d_{ji} + e_{jki}\). Let \(s_{ji}^2\) be the sample variance over k, \(k_{4,ji}\) the fourth
    k-statistic, and \(t_i^2\) the sample variance of the means over k. The results are

        estimator variance       e^2 = mean_ji s_ji^2
        dequantization variance  d^2 = max(0, mean_i t_i^2 - e^2 / K)
        excess kurtosis          mean_ji k_4 / mean_ji sigma^4,

    where \((s^4 - k_4 / K) (K - 1) / (K + 1)\) is the unbiased estimate of \(\sigma^4\).

    Args:
      model: a `FlowModel`.
      log_det_estimator: log-determinant estimator or dict of estimators by block; by default, as in training.
      dequantizations: J. If J = 1 and the data are dequantized, `dequantization_std` is NaN.
      draws: K, at least 4.

    References:
      Scheffé, "The Analysis of Variance" (1959), on nested random effects.
      Kendall and Stuart, "The Advanced Theory of Statistics", vol. 1 (1958), on k-statistics.
    """

    def __init__(
        self, model: FlowModel, log_det_estimator: LogDet | None = None, *, dequantizations: int = 1, draws: int = 8
    ):
        self._model, self._draws = model, draws
        default = model.evaluation_log_det_estimator
        self._noise_log_det_estimator = noise_log_det_estimator(log_det_estimator, default)
        self._dequantizations = dequantizations if model.data_space.is_dequantized else 1
        density = model.distribution
        if log_det_estimator is not None:
            density = with_log_det_estimator(density, log_det_estimator)

        @tf.function(autograph=False)
        def log_prob(x, arguments, seed):
            return density.log_prob(tf.identity(x), bijector_kwargs={"seed": seed, **arguments})

        self._log_prob = log_prob

    def __call__(self, x: TensorLike, seed: int, *, condition: TensorLike | None = None) -> Noise:
        """Measures the noise on data `[batch, *event_shape]`; `condition` is as for `FlowModel.log_prob`."""
        arguments = self._model.condition.arguments(condition, len(x))
        stride = self._draws + 1
        starts = range(0, self._dequantizations * stride, stride)
        values = []
        for start in track(starts, "noise of the estimator"):
            options = {"log_det_estimator": self._noise_log_det_estimator}
            z, log_q = self._model.data_space.dequantize(x, tf.constant([seed, start], tf.int32), **options)
            for draw in range(start + 1, start + stride):
                log_density = self._log_prob(z, arguments, tf.constant([seed, draw], tf.int32))
                values.append(np.float64(log_density) - np.float64(log_q))
        log_probs = np.reshape(values, [self._dequantizations, self._draws, -1])
        noise = nested_noise(self._model.data_space.to_loss(log_probs))
        return noise if self._model.data_space.is_dequantized else noise._replace(dequantization_std=0.0)


def nested_noise(estimates: np.ndarray) -> Noise:
    """Returns the moments of nested draws `[J, K, n]`; see `EstimatorNoise`."""
    num = estimates.shape[1]
    deviations = estimates - estimates[:, :1]  # exactly 0 for equal draws, even if their mean is rounded
    residuals = deviations - deviations.mean(axis=1, keepdims=True)
    means = estimates.mean(axis=1)
    variance = np.sum(residuals**2, axis=1) / (num - 1)
    fourth, second = np.mean(residuals**4, axis=1), np.mean(residuals**2, axis=1)
    cumulant = num**2 * ((num + 1) * fourth - 3 * (num - 1) * second**2)
    cumulant = np.mean(cumulant / ((num - 1) * (num - 2) * (num - 3)))
    square = (np.mean(variance**2) - cumulant / num) * (num - 1) / (num + 1)
    between = np.var(means, axis=0, ddof=1).mean() if len(means) > 1 else float("nan")
    return Noise(
        mean=float(estimates.mean()),
        dequantization_std=float(np.sqrt(np.maximum(between - variance.mean() / num, 0.0))),
        estimator_std=float(np.sqrt(variance.mean())),
        estimator_kurtosis=float(cumulant / square) if square > 0 else float("nan"),
    )


def stderr_parts(score: Score, noise: Noise, num_samples: int = 1) -> dict[str, float]:
    """Splits the standard error of a score, stderr^2 = (s^2 + (d^2 + e^2) / K) / n, by source.

    Here d is the dequantization noise, e the log-determinant noise, and K = `num_samples` the number of estimates
    per example. The remainder is s^2, the variance of the data.
    """
    estimates = math.sqrt(score.num_examples * num_samples)
    dequantization, estimator = noise.dequantization_std / estimates, noise.estimator_std / estimates
    rest = np.maximum(score.stderr**2 - dequantization**2 - estimator**2, 0.0)  # keeps NaN
    return {"data": float(np.sqrt(rest)), "dequantization": dequantization, "estimator": estimator}
