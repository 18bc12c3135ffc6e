"""Samples of a model, in batches."""

import math
from collections.abc import Generator, Sequence

import numpy as np
import tensorflow as tf

from tf_resflow.models import FlowModel
from tf_resflow.models.flow_model import flow_input, sample_latent
from tf_resflow.progress import bar

__all__ = ["batch_size", "draw_samples"]

_BATCH_VALUES = 2**16  # of a batch, if it has more than the examples below
_MIN_BATCH = 64


def draw_samples(
    model: FlowModel,
    num: int,
    *,
    seed: int = 0,
    temperatures: Sequence[float] = (1.0,),
    condition: np.ndarray | int | Sequence[float] | None = None,
    precise: bool = False,
) -> Generator[np.ndarray, None, None]:
    """Draws examples in batches.

    The latents of a seed are the same at each temperature. The first batch is `model.sample(num, seed)`, and does
    not depend on how many samples follow: the first k of n equal those of a call for k samples (on one device, and
    to the tolerance of the inverse).

    Args:
      model: a `FlowModel`.
      num: number of examples at each temperature.
      seed: integer in 0, ..., 2^63 - 1.
      temperatures: factors of the latents' deviation from their mean.
      condition: of a conditional model: `[num, *condition_shape]`, or one condition for all examples.
      precise: as for `FlowModel.decode`.

    Yields:
      Arrays `[batch, *event_shape]`, as from `model.sample`, one temperature after the other.

    Raises:
      ValueError: when a sample is not finite, or the condition does not fit.
    """
    model.condition.arguments(condition, num)
    conditions = None if condition is None else np.asarray(condition)
    ndims = len(model.condition.shape or ())

    @tf.function(autograph=False)
    def draw(num, seed, temperature, condition):
        z = sample_latent(model.distribution.distribution, num, seed, temperature)
        x = flow_input(model, z, condition, precise)
        return model.data_space.to_data(x), tf.reduce_all(tf.math.is_finite(x))

    size = batch_size(model.data_space.event_shape)
    with bar("samples", num * len(temperatures), unit="sample") as drawn:
        for temperature in temperatures:
            scale = tf.constant(temperature, model.distribution.dtype)
            for index, start in enumerate(range(0, num, size)):
                rows = min(size, num - start)
                given = conditions
                if conditions is not None and conditions.ndim > ndims:  # one for each example
                    given = conditions[start : start + rows]
                samples, finite = draw(tf.constant(rows), tf.constant([index, seed], tf.int64), scale, given)
                if not finite:
                    raise ValueError(
                        f"Samples at temperature {temperature:g} are NaN or infinite: the model does not decode "
                        "latents so far out. Lower the temperature."
                    )
                yield samples.numpy()
                drawn.update(rows)


def batch_size(event_shape: Sequence[int]) -> int:
    """Number of examples that are drawn at a time."""
    return max(_MIN_BATCH, _BATCH_VALUES // math.prod(event_shape))
