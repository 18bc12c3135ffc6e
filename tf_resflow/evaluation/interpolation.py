"""Paths and surfaces through the latent space, between examples."""

import math

import tensorflow as tf

from tf_resflow.data import dequantize, quantize

__all__ = ["interpolate_corners", "interpolate_pairs"]


def interpolate_pairs(model, first, second, num, seed):
    r"""Walks from one example to another: a quarter turn, in `num` steps.

    Between the latents \\(z_1, z_2\\), less the base distribution's mean,

        z = cos(phi) z_1 + sin(phi) z_2,    phi = 0, ..., pi / 2.

    Of two independent normal latents every such z is normal with the same covariance; their mean
    would have half of it, and lie where there are no data.

    Args:
      model: a `FlowModel`.
      first: `[pairs, *event_shape]`, data as the model takes it.
      second: array of the same shape.
      num: number of points of a path, both ends included, at least 2.
      seed: integer, of the dequantisation.

    Returns:
      `[pairs, num, *event_shape]`, data as `model.sample` gives it; it begins and ends with the
      examples themselves, to the flow's reconstruction error.

    Raises:
      ValueError: for fewer than 2 points.
    """
    pairs = tf.stack([tf.convert_to_tensor(first), tf.convert_to_tensor(second)], axis=1)
    return _blend(model, pairs, _quarter_turn(num), seed)


def interpolate_corners(model, corners, num, seed):
    r"""Fills a square between four examples at its corners.

        z = cos(phi) (cos(psi) z_1 + sin(psi) z_2) + sin(phi) (cos(psi) z_3 + sin(psi) z_4)

    with phi down the rows and psi along the columns, both from 0 to pi / 2.

    Args:
      model: a `FlowModel`.
      corners: `[4, *event_shape]`: top left, top right, bottom left, bottom right.
      num: number of rows, and of columns, at least 2.
      seed: integer, of the dequantisation.

    Returns:
      `[num, num, *event_shape]`, data as `model.sample` gives it.

    Raises:
      ValueError: for fewer than 2 rows, or another number of corners.

    References:
      Dinh et al., "Density estimation using Real NVP" (2017), section 4.2.
    """
    corners = tf.convert_to_tensor(corners)
    if corners.shape[0] != 4:
        raise ValueError(f"A square has 4 corners; got {corners.shape[0]} examples.")
    turn = _quarter_turn(num)
    weights = tf.einsum("ra,cb->rcab", turn, turn)
    points = _blend(model, corners[tf.newaxis], tf.reshape(weights, [num * num, 4]), seed)
    return tf.reshape(points, [num, num, *model.event_shape])


def _quarter_turn(num):
    """The cosine and the sine of `num` angles from 0 to pi / 2, `[num, 2]`."""
    if num < 2:
        raise ValueError(f"A path has at least 2 points, its ends; got {num}.")
    angles = tf.linspace(0.0, math.pi / 2, num)
    return tf.stack([tf.cos(angles), tf.sin(angles)], axis=1)


def _blend(model, examples, weights, seed):
    """Weighted sums of latents: `[groups, k, ...]` and `[num, k]` to `[groups, num, ...]`."""
    groups, count = examples.shape[:2]
    rows = tf.reshape(examples, [groups * count, *model.event_shape])
    if model.levels is not None:
        rows = dequantize(rows, model.levels, tf.constant([seed, 0], tf.int32))
    dtype, mean = model.distribution.dtype, model.distribution.distribution.mean()

    @tf.function(autograph=False)
    def walk(rows):
        z = model.flow.forward(tf.identity(rows)) - mean
        latents = tf.reshape(z, [groups, count, -1])
        mixed = tf.einsum("nk,gkd->gnd", tf.cast(weights, dtype), latents)
        mixed = tf.reshape(mixed, [-1, *z.shape[1:]])
        return model.flow.inverse(mixed + mean)

    points = walk(tf.cast(rows, dtype))
    points = points if model.levels is None else quantize(points, model.levels)
    return tf.reshape(points, [groups, -1, *model.event_shape])
