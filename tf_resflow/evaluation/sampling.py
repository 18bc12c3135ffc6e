"""Draws samples of a model."""

import math
from collections.abc import Generator, Sequence

import numpy as np
import tensorflow as tf

from tf_resflow._internal.console import track
from tf_resflow._internal.typing import TensorLike
from tf_resflow.models import FlowModel
from tf_resflow.models.flow_model import flow_input, sample_latent

_BATCH_VALUES = 2**16  # values per batch, if they are more than _MIN_BATCH examples
_MIN_BATCH = 64


class Sampler:
    """Draws samples of a model in batches.

    Args:
      model: A `FlowModel`.
      precise: As for `FlowModel.decode`.
    """

    def __init__(self, model: FlowModel, *, precise: bool = False):
        self._model = model

        @tf.function(autograph=False, reduce_retracing=True)
        def draw(num, seed, temperature, condition):
            z = sample_latent(model.distribution.distribution, num, seed, temperature)
            x = flow_input(model, z, condition, precise)
            return model.data_space.to_data(x), tf.reduce_all(tf.math.is_finite(x))

        self._draw = draw

    def __call__(
        self,
        num: int,
        *,
        seed: int = 0,
        temperatures: Sequence[float] = (1.0,),
        condition: TensorLike | None = None,
    ) -> Generator[np.ndarray, None, None]:
        """Draws examples in batches `[batch, *event_shape]`, one temperature after the other.

        All temperatures use the same latents. Up to the tolerance of the inverse, the first samples do not depend
        on `num`, and the first batch equals `model.sample(len(batch), seed)`.

        Args:
          num: Number of samples at each temperature.
          seed: Integer in 0, ..., 2^63 - 1.
          temperatures: Factors that scale the latents' deviation from their mean.
          condition: Condition of a conditional model: `[num, *condition_shape]`, or one condition for all samples.

        Raises:
          ValueError: If a sample is not finite, or the condition does not fit the model.
        """
        model = self._model
        model.condition.arguments(condition, num)
        conditions = None if condition is None else np.broadcast_to(condition, [num, *model.condition.shape])
        size = max(_MIN_BATCH, _BATCH_VALUES // math.prod(model.data_space.event_shape))
        batches = [(temperature, first) for temperature in temperatures for first in range(0, num, size)]
        for temperature, first in track(batches, "samples"):
            num_rows = tf.constant(min(size, num - first))
            batch_seed = tf.constant([first // size, seed], tf.int64)
            scale = tf.constant(temperature, model.distribution.dtype)
            condition_of_rows = None if conditions is None else conditions[first:][:size]
            samples, finite = self._draw(num_rows, batch_seed, scale, condition_of_rows)
            if not finite:
                raise ValueError(
                    f"Samples at temperature {temperature:g} are NaN or infinite. Lower the temperature."
                )
            yield samples.numpy()
