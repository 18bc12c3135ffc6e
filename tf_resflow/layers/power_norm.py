"""The norm ||W||_{p -> q} for p > 1 and q < inf: the generalized power method, and the Riesz-Thorin bound."""

import math
from collections.abc import Sequence

import tensorflow as tf

from tf_resflow.layers.closed_form_norm import line_norms
from tf_resflow.layers.linear_operators import LinearOperator
from tf_resflow.layers.operator_norm import OVERTAKEN, REFINEMENT_STEPS, ROUNDING, STALE, OperatorNorm, scaled_at
from tf_resflow.layers.tracing import traced_once
from tf_resflow.layers.vector_norms import (
    Order,
    dual_order,
    dual_vector,
    in_dtype,
    lengths,
    lp_norm,
    nonzero,
    peaks,
    per_start,
    random_like,
)

_FEWEST_FRESH = 8
_MOST_FRESH = 128
_FRESH_VALUES = 2**14  # largest number of coordinates of all fresh starts
_FRESH_STEPS = 4  # of all fresh starts, before the best ones continue
_STARTS_OF_CHECK = 32
_STEPS_OF_CHECK = 2


class PowerNorm(OperatorNorm):
    """The norm of orders without a closed form, fixed or learned, at the best of several starts."""

    num_starts = 4

    def __init__(self, operator: LinearOperator, domain: Order, codomain: Order):
        self._operator = operator
        self._domain = domain
        self._codomain = codomain

    def maximizer(
        self, kernel: tf.Tensor, v: tf.Tensor, tolerance: float, max_iterations: int, num_fresh: int | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Takes steps of the generalized power method from several starts.

        It ends when a power step would change none by more than the tolerance, or after `max_iterations`. A vector
        that hardly changes is a local maximum, but not necessarily the largest one. Therefore, `num_fresh` fresh
        starts compete with v, by default 8 to 128, fewer for larger operators.
        """

        def search(method, v):
            return method.search(v, tolerance, max_iterations, num_fresh)

        return self._traced_once(("power search", tolerance, max_iterations, num_fresh), search, kernel, v)

    def refined(self, kernel: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
        """Returns vectors that fit the kernel, from stored ones, which may belong to an earlier kernel.

        Stored vectors are kept if a power step would not change the best one by more than 0.03 % and a short search
        from random vectors finds no larger norm.
        """

        def refine(method, v):
            return tf.cond(
                method.is_current(v), lambda: v, lambda: method.search(v, STALE, REFINEMENT_STEPS, None)[0]
            )

        return self._traced_once(("power refinement",), refine, tf.stop_gradient(kernel), v)

    def estimate(self, kernel: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
        """Returns max ||W v||_q / ||v||_p. By the envelope theorem, its gradient needs no gradient through v."""
        norms = self._norms(kernel, tf.stop_gradient(v))
        return tf.reduce_max(norms) * self._norm_of_copies(kernel)

    def scaled(self, kernel: tf.Tensor, v: tf.Tensor, limits: Sequence[float]) -> tf.Tensor:
        """See `scaled_at`."""
        copies = self._norm_of_copies(kernel)
        v = _best(v, self._norms(kernel, v), 1)
        v /= per_start(lp_norm(v, self._domain), v)

        def norm_of_image(image):
            return copies * lp_norm(image, self._codomain)

        def dual_of_image(image, norm, factor):
            return dual_vector(image, self._codomain) * (copies * factor)

        return scaled_at(self._operator, kernel, v, limits, norm_of_image, dual_of_image)

    def bound(self, kernel: tf.Tensor) -> tf.Tensor:
        """Returns the smallest of

            || (||row||_{p*}) ||_q,   || (||column||_q) ||_{p*},
            m^s RT(p),  n^s RT(q)     with s = max(0, 1/q - 1/p), for W: R^n -> R^m,

        where RT(r) >= ||W||_{r -> r} interpolates between r = 1, 2 and inf by the Riesz-Thorin theorem.
        """
        operator = self._operator
        kernel = tf.cast(kernel, tf.float64)
        domain = in_dtype(self._domain, kernel)
        codomain = in_dtype(self._codomain, kernel)
        dual = dual_order(domain)
        excess = self._inclusion(kernel)
        rows = line_norms(kernel, operator.row_sums, dual)
        columns = line_norms(kernel, operator.column_sums, codomain)
        column_sum = tf.reduce_max(line_norms(kernel, operator.column_sums, 1.0))
        row_sum = tf.reduce_max(line_norms(kernel, operator.row_sums, 1.0))
        spectral = operator.spectral_bound(kernel)

        def riesz_thorin(order):
            inverse = 1.0 / tf.convert_to_tensor(order, kernel.dtype)
            weight = 2.0 * tf.minimum(inverse, 1.0 - inverse)
            return tf.where(inverse > 0.5, column_sum, row_sum) ** (1.0 - weight) * spectral**weight

        candidates = [
            lp_norm(tf.reshape(rows, [1, -1]), codomain)[0],
            lp_norm(tf.reshape(columns, [1, -1]), dual)[0],
            riesz_thorin(domain) * operator.num_outputs**excess,
            riesz_thorin(codomain) * operator.num_inputs**excess,
        ]
        return tf.reduce_min(tf.stack(candidates)) * self._norm_of_copies(kernel) * ROUNDING

    def _norms(self, kernel, v):
        return lp_norm(self._operator.matvec(kernel, v), self._codomain) / lp_norm(v, self._domain)

    def _norm_of_copies(self, kernel):
        """Returns the factor of the norm of all copies of W, which act on different coordinates."""
        return self._operator.copies ** self._inclusion(kernel)

    def _inclusion(self, kernel):
        """Returns s = max(0, 1/q - 1/p). The inclusion of l^p into l^q in n dimensions has the norm n^s."""
        excess = 1.0 / in_dtype(self._codomain, kernel) - 1.0 / in_dtype(self._domain, kernel)
        return max(excess, 0.0) if isinstance(excess, float) else tf.maximum(excess, 0.0)

    def _traced_once(self, key, function, kernel, v):
        """Calls a function of the power method and v once per graph, for operators and orders that are equal."""
        orders = (in_dtype(self._domain, kernel), in_dtype(self._codomain, kernel))

        def call(kernel, orders, v):
            return function(_PowerMethod(self._operator, kernel, *orders), v)

        return traced_once((*key, self._operator), call, kernel, orders, v)


class _PowerMethod:
    """The generalized power method. It divides the kernel by its largest magnitude, which changes no maximizer.

    References:
      Boyd, "The power method for l^p norms", Linear Algebra Appl. 9 (1974).
    """

    def __init__(self, operator: LinearOperator, kernel: tf.Tensor, domain: Order, codomain: Order):
        self._operator = operator
        self._kernel = kernel
        self._domain = domain
        self._codomain = codomain
        self._factor = 1.0 / nonzero(tf.maximum(tf.reduce_max(kernel), -tf.reduce_min(kernel)))

    def search(
        self, v: tf.Tensor, tolerance: float, max_iterations: int, num_fresh: int | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns as many vectors as v has, the best one first, and the number of steps."""
        if num_fresh is None:
            affordable = _FRESH_VALUES // int(self._operator.num_inputs)
            num_fresh = max(_FEWEST_FRESH, min(_MOST_FRESH, affordable))
        num_starts = v.shape[0]
        fresh, _ = self._iterate(self._fresh_starts(num_fresh), 0.0, _FRESH_STEPS)
        candidates = tf.concat([v, fresh], 0)
        v = _best(candidates, self._norms(candidates), num_starts)
        v, count = self._iterate(v, tolerance, max_iterations)
        return _best(v, self._norms(v), num_starts), count

    def is_current(self, v: tf.Tensor) -> tf.Tensor:
        """Whether the best of v hardly changes in a power step, and a short search finds no larger norm."""
        competitors, _ = self._iterate(self._fresh_starts(_STARTS_OF_CHECK), 0.0, _STEPS_OF_CHECK)
        v = _best(v, self._norms(v), 1)
        v /= per_start(lp_norm(v, self._domain), v)
        is_stale = lengths(self._step(v) - v) > STALE
        is_overtaken = tf.reduce_max(self._norms(competitors)) > (1.0 + OVERTAKEN) * self._norms(v)
        return ~(tf.reduce_any(is_stale) | tf.reduce_any(is_overtaken))

    def _iterate(self, v, tolerance, max_iterations):
        """Takes power steps until all starts have converged."""

        def body(count, v, _):
            new = self._step(v)
            return count + 1, new, tf.reduce_max(lengths(new - v) / lengths(new))

        def unfinished(count, v, change):
            return (change > tolerance) & (count < max_iterations)

        count, v, _ = tf.while_loop(unfinished, body, (tf.constant(0), v, tf.constant(math.inf, v.dtype)))
        return v, count

    def _fresh_starts(self, num):
        """Returns one power step from each of `num` normal vectors."""
        return self._step(random_like(self._kernel, [num, *self._operator.vector_shape]))

    def _step(self, v):
        """Takes a power step, which never decreases ||W v||_q. If W v is zero, it shifts v.

        u <- sgn(W v) |W v|^(q-1) / ||.||_{q*},   v <- sgn(W'u) |W'u|^(p*-1) / ||.||_p
        """
        u = dual_vector(self._matvec(v), self._codomain)
        image = self._operator.rmatvec(self._kernel, u) * self._factor
        new = dual_vector(image, dual_order(self._domain))
        return tf.where(peaks(new) > 0.0, new, tf.roll(v, 1, -1))

    def _norms(self, v):
        return lp_norm(self._matvec(v), self._codomain) / lp_norm(v, self._domain)

    def _matvec(self, v):
        return self._operator.matvec(self._kernel, v) * self._factor


def _best(v, norms, num):
    return tf.gather(v, tf.math.top_k(norms, num).indices)
