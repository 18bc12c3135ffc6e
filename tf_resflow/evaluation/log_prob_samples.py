"""Several estimates of a log-likelihood, as rows of one batch, and their standard error."""

import math
from typing import NamedTuple

import tensorflow as tf

from tf_resflow import bijectors, logdet
from tf_resflow.evaluation.likelihood_plan import LikelihoodPlan
from tf_resflow.models import FlowModel
from tf_resflow.models.dequantizer import noise_log_det, with_sets
from tf_resflow.seeds import split_seed, stateless_seed
from tf_resflow.typing import Seed, TensorLike

__all__ = ["LogProbEstimate", "LogProbSamples", "mean_and_stderr"]

MEGABYTES = 500  # of values that a branch computes at once


class LogProbEstimate(NamedTuple):
    """An estimate of the log-likelihood of each example, in nats.

    Attributes:
      log_prob: `[batch]`, a mean of independent estimates.
      stderr: `[batch]`, its standard error: 0 if there is no noise, NaN if it was estimated once.
    """

    log_prob: tf.Tensor
    stderr: tf.Tensor


class LogProbSamples:
    r"""Draws K estimates of the log-likelihood of each example, each with another dequantization and other probes.

    The estimates and the examples are the rows of one batch. If its values in the widest branch took more than
    `megabytes`, the batch is computed in parts, one after the other; the process takes a few times that.

    Args:
      model: a `FlowModel`.
      plan: K and the estimators.
      common: whether all examples share the random numbers of an estimate. The answer for one then does not depend
        on the others, beyond rounding.
      max_batch: the largest number of examples, if it is known. If they fit at once, the graph needs no loop, and
        TFLite can hold it.
      megabytes: positive.
      networks: as for `FlowModel.log_prob`.

    Attributes:
      is_noisy: whether the estimates differ: not if the data are continuous and all log-determinants exact.
      num_samples: K, 1 if the estimates do not differ; rounded up if they are computed in parts.
    """

    def __init__(
        self,
        model: FlowModel,
        plan: LikelihoodPlan,
        *,
        common: bool = False,
        max_batch: int | None = None,
        megabytes: float = MEGABYTES,
        networks: bijectors.Networks | None = None,
    ):
        log_det = model.evaluation_log_det if plan.log_det is None else plan.log_det
        self._noise_log_det = noise_log_det(log_det, model.evaluation_log_det)
        self._model, self._common, self._networks = model, common, networks
        density = bijectors.with_log_det(model.distribution, log_det)
        blocks = bijectors.views.blocks_by_name(density)
        exact = all(isinstance(block.log_det, logdet.Exact) for block in blocks.values())
        self.is_noisy = model.data_space.levels is not None or not exact
        costs = map(_bytes_per_example, [*blocks.values(), *self._blocks_of_noise()])
        at_once = max(1, int(megabytes * 2**20 // max(costs, default=1)))
        num_samples = plan.num_samples if self.is_noisy else 1
        self._num_parts = math.ceil(num_samples / at_once)
        self._part_samples = math.ceil(num_samples / self._num_parts)
        self._part_examples = max(1, at_once // self._part_samples)
        self._max_batch = max_batch
        self.num_samples = self._num_parts * self._part_samples
        if common:
            shared = {name: with_sets(block.log_det, self._part_samples) for name, block in blocks.items()}
            density = bijectors.with_log_det(density, shared) if blocks else density
        self._density = density

    def __call__(self, x: TensorLike, seed: Seed = None) -> tf.Tensor:
        """The estimates, `[num_samples, batch]`, in nats.

        Args:
          x: as for `FlowModel.log_prob`; of a conditional model a pair of examples and their conditions.
          seed: likewise.
        """
        x, condition = self._model.condition.split(x)
        x = tf.convert_to_tensor(x)
        num = tf.shape(x)[0] if x.shape[0] is None else x.shape[0]
        examples = {"x": x, **self._model.condition.arguments(condition, num)}
        seed = stateless_seed(seed)
        if self._num_parts == 1:
            return self._of_all_examples(examples, seed)
        spec = tf.TensorSpec([self._part_samples, None], self._density.dtype)
        parts = tf.map_fn(
            lambda seed: self._of_all_examples(examples, seed),
            split_seed(seed, self._num_parts),
            parallel_iterations=1,
            fn_output_signature=spec,
        )
        return tf.reshape(parts, [self.num_samples, -1])

    def _of_all_examples(self, examples, seed):
        """`[part_samples, batch]`, in parts of at most `part_examples`.

        `examples` is a dict of x and of the flow's arguments, with a row for each example.
        """
        x = examples["x"]
        most = self._max_batch if x.shape[0] is None else x.shape[0]
        if most is not None and most <= self._part_examples:
            return self._at_once(examples, seed)
        batch = tf.shape(x)[0]
        num = tf.maximum(1, -(-batch // self._part_examples))
        size = -(-batch // num)

        def divide(rows):
            padded = tf.pad(rows, [[0, num * size - batch], *[[0, 0]] * (rows.shape.rank - 1)])
            parts = tf.reshape(padded, tf.concat([[num, size], tf.shape(rows)[1:]], 0))
            return tf.ensure_shape(parts, [None, None, *rows.shape[1:]])

        values = tf.map_fn(
            lambda part: self._at_once(part[0], seed if self._common else seed + [0, part[1]]),
            (tf.nest.map_structure(divide, examples), tf.range(num)),
            parallel_iterations=1,
            fn_output_signature=tf.TensorSpec([self._part_samples, None], self._density.dtype),
        )
        return tf.reshape(tf.transpose(values, [1, 0, 2]), [self._part_samples, -1])[:, :batch]

    def _at_once(self, examples, seed):
        """`[part_samples, batch]`."""
        num = self._part_samples
        noise_seed, flow_seed = tf.unstack(split_seed(seed, 2))
        arguments = {name: tf.concat([value] * num, 0) for name, value in examples.items()}  # TFLite loses a tile
        z, log_q = self._model.data_space.dequantize(
            arguments.pop("x"),
            noise_seed,
            log_det=self._noise_log_det,
            sets=num if self._common else None,
            networks=self._networks,
        )
        arguments |= {"seed": flow_seed} | ({} if self._networks is None else {"networks": self._networks})
        return tf.reshape(self._density.log_prob(z, bijector_kwargs=arguments) - log_q, [num, -1])

    def _blocks_of_noise(self):
        """The residual blocks of a dequantizer, with the estimator that it is given."""
        noise = self._model.data_space.noise_flow
        if noise is None:
            return []
        return bijectors.flow.residual_blocks(bijectors.with_log_det(noise, self._noise_log_det))


def mean_and_stderr(samples: tf.Tensor, is_noisy: bool = True) -> LogProbEstimate:
    """The mean of independent estimates `[num, batch]` of each example, and its standard error."""
    mean, num = tf.reduce_mean(samples, 0), samples.shape[0]
    if not is_noisy:
        return LogProbEstimate(mean, tf.zeros_like(mean))
    if num == 1:
        return LogProbEstimate(mean, tf.fill(tf.shape(mean), tf.constant(math.nan, mean.dtype)))
    variance = tf.reduce_sum((samples - mean) ** 2, 0) / (num - 1)
    return LogProbEstimate(mean, tf.sqrt(variance / num))


def bytes_per_row(block: bijectors.ResidualBlock) -> int:
    """What a branch computes for a row: all values of its graph that have one."""
    shapes = [block.event_shape, *([block.condition_shape] if block.conditional else [])]
    specs = [tf.TensorSpec([None, *(size or 1 for size in shape)], block.dtype) for shape in shapes]
    inputs = specs if block.conditional else specs[0]
    traced = tf.function(block.branch, autograph=False).get_concrete_function(inputs)
    values = [value for operation in traced.graph.get_operations() for value in operation.outputs]
    rows = [value for value in values if value.shape.rank and value.shape[0] is None]
    return sum((value.shape[1:].num_elements() or 0) * value.dtype.size for value in rows)


def _bytes_per_example(block):
    """The same for all rows at which its estimator evaluates it at once."""
    log_det, size = block.log_det, math.prod(size or 1 for size in block.event_shape)
    return bytes_per_row(block) * (log_det.num_rows(size) if isinstance(log_det, logdet.LogDetEstimator) else 1)
