"""The norm ||W||_{2 -> 2}, the largest singular value of W."""

import math
from collections.abc import Sequence

import tensorflow as tf

from tf_resflow.layers import singular_vectors
from tf_resflow.layers.linear_operators import LinearOperator, MatrixOperator
from tf_resflow.layers.operator_norm import OVERTAKEN, REFINEMENT_STEPS, ROUNDING, STALE, OperatorNorm, scaled_at
from tf_resflow.layers.singular_vectors import SingularVectorSearch
from tf_resflow.layers.tracing import traced_once
from tf_resflow.layers.vector_norms import lp_norm, per_start, vector_axes

_MOST_STACKED = 2**18  # largest number of weights of a matrix that is stacked with others


class SpectralNorm(OperatorNorm):
    """The largest singular value, at the leading right singular vector v, a unit vector.

    Small matrices are stackable.
    """

    num_starts = 1

    def __init__(self, operator: LinearOperator):
        self._operator = operator
        is_matrix = isinstance(operator, MatrixOperator)
        self.is_stackable = is_matrix and math.prod(operator.shape) <= _MOST_STACKED

    def maximizer(
        self, kernel: tf.Tensor, v: tf.Tensor, tolerance: float, max_iterations: int, num_fresh: int | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Finds the leading right singular vectors.

        In eager mode, NumPy and SciPy find them, unless `num_fresh` is 0. A graph computes the vector of a small
        operator from its Gram matrix, and takes `max_iterations` steps of the Lanczos method for a larger one.
        After every 14 steps, it stops if a power step would change v by at most the tolerance.

        A vector that hardly changes is a singular vector, but not necessarily the leading one. The Lanczos method
        therefore starts from v plus a random vector.
        """
        if tf.executing_eagerly() and num_fresh != 0:
            return singular_vectors.leading_in_eager_mode(self._operator, kernel, v, tolerance), tf.constant(1)

        def search(kernel, v):
            return SingularVectorSearch(self._operator, kernel).run(v, tolerance, max_iterations)

        return traced_once(("spectral search", self._operator, tolerance, max_iterations), search, kernel, v)

    def refined(self, kernel: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
        """Returns vectors that fit the kernel, from stored ones, which may belong to an earlier kernel.

        The vector of a small operator is always computed. Other stored vectors are kept if a power step would not
        change them by more than 0.03 % and a short search finds no larger norm.
        """

        def refine(kernel, v):
            search = SingularVectorSearch(self._operator, kernel)
            if search.is_small:
                return search.run(v, STALE, REFINEMENT_STEPS)[0]
            is_current = ~(search.is_stale(v, STALE) | search.is_overtaken(v, OVERTAKEN))
            return tf.cond(is_current, lambda: v, lambda: search.run(v, STALE, REFINEMENT_STEPS)[0])

        return traced_once(("spectral refinement", self._operator), refine, tf.stop_gradient(kernel), v)

    def estimate(self, kernel: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
        """Returns ||W v|| / ||v||. By the envelope theorem, its gradient needs no gradient through v."""
        v = tf.stop_gradient(v)
        norms = lp_norm(self._operator.matvec(kernel, v), 2.0) / lp_norm(v, 2.0)
        return norms if self._operator.is_stacked(kernel) else tf.reduce_max(norms)

    def scaled(self, kernel: tf.Tensor, v: tf.Tensor, limits: Sequence[float]) -> tf.Tensor:
        """See `scaled_at`."""

        def norm_of_image(image):  # squares of float32 neither overflow nor underflow in float64
            square = tf.reduce_sum(tf.square(tf.cast(image, tf.float64)), vector_axes(image))
            return tf.cast(tf.sqrt(square), kernel.dtype)

        def dual_of_image(image, norm, factor):
            factor_of_image = tf.math.divide_no_nan(factor, norm)
            if self._operator.is_stacked(kernel):
                factor_of_image = per_start(factor_of_image, image)
            return image * factor_of_image

        return scaled_at(self._operator, kernel, v, limits, norm_of_image, dual_of_image)

    def bound(self, kernel: tf.Tensor) -> tf.Tensor:
        """Returns the largest singular value, or an upper bound for large convolutions (`spectral_bound`)."""
        return self._operator.spectral_bound(tf.cast(kernel, tf.float64)) * ROUNDING
