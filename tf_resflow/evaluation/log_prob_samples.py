"""Draws repeated estimates of the log-likelihood of each example, in parts that fit into memory."""

import math
import warnings
from typing import Any, NamedTuple

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

    The estimates of all examples form one batch, which is split if the values of the widest branch would exceed
    `megabytes`. `num_samples` is K, rounded up to equal parts, or 1 if the estimates have no noise.

    Args:
      num_samples: K.
      log_det_estimator: see `estimate_log_prob`.
      common: whether all examples share random numbers, so a result does not depend on the other examples.
      max_batch: maximum number of examples. If all fit at once, the graph has no loop, as TFLite requires.
      networks: as for `FlowModel.log_prob`.
      of_probabilities: whether `mean` returns the log of the mean probability.
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
        of_probabilities: bool = False,
    ):
        if num_samples < 1:
            raise ValueError(f"num_samples={num_samples} is too small. Pass at least 1 sample.")
        log_det: Any = model.evaluation_log_det_estimator if log_det_estimator is None else log_det_estimator
        self._noise_log_det_estimator = noise_log_det_estimator(log_det, model.evaluation_log_det_estimator)
        self._model, self._common, self._networks = model, common, networks
        density = bijectors.with_log_det_estimator(model.distribution, log_det)
        blocks = bijectors.views.blocks_by_name(density)
        exact = all(isinstance(block.log_det_estimator, logdet.Exact) for block in blocks.values())
        self.is_noisy = model.data_space.levels is not None or not exact
        computed = [*blocks.values()]
        if model.data_space.noise_flow is not None:
            noise = bijectors.with_log_det_estimator(model.data_space.noise_flow, self._noise_log_det_estimator)
            computed += bijectors.flow.residual_blocks(noise)
        costs = map(_bytes_per_example, computed)
        at_once = max(1, int(megabytes * 2**20 // max(costs, default=1)))
        num_samples = num_samples if self.is_noisy else 1
        self._of_probabilities = of_probabilities
        if self._of_probabilities and not exact:
            warnings.warn(
                "The log-determinants are estimated, so the log of the mean probability is too large by up to half "
                "the variance of an example's log-determinants, in nats. Use exact ones, or more probes.",
                stacklevel=3,
            )
        self._num_parts = math.ceil(num_samples / at_once)
        self._part_samples = math.ceil(num_samples / self._num_parts)
        self._part_examples = max(1, at_once // self._part_samples)
        self._max_batch = max_batch
        self.num_samples = self._num_parts * self._part_samples
        if common:
            shared = {name: with_sets(own.log_det_estimator, self._part_samples) for name, own in blocks.items()}
            density = bijectors.with_log_det_estimator(density, shared) if blocks else density
        self._density = density

    def __call__(self, x: TensorLike, seed: Seed = None) -> tf.Tensor:
        """Returns estimates `[num_samples, batch]`. For a conditional model, x is (examples, conditions)."""
        x, condition = self._model.condition.split(x)
        x = tf.convert_to_tensor(x)
        num = tf.shape(x)[0] if x.shape[0] is None else x.shape[0]
        examples = {"x": x, **self._model.condition.arguments(condition, num)}
        seed = stateless_seed(seed)
        if self._num_parts == 1:
            return self._estimate_all(examples, seed)
        seeds = split_seed(seed, self._num_parts)
        parts = self._map_parts(lambda seed: self._estimate_all(examples, seed), seeds, self._part_samples)
        return tf.reshape(parts, [self.num_samples, -1])

    def estimate(self, x: TensorLike, seed: Seed = None) -> LogProbEstimate:
        """Returns the mean of each example's estimates and its standard error, each `[batch]`."""
        return self.mean(self(x, seed))

    def by_class(self, x: TensorLike, seed: Seed = None) -> tf.Tensor:
        """Returns the estimates under each label, `[num_classes, num_samples, batch]`."""
        x = tf.convert_to_tensor(x)
        labels = tf.range(self._model.condition.num_classes)
        return self._map_parts(lambda label: self((x, label), seed), labels, self.num_samples, x.shape[0])

    def mean(self, estimates: tf.Tensor) -> LogProbEstimate:
        """Returns the mean of estimates `[num_samples, batch]`, or the log of their mean probability."""
        if self._of_probabilities:
            return mean_of_probabilities(estimates)
        return mean_and_stderr(estimates, self.is_noisy)

    def _map_parts(self, estimate, parts, num_samples, batch=None):
        spec = tf.TensorSpec([num_samples, batch], self._density.dtype)
        return tf.map_fn(estimate, parts, parallel_iterations=1, fn_output_signature=spec)

    def _estimate_all(self, examples, seed):
        """Returns `[part_samples, batch]` for a dict of x and the flow's arguments, `part_examples` at a time."""
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
        values = self._map_parts(lambda part: self._estimate_part(*part), parts, self._part_samples)
        return tf.reshape(tf.transpose(values, [1, 0, 2]), [self._part_samples, -1])[:, :batch]

    def _estimate_part(self, examples, seed):
        num = self._part_samples
        arguments = {name: tf.concat([value] * num, 0) for name, value in examples.items()}  # TFLite loses a tile
        x = arguments.pop("x")
        arguments |= {} if self._networks is None else {"networks": self._networks}
        noise = {"sets": num if self._common else None, "networks": self._networks}
        noise["log_det_estimator"] = self._noise_log_det_estimator
        log_prob = draw_log_prob(self._model, x, seed, self._density, arguments, **noise)
        return tf.reshape(log_prob, [num, -1])


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
