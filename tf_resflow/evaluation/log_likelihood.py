"""Estimates the log-likelihood of each example of a batch up to a given standard error, and its noise."""

import math

import numpy as np
import tensorflow as tf

from tf_resflow.bijectors import with_log_det_estimator
from tf_resflow.evaluation.log_prob_samples import NUM_SAMPLES, LogProbEstimate, LogProbSamples
from tf_resflow.models import FlowModel
from tf_resflow.seeds import stateless_seed
from tf_resflow.typing import LogDet, Seed, TensorLike

_MOST_SAMPLES = 8192


def estimate_log_prob(
    model: FlowModel,
    x: TensorLike,
    seed: Seed = None,
    *,
    condition: TensorLike | None = None,
    num_samples: int | None = None,
    stderr: float | None = None,
    log_det_estimator: LogDet | None = None,
) -> LogProbEstimate:
    """Estimates the log-likelihood of each example of a batch, and the standard error of each estimate.

    The result is the mean of K independent estimates, which is unbiased.

    ```python
    import tf_resflow as resflow
    flow = resflow.flows.image_flow((4, 4, 1), num_blocks=(1,), width=8, num_fc_blocks=0)
    model = resflow.FlowModel(flow, event_shape=(4, 4, 1), levels=4)
    images = model.sample(5, seed=0)
    estimate = resflow.evaluation.estimate_log_prob(model, images, seed=1, stderr=0.5)
    print(estimate.log_prob.shape, float(estimate.stderr.numpy().max()) < 2.0)
    # (5,) True
    ```

    Args:
      model: a `FlowModel`.
      x: examples `[batch, *event_shape]`.
      seed: an integer or a seed `[2]`.
      condition: condition of a conditional model, as for `FlowModel.log_prob`.
      num_samples: K. The default is 8.
      stderr: standard error to reach instead, in nats, see `required_samples`. Requires eager mode.
      log_det_estimator: log-determinant estimator, or a dict of estimators by block
        (`tf_resflow.bijectors.with_log_det_estimator`). The default is the model's evaluation estimator. `Exact`
        has no noise and suits vectors of up to a few hundred coordinates.

    Returns:
      A `LogProbEstimate` with `log_prob` and `stderr`, each `[batch]`. The standard error is measured by
      repetition. It is 0 without noise, and NaN for a single noisy estimate or where `log_prob` is -inf.

    Raises:
      ValueError: if both `num_samples` and `stderr` are given, or as for `required_samples`.
    """
    if stderr is not None:
        if num_samples is not None:
            raise ValueError(f"Got both num_samples={num_samples} and stderr={stderr}. Pass only one of them.")
        options = {"condition": condition, "log_det_estimator": log_det_estimator}
        num_samples = required_samples(model, x, stderr, **options)
    num_samples = NUM_SAMPLES if num_samples is None else num_samples
    samples = LogProbSamples(model, num_samples, log_det_estimator=log_det_estimator)
    return samples.estimate(model.condition.join(x, condition), seed)


