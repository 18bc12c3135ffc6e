"""The norm ||W||_{p -> q} for p = 1 or q = inf: a maximum over the columns or the rows of W."""

import abc
import math
from collections.abc import Callable, Sequence

import tensorflow as tf

from tf_resflow.layers.linear_operators import LinearOperator
from tf_resflow.layers.operator_norm import ROUNDING, OperatorNorm
from tf_resflow.layers.vector_norms import Order, dual_order, in_dtype, is_order, nonzero


def has_closed_form(domain: Order, codomain: Order) -> bool:
    """Whether ||W||_{p -> q} is a maximum over columns (p = 1) or over rows (q = inf)."""
    return is_order(domain, 1.0) or is_order(codomain, math.inf)


def closed_form_norm(operator: LinearOperator, domain: Order, codomain: Order) -> OperatorNorm:
    """Returns the norm for orders with a closed form.

    For p = 1, it is the largest norm ||column||_q. For q = inf, it is the largest norm ||row||_{p*}. For both, it
    is the largest weight.
    """
    if is_order(domain, 1.0) and is_order(codomain, math.inf):
        return _LargestWeight(operator)
    if is_order(domain, 1.0):
        return _LargestColumn(operator, codomain)
    return _LargestRow(operator, domain)


def line_norms(kernel: tf.Tensor, line_sums: Callable[[tf.Tensor], tf.Tensor], order: Order) -> tf.Tensor:
    """Returns the norms of rows or columns of an operator.

    Args:
      kernel: The kernel of the operator.
      line_sums: Returns the sums of the rows or columns of the operator with a given kernel.
      order: The order of the norms.
    """
    peak = tf.stop_gradient(tf.reduce_max(tf.abs(kernel)))
    powers = tf.abs(kernel / nonzero(peak)) ** order
    return peak * tf.maximum(line_sums(powers), 1e-30) ** (1.0 / order)


class _ClosedFormNorm(OperatorNorm):
    """A norm that needs no vectors. It is exact, and differentiable any number of times."""

    num_starts = 0

    @abc.abstractmethod
    def _norm(self, kernel: tf.Tensor) -> tf.Tensor:
        """Returns the norm, a scalar."""

    def maximizer(self, kernel, v, tolerance, max_iterations, num_fresh=None):
        return None, tf.constant(0)

    def refined(self, kernel: tf.Tensor, v: None) -> None:
        return None

    def estimate(self, kernel: tf.Tensor, v: None = None) -> tf.Tensor:
        return self._norm(kernel)

    def scaled(self, kernel: tf.Tensor, v: None, limits: Sequence[float]) -> tf.Tensor:
        return kernel / tf.maximum(self._norm(kernel) / tf.constant(limits, kernel.dtype), 1.0)

    def bound(self, kernel: tf.Tensor) -> tf.Tensor:
        return self._norm(tf.cast(kernel, tf.float64)) * ROUNDING


class _LargestWeight(_ClosedFormNorm):
    def __init__(self, operator: LinearOperator):
        self._operator = operator

    def _norm(self, kernel):
        return tf.reduce_max(tf.abs(self._operator.effective_kernel(kernel)))


class _LargestColumn(_ClosedFormNorm):
    def __init__(self, operator: LinearOperator, codomain: Order):
        self._operator = operator
        self._codomain = codomain

    def _norm(self, kernel):
        return tf.reduce_max(line_norms(kernel, self._operator.column_sums, in_dtype(self._codomain, kernel)))


class _LargestRow(_ClosedFormNorm):
    def __init__(self, operator: LinearOperator, domain: Order):
        self._operator = operator
        self._domain = domain

    def _norm(self, kernel):
        order = dual_order(in_dtype(self._domain, kernel))
        return tf.reduce_max(line_norms(kernel, self._operator.row_sums, order))
