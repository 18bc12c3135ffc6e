"""Distributions of the random number of extra terms of a Russian-roulette estimator."""

import dataclasses
import math

import tensorflow as tf

from tf_resflow._internal.seeds import random_uniform
from tf_resflow._internal.serialization import Settings
from tf_resflow._internal.typing import DType, Seed, Shape, TensorLike


@dataclasses.dataclass(frozen=True)
class Geometric(Settings):
    """Geometric distribution of `N` in {1, 2, ...}, `P(N >= k) = (1 - p)^(k - 1)`. `tfd.Geometric` starts at 0.

    Args:
      p: Probability of stopping after a term, in (0, 1), with `E[N] = 1 / p`. The variance of the estimator is
        finite if `1 - p > L^2`, such as for `p = 1 - L`.

    References:
      Chen et al. 2019, Section 3.1.
    """

    p: float = 0.5

    def __post_init__(self):
        if not 0.0 < self.p < 1.0:
            raise ValueError(f"Got p={self.p}; the probability p of Geometric must be in (0, 1).")
        object.__setattr__(self, "p", float(self.p))  # NumPy's numbers would not equal Python's

    def sample(self, shape: Shape, seed: Seed) -> tf.Tensor:
        """Draws `int32` counts from a stateless seed."""
        # In single precision, the smallest uniform number, once in 2^23 draws, would represent the whole tail.
        u = random_uniform(shape, seed, tf.float64)
        return tf.cast(tf.floor(tf.math.log(u) / math.log1p(-self.p)), tf.int32) + 1

    def survival(self, k: TensorLike, dtype: DType) -> tf.Tensor:
        """Returns `P(N >= k)` for integers `k >= 1`."""
        return tf.constant(1.0 - self.p, dtype) ** (tf.cast(k, dtype) - 1.0)

    def finite_variance(self, lipschitz_constant: float) -> bool:
        """Returns whether `sum_k L^(2k) / P(N >= k)` is finite."""
        return 1.0 - self.p > lipschitz_constant**2


@dataclasses.dataclass(frozen=True)
class Poisson(Settings):
    """Poisson distribution of `N` in {0, 1, ...}, with `P(N >= k) = igamma(k, rate)` (no cancellation in the tail).

    The tail falls faster than any power `L^k`, so the variance of the estimator is infinite unless the spectral
    radius of the Jacobian is zero. Use it only to reproduce published results; prefer `Geometric`.

    Args:
      rate: The mean, positive.
    """

    rate: float = 2.0

    def __post_init__(self):
        if not self.rate > 0.0:
            raise ValueError(f"Got rate={self.rate}; the rate of Poisson must be positive.")
        object.__setattr__(self, "rate", float(self.rate))

    def sample(self, shape: Shape, seed: Seed) -> tf.Tensor:
        k = tf.range(1.0, 40.0 + self.rate + 12.0 * self.rate**0.5, dtype=tf.float64)  # the rest is negligible
        u = random_uniform(shape, seed, tf.float64)
        return tf.reduce_sum(tf.cast(u[..., tf.newaxis] < self.survival(k, tf.float64), tf.int32), -1)

    def survival(self, k: TensorLike, dtype: DType) -> tf.Tensor:
        tail = tf.math.igamma(tf.cast(k, tf.float64), tf.constant(self.rate, tf.float64))
        return tf.cast(tail, dtype)

    def finite_variance(self, lipschitz_constant: float) -> bool:
        return lipschitz_constant == 0


TermDistribution = Geometric | Poisson
