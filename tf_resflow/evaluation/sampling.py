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


def draw_samples(
    model: FlowModel,
    num: int,
    *,
    seed: int = 0,
    temperatures: Sequence[float] = (1.0,),
    condition: TensorLike | None = None,
    precise: bool = False,
) -> Generator[np.ndarray, None, None]:
    """Draws examples in batches `[batch, *event_shape]`, one temperature after the other.

    All temperatures use the same latents. Up to the tolerance of the inverse, the first samples do not depend on
    `num`, and the first batch equals `model.sample(len(batch), seed)`.

    Args:
      model: a `FlowModel`.
      num: number of samples at each temperature.
      seed: integer in 0, ..., 2^63 - 1.
      temperatures: factors that scale the latents' deviation from their mean.
      condition: condition of a conditional model: `[num, *condition_shape]`, or one condition for all samples.
      precise: as for `FlowModel.decode`.

    Raises:
      ValueError: if a sample is not finite, or the condition does not fit the model.
    """
    yield from Sampler(model, precise=precise)(num, seed=seed, temperatures=temperatures, condition=condition)


class Sampler:
    """Draws samples like `draw_samples`, but reuses its graphs in later calls."""

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
        """Draws `num` examples at each temperature; see `draw_samples`."""
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


def interpolate_pairs(
    model: FlowModel,
    first: TensorLike,
    second: TensorLike,
    *,
    num: int,
    seed: int,
    condition: Sequence[TensorLike] | None = None,
) -> tf.Tensor:
    r"""Interpolates between pairs of examples at `num` points on a quarter circle in latent space.

    For latents \\(z_1, z_2\\), minus the mean of the base distribution, the points are

        z = cos(phi) z_1 + sin(phi) z_2,    phi = 0, ..., pi / 2.

    If the two latents are independent and normal, every z is normal with the same covariance. A conditional model
    encodes each example under its own condition. A point has the label of the nearer example, or the real condition
    \\(\cos^2(\phi) c_1 + \sin^2(\phi) c_2\\).

    Args:
      model: a `FlowModel`.
      first: data `[pairs, *event_shape]`, at one end of each path.
      second: data `[pairs, *event_shape]`, at the other end.
      num: number of points of a path including both ends, at least 2.
      seed: integer seed of the dequantization.
      condition: pair of conditions for `first` and `second`, each as for `FlowModel.log_prob`.

    Returns:
      Data `[pairs, num, *event_shape]`. The ends are the examples, up to the flow's reconstruction error.
    """
    ends = tf.stack([first, second], axis=1)
    if condition is not None:
        condition = tf.stack([_expand_condition(model, given, len(ends)) for given in condition], axis=1)
    return _blend(model, ends, _quarter_turn(num), seed, condition)


def interpolate_corners(
    model: FlowModel, corners: TensorLike, *, num: int, seed: int, condition: TensorLike | None = None
) -> tf.Tensor:
    r"""Fills a square `[num, num, *event_shape]` between four examples at its corners.

        z = cos(phi) (cos(psi) z_1 + sin(psi) z_2) + sin(phi) (cos(psi) z_3 + sin(psi) z_4)

    Here phi increases down the rows and psi along the columns, both from 0 to pi / 2. A point has the label of the
    nearest corner, or the mean of the corners' real conditions, weighted by the squares of these factors.

    Args:
      model: a `FlowModel`.
      corners: data `[4, *event_shape]`: top left, top right, bottom left, bottom right.
      num: number of rows and columns, at least 2.
      seed: integer seed of the dequantization.
      condition: condition of a conditional model: one for each corner, or one for all.

    References:
      Dinh et al., "Density estimation using Real NVP" (2017), section 4.2.
    """
    turn = _quarter_turn(num)
    weights = tf.reshape(tf.einsum("ra,cb->rcab", turn, turn), [num * num, 4])
    condition = None if condition is None else _expand_condition(model, condition, 4)[tf.newaxis]
    points = _blend(model, tf.expand_dims(corners, 0), weights, seed, condition)
    return tf.reshape(points, [num, num, *model.data_space.event_shape])


def _quarter_turn(num):
    """Returns the cosine and sine of `num` angles from 0 to pi / 2, `[num, 2]`."""
    angles = tf.linspace(0.0, math.pi / 2, num)
    return tf.stack([tf.cos(angles), tf.sin(angles)], axis=1)


def _expand_condition(model, condition, num):
    """Returns one condition for each of `num` examples, `[num, *condition_shape]`."""
    model.condition.arguments(condition, num)  # checks the condition
    dtype = model.distribution.dtype if model.condition.num_classes is None else tf.int64
    return tf.broadcast_to(tf.cast(condition, dtype), [num, *model.condition.shape])


def _blend(model, examples, weights, seed, condition):
    """Decodes sums of the latents of `[groups, k, ...]` with weights `[num, k]` to `[groups, num, ...]`."""
    mean = model.distribution.distribution.mean()

    def encode(x, condition=None):
        return model.flow.forward(x, **model.condition.arguments(condition, tf.shape(x)[0])) - mean

    def decode(z, condition=None):
        return model.decode(z + mean, condition=condition)

    def rows(tensor):
        return tf.reshape(tensor, [-1, *tensor.shape[2:]])

    x = model.prepare(rows(examples), tf.constant([seed, 0], tf.int64))
    latents = _in_batches(encode, [x] if condition is None else [x, rows(condition)], "encode", model)
    latents = tf.reshape(latents, [*examples.shape[:2], *latents.shape[1:]])
    mixed = [rows(_weighted_sums(weights, latents))]
    if condition is not None:
        shares = tf.square(weights)  # weights of the conditions, which sum to 1
        if model.condition.num_classes is None:
            mixed.append(rows(_weighted_sums(shares, condition)))
        else:
            mixed.append(rows(tf.gather(condition, tf.argmax(shares, axis=1), axis=1)))
    points = _in_batches(decode, mixed, "decode", model)
    return tf.reshape(points, [len(examples), -1, *model.data_space.event_shape])


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
