r"""Probe vectors v with \\(E[v v^T] = I\\), so that \\(E[v^T A v] = \mathrm{tr}(A)\\)."""

import functools
import itertools
import math

import tensorflow as tf

from tf_resflow._internal.seeds import random_integers, random_uniform

PROBES = ("colored", "rademacher", "gaussian", "basis")


def draw_probes(kind: str, num_probes: int, x: tf.Tensor, seed: tf.Tensor, *, sets: int | None = None) -> tf.Tensor:
    r"""Draws the probes of a batch, `[num_probes * batch, *event]`, with all first probes before all second ones.

    The mean of \\(v^T A v\\) over the probes of an example is an unbiased estimate of \\(\mathrm{tr}(A)\\). See
    `RussianRoulette` for the kinds, and for the number of `sets` of the batch that share probes.

    "colored" probes have one vector z of random signs. Each of m probes has the coordinates of one color, times
    \\(\sqrt m\\). The mean is \\(\sum_{c(i) = c(j)} z_i z_j A_{ij}\\): pairs of different colors cancel. Only
    pairs of the same color add noise, and `coloring` keeps them far apart. One color per coordinate is exact.

    References:
      Tang and Saad, A probing method for computing the diagonal of a matrix inverse, 2012.
      Stathopoulos, Laeuchli and Orginos, Hierarchical probing for estimating the trace of the matrix inverse on
        toroidal lattices, 2013.
    """
    batch = tf.shape(x)[0]
    sets = 1 if kind == "basis" else sets
    event_shape = x.shape[1:] if x.shape[1:].is_fully_defined() else tf.shape(x)[1:]
    shape = tf.concat([[batch if sets is None else sets], event_shape], 0)
    v = _draw(kind, num_probes, x, shape, seed)
    if sets is not None:
        v = tf.repeat(v, batch // sets, axis=0)
    return tf.ensure_shape(v, [None, *x.shape[1:]])


def _draw(kind, num_probes, x, shape, seed):
    if kind == "basis":
        basis = tf.sqrt(tf.cast(num_probes, x.dtype)) * tf.eye(num_probes, dtype=x.dtype)
        return tf.reshape(basis, tf.concat([[num_probes], shape[1:]], 0))
    drawn = shape if kind == "colored" else tf.concat([[num_probes * shape[0]], shape[1:]], 0)
    if kind == "gaussian":
        uniform = random_uniform(drawn, seed, tf.float64 if x.dtype == tf.float64 else tf.float32)
        return tf.cast(tf.math.ndtri(uniform), x.dtype)
    signs = tf.cast(2 * random_integers(drawn, seed, tf.constant(2, tf.int64)) - 1, x.dtype)
    if kind == "rademacher" or num_probes == 1:
        return signs
    colors = tf.range(num_probes)[(...,) + (tf.newaxis,) * (x.shape.rank - 1)]
    masks = tf.cast(coloring(shape[1:], x.shape[1:], num_probes) == colors, x.dtype)
    v = math.sqrt(num_probes) * masks[:, tf.newaxis] * signs
    return tf.reshape(v, tf.concat([[-1], shape[1:]], 0))


def coloring(shape: tf.Tensor, static_shape: tf.TensorShape, num_colors: int) -> tf.Tensor:
    """Returns a color 0, ..., num_colors - 1 for each coordinate of an event.

    The coordinates of a vector cycle through the colors. In an image of C channels, the channels of a pixel have
    different colors. Each channel then has p colors, `(row + s column) mod p`: a lattice, with the s that keeps
    pixels of the same color farthest apart. Colors beyond a multiple of C are not used. With 3 x 3, 1 x 1 and 3 x 3
    kernels, 9 C colors separate coupled pixels, and 25 C colors separate pixels that the second term couples.

    `static_shape` is the known part of the event shape, with a known number of channels.
    """
    if static_shape.rank < 2:
        return tf.reshape(tf.range(tf.reduce_prod(shape)) % num_colors, shape)
    channels = static_shape[-1] or 1
    per_pixel = min(num_colors, channels)
    num_pixel_colors = num_colors // per_pixel
    sizes = tf.unstack(shape, static_shape.rank)
    *axes, channel = (
        tf.reshape(tf.range(size), [-1] + [1] * (static_shape.rank - 1 - i)) for i, size in enumerate(sizes)
    )
    pixels = static_shape[:-1].num_elements()
    if pixels is not None and num_pixel_colors >= pixels:
        pixel_color = tf.reshape(tf.range(pixels), [*static_shape[:-1], 1])
    else:
        step = min(range(num_pixel_colors), key=functools.partial(_closeness, num_pixel_colors))
        pixel_color = sum(step**i * axis for i, axis in enumerate(axes)) % num_pixel_colors
    return pixel_color * per_pixel + channel % per_pixel


def _closeness(num_colors, step):
    """Measures how close pixels of the same color `(row + step column) mod num_colors` are."""
    offsets = [offset for offset in itertools.product(range(-6, 7), repeat=2) if any(offset)]
    return sum(0.1 ** max(abs(a), abs(b)) for a, b in offsets if (a + step * b) % num_colors == 0)
