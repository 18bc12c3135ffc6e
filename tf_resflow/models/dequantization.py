"""Dequantization of integers, and its inverse."""

import tensorflow as tf

from tf_resflow.seeds import random_integers
from tf_resflow.typing import Seed, TensorLike


def dequantize(x: TensorLike, levels: int, seed: Seed, *, sets: int | None = None) -> tf.Tensor:
    r"""Adds uniform noise u ~ U(0, 1) to integers and scales them to the unit interval: (x + u) / levels.

    If p is the density of the result and D is the number of coordinates, then

        log P(x) >= E_u[log p((x + u) / levels)] - D log(levels),

    so a density model of the result gives a lower bound of the log-likelihood. In float32, a sum such as 255 + u
    could round up to the next integer. Therefore u is drawn from the midpoints of a uniform grid with spacing
    2^-(21 - b), where 2^b is the smallest power of two that is at least `levels`. Then x + u is exact, and
    `quantize` returns x.

    Args:
      x: integer tensor of any shape, with values 0, ..., levels - 1.
      levels: number of values, from 2 to 256.
      seed: see `tf_resflow.stateless_seed`; not `None`. The result is a pure function of the seed and x.
      sets: number of equal, consecutive parts of the batch. All examples in a part share their noise, so the result
        for an example does not depend on the other examples. `None` for independent noise everywhere.

    Returns:
      A float32 tensor with the shape of x and values strictly between 0 and 1.

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
    r"""Moves numbers u in the unit interval to the cells of integers: (x + m + (1 - 2 m) u) / levels.

    The margin m is 2^(b - 22), where 2^b is the smallest power of two that is at least `levels`. It exceeds the
    rounding errors of float32, so `quantize(place_in_cells(x, u, levels), levels)` is always x, even for u = 0 and
    u = 1. A density q(u) of one coordinate becomes q(u) / `cell_width(levels)`.
    """
    margin = _margin(levels)
    return (tf.cast(checked_integers(x, levels), u.dtype) + (margin + (1 - 2 * margin) * u)) * (1 / levels)


def cell_width(levels: int) -> float:
    """The width of the part of a cell that `place_in_cells` reaches, nearly 1 / levels."""
    return (1 - 2 * _margin(levels)) / levels


def quantize(x: TensorLike, levels: int) -> tf.Tensor:
    """Inverts `dequantize`: returns floor(x * levels), clipped to 0, ..., levels - 1, as uint8."""
    levels = _valid_levels(levels)
    return tf.cast(tf.clip_by_value(tf.floor(tf.convert_to_tensor(x) * levels), 0, levels - 1), tf.uint8)


def checked_integers(x: TensorLike, num: int, name: str = "data") -> tf.Tensor:
    """Returns integers as a tensor, after checking that they are in 0, ..., num - 1."""
    x = tf.convert_to_tensor(x)
    message = f"{name} must be integers 0, ..., {num - 1}"
    if not x.dtype.is_integer:
        raise ValueError(f"{message}, but are {x.dtype.name}. Convert them.")
    if x.dtype == tf.uint8 and num == 256:
        return x
    x = tf.cast(x, tf.int32)
    checks = [tf.debugging.assert_non_negative(x, message), tf.debugging.assert_less(x, num, message)]
    with tf.control_dependencies([check for check in checks if check is not None]):
        return tf.identity(x)


def _margin(levels):
    """Returns the least distance from integers at which scaling and rounding in float32 keep floor(x + u)."""
    return 2.0 ** ((levels - 1).bit_length() - 22)


def _valid_levels(levels):
    if levels != int(levels) or not 2 <= levels <= 256:
        raise ValueError(f"levels is {levels}, but must be an integer from 2 to 256.")
    return int(levels)
