"""The density of the rows of a table: a mean over flows, integrated over cells and missing values."""

import math
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from scipy import stats

from tf_resflow.tables.arguments import LEAST_NOISE, MOST_NOISE
from tf_resflow.tables.encoder import Rows, TableEncoder
from tf_resflow.tables.noise_conditioned import code_of, is_ahead, shared_flow

BROAD = 0.01
"""The weight of the density at the largest noise level, which determines the scores of far rows."""

NUM_POINTS = 32
"""The number of points of the mean over cells and missing values."""

_LEVELS = np.geomspace(LEAST_NOISE, MOST_NOISE, 12)  # the noise levels to choose from
_FARTHEST = 1e12  # standardized values are clipped here, so that float32 can represent their squares
_MOST_HELD_OUT = 10_000  # maximum number of held-out rows per member
_MOST_COMPARED = 500  # maximum number of held-out rows per member to choose the noise level
_FEW_ROWS, _MEMBERS = 500, 4  # up to _FEW_ROWS rows, the default is _MEMBERS flows
_AT_ONCE = 2**16  # vectors scored at once


class TableDensity:
    r"""The density of the rows of a table, from the members of an ensemble of noise-conditioned flows.

    \\(p(x) = 0.99\, p_\sigma(x) + 0.01\, p_1(x)\\), where \\(\sigma\\) is the noise level. \\(p_\sigma(x)\\) is the
    mean over the members and over points of the cells of x, see `Coordinates.spread`.

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

    def train(
        self,
        numbers: np.ndarray,
        weights: np.ndarray,
        rng: np.random.RandomState,
        *,
        noise: str | float,
        whiten: bool | None,
        num_members: int | None,
        max_steps: int | None,
        validation_fraction: float,
        verbose: Any,
        trained: MutableMapping[int, Any],
    ) -> dict[str, Any]:
        """Trains the members and chooses the noise level. For the arguments, see `FlowDensity`.

        Args:
          numbers: the numbers of the rows of the fit, see `TableEncoder.numbers`.
          weights: weights of the rows `[num]`.
          trained: members that are already trained, by position: pairs of weights and whether they whiten. New
            members are added.

        Returns:
          A dict of "whiten"; "noise_levels" and "held_out_scores", the mean log-likelihoods of held-out rows at
          these levels; and "held_out", the sorted indices of all held-out rows, with their "scores", each from the
          first member that held it out.
        """
        num, flow = len(numbers), self._flow()
        rows = self.encoder.encode(numbers)
        num_members = num_members or (_MEMBERS if num <= _FEW_ROWS else 1)
        num_held_out = min(max(3, int(validation_fraction * num)), _MOST_HELD_OUT)
        steps = flow.num_steps(num - num_held_out) if max_steps is None else max_steps
        levels = _LEVELS if noise == "auto" else np.array([float(noise)])
        order, seeds = rng.permutation(num), [int(rng.randint(2**31)) for _ in range(num_members)]
        self.members, held_out, scores = [], [], []
        for place, seed in enumerate(seeds):
            order = np.roll(order, num_held_out)
            own, kept = np.split(order, [num_held_out])
            if place not in trained:
                parts = rows.take(kept), rows.take(own), weights[kept], weights[own]
                options = {"whiten": whiten, "seed": seed, "steps": steps, "verbose": verbose}
                trained[place] = flow.train(*parts, **options)
            member, whiten = trained[place]
            self.members.append(member)
            held_out.append(own)
            scores.append(self._log_probs(numbers[own[:_MOST_COMPARED]], levels, [member])[0])
        compared = np.concatenate([own[:_MOST_COMPARED] for own in held_out])
        means = self._choose_noise(levels, np.concatenate(scores, axis=1), weights[compared])
        pairs = zip(held_out, self.members, strict=True)
        comparable = [self.score(numbers[own], [member])[1] for own, member in pairs]
        own, first = np.unique(np.concatenate(held_out), return_index=True)  # several members may hold out a row
        found = {"whiten": whiten, "noise_levels": levels, "held_out_scores": means}
        return found | {"held_out": own, "scores": np.concatenate(comparable)[first]}

    def _choose_noise(self, levels, scores, weights):
        """Chooses the largest level whose scores (a row of `[levels, num]`) are not clearly below the best."""
        means = scores @ weights / weights.sum()
        best = scores[np.argmax(means)]
        self.noise = float(levels[[not is_ahead(best - own, weights) for own in scores]].max())
        return means

    def score(
        self, numbers: np.ndarray, members: Sequence[Any] | None = None, *, num_points: int = NUM_POINTS
    ) -> np.ndarray:
        """Returns the log-densities of rows, and the scores that compare rows (see `Vectors.log_unit`): `[2, num]`.

        `numbers` are those of `TableEncoder.numbers`.
        """
        members = self.members if members is None else members
        (log_probs,), units = self._log_probs(numbers, [self.noise], members, num_points)
        return np.stack([log_probs, log_probs + units])

    def _log_probs(self, numbers, levels, members, num_points=NUM_POINTS):
        """Returns log-densities `[levels, num]`, and `Vectors.log_unit` `[num]`."""
        flow, found = self._flow(), []
        functions = [lambda x, w=w: flow.log_prob(w, x) for w in members]
        points = points_of(self.encoder, num_points)
        if not len(numbers):
            return np.zeros([len(levels), 0]), np.zeros(0)
        size = max(1, _AT_ONCE // (len(points) * (len(levels) + 1)))
        for start in range(0, len(numbers), size):
            rows = self.encoder.rows(tf.constant(numbers[start : start + size]))
            own = log_densities(self.encoder, rows, points, levels, functions)
            found.append((own.numpy(), rows.vectors.log_unit.numpy()))
        log_probs, units = zip(*found, strict=True)
        return np.concatenate(log_probs, axis=1), np.concatenate(units)

    def sample(
        self, condition: np.ndarray, rng: np.random.RandomState, noise: float, broad: float = 0.0
    ) -> np.ndarray:
        """Draws a vector for each condition at a noise level, and a share `broad` of them at the largest level."""
        num, size = len(condition), self.encoder.size
        member, values = rng.randint(len(self.members), size=num), np.empty([num, size])
        is_broad = rng.uniform(size=num) < broad
        for level, is_chosen in ((noise, ~is_broad), (MOST_NOISE, is_broad)):
            for place, weights in enumerate(self.members):
                is_own, seed = is_chosen & (member == place), int(rng.randint(2**31))
                if is_own.any():
                    values[is_own] = self._flow().sample(weights, condition[is_own], level, seed)
        return values

    def sample_all(self, condition: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
        """Draws a vector from the density itself for each condition."""
        return self.sample(condition, rng, self.noise, BROAD)

    def _flow(self):
        return shared_flow(self.encoder.size, self.encoder.condition_size, self.num_blocks, self.hidden)


def points_of(encoder: TableEncoder, num: int = NUM_POINTS) -> np.ndarray:
    """Returns up to `num` points `[num, size + 1]` of the unit cube for `Coordinates.spread`.

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
    rows: Rows,
    points: np.ndarray,
    levels: Sequence[float],
    log_probs: Sequence[Callable[[Any], Any]],
) -> tf.Tensor:
    """Returns the log-densities of rows at noise levels, mixed with the largest level: float64 `[levels, num]`.

    Args:
      points: result of `points_of`.
      log_probs: functions of vectors, followed by the code of the noise level and the condition, for each member.
    """
    num, levels = tf.shape(rows.condition)[0], [*levels, MOST_NOISE]
    tile = lambda x: tf.tile(x, [len(points), *[1] * (len(x.shape) - 1)])  # noqa: E731
    vectors = tf.nest.map_structure(tile, rows.vectors)
    z, log_q = encoder.own.spread(vectors, tf.repeat(tf.constant(points), num, axis=0))
    z, condition = (tf.clip_by_value(x, -_FARTHEST, _FARTHEST) for x in (z, tile(rows.condition)))
    codes = [tf.zeros_like(z[:, :1]) + code_of(level) for level in levels]
    values = tf.concat([tf.concat([z, code, condition], axis=1) for code in codes], axis=0)
    found = [tf.reshape(tf.cast(f(values), tf.float64), [len(levels), len(points), num]) for f in log_probs]
    found = tf.concat(found, axis=1) - tf.tile(tf.reshape(log_q, [len(points), num]), [len(log_probs), 1])
    log_means = tf.reduce_logsumexp(found, axis=1) - math.log(len(points) * len(log_probs))
    parts = tf.stack(
        [math.log1p(-BROAD) + log_means[:-1], tf.zeros_like(log_means[:-1]) + math.log(BROAD) + log_means[-1]]
    )
    return tf.reduce_logsumexp(parts, axis=0) + rows.vectors.log_scale
