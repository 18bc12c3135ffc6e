"""Draws several estimates of the log-likelihood of each example, as rows of batches that fit in memory."""

import math
from typing import Any

import tensorflow as tf

from tf_resflow import bijectors, logdet
from tf_resflow._internal.seeds import split_seed, stateless_seed
from tf_resflow._internal.typing import LogDet, Seed, TensorLike
from tf_resflow.layers.program import bind
from tf_resflow.models import FlowModel
from tf_resflow.models.dequantizer import noise_log_det_estimator, with_sets
from tf_resflow.models.flow_model import draw_log_prob

_MEGABYTES = 500  # limit for the values that a branch computes at once


class LogProbSamples:
    """Draws K estimates of the log-likelihood of each example, each with its own dequantization and probes.

    `LogLikelihood` averages them. The estimates of all examples form one batch. It is split if the values of the
    widest branch would exceed `megabytes`. Then, if the K estimates of one example do not fit, they are drawn one
    after the other.

    Args:
      num_samples: K.
      log_det_estimator: An estimator, or a dict of estimators by block.
      common: Whether all examples share random numbers, so a result does not depend on the other examples.
      max_batch: Maximum number of examples. If all fit at once, the graph has no loop, as TFLite requires.
      networks: As for `FlowModel.log_prob`.

    Attributes:
      num_samples: K, or 1 if the estimates have no noise.
      is_noisy: Whether estimates differ between seeds.
      is_exact: Whether all log-determinants are exact.
    """

    def __init__(
        self,
        model: FlowModel,
        num_samples: int,
        *,
        log_det_estimator: LogDet,
        common: bool = False,
        max_batch: int | None = None,
        megabytes: float = _MEGABYTES,
        networks: bijectors.Networks | None = None,
    ):
        if num_samples < 1:
            raise ValueError(f"num_samples={num_samples} is too small. Pass at least 1 sample.")
        self._model = model
        self._common = common
        self._max_batch = max_batch
        self._density = bijectors.with_log_det_estimator(model.distribution, log_det_estimator)
        noise_estimator = noise_log_det_estimator(log_det_estimator, model.evaluation_log_det_estimator)
        blocks = bijectors.views.blocks_by_name(self._density)
        self.is_exact = all(isinstance(block.log_det_estimator, logdet.Exact) for block in blocks.values())
        self.is_noisy = model.data_space.levels is not None or not self.is_exact
        self.num_samples = num_samples if self.is_noisy else 1

        evaluated_blocks = list(blocks.values())
        if model.data_space.noise_flow is not None:
            noise_flow = bijectors.with_log_det_estimator(model.data_space.noise_flow, noise_estimator)
            evaluated_blocks += bijectors.flow.residual_blocks(noise_flow)
        bytes_per_example = max(map(_bytes_per_example, evaluated_blocks), default=1)
        rows_at_once = max(1, int(megabytes * 2**20 // bytes_per_example))
        self._samples_at_once = self.num_samples if self.num_samples <= rows_at_once else 1
        self._examples_at_once = rows_at_once // self._samples_at_once

        if common and blocks:
            shared = {
                name: with_sets(block.log_det_estimator, self._samples_at_once) for name, block in blocks.items()
            }
            self._density = bijectors.with_log_det_estimator(self._density, shared)
        self._flow_arguments = {} if networks is None else {"networks": networks}
        self._noise_arguments: dict[str, Any] = {
            "sets": self._samples_at_once if common else None,
            "networks": networks,
            "log_det_estimator": noise_estimator,
        }

    def __call__(self, x: TensorLike, seed: Seed = None, condition: TensorLike | None = None) -> tf.Tensor:
        """Returns estimates `[num_samples, batch]`."""
        x = tf.convert_to_tensor(x)
        num_examples = tf.shape(x)[0] if x.shape[0] is None else x.shape[0]
        examples = {"x": x, **self._model.condition.arguments(condition, num_examples)}
        seed = stateless_seed(seed)
        if self._samples_at_once == self.num_samples:
            return self._draw(examples, seed)
        seeds = split_seed(seed, self.num_samples)
        samples = self._map(lambda seed: self._draw(examples, seed), seeds, 1)
        return tf.reshape(samples, [self.num_samples, -1])

    def by_class(self, x: TensorLike, seed: Seed = None) -> tf.Tensor:
        """Returns the estimates under each label, `[num_classes, num_samples, batch]`."""
        x = tf.convert_to_tensor(x)
        labels = tf.range(self._model.condition.num_classes)
        return self._map(lambda label: self(x, seed, label), labels, self.num_samples, x.shape[0])

    def _map(self, draw, inputs, num_samples, num_examples=None):
        """Calls a function that draws `[num_samples, num_examples]` for each row of the inputs, one by one."""
        spec = tf.TensorSpec([num_samples, num_examples], self._density.dtype)
        return tf.map_fn(draw, inputs, parallel_iterations=1, fn_output_signature=spec)

    def _draw(self, examples, seed):
        """Draws `[samples_at_once, batch]` for a dict of x and the flow's arguments, some examples at a time."""
        x = examples["x"]
        max_batch = self._max_batch if x.shape[0] is None else x.shape[0]
        if max_batch is not None and max_batch <= self._examples_at_once:
            return self._draw_at_once(examples, seed)
        batch = tf.shape(x)[0]
        num_parts = tf.maximum(1, -(-batch // self._examples_at_once))
        part_size = -(-batch // num_parts)

        def divide(rows):
            missing = num_parts * part_size - batch
            padded = tf.pad(rows, [[0, missing], *[[0, 0]] * (rows.shape.rank - 1)])
            divided = tf.reshape(padded, tf.concat([[num_parts, part_size], tf.shape(rows)[1:]], 0))
            return tf.ensure_shape(divided, [None, None, *rows.shape[1:]])

        divided_examples = tf.nest.map_structure(divide, examples)
        if self._common:
            seeds = tf.repeat(seed[tf.newaxis], num_parts, axis=0)
        else:
            seeds = split_seed(seed, num_parts)
        samples = self._map(
            lambda part: self._draw_at_once(*part), (divided_examples, seeds), self._samples_at_once
        )
        return tf.reshape(tf.transpose(samples, [1, 0, 2]), [self._samples_at_once, -1])[:, :batch]

    def _draw_at_once(self, examples, seed):
        num = self._samples_at_once
        repeated = {name: tf.concat([rows] * num, 0) for name, rows in examples.items()}  # TFLite loses a tile
        x = repeated.pop("x")
        arguments = repeated | self._flow_arguments
        log_prob = draw_log_prob(self._model, x, seed, self._density, arguments, **self._noise_arguments)
        return tf.reshape(log_prob, [num, -1])


def _bytes_per_example(block):
    """Returns the bytes per example, for all rows that the estimator passes to the branch at once."""
    event_size = math.prod(size or 1 for size in block.event_shape)
    estimator = block.log_det_estimator
    num_rows = estimator.num_rows(event_size) if isinstance(estimator, logdet.LogDetEstimator) else 1
    return bytes_per_row(block) * num_rows


def bytes_per_row(block: bijectors.ResidualBlock) -> int:
    """Returns the bytes that a branch computes per row: all values of its graph that have a row axis."""
    shapes = [block.event_shape]
    if block.has_condition:
        shapes.append(block.condition_shape)
    specs = [tf.TensorSpec([None, *(size or 1 for size in shape)], block.dtype) for shape in shapes]
    inputs = specs if block.has_condition else specs[0]
    traced = tf.function(bind(block.branch), autograph=False).get_concrete_function(inputs)
    num_bytes = 0
    for operation in traced.graph.get_operations():
        for value in operation.outputs:
            if value.shape.rank and value.shape[0] is None:
                num_bytes += (value.shape[1:].num_elements() or 0) * value.dtype.size
    return num_bytes
