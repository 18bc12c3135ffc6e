"""The norm ||W||_{p -> q} = max ||W v||_q / ||v||_p of a linear operator.

Each kind of orders has a class:

| orders | class |
|---|---|
| p = q = 2 | `tf_resflow.layers.spectral_norm.SpectralNorm` |
| p = 1 or q = inf | `tf_resflow.layers.closed_form_norm.closed_form_norm` |
| other orders, including learned ones | `tf_resflow.layers.power_norm.PowerNorm` |
"""

import abc
from collections.abc import Callable, Sequence

import tensorflow as tf

from tf_resflow._internal.private_api import custom_gradient
from tf_resflow.layers.linear_operators import LinearOperator
from tf_resflow.layers.tracing import first_order_only
from tf_resflow.layers.vector_norms import per_start, vector_axes

STALE = 3e-4  # change of v by a power step beyond which v no longer fits its kernel
OVERTAKEN = 1e-3  # relative excess of another vector's ||W v||_q / ||v||_p beyond which v is searched for again
REFINEMENT_STEPS = 60
ROUNDING = 1.0 + 1e-9  # factor of bounds, which are computed in float64

_ONCE = (
    "A second derivative in the kernel of a Lipschitz layer was requested, but the gradient holds the maximizer of "
    "its norm constant, so the derivative would be silently wrong. Use finite differences of the gradient in the "
    "kernel. For a mixed derivative, differentiate in the inputs first, or use a GradientTape with "
    "watch_accessed_variables=False that watches only the inputs."
)


class OperatorNorm(abc.ABC):
    """||W||_{p -> q} as a function of the kernel of W, from below at vectors v that a layer stores.

    Kernels have the shape of the operator. If a norm `is_stackable`, kernels `[matrices, inputs, outputs]` of equal
    operators may be stacked, with one vector per matrix.
    """

    num_starts: int
    """The number of vectors that a layer stores: 0 if the norm has a closed form. Then v is None."""

    is_stackable = False

    @abc.abstractmethod
    def maximizer(
        self, kernel: tf.Tensor, v: tf.Tensor, tolerance: float, max_iterations: int, num_fresh: int | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Searches for vectors that maximize ||W v||_q / ||v||_p, from an initial guess.

        Args:
          kernel: The kernel, or stacked kernels.
          v: Initial vectors, `[starts, ...]`.
          tolerance: Change of v by a power step, relative to its 2-norm, at which a search ends.
          max_iterations: Maximum number of steps.
          num_fresh: See `tf_resflow.layers.update_norms`.

        Returns:
          v, with the best start first, and the number of steps.
        """

    @abc.abstractmethod
    def refined(self, kernel: tf.Tensor, v: tf.Tensor | None) -> tf.Tensor | None:
        """Returns vectors that fit the kernel, from stored ones, which may belong to an earlier kernel.

        No gradient flows through them.
        """

    @abc.abstractmethod
    def estimate(self, kernel: tf.Tensor, v: tf.Tensor | None) -> tf.Tensor:
        """Returns the norm at the vectors v, which is differentiable in the kernel: one number for each kernel."""

    @abc.abstractmethod
    def scaled(self, kernel: tf.Tensor, v: tf.Tensor | None, limits: Sequence[float]) -> tf.Tensor:
        r"""Returns \\(\hat W = W / d\\) with \\(d = \max(1, \|W\| / \mathrm{limit})\\), with one limit per kernel.

        The result is differentiable in the kernel.
        """

    @abc.abstractmethod
    def bound(self, kernel: tf.Tensor) -> tf.Tensor:
        """Returns an upper bound of the norm, computed in float64 and rounded up."""


def scaled_at(
    operator: LinearOperator,
    kernel: tf.Tensor,
    v: tf.Tensor,
    limits: Sequence[float],
    norm_of_image: Callable[[tf.Tensor], tf.Tensor],
    dual_of_image: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor],
) -> tf.Tensor:
    r"""Computes `OperatorNorm.scaled` from the norm at its maximizer, differentiable once in the kernel.

    The norm has the gradient \\(u v^T\\), where v is the maximizer, \\(u^T W v = \|W v\|_q\\) and
    \\(\|u\|_{q^*} = 1\\). If the norm exceeds the limit, an upstream gradient G therefore becomes
    \\((G - \langle G, \hat W \rangle u v^T / \mathrm{limit}) / d\\), and G / d = G otherwise.

    Args:
      operator: The operator W.
      kernel: The kernel of W, or stacked kernels.
      v: The maximizer of each kernel, with ||v||_p = 1.
      limits: The limit of each kernel.
      norm_of_image: Returns ||W v||_q of the images W v, `[kernels]`.
      dual_of_image: Returns u times a factor, given W v, ||W v||_q and the factor of each kernel.
    """
    is_stacked = operator.is_stacked(kernel)

    def per_kernel(numbers, x):
        return per_start(numbers, x) if is_stacked else numbers

    @custom_gradient
    def divided(kernel, v):
        limit = tf.constant(limits, kernel.dtype)
        image = operator.matvec(kernel, v)
        norm = norm_of_image(image)
        divisor = tf.maximum(norm / limit, 1.0)
        result = kernel / per_kernel(divisor, kernel)

        def grad(upstream):
            (scaled,) = first_order_only([result], _ONCE, [kernel])
            product = tf.reduce_sum(upstream * scaled, vector_axes(kernel) if is_stacked else None)
            factor = tf.where(norm > limit, product / norm, tf.zeros_like(norm))
            dual = dual_of_image(image, norm, factor)
            return upstream / per_kernel(divisor, kernel) - operator.outer(v, dual), None

        return result, grad

    return divided(kernel, v)
