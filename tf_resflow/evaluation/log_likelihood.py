"""Estimates the log-likelihood of each example of a batch up to a given standard error, and its noise."""

import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tf_resflow import bijectors, logdet
from tf_resflow.layers.program import bind
from tf_resflow.models import FlowModel
from tf_resflow.models.dequantizer import noise_log_det_estimator, with_sets
from tf_resflow.models.flow_model import draw_log_prob
from tf_resflow.seeds import split_seed, stateless_seed
from tf_resflow.typing import LogDet, Seed, TensorLike

NUM_SAMPLES = 8
"""The default number of estimates for a scored or served log-likelihood."""

_MOST_SAMPLES = 8192
_MEGABYTES = 500  # limit for the values that a branch computes at once


class LogProbEstimate(NamedTuple):
    """The estimated log-likelihood of each example, in nats, and its standard error.

    The standard error is measured from `num` estimates, 8 by default. The 95 % interval therefore extends
    `scipy.stats.t.ppf(0.975, num - 1)` standard errors to each side: 2.36 for 8.
    """

    log_prob: tf.Tensor
    stderr: tf.Tensor


class LogProbSamples:
    """Draws K estimates of the log-likelihood of each example, each with its own dequantization and probes.

    The estimates of all examples form one batch. It is split if the values of the widest branch would exceed
    `megabytes`. Then, if the K estimates of one example do not fit, they are drawn one after the other.

    Args:
      num_samples: K. The attribute is 1 if the estimates have no noise.
      log_det_estimator: see `estimate_log_prob`.
      common: whether all examples share random numbers, so a result does not depend on the other examples.
      max_batch: maximum number of examples. If all fit at once, the graph has no loop, as TFLite requires.
      networks: as for `FlowModel.log_prob`.
    """

    def __init__(
        self,
        model: FlowModel,
        num_samples: int = NUM_SAMPLES,
        *,
        log_det_estimator: LogDet | None = None,
        common: bool = False,
        max_batch: int | None = None,
        megabytes: float = _MEGABYTES,
        networks: bijectors.Networks | None = None,
    ):
        if num_samples < 1:
            raise ValueError(f"num_samples={num_samples} is too small. Pass at least 1 sample.")
        log_det: Any = model.evaluation_log_det_estimator if log_det_estimator is None else log_det_estimator
        noise_log_det = noise_log_det_estimator(log_det, model.evaluation_log_det_estimator)
        density = bijectors.with_log_det_estimator(model.distribution, log_det)
        blocks = bijectors.views.blocks_by_name(density)
        self.is_exact = all(isinstance(block.log_det_estimator, logdet.Exact) for block in blocks.values())
        self.is_noisy = model.data_space.levels is not None or not self.is_exact
        self.num_samples = num_samples if self.is_noisy else 1
        computed = [*blocks.values()]
        if model.data_space.noise_flow is not None:
            noise = bijectors.with_log_det_estimator(model.data_space.noise_flow, noise_log_det)
            computed += bijectors.flow.residual_blocks(noise)
        at_once = max(1, int(megabytes * 2**20 // max(map(_bytes_per_example, computed), default=1)))
        self._together = self.num_samples if self.num_samples <= at_once else 1
        self._part_examples, self._max_batch = at_once // self._together, max_batch
        if common and blocks:
            shared = {name: with_sets(own.log_det_estimator, self._together) for name, own in blocks.items()}
            density = bijectors.with_log_det_estimator(density, shared)
        self._model, self._density, self._common = model, density, common
        self._arguments = {} if networks is None else {"networks": networks}
        self._noise = {"sets": self._together if common else None, "networks": networks}
        self._noise["log_det_estimator"] = noise_log_det

    def __call__(self, x: TensorLike, seed: Seed = None, condition: TensorLike | None = None) -> tf.Tensor:
        """Returns estimates `[num_samples, batch]`."""
        x = tf.convert_to_tensor(x)
        num = tf.shape(x)[0] if x.shape[0] is None else x.shape[0]
        examples = {"x": x, **self._model.condition.arguments(condition, num)}
        if self._together == self.num_samples:
            return self._estimate_all(examples, stateless_seed(seed))
        seeds = split_seed(stateless_seed(seed), self.num_samples)
        parts = self._map_parts(lambda seed: self._estimate_all(examples, seed), seeds, 1)
        return tf.reshape(parts, [self.num_samples, -1])

    def estimate(self, x: TensorLike, seed: Seed = None, condition: TensorLike | None = None) -> LogProbEstimate:
        """Returns the mean of each example's estimates and its standard error, each `[batch]`."""
        return self.mean(self(x, seed, condition))

    def by_class(self, x: TensorLike, seed: Seed = None) -> tf.Tensor:
        """Returns the estimates under each label, `[num_classes, num_samples, batch]`."""
        x = tf.convert_to_tensor(x)
        labels = tf.range(self._model.condition.num_classes)
        return self._map_parts(lambda label: self(x, seed, label), labels, self.num_samples, x.shape[0])

    def mean(self, estimates: tf.Tensor) -> LogProbEstimate:
        """Returns the mean of estimates `[num_samples, batch]` and its standard error."""
        return mean_and_stderr(estimates, self.is_noisy)

    def _map_parts(self, estimate, parts, num_samples, batch=None):
        spec = tf.TensorSpec([num_samples, batch], self._density.dtype)
        return tf.map_fn(estimate, parts, parallel_iterations=1, fn_output_signature=spec)

    def _estimate_all(self, examples, seed):
        """Estimates `[together, batch]` for a dict of x and the flow's arguments, `part_examples` at a time."""
        x = examples["x"]
        most = self._max_batch if x.shape[0] is None else x.shape[0]
        if most is not None and most <= self._part_examples:
            return self._estimate_part(examples, seed)
        batch = tf.shape(x)[0]
        num = tf.maximum(1, -(-batch // self._part_examples))
        size = -(-batch // num)

        def divide(rows):
            padded = tf.pad(rows, [[0, num * size - batch], *[[0, 0]] * (rows.shape.rank - 1)])
            parts = tf.reshape(padded, tf.concat([[num, size], tf.shape(rows)[1:]], 0))
            return tf.ensure_shape(parts, [None, None, *rows.shape[1:]])

        seeds = tf.repeat(seed[tf.newaxis], num, axis=0) if self._common else split_seed(seed, num)
        parts = tf.nest.map_structure(divide, examples), seeds
        values = self._map_parts(lambda part: self._estimate_part(*part), parts, self._together)
        return tf.reshape(tf.transpose(values, [1, 0, 2]), [self._together, -1])[:, :batch]

    def _estimate_part(self, examples, seed):
        num = self._together
        arguments = {name: tf.concat([value] * num, 0) for name, value in examples.items()}  # TFLite loses a tile
        x = arguments.pop("x")
        arguments |= self._arguments
        return tf.reshape(draw_log_prob(self._model, x, seed, self._density, arguments, **self._noise), [num, -1])


def mean_and_stderr(samples: tf.Tensor, is_noisy: bool = True) -> LogProbEstimate:
    """Returns the mean of independent estimates `[num, batch]` of each example, and its standard error."""
    mean, num = tf.reduce_mean(samples, 0), samples.shape[0]
    if not is_noisy:
        return LogProbEstimate(mean, tf.where(tf.abs(mean) < math.inf, tf.zeros_like(mean), math.nan))
    if num == 1:
        return LogProbEstimate(mean, tf.fill(tf.shape(mean), tf.constant(math.nan, mean.dtype)))
    variance = tf.reduce_sum((samples - mean) ** 2, 0) / (num - 1)
    return LogProbEstimate(mean, tf.sqrt(variance / num))


def mean_of_probabilities(samples: tf.Tensor) -> LogProbEstimate:
    """Returns the log of the mean probability of independent estimates `[num, batch]`, and its standard error."""
    largest = tf.reduce_max(samples, 0)
    largest = tf.where(tf.math.is_finite(largest), largest, 0.0)
    mean, stderr = mean_and_stderr(tf.exp(samples - largest))
    return LogProbEstimate(largest + tf.math.log(mean), stderr / mean)


def _bytes_per_example(block):
    """Returns the bytes per example, for all rows that the estimator passes to the branch at once."""
    log_det, size = block.log_det_estimator, math.prod(size or 1 for size in block.event_shape)
    return bytes_per_row(block) * (log_det.num_rows(size) if isinstance(log_det, logdet.LogDetEstimator) else 1)


def bytes_per_row(block: bijectors.ResidualBlock) -> int:
    """Returns the bytes that a branch computes per row: all values of its graph that have a row axis."""
    shapes = [block.event_shape, *([block.condition_shape] if block.has_condition else [])]
    specs = [tf.TensorSpec([None, *(size or 1 for size in shape)], block.dtype) for shape in shapes]
    inputs = specs if block.has_condition else specs[0]
    traced = tf.function(bind(block.branch), autograph=False).get_concrete_function(inputs)
    values = [value for operation in traced.graph.get_operations() for value in operation.outputs]
    rows = [value for value in values if value.shape.rank and value.shape[0] is None]
    return sum((value.shape[1:].num_elements() or 0) * value.dtype.size for value in rows)


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

    Args:
      model: a `FlowModel`.
      x: examples `[batch, *event_shape]`.
      seed: an integer or a seed `[2]`.
      condition: condition of a conditional model, as for `FlowModel.log_prob`.
      num_samples: K. The default is 8.
      stderr: standard error to reach instead, in nats, see `required_samples`. Requires eager mode.
      log_det_estimator: log-determinant estimator, or a dict of estimators by block
        (`tf_resflow.bijectors.with_log_det_estimator`). The default is the model's evaluation estimator. With
        `stderr`, it is `Exact` for vectors of up to 256 coordinates.

    Returns:
      A `LogProbEstimate` with `log_prob` and `stderr`, each `[batch]`. The standard error is measured by
      repetition. It is 0 without noise, and NaN for a single noisy estimate or where `log_prob` is -inf.

    Raises:
      ValueError: if both `num_samples` and `stderr` are given, or as for `required_samples`.
    """
    if stderr is not None:
        if num_samples is not None:
            raise ValueError(f"Got both num_samples={num_samples} and stderr={stderr}. Pass only one of them.")
        log_det_estimator = precise_estimator(model) if log_det_estimator is None else log_det_estimator
        num_samples = required_samples(model, x, stderr, condition=condition, log_det_estimator=log_det_estimator)
    num_samples = NUM_SAMPLES if num_samples is None else num_samples
    return LogProbSamples(model, num_samples, log_det_estimator=log_det_estimator).estimate(x, seed, condition)


def precise_estimator(model: FlowModel) -> LogDet:
    """Returns the default estimator for a standard error, because many estimates would cost more than `Exact`."""
    (size, *others), exact = model.data_space.event_shape, logdet.Exact()
    is_exact = not others and logdet.default_estimator(size, "scores") == exact
    return exact if is_exact else model.evaluation_log_det_estimator


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
      ValueError: if `stderr` is not positive and finite, or needs more than 8,192 estimates; or if a
        log-likelihood is NaN.
    """
    if not 0 < stderr < math.inf:
        raise ValueError(f"stderr={stderr} is not a positive, finite number of nats. Pass one, such as 0.1.")
    samples = LogProbSamples(model, log_det_estimator=log_det_estimator)
    draw, fold_in = tf.function(samples, autograph=False), tf.random.experimental.stateless_fold_in
    x, seed = tf.convert_to_tensor(x), stateless_seed(seed)
    estimates = draw(x, fold_in(seed, 0), condition)
    while True:
        num, (log_prob, errors) = len(estimates), samples.mean(estimates)
        if num_nan := int(np.isnan(log_prob).sum()):
            found = f"The log-likelihood of {num_nan} of {len(x)} examples is NaN"
            raise ValueError(f"{found}. Check the examples and the weights of the model.")
        finite = errors[tf.math.is_finite(errors)].numpy()
        reached = float(np.sqrt(np.mean(finite**2))) if len(finite) else 0.0
        if reached <= stderr:
            return num
        if 2 * num > _MOST_SAMPLES or num * (reached / stderr) ** 2 > 4 * _MOST_SAMPLES:  # surely too many
            raise ValueError(
                f"stderr={stderr:.3g} nats is out of reach: {num} samples reach {reached:.2g} nats, and more than "
                f"{_MOST_SAMPLES:,} would be necessary. Pass a larger stderr, or for vectors "
                "log_det_estimator=tf_resflow.logdet.Exact()."
            )
        indices = range(num // NUM_SAMPLES, 2 * num // NUM_SAMPLES)
        estimates = tf.concat([estimates, *(draw(x, fold_in(seed, i), condition) for i in indices)], 0)


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
    return tf.transpose(tf.reduce_mean(samples.by_class(x, seed), axis=1))


class EstimatorNoise:
    """Measures the noise of a model's losses that is due to the estimates of the log-determinants.

    The result is the standard deviation of an example's loss for a given dequantization, measured from 8 estimates
    per example, as the root mean square over examples. It is in bits/dim for integer data and otherwise in nats.

    Args:
      model: a `FlowModel`.
      log_det_estimator: see `estimate_log_prob`. The default is the estimator of the training.
    """

    def __init__(self, model: FlowModel, log_det_estimator: LogDet | None = None):
        self._model, density = model, model.distribution
        if log_det_estimator is not None:
            density = bijectors.with_log_det_estimator(density, log_det_estimator)

        @tf.function(autograph=False)
        def log_prob(z, arguments, seed):
            return density.log_prob(tf.identity(z), bijector_kwargs={"seed": seed, **arguments})

        self._log_prob = log_prob

    def __call__(self, x: TensorLike, seed: int, *, condition: TensorLike | None = None) -> float:
        """Measures the noise on data `[batch, *event_shape]`; `condition` is as for `FlowModel.log_prob`."""
        arguments = self._model.condition.arguments(condition, len(x))
        z = self._model.prepare(x, tf.constant([seed, 0], tf.int32))
        seeds = [tf.constant([seed, 1 + i], tf.int32) for i in range(NUM_SAMPLES)]
        log_probs = np.stack([self._log_prob(z, arguments, seed) for seed in seeds]).astype(np.float64)
        losses = self._model.data_space.to_loss(log_probs - log_probs[0])  # exactly 0 without noise
        return float(np.sqrt(np.var(losses, axis=0, ddof=1).mean()))
