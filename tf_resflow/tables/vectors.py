"""`Vectors`: the values of rows as standardized vectors, and points drawn in their cells."""

import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tf_resflow._internal.typing import TensorLike

_STANDARD = tfp.distributions.Normal(tf.constant(0.0, tf.float64), 1.0)


class _Tails(NamedTuple):
    """A component of `dequantize`: the mean number of coordinates beyond their cells, and its weight."""

    mean_beyond: float
    weight: float


_COMPONENTS = (_Tails(0.5, 0.75), _Tails(1.5, 0.25))


class Vectors(NamedTuple):
    """The values of rows as standardized vectors: arrays or tensors `[num, size]` unless stated otherwise.

    A vector is drawn from `lower + widths * uniform`, and a missing value from a standard normal distribution.

    Attributes:
      lower: The value of a continuous coordinate, or the lower edge of a cell; 0 if missing.
      widths: The widths of the cells, otherwise 0.
      ends: Bool `[num, size, 2]`, whether a cell is the first one, and whether it is the last one.
      is_blank: Bool, whether the value is missing or cannot occur.
      log_scale: `[num]`. The log-density of a row is the log-density of its vector plus this value. It includes the
        logarithms of the widths. Minus infinity if a value cannot occur.
      log_unit: `[num]`, added to the log-density of a row to compare it with others: minus the logarithms of the
        widths of cells in columns with atoms, and the mean log-densities of missing columns. So units do not change
        the ranking.
      condition: `[num, condition_size]`, the condition of the densities of the rows: which values are missing, for
        columns with missing values in the fit, and the centers of the vectors of the condition columns.
    """

    lower: Any
    widths: Any
    ends: Any
    is_blank: Any
    log_scale: Any
    log_unit: Any
    condition: Any = None


def quasirandom_points(num: int) -> np.ndarray:
    """Returns points in the unit interval, `[num, 1]`. Any consecutive points are spread evenly."""
    return (np.arange(num) * (math.sqrt(5) - 1) / 2 % 1)[:, np.newaxis]


def dequantize(vectors: Vectors, u: TensorLike) -> tuple[tf.Tensor, tf.Tensor]:
    r"""Draws vectors of rows from a density q, with points u in the unit cube `[rows, size + 1]`.

    If p is the density of vectors, the density of a row is \\(E[p(z) / q(z)]\\) times its scale. In cells that
    are ends, the density at a distance of y cells from the inner edge is 1 - t for y < 1, and
    \\((1 - t) / (1 + (y - 1)(1 - t) / t)^2\\) for larger y. This tail has the mass t. If n coordinates of a row
    are in such cells, t is 0.5 / n with probability 3/4, otherwise min(1/2, 1.5 / n), and q is the density of
    this mixture, which the last coordinate of u chooses.

    Returns:
      z `[rows, size]`, and log q(z) for each row, in cells as wide as 1.
    """
    u = tf.convert_to_tensor(u, tf.float64)
    y, log_q = _in_cells(u, vectors.ends)
    z = tf.where(vectors.is_blank, tf.math.ndtri(u[:, :-1]), vectors.lower + vectors.widths * (y + 0.5))
    return z, log_q + tf.reduce_sum(tf.where(vectors.is_blank, _STANDARD.log_prob(z), 0.0), axis=1)


def _in_cells(u, ends):
    """Returns the places of points in cells, from their centers in units of their widths, and log q of each row.

    See `dequantize`.
    """
    chosen_component = u[:, -1:]
    u = u[:, :-1]
    num_tails = tf.reduce_sum(tf.cast(ends, u.dtype), axis=-1)  # of each cell
    num_ends = tf.reduce_sum(tf.minimum(num_tails, 1.0), -1, keepdims=True)  # of each row
    masses = [
        tf.where(num_tails > 0, tf.minimum(component.mean_beyond / tf.maximum(num_ends, 1.0), 0.5), 0.0)
        for component in _COMPONENTS
    ]
    t = tf.where(chosen_component < _COMPONENTS[0].weight, *masses)
    has_two_tails = num_tails > 1
    depth = 1 / tf.maximum(num_tails, 1.0)  # of a cell, from its inner edge, or from its center if it has two tails
    a = tf.where(has_two_tails, tf.abs(2 * u - 1), u)
    rest = tf.maximum(1 - a, 2.0**-24)
    distance = tf.where(rest < t, 1 - 2 * t + t**2 / rest, a) * depth / (1 - t)
    one_sided = tf.where(ends[..., 0], 0.5 - distance, distance - 0.5)
    y = tf.where(has_two_tails, tf.sign(u - 0.5) * distance, one_sided)
    beyond = tf.nn.relu(tf.abs(y) - 0.5) / depth
    log_densities = []
    for mass, component in zip(masses, _COMPONENTS, strict=True):
        scale = tf.where(num_tails > 0, mass / (1 - mass), 1.0)
        log_density = tf.math.log1p(-mass) - 2 * tf.math.log1p(beyond / scale)
        log_densities.append(math.log(component.weight) + tf.reduce_sum(log_density, -1))
    return y, tf.reduce_logsumexp(log_densities, 0)