def required_samples(
    model: FlowModel,
    x: TensorLike,
    stderr: float,
    *,
    condition: TensorLike | None = None,
    log_det_estimator: LogDet | None = None,
    seed: Seed = 0,
) -> int:
    """Returns the number of estimates per example whose mean reaches a standard error.

    The number starts at the default of `estimate_log_prob` and doubles until the root mean square of the standard
    errors of the examples is at most `stderr`. The result depends only on the arguments. It is 1 without noise. Use
    several examples, because the standard error of one is imprecise. To keep the mean unbiased, draw new estimates
    with another seed, as `estimate_log_prob` does.

    Args:
      x: examples `[batch, *event_shape]` that resemble the data to evaluate.
      stderr: standard error of an example's log-likelihood in nats, as the root mean square over examples. To
        convert from bits/dim, multiply by `model.data_space.nats_per_unit`.
      condition: see `estimate_log_prob`, also for `log_det_estimator`.
      seed: an integer or a seed `[2]`.

    Raises:
      ValueError: if `stderr` is not positive and finite, or needs more than 8,192 estimates; if x is not finite; or
        if a log-likelihood is NaN.
    """
    if not 0 < stderr < math.inf:
        raise ValueError(f"stderr={stderr} is not a positive, finite number of nats. Pass one, such as 0.1.")
    x = tf.convert_to_tensor(x)
    if not bool(tf.reduce_all(tf.math.is_finite(model.data_space.centers(x)))):
        raise ValueError("x contains values that are NaN or infinite. Remove them.")
    samples = LogProbSamples(model, log_det_estimator=log_det_estimator)
    draw, fold_in = tf.function(samples, autograph=False), tf.random.experimental.stateless_fold_in
    given, seed = model.condition.join(x, condition), stateless_seed(seed)
    estimates = draw(given, fold_in(seed, 0))
    while True:
        num, estimate = len(estimates), samples.mean(estimates)
        if num_nan := int(np.isnan(estimate.log_prob).sum()):
            raise ValueError(
                f"The log-likelihood of {num_nan} of {len(x)} examples is NaN. Check the weights of the model."
            )
        errors = estimate.stderr.numpy()
        reached = float(np.sqrt(np.mean(errors[np.isfinite(errors)] ** 2))) if np.isfinite(errors).any() else 0.0
        if reached <= stderr:
            return num
        if 2 * num > _MOST_SAMPLES or num * (reached / stderr) ** 2 > 4 * _MOST_SAMPLES:  # surely too many
            raise ValueError(
                f"stderr={stderr:.3g} nats is out of reach: {num} samples reach {reached:.2g} nats, and more than "
                f"{_MOST_SAMPLES:,} would be necessary. Pass a larger stderr, or for vectors "
                "log_det_estimator=tf_resflow.logdet.Exact()."
            )
        indices = range(num // samples.num_samples, 2 * num // samples.num_samples)
        estimates = tf.concat([estimates, *(draw(given, fold_in(seed, i)) for i in indices)], 0)


def log_prob_by_class(
    model: FlowModel,
    x: TensorLike,
    seed: Seed = None,
    *,
    num_samples: int = 1,
    log_det_estimator: LogDet | None = None,
) -> tf.Tensor:
    r"""Estimates the log-likelihood of each example under each class, for a model whose condition is a label.

    By Bayes' rule, softmax over the classes gives \\(p(y \mid x)\\) if all classes are equally frequent. Otherwise,
    add the logarithms of their frequencies first.

    Args:
      model: a `FlowModel` with `num_classes`.
      x: examples `[batch, *event_shape]`.
      seed: an integer or a seed `[2]`.
      num_samples: number of estimates.
      log_det_estimator: see `estimate_log_prob`.

    Returns:
      Log-likelihoods `[batch, num_classes]`, in nats.

    Raises:
      ValueError: if the model's condition is not a label.
    """
    if model.condition.num_classes is None:
        raise ValueError(f"The model {model.name!r} has no classes. Pass a model that was built with num_classes=.")
    samples = LogProbSamples(model, num_samples, log_det_estimator=log_det_estimator)
    by_class = tf.unstack(samples.by_class(x, seed), model.condition.num_classes)
    return tf.stack([samples.mean(estimates).log_prob for estimates in by_class], -1)


class EstimatorNoise:
    """Measures the noise of a model's losses that is due to the estimates of the log-determinants.

    The result is the standard deviation of an example's loss for a given dequantization, as the root mean square
    over examples, in bits/dim for integer data and otherwise in nats.

    Args:
      model: a `FlowModel`.
      log_det_estimator: see `estimate_log_prob`. The default is the estimator of the training.
      num_samples: number of estimates per example, at least 2.
    """

    def __init__(self, model: FlowModel, log_det_estimator: LogDet | None = None, *, num_samples: int = 8):
        if num_samples < 2:
            raise ValueError(f"num_samples={num_samples} is too small to measure noise. Pass at least 2 samples.")
        self._model, self._num_samples = model, num_samples
        density = model.distribution
        if log_det_estimator is not None:
            density = with_log_det_estimator(density, log_det_estimator)

        @tf.function(autograph=False)
        def log_prob(z, arguments, seed):
            return density.log_prob(tf.identity(z), bijector_kwargs={"seed": seed, **arguments})

        self._log_prob = log_prob

    def __call__(self, x: TensorLike, seed: int, *, condition: TensorLike | None = None) -> float:
        """Measures the noise on data `[batch, *event_shape]`; `condition` is as for `FlowModel.log_prob`."""
        arguments = self._model.condition.arguments(condition, len(x))
        z = self._model.prepare(x, tf.constant([seed, 0], tf.int32))
        seeds = [tf.constant([seed, 1 + i], tf.int32) for i in range(self._num_samples)]
        log_probs = np.stack([self._log_prob(z, arguments, seed) for seed in seeds]).astype(np.float64)
        losses = self._model.data_space.to_loss(log_probs - log_probs[0])  # exactly 0 without noise
        return float(np.sqrt(np.var(losses, axis=0, ddof=1).mean()))
