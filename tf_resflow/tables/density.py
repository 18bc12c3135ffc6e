"""The density of the rows of a table: a mean over flows, integrated over cells and missing values."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from scipy import stats

from tf_resflow.tables.arguments import MOST_NOISE
from tf_resflow.tables.coordinates import Vectors
from tf_resflow.tables.encoder import TableEncoder
from tf_resflow.tables.noise_conditioned import NoiseConditionedFlow, noise_code, shared_flow

BROAD = 0.01
"""The weight of the density at the largest noise level, which determines the scores of far rows."""

NUM_POINTS = 32
"""The number of points of the mean over cells and missing values."""

_FARTHEST = 1e12  # standardized values are clipped here, so that float32 can represent their squares
_AT_ONCE = 2**16  # vectors scored at once


class TableDensity:
    r"""The density of the rows of a table, from the members of an ensemble of noise-conditioned flows.

    \\(p(x) = 0.99\, p_\sigma(x) + 0.01\, p_1(x)\\), where \\(\sigma\\) is the noise level. \\(p_\sigma(x)\\) is the
    mean over the members and over points of the cells of x, see `Coordinates.dequantize`.

    Args:
      encoder: the `TableEncoder`.
      num_blocks: see `tf_resflow.flows.vector_flow`, also for `hidden`.
      members: weights of each member.
      noise: the noise level.
    """

    def __init__(
        self,
        encoder: TableEncoder,
        num_blocks: int,
        hidden: Sequence[int],
        members: Sequence[Sequence[np.ndarray]] = (),
        noise: float = MOST_NOISE,
    ):
        self.encoder, self.num_blocks, self.hidden = encoder, num_blocks, tuple(map(int, hidden))
        self.members, self.noise = [list(member) for member in members], noise

    @property
    def flow(self) -> NoiseConditionedFlow:
        """The flow that evaluates the members."""
        return shared_flow(self.encoder.size, self.encoder.condition_size, self.num_blocks, self.hidden)

    def score(
        self, numbers: np.ndarray, members: Sequence[Any] | None = None, *, num_points: int = NUM_POINTS
    ) -> np.ndarray:
        """Returns the log-densities of rows, and the scores that compare rows (see `Vectors.log_unit`): `[2, num]`.

        `numbers` are those of `TableEncoder.numbers`.
        """
        members = self.members if members is None else members
        (log_probs,), units = self.log_probs(numbers, [self.noise], members, num_points)
        return np.stack([log_probs, log_probs + units])

    def log_probs(
        self, numbers: np.ndarray, levels: Any, members: Sequence[Any], num_points: int = NUM_POINTS
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns log-densities at noise levels `[levels, num]`, and `Vectors.log_unit` `[num]`."""
        flow, found = self.flow, []
        functions = [lambda x, w=w: flow.log_prob(w, x) for w in members]
        points = dequantization_points(self.encoder, num_points)
        if not len(numbers):
            return np.zeros([len(levels), 0]), np.zeros(0)
        size = max(1, _AT_ONCE // (len(points) * (len(levels) + 1)))
        for start in range(0, len(numbers), size):
            rows = self.encoder.rows(tf.constant(numbers[start : start + size]))
            own = log_densities(self.encoder, rows, points, levels, functions)
            found.append((own.numpy(), rows.log_unit.numpy()))
        log_probs, units = zip(*found, strict=True)
        return np.concatenate(log_probs, axis=1), np.concatenate(units)

    def sample(self, condition: np.ndarray, rng: np.random.RandomState, noise: float | None = None) -> np.ndarray:
        """Draws a vector for each condition at a noise level, by default from the density itself."""
        num, size = len(condition), self.encoder.size
        member, values = rng.randint(len(self.members), size=num), np.empty([num, size])
        is_broad = rng.uniform(size=num) < (BROAD if noise is None else 0.0)
        for level, is_chosen in ((self.noise if noise is None else noise, ~is_broad), (MOST_NOISE, is_broad)):
            for place, weights in enumerate(self.members):
                is_own, seed = is_chosen & (member == place), int(rng.randint(2**31))
                if is_own.any():
                    values[is_own] = self.flow.sample(weights, condition[is_own], level, seed)
        return values


def dequantization_points(encoder: TableEncoder, num: int = NUM_POINTS) -> np.ndarray:
    """Returns up to `num` points `[num, size + 1]` of the unit cube for `Coordinates.dequantize`.

    They are evenly spread in the last coordinate and where values have cells or can be missing, and 0.5 elsewhere.
    """
    is_drawn = encoder.own.has_cells | encoder.is_masked
    places = [*np.flatnonzero(is_drawn), -1]
    points = np.full([num if is_drawn.any() else 1, len(is_drawn) + 1], 0.5)
    # Means over a scrambled Sobol sequence are unbiased (Owen 1998).
    points[:, places] = stats.qmc.Sobol(len(places), seed=0).random(len(points))
    return points


def log_densities(
    encoder: TableEncoder,
    rows: Vectors,
    points: np.ndarray,
    levels: Sequence[float],
    log_probs: Sequence[Callable[[Any], Any]],
) -> tf.Tensor:
    """Returns the log-densities of rows at noise levels, mixed with the largest level: float64 `[levels, num]`.

    Args:
      points: result of `dequantization_points`.
      log_probs: functions of vectors, followed by the code of the noise level and the condition, for each member.
    """
    num, levels = tf.shape(rows.condition)[0], [*levels, MOST_NOISE]
    tiled = Vectors(*(tf.tile(x, [len(points), *[1] * (len(x.shape) - 1)]) for x in rows))
    z, log_q = encoder.own.dequantize(tiled, tf.repeat(tf.constant(points), num, axis=0))
    z, condition = (tf.clip_by_value(x, -_FARTHEST, _FARTHEST) for x in (z, tiled.condition))
    codes = [tf.zeros_like(z[:, :1]) + noise_code(level) for level in levels]
    values = tf.concat([tf.concat([z, code, condition], axis=1) for code in codes], axis=0)
    found = [tf.reshape(tf.cast(f(values), tf.float64), [len(levels), len(points), num]) for f in log_probs]
    found = tf.concat(found, axis=1) - tf.tile(tf.reshape(log_q, [len(points), num]), [len(log_probs), 1])
    log_means = tf.reduce_logsumexp(found, axis=1) - math.log(len(points) * len(log_probs))
    parts = tf.stack(
        [math.log1p(-BROAD) + log_means[:-1], tf.zeros_like(log_means[:-1]) + math.log(BROAD) + log_means[-1]]
    )
    return tf.reduce_logsumexp(parts, axis=0) + rows.log_scale
