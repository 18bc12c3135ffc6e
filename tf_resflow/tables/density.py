"""The density of the rows of a table: a mean over flows, integrated over cells and missing values."""

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from scipy import stats

from tf_resflow._internal.messages import counted
from tf_resflow.tables.arguments import MOST_NOISE
from tf_resflow.tables.encoder import TableEncoder
from tf_resflow.tables.noise_conditioned import NoiseConditionedFlow, noise_code, shared_flow
from tf_resflow.tables.vectors import Vectors, dequantize

BROAD = 0.01
"""The weight of the density at the largest noise level, which determines the scores of far rows."""

NUM_POINTS = 32
"""The number of points of a mean over cells and missing values without a tolerance."""

TOLERANCE = 0.02
"""The tolerated standard error of a score: in nats, or in standard deviations of held-out scores if larger."""

MOST_POINTS = 1024
"""The maximum number of points of a score."""

_FARTHEST = 1e12  # standardized values are clipped here, so that float32 can represent their squares
_AT_ONCE = 2**16  # vectors scored at once
_NUM_SETS = 16  # independent sets of points
_AT_A_TIME = 4  # points of each set that are evaluated at a time
_CAUTION = 1.25  # the error estimated from 16 sets has a standard error of 18 %
_MOST_TURNS = 100.0  # of the shift of a row, per unit of a transformed value
_STEPS_OF_SHIFTS = 1e6  # values that differ by less have the same shift
_BITS = 30  # of the coordinates of a point


