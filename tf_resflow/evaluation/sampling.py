"""Draws samples of a model, and interpolates between examples in its latent space."""

import math
from collections.abc import Generator, Sequence

import numpy as np
import tensorflow as tf

from tf_resflow.models import FlowModel
from tf_resflow.models.flow_model import flow_input, sample_latent
from tf_resflow.progress import track
from tf_resflow.typing import TensorLike

_BATCH_VALUES = 2**16  # values per batch, if they are more than _MIN_BATCH examples
_MIN_BATCH = 64
_PART_VALUES = 2**14  # values decoded per progress-bar update, if they are more than _MIN_PART examples
_MIN_PART = 32


class Sampler:
    """Draws samples of a model in batches.

    Args:
      model: a `FlowModel`.
      precise: as for `FlowModel.decode`.
    """

    def __init__(self, model: FlowModel, *, precise: bool = False):
        self._model = model

        @tf.function(autograph=False)
        def latents(num, seed, temperature):
            return sample_latent(model.distribution.distribution, num, seed, temperature)

        @tf.function(autograph=False, reduce_retracing=True)
        def decode(z, condition):
            x = flow_input(model, tf.identity(z), condition, precise)
            return model.data_space.to_data(x), tf.reduce_all(tf.math.is_finite(x))

        self._latents, self._decode = latents, decode

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
          num: number of samples at each temperature.
          seed: integer in 0, ..., 2^63 - 1.
          temperatures: factors that scale the latents' deviation from their mean.
          condition: of a conditional model: `[num, *condition_shape]`, or one condition for all samples.

        Raises:
          ValueError: if a sample is not finite, or the condition does not fit the model.
        """
        model = self._model
        model.condition.arguments(condition, num)
        conditions = None if condition is None else np.broadcast_to(condition, [num, *model.condition.shape])
        size, part = _num_rows(model, _BATCH_VALUES, _MIN_BATCH), _num_rows(model, _PART_VALUES, _MIN_PART)
        batches = [(temperature, first) for temperature in temperatures for first in range(0, num, size)]
        parts = [(*batch, start) for batch in batches for start in range(0, min(size, num - batch[1]), part)]
        for temperature, first, start in track(parts, "samples"):
            if not start:
                rows, scale = min(size, num - first), tf.constant(temperature, model.distribution.dtype)
                latents = self._latents(tf.constant(rows), tf.constant([first // size, seed], tf.int64), scale)
            z = latents[start : start + part]
            given = None if conditions is None else conditions[first + start :][: len(z)]
            samples, finite = self._decode(z, given)
            if not finite:
                raise ValueError(
                    f"Samples at temperature {temperature:g} are NaN or infinite. Lower the temperature."
                )
            yield samples.numpy()


def _num_rows(model, num_values, least):
    return max(least, num_values // math.prod(model.data_space.event_shape))


def interpolate(
    model: FlowModel, corners: TensorLike, *, num: int, seed: int, condition: TensorLike | None = None
) -> tf.Tensor:
    r"""Interpolates between examples in latent space: paths between two, or squares between four.

    For latents \\(z_1, z_2\\), minus the mean of the base distribution, a path is a quarter circle of `num` points:

        z = cos(phi) z_1 + sin(phi) z_2,    phi = 0, ..., pi / 2.

    A square is a path, down the rows, of paths along the columns. If the latents are independent and normal, every
    z is normal with the same covariance. A conditional model encodes each example under its own condition. A point
    has the label of the nearest example, or the mean of the real conditions, weighted by these factors squared.

    Args:
      model: a `FlowModel`.
      corners: examples `[groups, 2, *event_shape]`, the ends of each path; or `[groups, 4, *event_shape]`, each
        square's corners: top left, top right, bottom left, bottom right.
      num: number of points along an axis, including both ends, at least 2.
      seed: integer seed of the dequantization.
      condition: condition of a conditional model for each example, `[groups, corners, *condition_shape]`.

    Returns:
      Data `[groups, num, *event_shape]` or `[groups, num, num, *event_shape]`. The corners are the examples, up to
      the flow's reconstruction error.

    References:
      Dinh et al., "Density estimation using Real NVP" (2017), section 4.2.
    """
    angles = tf.linspace(0.0, math.pi / 2, num)
    turn = weights = tf.stack([tf.cos(angles), tf.sin(angles)], axis=1)
    groups, each, *event_shape = np.shape(corners)
    if each not in (2, 4):
        raise ValueError(f"Each group has {each} examples. Give 2 for a path, or 4 for a square.")
    if each == 4:
        weights = tf.reshape(tf.einsum("ra,cb->rcab", turn, turn), [num * num, 4])
    mean = model.distribution.distribution.mean()

    def encode(x, condition=None):
        return model.flow.forward(x, **model.condition.arguments(condition, tf.shape(x)[0])) - mean

    def decode(z, condition=None):
        return model.decode(z + mean, condition=condition)

    x = [model.prepare(_rows(corners), tf.constant([seed, 0], tf.int64))]
    shares = tf.square(weights)  # weights of the conditions, which sum to 1
    between = []
    model.condition.arguments(None if condition is None else _rows(condition), groups * each)  # checks it
    if condition is not None and model.condition.num_classes is None:
        condition = tf.cast(condition, model.distribution.dtype)
        between = [_rows(_weighted_sums(shares, condition))]
    elif condition is not None:
        between = [_rows(tf.gather(condition, tf.argmax(shares, axis=1), axis=1))]
    latents = _in_batches(encode, x if condition is None else [*x, _rows(condition)], "encode", model)
    latents = tf.reshape(latents, [groups, each, *latents.shape[1:]])
    points = _in_batches(decode, [_rows(_weighted_sums(weights, latents)), *between], "decode", model)
    return tf.reshape(points, [groups, *[num] * (each // 2), *event_shape])


def _rows(tensor):
    """Merges the first two axes."""
    return tf.reshape(tensor, [-1, *np.shape(tensor)[2:]])


def _weighted_sums(weights, tensor):
    """Combines weights `[num, k]` and values `[groups, k, ...]` to `[groups, num, ...]`."""
    return tf.einsum("nk,gk...->gn...", tf.cast(weights, tensor.dtype), tensor)


def _in_batches(function, arguments, name, model):
    specs = [tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype) for tensor in arguments]

    @tf.function(autograph=False, input_signature=specs)
    def call(*rows):
        return function(*map(tf.identity, rows))

    num, size = arguments[0].shape[0], _num_rows(model, _PART_VALUES, _MIN_PART)
    starts = track(range(0, num, size), name)
    return tf.concat([call(*(rows[start : start + size] for rows in arguments)) for start in starts], axis=0)
