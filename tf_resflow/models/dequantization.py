"""Dequantization of integers and of the discrete coordinates of vectors, and its inverse."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from scipy.stats import qmc

from tf_resflow.seeds import random_integers, random_uniform
from tf_resflow.typing import Seed, TensorLike

OFF_GRID = 1e-6  # largest distance of a value from the grid, in steps, beyond rounding errors
_NUM_SETS = 8  # least number of sets of draws in cells; the spread of their means gives the standard error
_BEYOND = ((0.5, 0.75), (1.5, 0.25))  # of each component: mean number of coordinates beyond their cells, and weight


class Cells(NamedTuple):
    r"""The cells of the coordinates of vectors.

    The values of a discrete coordinate are \\(first + k \cdot step\\), \\(k = 0, \dots, num - 1\\), each at the
    center of its cell. Continuous coordinates have step 0. Unbounded coordinates have infinite `num`, and cells on
    both sides of `first`.

    An atom is a value with a large probability, such as 0 in a column of rainfall. The input space of a flow has a
    wide cell for it: all larger values of the coordinate are moved up by the width minus the step. The columns of
    tables use the standard deviation of the other values as the width.

    Attributes:
      first: `[size]`, the smallest value of each discrete coordinate.
      step: `[size]`, the width of its cells.
      num: `[size]`, their number.
      atoms: `[num_atoms, 4]`. Each row has the index of a coordinate, the value of the atom, the width of its cell,
        and -1 if no value is smaller, 1 if none is larger, otherwise 0. The outermost cells extend to infinity.
    """

    first: np.ndarray
    step: np.ndarray
    num: np.ndarray
    atoms: np.ndarray = np.zeros([0, 4])

    @property
    def has_cells(self) -> np.ndarray:
        """Whether some values of a coordinate have cells, `[size]`."""
        return (self.step > 0) | np.isin(np.arange(len(self.step)), self.atoms[:, 0])


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


def points_per_set(num: int) -> int:
    """Returns the number of points per set for `num` draws in cells: a power of two that gives at least 8 sets."""
    return 2 ** max(0, (num // _NUM_SETS).bit_length() - 1)


def dequantize_in_cells(
    x: tf.Tensor, cells: Cells, seed: Seed, point_sets: tuple[int, int] | None = None, *, common: bool = False
) -> tuple[tf.Tensor, TensorLike]:
    r"""Adds noise of density q to the discrete coordinates of vectors.

    By default, noise is uniform in each cell, and E[log p(z) - log q(z)] is a lower bound of the log-probability.
    With `point_sets`, E[p(z) / q(z)] is the probability, and the first and the last cell of a coordinate extend to
    infinity, as in `quantize_in_cells`. In these cells, the density at a distance of y cells from the inner edge is
    1 - t for y < 1, and \\((1 - t) / (1 + (y - 1)(1 - t) / t)^2\\) for larger y. This tail has the mass t. If n
    coordinates of an example are in such cells, t is 0.5 / n with probability 3/4, otherwise min(1/2, 1.5 / n), and
    q is the density of this mixture.

    Args:
      x: vectors `[rows, size]`. With `point_sets`, the whole batch of examples, repeated for each draw.
      seed: not `None`.
      point_sets: number of independent sets of draws, and number of draws in each set. The draws of a set are
        randomly shifted Sobol points.
      common: whether all examples share the shifts, so the draws of an example do not depend on other examples.

    Returns:
      z, and log q(z) for each row, which is infinite if a value is off the grid and thus has probability 0.
    """
    lower, widths, ends = cell_edges(x, cells)
    if point_sets is None:
        y, log_q = random_uniform(tf.shape(x), seed, x.dtype) - 0.5, 0.0
    else:
        y, log_q = place_with_tails(_shifted_points(x, cells, seed, *point_sets, common), ends)
    log_q -= tf.reduce_sum(tf.math.log(tf.where(widths > 0, widths, 1.0)), axis=-1)
    log_q = tf.where(tf.reduce_all(on_grid(x, cells), axis=-1), log_q, math.inf)
    return lower + widths * (y + 0.5), log_q


def cell_edges(x: TensorLike, cells: Cells) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
    """Returns the lower edges and the widths of the cells of vectors `[rows, size]`, and which cells are ends.

    A value without a cell has the width 0. The ends are two bool tensors: whether a cell is the first one, and
    whether it is the last one.
    """
    x = tf.convert_to_tensor(x)
    first, step, number = _numbers(x, cells)
    last = tf.constant(cells.num - 1, x.dtype)
    lower, widths = tf.where(step > 0, first + step * (number - 0.5), x), tf.zeros_like(x) + step
    ends = [(step > 0) & (last < math.inf) & tf.equal(number, end) for end in (0.0, last)]
    if len(cells.atoms):
        places, values, growth, *_ = _atoms(cells, x.dtype)
        distance, nearest = tf.gather(x, places, axis=1) - values, tf.gather(step, places) / 4
        is_atom = tf.abs(distance) <= nearest  # equal, in a continuous coordinate
        own = tf.one_hot(places, len(cells.step), dtype=x.dtype)
        lower += tf.cast(distance > nearest, x.dtype) * growth @ own
        widths += tf.cast(is_atom, x.dtype) * growth @ own
        for side, sign in enumerate((-1, 1)):
            ends[side] |= tf.cast(is_atom & (cells.atoms[:, 3] == sign), x.dtype) @ own > 0
    return lower, widths, ends


def log_atom_widths(x: TensorLike, cells: Cells) -> tf.Tensor:
    """Returns the sum of the logarithms of the widths of the atoms in each row of x `[rows, size]`.

    The probability of an atom divided by its width is comparable to the density of the other values. Without this,
    the ranking of rows would depend on the units of the columns.
    """
    _, widths, _ = cell_edges(x, cells)
    widths = tf.gather(widths, np.unique(cells.atoms[:, 0]).astype(int), axis=1)
    return tf.reduce_sum(tf.math.log(tf.where(widths > 0, widths, 1.0)), axis=1)


def on_grid(x: tf.Tensor, cells: Cells, offsets: TensorLike = 0.0) -> tf.Tensor:
    """Returns whether each value is at the center of a cell, up to rounding errors.

    Continuous coordinates and NaN count as on the grid. `offsets` are numbers that have been subtracted from x
    `[rows, size]` in the dtype of x.
    """
    first, step, number = _numbers(x, cells)
    width = tf.where(step > 0, step, 1.0)
    places, largest = (x - first) / width, tf.abs(x) + tf.abs(first) + tf.abs(tf.cast(offsets, x.dtype))
    rounding = 2 * np.finfo(x.dtype.as_numpy_dtype).eps * (largest / width + tf.abs(places))
    is_whole = tf.equal(step, 1) & tf.equal(first, tf.round(first))  # whole numbers have no rounding errors
    rounding = tf.where(is_whole, tf.zeros_like(rounding), rounding)
    return tf.equal(step, 0) | ~(tf.abs(places - number) > OFF_GRID + rounding)


def _shifted_points(x, cells, seed, num_sets, num_points, common):
    places, size = np.flatnonzero(cells.has_cells), len(cells.step) + 1
    points = np.zeros([num_points, size])
    points[:, [*places, -1]] = qmc.Sobol(len(places) + 1, seed=0).random(num_points)
    rows = tf.shape(x)[0] // (num_sets * num_points)
    shifts = random_uniform([num_sets, 1, 1 if common else rows, size], seed, x.dtype)
    u = shifts + tf.constant(points[:, np.newaxis], x.dtype)
    u = tf.reshape(u - tf.floor(u), [-1, size])
    return tf.repeat(u, rows, axis=0) if common else u


def place_with_tails(u: tf.Tensor, ends: Sequence[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """Maps points in the unit cube into cells, where the first and the last cell include their tails.

    Args:
      u: points `[rows, size + 1]`; the last coordinate chooses a component of the mixture of `dequantize_in_cells`.
      ends: two bool tensors `[rows, size]`: whether a cell is the first one, and whether it is the last one.

    Returns:
      The distances from the centers of the cells, in cells, and the log-density of each row.
    """
    u, chosen = u[:, :-1], u[:, -1:]
    sides = tf.add_n([tf.cast(end, u.dtype) for end in ends])
    edges = tf.maximum(tf.reduce_sum(tf.minimum(sides, 1.0), -1, keepdims=True), 1.0)
    tails = [tf.where(sides > 0, tf.minimum(0.5, mean / edges), 0.0) for mean, _ in _BEYOND]
    t = tf.where(chosen < _BEYOND[0][1], *tails)
    depth = 1 / tf.maximum(sides, 1.0)  # of a cell, from its inner edge, or from its center if it has two tails
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


def quantize_in_cells(z: TensorLike, cells: Cells) -> tf.Tensor:
    """Returns the values whose cells contain z. Values outside the range become the first or the last value."""
    x = z = tf.convert_to_tensor(z)
    is_atom = tf.zeros_like(z, tf.bool)
    if len(cells.atoms):
        places, values, growth, low, high = _atoms(cells, z.dtype)
        placed, own = tf.gather(z, places, axis=1), tf.one_hot(places, len(cells.step), dtype=z.dtype)
        is_own = tf.cast((placed >= low) & (placed < high), z.dtype)
        is_atom, atoms = is_own @ own > 0, is_own * values @ own
        x = tf.where(is_atom, atoms, z - tf.cast(placed >= high, z.dtype) * growth @ own)
    first, step, number = _numbers(x, cells)
    last = tf.constant(cells.num - 1, z.dtype)
    number = tf.clip_by_value(number, tf.where(last < math.inf, 0.0, -last), last)
    return tf.where((step > 0) & ~is_atom, first + step * number, x)


def _atoms(cells, dtype):
    """Returns the coordinates and values of the atoms, how far they move larger values, and their edges."""
    places, values, widths, end = cells.atoms.T
    steps = cells.step[places.astype(int)]
    is_below = (places == places[:, np.newaxis]) & (values < values[:, np.newaxis])
    lower = values - steps / 2 + is_below @ (widths - steps)
    low, high = np.where(end < 0, -math.inf, lower), np.where(end > 0, math.inf, lower + widths)
    return places.astype(int), *(tf.constant(part, dtype) for part in (values, widths - steps, low, high))


def _numbers(z, cells):
    """Returns the first values, the steps, and the index of the cell of each value."""
    first, step = (tf.constant(part, z.dtype) for part in (cells.first, cells.step))
    return first, step, tf.round((z - first) / tf.where(step > 0, step, 1.0))


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
