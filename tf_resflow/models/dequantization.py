"""Dequantization of integers and of the discrete coordinates of vectors, and its inverse."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from scipy.stats import qmc

from tf_resflow.seeds import random_integers, random_uniform
from tf_resflow.typing import Seed, TensorLike

OFF_GRID = 1e-6  # largest distance of a value from a grid, in steps, apart from rounding
_NUM_SETS = 8  # sets of draws in cells; the spread of their means is the standard error
_BEYOND = ((0.5, 0.75), (1.5, 0.25))  # mean number of coordinates beyond their cells, and weight


class Cells(NamedTuple):
    r"""The cells of the discrete coordinates of vectors, arrays `[size]`.

    The values of a coordinate are \\(first + k \cdot step\\), \\(k = 0, \dots, num - 1\\), each in the middle of
    its cell. The step of a continuous coordinate is 0. A coordinate without ends has infinite `num`: its cells
    continue on both sides of `first`.
    """

    first: np.ndarray
    step: np.ndarray
    num: np.ndarray

    @property
    def log_volume(self) -> float:
        """The logarithm of the volume of a cell in the discrete coordinates."""
        return float(np.log(self.step[self.step > 0]).sum())


def dequantize(x: TensorLike, levels: int, seed: Seed, *, sets: int | None = None) -> tf.Tensor:
    r"""Spreads integers over the unit interval: (x + u) / levels, with u ~ U(0, 1).

    If p is the density of the result, then

        log P(x) >= E_u[log p((x + u) / levels)] - D log(levels),

    with D the number of coordinates: a density model of the result bounds the likelihood of the integers. In
    float32 a sum such as 255 + u can round up to the next integer. Therefore u is drawn from the midpoints of a
    uniform grid of 2^-(21 - b), with 2^b the smallest power of two that is at least `levels`. Then x + u is exact,
    and `quantize` gives x.

    Args:
      x: integer tensor of any shape, with values 0, ..., levels - 1.
      levels: number of values, in 2, ..., 256.
      seed: see `tf_resflow.stateless_seed`, but not `None`; the result is a pure function of the seed and x.
      sets: number of equal, consecutive parts of the batch whose examples `x[i]` share their noise, so the result
        for one does not depend on the others; `None` if every number has its own noise.

    Returns:
      A float32 tensor of x's shape, with values strictly between 0 and 1.

    References:
      L. Theis, A. van den Oord, M. Bethge. A note on the evaluation of generative models. ICLR 2016, section 3.1.
    """
    levels = _valid_levels(levels)
    x = checked_integers(x, levels)
    cells = round(0.5 / _margin(levels))
    shape = tf.shape(x)
    cell = random_integers(shape if sets is None else tf.concat([[sets], shape[1:]], 0), seed, cells)
    u = (tf.cast(cell, tf.float32) + 0.5) / cells
    if sets is not None:
        u = tf.repeat(u, shape[0] // sets, axis=0)
    return (tf.cast(x, tf.float32) + tf.ensure_shape(u, x.shape)) * (1 / levels)


def place_in_cells(x: TensorLike, u: tf.Tensor, levels: int) -> tf.Tensor:
    r"""Puts numbers u of the unit interval into the cells of integers: (x + m + (1 - 2 m) u) / levels.

    The margin m of 2^(b - 22), with 2^b the smallest power of two that is at least `levels`, exceeds the rounding
    errors of float32, so `quantize(place_in_cells(x, u, levels), levels)` is always x, also for u = 0 and 1. A
    density q(u) of one coordinate becomes q(u) / `cell_width(levels)`.
    """
    margin = _margin(levels)
    return (tf.cast(checked_integers(x, levels), u.dtype) + (margin + (1 - 2 * margin) * u)) * (1 / levels)


def cell_width(levels: int) -> float:
    """The width of the part of a cell that `place_in_cells` reaches, nearly 1 / levels."""
    return (1 - 2 * _margin(levels)) / levels


def quantize(x: TensorLike, levels: int) -> tf.Tensor:
    """Inverts `dequantize`: the uint8 level that holds x, floor(x levels), clipped to 0, ..., levels - 1."""
    levels = _valid_levels(levels)
    return tf.cast(tf.clip_by_value(tf.floor(tf.convert_to_tensor(x) * levels), 0, levels - 1), tf.uint8)


def points_per_set(num: int) -> int:
    """The number of points in each set of `num` draws in cells: a power of two that leaves at least 8 sets."""
    return 2 ** max(0, (num // _NUM_SETS).bit_length() - 1)


def dequantize_in_cells(
    x: tf.Tensor, cells: Cells, seed: Seed, point_sets: tuple[int, int] | None = None, *, common: bool = False
) -> tuple[tf.Tensor, TensorLike]:
    r"""Spreads the discrete coordinates of vectors over their cells, with the density q of the noise.

    By default the noise is uniform in each cell: E[log p(z) - log q(z)] is a lower bound of the log-probability.
    With `point_sets`, E[p(z) / q(z)] is the probability, and the first and the last cell of a coordinate include
    what lies beyond them, as in `quantize_in_cells`. At a distance of y cells from the inner edge, the density
    is 1 - t for y < 1, and \\((1 - t) / (1 + (y - 1)(1 - t) / t)^2\\) beyond, whose mass is t. If n coordinates of
    an example are in such a cell, t is 0.5 / n in three of four draws and min(1/2, 1.5 / n) in the others; q is the
    density of this mixture.

    Args:
      x: vectors `[rows, size]`; with `point_sets`, the same examples for each draw, one draw after the other.
      cells: the cells of the coordinates.
      seed: not `None`.
      point_sets: the number of independent sets of draws, and of draws in each set, which are randomly shifted
        Sobol points.
      common: whether all examples share the shifts, so that the draws of one do not depend on the others.

    Returns:
      z, and log q(z) of each row. It is infinite for a row with a value off the grid, whose probability is 0.
    """
    first, step, number = _numbers(x, cells)
    if point_sets is None:
        y, log_q = random_uniform(tf.shape(x), seed, x.dtype) - 0.5, 0.0
    else:
        last = tf.constant(cells.num - 1, x.dtype)
        ends = [(step > 0) & (last < math.inf) & tf.equal(number, end) for end in (0.0, last)]
        y, log_q = place_with_tails(_shifted_points(x, cells, seed, *point_sets, common), ends)
    log_q = tf.where(tf.reduce_all(on_grid(x, cells), axis=-1), log_q - cells.log_volume, math.inf)
    return tf.where(step > 0, first + step * (number + y), x), log_q


def on_grid(x: tf.Tensor, cells: Cells, offsets: TensorLike = 0.0) -> tf.Tensor:
    """Whether each value is in the middle of a cell, up to rounding; true of continuous coordinates and NaN.

    `offsets` are what was subtracted from x `[rows, size]` in its dtype.
    """
    first, step, number = _numbers(x, cells)
    width = tf.where(step > 0, step, 1.0)
    places, largest = (x - first) / width, tf.abs(x) + tf.abs(first) + tf.abs(tf.cast(offsets, x.dtype))
    rounding = 2 * np.finfo(x.dtype.as_numpy_dtype).eps * (largest / width + tf.abs(places))
    is_whole = tf.equal(step, 1) & tf.equal(first, tf.round(first))  # whole numbers have no rounding errors
    rounding = tf.where(is_whole, tf.zeros_like(rounding), rounding)
    return tf.equal(step, 0) | ~(tf.abs(places - number) > OFF_GRID + rounding)


def _shifted_points(x, cells, seed, num_sets, num_points, common):
    """Points of the unit cube; the last coordinate chooses a component of the mixture."""
    places, size = np.flatnonzero(cells.step), len(cells.step) + 1
    points = np.zeros([num_points, size])
    points[:, [*places, -1]] = qmc.Sobol(len(places) + 1, seed=0).random(num_points)
    rows = tf.shape(x)[0] // (num_sets * num_points)
    shifts = random_uniform([num_sets, 1, 1 if common else rows, size], seed, x.dtype)
    u = shifts + tf.constant(points[:, np.newaxis], x.dtype)
    u = tf.reshape(u - tf.floor(u), [-1, size])
    return tf.repeat(u, rows, axis=0) if common else u


def place_with_tails(u: tf.Tensor, ends: Sequence[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """Maps points of the unit cube into cells. The first and the last cell include their tails.

    Args:
      u: points `[rows, size + 1]`; the last coordinate chooses a component of the mixture of `dequantize_in_cells`.
      ends: two of bool `[rows, size]`: whether a cell is the first one, and whether it is the last one.

    Returns:
      The distances from the middles of the cells, in cells, and the log-density of each row.
    """
    u, chosen = u[:, :-1], u[:, -1:]
    sides = tf.add_n([tf.cast(end, u.dtype) for end in ends])
    edges = tf.maximum(tf.reduce_sum(tf.minimum(sides, 1.0), -1, keepdims=True), 1.0)
    tails = [tf.where(sides > 0, tf.minimum(0.5, mean / edges), 0.0) for mean, _ in _BEYOND]
    t = tf.where(chosen < _BEYOND[0][1], *tails)
    depth = 1 / tf.maximum(sides, 1.0)  # from the inner edge of a cell, or from the middle of one with two tails
    a = tf.where(sides > 1, tf.abs(2 * u - 1), u)
    rest = tf.maximum(1 - a, 2.0**-24)
    y = tf.where(rest < t, 1 - 2 * t + t**2 / rest, a) * depth / (1 - t)
    y = tf.where(sides > 1, tf.sign(u - 0.5) * y, tf.where(ends[0], 0.5 - y, y - 0.5))
    beyond = tf.nn.relu(tf.abs(y) - 0.5) / depth

    def log_density(t, weight):
        scale = tf.where(sides > 0, t / (1 - t), 1.0)
        return math.log(weight) + tf.reduce_sum(tf.math.log1p(-t) - 2 * tf.math.log1p(beyond / scale), -1)

    parts = [log_density(t, weight) for t, (_, weight) in zip(tails, _BEYOND, strict=True)]
    return y, tf.reduce_logsumexp(parts, 0)


def quantize_in_cells(z: tf.Tensor, cells: Cells) -> tf.Tensor:
    """The middles of the cells that hold values; the first and the last one include what lies beyond them."""
    first, step, number = _numbers(z, cells)
    last = tf.constant(cells.num - 1, z.dtype)
    number = tf.clip_by_value(number, tf.where(last < math.inf, 0.0, -last), last)
    return tf.where(step > 0, first + step * number, z)


def _numbers(z, cells):
    """The first values, the steps, and the numbers of the cells that hold the values."""
    first, step = (tf.constant(part, z.dtype) for part in (cells.first, cells.step))
    return first, step, tf.round((z - first) / tf.where(step > 0, step, 1.0))


def checked_integers(x: TensorLike, num: int, name: str = "data") -> tf.Tensor:
    """Integers as a tensor; an error unless they are in 0, ..., num - 1."""
    x = tf.convert_to_tensor(x)
    message = f"{name} must be integers 0, ..., {num - 1}"
    if not x.dtype.is_integer:
        raise ValueError(f"{message}; got {x.dtype.name}.")
    if x.dtype == tf.uint8 and num == 256:
        return x
    x = tf.cast(x, tf.int32)
    checks = [tf.debugging.assert_non_negative(x, message), tf.debugging.assert_less(x, num, message)]
    with tf.control_dependencies([check for check in checks if check is not None]):
        return tf.identity(x)


def _margin(levels):
    """The least distance from an integer at which x + u survives rounding and scaling in float32."""
    return 2.0 ** ((levels - 1).bit_length() - 22)


def _valid_levels(levels):
    if levels != int(levels) or not 2 <= levels <= 256:
        raise ValueError(f"levels must be an integer in 2, ..., 256, but is {levels}.")
    return int(levels)
