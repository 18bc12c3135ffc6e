"""The Schatten norm of a linear operator: an upper bound of its spectral norm, without an iteration to converge."""

import tensorflow as tf

from tf_resflow.layers.operator_norms import InducedNorm, over_its_peak

__all__ = ["SchattenNorm", "largest_eigenvalue_bound"]

_NUM_SQUARINGS = 5


class SchattenNorm(InducedNorm):
    """||W||_{2 -> 2}, estimated from above by the Schatten norm of order 128, (sum_i s_i^128)^(1/128).

    It is a function of the kernel alone, from five squarings of the Gram matrix of the smaller side:

        ||W|| <= (tr (W'W)^64)^(1/128) <= r^(1/128) ||W||    with r the rank, at most the smaller side.

    It is smooth, also where singular values cross. A convolution of more than 64 dimensions has the largest of the
    Schatten norms of its Fourier symbols (`ConvolutionOperator.gram_blocks`).

    References:
      Delattre et al., "Efficient bound of Lipschitz constant for convolutional layers by Gram iteration" (2023).
    """

    def estimate(self, v: tf.Tensor | None = None) -> tf.Tensor:
        """The Schatten norm, which needs no vectors."""
        kernel, peak = over_its_peak(self.kernel)
        return peak * tf.sqrt(largest_eigenvalue_bound(self.operator.gram_blocks(kernel)))


def largest_eigenvalue_bound(gram: tf.Tensor) -> tf.Tensor:
    """The largest (tr G^64)^(1/64) of Hermitian semidefinite matrices G, `[..., n, n]` to a real scalar.

    All squares are divided by their largest trace, which the result takes back: nothing overflows, and what
    underflows is not the largest. Of zeros the gradient is 0.
    """
    bound = tf.ones([], gram.dtype.real_dtype)
    for i in range(_NUM_SQUARINGS):
        trace = tf.stop_gradient(tf.reduce_max(tf.math.real(tf.linalg.trace(gram))))
        bound *= trace ** (0.5**i)
        gram /= tf.cast(tf.where(trace > 0, trace, tf.ones_like(trace)), gram.dtype)
        gram = tf.matmul(gram, gram)
    total = tf.reduce_max(tf.reduce_sum(tf.math.real(gram * tf.math.conj(gram)), [-2, -1]))
    return bound * tf.maximum(total, 1e-30) ** (0.5 ** (_NUM_SQUARINGS + 1))
