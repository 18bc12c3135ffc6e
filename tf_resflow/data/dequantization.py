"""Dequantization of integers, and of the discrete coordinates of vectors, and its inverse."""

__all__ = [
    "cell_width",
    "check_power_of_two",
    "dequantize",
    "dequantize_in_cells",
    "place_in_cells",
    "quantize",
    "quantize_in_cells",
]

import warnings

import numpy as np
import tensorflow as tf
from scipy.stats import qmc

from tf_resflow.data.column_codes import Cells
from tf_resflow.seeds import random_integers, random_uniform
from tf_resflow.typing import Seed, TensorLike


def dequantize(x: TensorLike, levels: int, seed: Seed, *, sets: int | None = None) -> tf.Tensor:
    r"""Spreads integers over the unit interval: (x + u) / levels, with u ~ U(0, 1).

    If p is the density of the result, then

        log P(x) >= E_u[log p((x + u) / levels)] - D log(levels),

    with D the number of coordinates: a density model of the result bounds the likelihood of the integers.

    In float32 a sum such as 255 + u can round up to the next integer, and so into the next level. Therefore u is
    drawn from the midpoints of a uniform grid of 2^-(21 - b), with 2^b the least power of two that is no less than
    `levels`. Then x + u is exact, its distance from an integer is more than the rounding error of the scaling, and
    `quantize(dequantize(x, levels, seed), levels)` is always x.

    Args:
      x: integer tensor of any shape, with values 0, ..., levels - 1.
      levels: number of values, in 2, ..., 256.
      seed: see `tf_resflow.stateless_seed`, but not `None`; the result is a pure function of it and of x.
      sets: `None` if every number has its own noise. Otherwise the batch has that many equal parts, one after the
        other, and all examples `x[i]` of a part have the same noise: the result for one does not depend on the
        others.

    Returns:
      A float32 tensor of x's shape, with values strictly between 0 and 1.

    Raises:
      ValueError: if x is not of an integer type, or levels is not in 2, ..., 256.
      tf.errors.InvalidArgumentError: if a value is not in 0, ..., levels - 1.

    References:
      L. Theis, A. van den Oord, M. Bethge. A note on the evaluation of generative models. ICLR 2016, section 3.1.
    """
    x, levels = _checked(x, levels)
    cells = round(0.5 / _margin(levels))
    shape = tf.shape(x)
    cell = random_integers(shape if sets is None else tf.concat([[sets], shape[1:]], 0), seed, cells)
    u = (tf.cast(cell, tf.float32) + 0.5) / cells
    if sets is not None:
        u = tf.repeat(u, shape[0] // sets, axis=0)
    return (tf.cast(x, tf.float32) + tf.ensure_shape(u, x.shape)) * (1 / levels)


def place_in_cells(x: TensorLike, u: tf.Tensor, levels: int) -> tf.Tensor:
    r"""Puts numbers u of the unit interval into the cells of integers: (x + m + (1 - 2 m) u) / levels.

    The margin m of 2^(b - 22), with 2^b the least power of two that is no less than `levels`, is larger than the
    rounding errors of float32: `quantize(place_in_cells(x, u, levels), levels)` is always x, for u = 0 and 1, too.
    A density q(u) of one coordinate becomes q(u) / `cell_width(levels)`.
    """
    x, levels = _checked(x, levels)
    margin = _margin(levels)
    return (tf.cast(x, u.dtype) + (margin + (1 - 2 * margin) * u)) * (1 / levels)


def cell_width(levels: int) -> float:
    """The width of what `place_in_cells` reaches of a cell, nearly 1 / levels."""
    levels = _valid_levels(levels)
    return (1 - 2 * _margin(levels)) / levels


def quantize(x: TensorLike, levels: int) -> tf.Tensor:
    """Inverts `dequantize`: the uint8 level that holds x, floor(x levels), clipped to 0, ..., levels - 1.

    Args:
      x: floating-point tensor of any shape.
      levels: number of values, in 2, ..., 256.

    Raises:
      ValueError: if levels is not in 2, ..., 256.
    """
    levels = _valid_levels(levels)
    x = tf.convert_to_tensor(x)
    return tf.cast(tf.clip_by_value(tf.floor(x * levels), 0, levels - 1), tf.uint8)


def dequantize_in_cells(x: tf.Tensor, cells: Cells, seed: Seed, *, sets: int | None = None) -> tf.Tensor:
    r"""Spreads the discrete coordinates of vectors over their cells: m + w (u - 1/2), with u ~ U(0, 1).

    m is the middle of the cell in which a value is, and w its width. If p is the density of the result, then the
    probability of the cell is \\(E_u[p(m + w (u - 1/2))] \prod w\\). With `sets`, as of `dequantize`, the parts of
    the batch have the points of a scrambled Sobol sequence, which are spread evenly, moved at random.
    """
    if sets is None:
        u = random_uniform(tf.shape(x), seed, x.dtype)
    else:
        places, points = np.flatnonzero(cells.step), np.zeros([sets, len(cells.step)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of numbers that are no powers of 2
            points[:, places] = qmc.Sobol(len(places), seed=0).random(sets)
        u = tf.constant(points, x.dtype) + random_uniform([1, len(cells.step)], seed, x.dtype)
        u = tf.repeat(u - tf.floor(u), tf.shape(x)[0] // sets, axis=0)
    first, step, number = _numbers(x, cells)
    return tf.where(step > 0, first + step * (number + u - 0.5), x)


def quantize_in_cells(z: tf.Tensor, cells: Cells) -> tf.Tensor:
    """Inverts `dequantize_in_cells`: the middles of the cells, from the first to the last one of a coordinate."""
    first, step, number = _numbers(z, cells)
    last = tf.constant(np.maximum(cells.num - 1.0, 0.0), z.dtype)
    return tf.where(step > 0, first + step * tf.clip_by_value(number, 0.0, last), z)


def _numbers(z, cells):
    """The first values, the steps, and the numbers of the cells in which values are."""
    first, step = (tf.constant(part, z.dtype) for part in (cells.first, cells.step))
    return first, step, tf.round((z - first) / tf.where(step > 0, step, 1.0))


def _checked(x, levels):
    """The integers, as uint8 or int32, and the number of levels."""
    levels = _valid_levels(levels)
    x = tf.convert_to_tensor(x)
    if not x.dtype.is_integer:
        raise ValueError(
            f"dequantize expects integers 0, ..., {levels - 1}, but x is {x.dtype.name}. "
            "Pass the integer data, or leave levels unset for continuous data."
        )
    if x.dtype == tf.uint8 and levels == 256:
        return x, levels
    x = tf.cast(x, tf.int32)
    message = f"dequantize expects values in 0, ..., {levels - 1} (levels = {levels})."
    checks = [
        tf.debugging.assert_non_negative(x, message),
        tf.debugging.assert_less(x, levels, message),
    ]
    with tf.control_dependencies([check for check in checks if check is not None]):
        return tf.identity(x), levels


def _margin(levels):
    """The least distance from an integer at which x + u survives rounding and scaling in float32."""
    return 2.0 ** ((levels - 1).bit_length() - 22)


def _valid_levels(levels):
    if levels != int(levels) or not 2 <= levels <= 256:
        raise ValueError(f"levels must be an integer in 2, ..., 256, but is {levels}.")
    return int(levels)


def check_power_of_two(levels: int) -> None:
    """Raises ValueError unless `levels` are those of a pixel of 8 bits without some of its low bits."""
    if levels not in [2**bits for bits in range(1, 9)]:
        raise ValueError(f"levels must be a power of two in 2, ..., 256, but is {levels}.")
