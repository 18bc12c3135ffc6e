"""Paths and surfaces through the latent space, between examples."""

import math

import numpy as np
import tensorflow as tf
from absl import logging

from tf_resflow.evaluation.sampling import batch_size
from tf_resflow.models import FlowModel
from tf_resflow.progress import track
from tf_resflow.typing import TensorLike

__all__ = ["interpolate_corners", "interpolate_examples", "interpolate_pairs"]


def interpolate_examples(
    model: FlowModel, examples: np.ndarray, *, kind: str, num: int, length: int, seed: int = 0
) -> np.ndarray:
    """Walks between examples that are chosen at random.

    Args:
      model: a `FlowModel`.
      examples: array `[size, *event_shape]`, at least 2 for pairs, 4 for corners.
      kind: "pairs", or "corners" of a square, for which `num` and `length` are equal.
      num: number of paths, or of rows; there are at most half as many pairs as examples, and a warning if there
        are fewer than `num`.
      length: number of points of each.
      seed: integer, of the choice and the dequantization.

    Returns:
      An array `[num, length, *event_shape]`, see `interpolate_pairs` and `interpolate_corners`.

    Raises:
      ValueError: for too few examples or points.
    """
    order = np.random.default_rng(seed).permutation(len(examples))
    if kind == "corners":
        return interpolate_corners(model, examples[order[:4]], num=num, seed=seed).numpy()
    pairs = min(num, len(order) // 2)
    if not pairs:
        raise ValueError(f"A path goes from one example to another; got {len(order)}.")
    if pairs < num:
        logging.warning("%d examples make %d pairs, fewer than the %d asked for.", len(order), pairs, num)
    first, second = np.split(examples[order[: 2 * pairs]], 2)
    return interpolate_pairs(model, first, second, num=length, seed=seed).numpy()


def interpolate_pairs(model: FlowModel, first: TensorLike, second: TensorLike, *, num: int, seed: int) -> tf.Tensor:
    r"""Walks from one example to another: a quarter turn, in `num` steps.

    Between the latents \\(z_1, z_2\\), less the base distribution's mean,

        z = cos(phi) z_1 + sin(phi) z_2,    phi = 0, ..., pi / 2.

    Of two independent normal latents every such z is normal with the same covariance; their mean
    would have half of it, and lie where there are no data.

    Args:
      model: a `FlowModel`.
      first: `[pairs, *event_shape]`, data as for the model.
      second: array of the same shape.
      num: number of points of a path, both ends included, at least 2.
      seed: integer, of the dequantization.

    Returns:
      `[pairs, num, *event_shape]`, data as from `model.sample`; a path begins and ends with the
      examples themselves, to the flow's reconstruction error.

    Raises:
      ValueError: for fewer than 2 points.
    """
    pairs = tf.stack([tf.convert_to_tensor(first), tf.convert_to_tensor(second)], axis=1)
    return _blend(model, pairs, _quarter_turn(num), seed)


def interpolate_corners(model: FlowModel, corners: TensorLike, *, num: int, seed: int) -> tf.Tensor:
    r"""Fills a square between four examples at its corners.

        z = cos(phi) (cos(psi) z_1 + sin(psi) z_2) + sin(phi) (cos(psi) z_3 + sin(psi) z_4)

    with phi down the rows and psi along the columns, both from 0 to pi / 2.

    Args:
      model: a `FlowModel`.
      corners: `[4, *event_shape]`: top left, top right, bottom left, bottom right.
      num: number of rows, and of columns, at least 2.
      seed: integer, of the dequantization.

    Returns:
      `[num, num, *event_shape]`, data as from `model.sample`.

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
    if model.is_conditional:
        raise ValueError(
            f"{model.name} is conditional, and no condition belongs to the points between two examples. Blend the "
            "latents of model.encode(x, condition=...) yourself, and choose the conditions of model.decode."
        )
    groups, count = examples.shape[:2]
    rows = tf.reshape(examples, [groups * count, *model.event_shape])
    x, mean = model.prepare(rows, tf.constant([seed, 0], tf.int64)), model.distribution.distribution.mean()
    latents = _in_batches(lambda x: model.flow.forward(x) - mean, x, "encode", model)
    shape = latents.shape[1:]
    mixed = tf.einsum("nk,gkd->gnd", tf.cast(weights, x.dtype), tf.reshape(latents, [groups, count, -1]))
    mixed = tf.reshape(mixed, [-1, *shape])
    points = _in_batches(lambda z: model.decode(z + mean), mixed, "decode", model)
    return tf.reshape(points, [groups, -1, *model.event_shape])


def _in_batches(function, rows, name, model):
    """Applies the function to all rows, a batch at a time, with a progress bar."""

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, *rows.shape[1:]], rows.dtype)])
    def call(rows):
        return function(tf.identity(rows))

    num, size = rows.shape[0], batch_size(model.event_shape)
    return tf.concat([call(rows[start : start + size]) for start in track(range(0, num, size), name)], axis=0)
