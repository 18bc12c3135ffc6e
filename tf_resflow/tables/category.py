"""Represents the levels of a category by points with normal noise."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

_MOST_SIMPLEX = 8  # maximum number of levels with one coordinate per level, less one
_SIZE = 4  # number of coordinates of more levels
_DISTANCE = 5.0  # between the nearest two points, in standard deviations of the noise


@dataclasses.dataclass(frozen=True)
class Category:
    r"""The levels of a category as points \\(e_k\\) with normal noise of standard deviation s.

    Level k with the share \\(\pi_k\\) becomes \\(z \sim q(z|k) = N(e_k, s^2 I)\\), and z becomes level k with the
    probability \\(P(k|z) = \pi_k q(z|k) / m(z)\\), where \\(m(z) = \sum_j \pi_j q(z|j)\\). A density p of vectors
    therefore gives level k the probability

    \\(\int P(k|z) p(z) dz = \pi_k E_{q(z|k)}[p(z) / m(z)]\\),

    and the probabilities of all levels add up to one.

    Attributes:
      place: position of the column.
      points: \\(e_k\\), `[levels, size]`.
      deviation: s.
      shares: \\(\pi_k\\), `[levels]`.
    """

    place: int
    points: np.ndarray
    deviation: float
    shares: np.ndarray

    @classmethod
    def fit(cls, place: int, num_levels: int, k: np.ndarray) -> "Category":
        """Fits a category to the numbers of its levels `[num]`, NaN if missing."""
        counts = np.bincount(k[np.isfinite(k)].astype(int), minlength=num_levels).astype(float)
        shares = (counts + 0.5) / (counts + 0.5).sum()
        if num_levels <= _MOST_SIMPLEX:
            points = np.eye(num_levels)
        else:
            points = np.random.default_rng(0).normal(size=[num_levels, _SIZE])
        points = points - shares @ points
        _, scales, axes = np.linalg.svd(np.sqrt(shares)[:, np.newaxis] * points, full_matrices=False)
        points = points @ axes[scales > 1e-9].T if num_levels > 1 else np.zeros([1, 1])
        distances = np.linalg.norm(points[:, np.newaxis] - points, axis=-1) + np.where(
            np.eye(num_levels), np.inf, 0.0
        )
        deviation = distances.min() / _DISTANCE if num_levels > 1 else 1.0
        scale = 1 / math.sqrt(np.mean(shares @ points**2) + deviation**2)
        return cls(place, scale * points, scale * deviation, shares)

    @property
    def size(self) -> int:
        """The number of coordinates."""
        return self.points.shape[1]

    def points_of(self, k: tf.Tensor) -> tf.Tensor:
        """Returns the points of levels `[num]`, and the logarithms of their shares, -inf if impossible."""
        is_level = tf.math.is_finite(k)
        index = tf.cast(tf.where(is_level, k, 0.0), tf.int32)
        log_shares = tf.gather(np.log(self.shares), index)
        return tf.gather(self.points, index), tf.where(tf.math.is_inf(k), np.float64(-math.inf), log_shares)

    def log_density(self, z: tf.Tensor) -> tf.Tensor:
        """Returns log m(z), `[num]`."""
        return tf.reduce_logsumexp(self._log_joint(z), axis=1)

    def level(self, z: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
        """Draws the level of each point by the uniform numbers u `[num]`."""
        below = tf.cumsum(tf.nn.softmax(self._log_joint(z)), axis=1)[:, :-1] < u[:, tf.newaxis]
        return tf.reduce_sum(tf.cast(below, tf.float64), axis=1)

    def _log_joint(self, z):
        squares = tf.reduce_sum((z[:, tf.newaxis] - self.points) ** 2, axis=-1) / self.deviation**2
        constant = np.log(self.shares) - self.size * (math.log(self.deviation) + 0.5 * math.log(2 * math.pi))
        return constant - squares / 2

    def to_json(self) -> dict[str, Any]:
        """Returns the attributes as values that JSON can hold."""
        arrays = {"points": self.points.tolist(), "shares": self.shares.tolist()}
        return {"place": int(self.place), "deviation": float(self.deviation)} | arrays

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Category":
        """Restores a category from the output of `to_json`."""
        points, shares = (np.array(found[name], np.float64) for name in ("points", "shares"))
        return cls(found["place"], points, found["deviation"], shares)