class TableDensity:
    r"""The density of the rows of a table, from the members of an ensemble of noise-conditioned flows.

    \\(p(x) = 0.99\, p_\sigma(x) + 0.01\, p_1(x)\\), where \\(\sigma\\) is the noise level. \\(p_\sigma(x)\\) is the
    mean over the members and over points of the cells of x, see `tf_resflow.tables.vectors.dequantize`.

    Args:
      encoder: The `TableEncoder`.
      num_blocks: See `tf_resflow.flows.vector_flow`, also for `hidden`.
      members: Weights of each member.
      noise: The noise level.
      tolerance: The tolerated standard error of scores, in nats.
    """

    def __init__(
        self,
        encoder: TableEncoder,
        num_blocks: int,
        hidden: Sequence[int],
        members: Sequence[Sequence[np.ndarray]] = (),
        noise: float = MOST_NOISE,
        tolerance: float = TOLERANCE,
    ):
        self.encoder = encoder
        self.num_blocks = num_blocks
        self.hidden = tuple(map(int, hidden))
        self.members = [list(member) for member in members]
        self.noise = noise
        self.tolerance = tolerance

    @property
    def flow(self) -> NoiseConditionedFlow:
        """The flow that evaluates the members."""
        return shared_flow(self.encoder.size, self.encoder.condition_size, self.num_blocks, self.hidden)

    def score(self, numbers: np.ndarray, *, num_points: int | None = None) -> np.ndarray:
        """Returns the log-densities of rows, and the scores that compare rows (see `Vectors.log_unit`): `[2, num]`.

        Args:
          numbers: See `TableEncoder.numbers`.
          num_points: Number of points, the same for all rows that are integrated. By default, see
            `estimate_log_density`; then a warning says if rows do not reach the tolerance.
        """
        if num_points is not None:
            scores = np.empty([2, len(numbers)])
            is_integrated = self.is_integrated(numbers)
            for is_scored, num in ((~is_integrated, 1), (is_integrated, num_points)):
                (log_probs,), units = self.log_probs(numbers[is_scored], [self.noise], self.members, num)
                scores[:, is_scored] = log_probs, log_probs + units
            return scores
        scores, errors = self.scores_and_errors(numbers)
        self.warn(errors)
        return scores

    def is_integrated(self, numbers: np.ndarray) -> np.ndarray:
        """Returns which rows have scores that are means over points, bool `[num]`. The other scores are exact."""
        if not _is_drawn(self.encoder).any():
            return np.zeros(len(numbers), bool)
        return is_integrated(self.encoder.encode(numbers)).numpy()

    def warn(self, errors: np.ndarray) -> None:
        """Warns if standard errors exceed the tolerance."""
        num = int(np.count_nonzero(errors > self.tolerance))
        if num:
            warnings.warn(
                f"The scores of {counted(num, 'row')} have standard errors above the tolerance of "
                f"{self.tolerance:.2g} nats after {MOST_POINTS:,} points; the largest is {errors.max():.2g}.",
                stacklevel=4,
            )

    def scores_and_errors(
        self, numbers: np.ndarray, members: Sequence[Any] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the scores `[2, num]` of rows, see `score`, and their standard errors `[num]`.

        The result of a row does not depend on other rows. A row without cells and missing values has no error.
        """
        if members is None:
            members = self.members
        rows = self.encoder.encode(numbers)
        scores = np.empty([2, len(numbers)])
        errors = np.zeros(len(numbers))
        is_exact = ~is_integrated(rows).numpy()
        (log_probs,), _ = self.log_probs(numbers[is_exact], [self.noise], members, 1)
        scores[0, is_exact] = log_probs
        distinct, indices = np.unique(numbers[~is_exact], axis=0, return_inverse=True)
        functions = self._functions(members)
        blocks = point_blocks(self.encoder)
        size = _AT_ONCE // (2 * _NUM_SETS * _AT_A_TIME)
        estimates = [np.zeros([2, 0])]
        for start in range(0, len(distinct), size):
            chunk = self.encoder.rows(tf.constant(distinct[start : start + size]))
            estimates.append(
                np.stack(estimate_log_density(self.encoder, chunk, blocks, self.noise, functions, self.tolerance))
            )
        scores[0, ~is_exact], errors[~is_exact] = np.concatenate(estimates, axis=1)[:, indices.ravel()]
        scores[1] = scores[0] + rows.log_unit
        return scores, errors

    def _functions(self, members):
        """Returns the log-density of each member as a function of vectors, see `log_densities`."""
        return [functools.partial(self.flow.log_prob, weights) for weights in members]

    def log_probs(
        self, numbers: np.ndarray, levels: Any, members: Sequence[Any], num_points: int = NUM_POINTS
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns log-densities at noise levels `[levels, num]`, and `Vectors.log_unit` `[num]`."""
        functions = self._functions(members)
        points = dequantization_points(self.encoder, num_points)
        log_probs = np.zeros([len(levels), len(numbers)])
        log_units = np.zeros(len(numbers))
        size = max(1, _AT_ONCE // (len(points) * (len(levels) + 1)))
        for start in range(0, len(numbers), size):
            chunk = slice(start, start + size)
            rows = self.encoder.rows(tf.constant(numbers[chunk]))
            log_probs[:, chunk] = log_densities(self.encoder, rows, points, levels, functions)
            log_units[chunk] = rows.log_unit
        return log_probs, log_units

    def sample(self, condition: np.ndarray, rng: np.random.RandomState, noise: float | None = None) -> np.ndarray:
        """Draws a vector for each condition at a noise level, by default from the density itself."""
        num = len(condition)
        members = rng.randint(len(self.members), size=num)
        values = np.empty([num, self.encoder.size])
        is_broad = rng.uniform(size=num) < (BROAD if noise is None else 0.0)
        for level, has_level in ((self.noise if noise is None else noise, ~is_broad), (MOST_NOISE, is_broad)):
            for index, weights in enumerate(self.members):
                is_drawn = has_level & (members == index)
                seed = int(rng.randint(2**31))
                if is_drawn.any():
                    values[is_drawn] = self.flow.sample(weights, condition[is_drawn], level, seed)
        return values


def dequantization_points(encoder: TableEncoder, num: int = NUM_POINTS, seed: int = 0) -> np.ndarray:
    """Returns up to `num` points `[num, size + 1]` of the unit cube for `tf_resflow.tables.vectors.dequantize`.

    They are evenly spread in the last coordinate and where values have cells or can be missing, and 0.5 elsewhere.
    """
    is_drawn = _is_drawn(encoder)
    drawn = [*np.flatnonzero(is_drawn), -1]
    points = np.full([num if is_drawn.any() else 1, len(is_drawn) + 1], 0.5)
    # Means over a scrambled Sobol sequence are unbiased (Owen 1998).
    points[:, drawn] = stats.qmc.Sobol(len(drawn), seed=seed, bits=_BITS).random(len(points))
    return points


def _is_drawn(encoder):
    """Returns which coordinates of points matter, because values of their columns have cells or can be missing."""
    return encoder.own.has_cells | encoder.is_masked[: encoder.size]


def point_blocks(encoder: TableEncoder) -> np.ndarray | None:
    """Returns the points for `estimate`, int32 `[blocks, points, size + 1]`, or None if all rows are exact.

    A block consists of the next points of each of 16 independent sets.
    """
    if not _is_drawn(encoder).any():
        return None
    num = MOST_POINTS // _NUM_SETS
    sets = np.stack([dequantization_points(encoder, num, seed) for seed in range(_NUM_SETS)])
    blocks = np.reshape(sets * 2**_BITS, [_NUM_SETS, -1, _AT_A_TIME, sets.shape[2]]).swapaxes(0, 1)
    return blocks.reshape(len(blocks), -1, sets.shape[2]).astype(np.int32)


def is_integrated(rows: Vectors) -> tf.Tensor:
    """Returns which rows have cells or missing values, and can occur, `[num]`."""
    return tf.reduce_any((rows.widths > 0) | rows.is_blank, axis=1) & tf.math.is_finite(rows.log_scale)


def _shifts(rows):
    """Returns a shift for each row, int32 `[num, size + 1]`, which depends on the row alone.

    It is a hash: the fractional part of a sum of large multiples of the numbers of the row. The bits of the points
    are flipped where the shift has ones, which keeps points evenly spread. Without shifts, all rows would share the
    error of the points, and it would not average out in means over rows and totals.
    """
    values = tf.concat([rows.lower, tf.cast(rows.is_blank, tf.float64), rows.condition], axis=1)
    shape = [values.shape[1], rows.lower.shape[1] + 1]
    weights = np.random.default_rng(0).uniform(-_MOST_TURNS, _MOST_TURNS, shape)
    # The function asinh limits large values. After rounding, other units of a column give the same shift.
    turns = tf.round(tf.asinh(values) * _STEPS_OF_SHIFTS) / _STEPS_OF_SHIFTS @ weights
    return tf.cast(tf.math.floormod(turns, 1.0) * 2**_BITS, tf.int32)


def estimate_log_density(
    encoder: TableEncoder,
    rows: Vectors,
    blocks: Any,
    noise: float,
    log_probs: Sequence[Callable[[Any], Any]],
    tolerance: float,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the log-densities of rows and their standard errors, float64 `[num]`, also in a graph.

    The density of a row is the mean of 16 independent estimates, each from a set of scrambled Sobol points. Their
    spread gives the standard error. The number of points begins with 64 and doubles until 1.25 standard errors are
    at most the tolerance, or there are 1,024. Each row has its own shift and its own number of points, so its
    result does not depend on other rows.

    Args:
      blocks: Result of `point_blocks`.
      log_probs: See `log_densities`.
    """
    if blocks is None:
        points = dequantization_points(encoder)
        log_density = log_densities(encoder, rows, points, [noise], log_probs)[0]
        return log_density, tf.zeros_like(log_density)
    sums = _Sums(encoder, rows, blocks, noise, log_probs, tolerance)
    _, _, counts, log_sums = tf.while_loop(sums.is_unfinished, sums.add_block, sums.start())
    log_means = tf.reduce_logsumexp(log_sums, axis=1) - tf.math.log(counts * _NUM_SETS * _AT_A_TIME)
    return log_means + rows.log_scale, tf.where(is_integrated(rows), _standard_errors(log_sums), 0.0)


class _Sums:
    """The sums of the densities of rows over each set of points, for `tf.while_loop`.

    The state is the number of blocks added; whether a row needs more, `[num]`; the number of blocks of each row
    `[num]`; and the logarithms of the sums `[num, sets]`.
    """

    def __init__(self, encoder, rows, blocks, noise, log_probs, tolerance):
        self._encoder = encoder
        self._rows = rows
        self._blocks = blocks
        self._noise = noise
        self._log_probs = log_probs
        self._tolerance = tolerance
        self._shifts = _shifts(rows)

    def start(self):
        counts = tf.zeros_like(self._rows.log_scale)
        log_sums = tf.fill([tf.size(counts), _NUM_SETS], np.float64(-math.inf))
        return 0, tf.ones_like(counts, tf.bool), counts, log_sums

    def is_unfinished(self, step, is_active, counts, log_sums):
        return (step < self._blocks.shape[0]) & tf.reduce_any(is_active)

    def add_block(self, step, is_active, counts, log_sums):
        """Adds the next points of each set to the active rows. Checks the errors after 1, 2, 4, ... blocks."""
        indices = tf.where(is_active)
        pair = [tf.gather_nd(log_sums, indices), self._log_sums_of_block(step, indices[:, 0])]
        log_sums = tf.tensor_scatter_nd_update(log_sums, indices, tf.reduce_logsumexp(tf.stack(pair), axis=0))
        counts += tf.cast(is_active, tf.float64)
        step += 1
        is_checked = tf.equal(tf.bitwise.bitwise_and(step, step - 1), 0)
        is_active &= ~is_checked | (_CAUTION * _standard_errors(log_sums) > self._tolerance)
        return step, is_active, counts, log_sums

    def _log_sums_of_block(self, step, indices):
        """Returns the log-sums of the rows at `indices` over the points of a block: `[indices, sets]`."""
        block = tf.gather(self._blocks, step)
        shifted = tf.bitwise.bitwise_xor(block[:, tf.newaxis], tf.gather(self._shifts, indices))
        u = (tf.cast(tf.reshape(shifted, [-1, block.shape[1]]), tf.float64) + 0.5) * 2.0**-_BITS
        rows = Vectors(*(tf.gather(x, indices) for x in self._rows))
        ratios = _mixed(_log_ratios(rows, u, [self._noise], self._log_probs))[0]
        return tf.transpose(tf.reduce_logsumexp(tf.reshape(ratios, [_NUM_SETS, _AT_A_TIME, -1]), axis=1))


def _standard_errors(log_sums):
    """Returns the standard errors of log-means, from the spread of the sums over sets `[num, sets]`."""
    log_mean = tf.reduce_logsumexp(log_sums, axis=1, keepdims=True) - math.log(_NUM_SETS)
    return tf.math.reduce_std(tf.exp(log_sums - log_mean), axis=1) / math.sqrt(_NUM_SETS - 1)


def log_densities(
    encoder: TableEncoder,
    rows: Vectors,
    points: np.ndarray,
    levels: Sequence[float],
    log_probs: Sequence[Callable[[Any], Any]],
) -> tf.Tensor:
    """Returns the log-densities of rows at noise levels, mixed with the largest level: float64 `[levels, num]`.

    Args:
      points: Result of `dequantization_points`, the same for all rows, so that differences of rows and levels are
        more accurate.
      log_probs: Functions of vectors, followed by the code of the noise level and the condition, for each member.
    """
    u = tf.repeat(tf.constant(points), tf.shape(rows.condition)[0], axis=0)
    ratios = _log_ratios(rows, u, levels, log_probs)
    log_means = tf.reduce_logsumexp(ratios, axis=1) - math.log(len(points))
    return _mixed(log_means) + rows.log_scale


def _log_ratios(rows, u, levels, log_probs):
    """Returns log p / q of points u `[points * num, size + 1]` in rows: `[levels + 1, points, num]`."""
    num = tf.shape(rows.condition)[0]
    copies = tf.shape(u)[0] // tf.maximum(num, 1)
    tiled = Vectors(*(tf.tile(x, [copies, *[1] * (len(x.shape) - 1)]) for x in rows))
    z, log_q = dequantize(tiled, u)
    z, condition = (tf.clip_by_value(x, -_FARTHEST, _FARTHEST) for x in (z, tiled.condition))
    codes = [tf.zeros_like(z[:, :1]) + noise_code(level) for level in [*levels, MOST_NOISE]]
    values = tf.concat([tf.concat([z, code, condition], axis=1) for code in codes], axis=0)
    of_members = tf.stack([tf.cast(log_prob(values), tf.float64) for log_prob in log_probs])
    log_means = tf.reduce_logsumexp(of_members, axis=0) - math.log(len(log_probs))
    return tf.reshape(log_means, [len(codes), copies, num]) - tf.reshape(log_q, [copies, num])


def _mixed(log_values):
    """Mixes log-densities at each level `[levels + 1, ...]` with those at the last, largest level."""
    broad = tf.zeros_like(log_values[:-1]) + math.log(BROAD) + log_values[-1]
    return tf.reduce_logsumexp(tf.stack([math.log1p(-BROAD) + log_values[:-1], broad]), axis=0)
