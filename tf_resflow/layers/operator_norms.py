"""Induced norms ||W||_{p -> q} = max ||W v||_q / ||v||_p: maximizers, closed forms and bounds.

An order is a Python float in [1, inf] or, if it is learned, a scalar tensor. Vectors have a leading axis of starts:
`v` is `[starts, ...]`, and a norm reduces all other axes. For the norm 2 -> 2, kernels of small matrices may be
stacked, `[matrices, inputs, outputs]`, with one start per matrix.
"""

import functools
import math
from typing import TypeAlias

import tensorflow as tf

from tf_resflow.layers.linear_operators import LinearOperator, MatrixOperator
from tf_resflow.private_api import is_xla, silence_retracing

Order: TypeAlias = "float | tf.Tensor"

_KRYLOV = 6
# Largest dimensions for which an eigenvector of the Gram matrix is faster than one power step, or than a few.
_TINY, _SMALL = 16, 64
_STALE = 1e-2  # v is stale if a power step changes it by more (relative)
_MAX_CATCH_UP = 60  # products with W and its transpose
_NUM_FRESH = 32  # starts of a catch-up for orders other than 2
_FRESH = (1e-2, 60)  # tolerance and maximum products of fresh starts, before the best ones continue
_TILT = 1e-3
_NUM_SQUARINGS = 5  # gives a Schatten norm of order 128


def is_order(order: Order, value: float) -> bool:
    """Whether `order` is known statically to be `value`."""
    return isinstance(order, float) and order == value


def dual_order(order: Order) -> Order:
    """Returns p* with 1/p + 1/p* = 1."""
    if is_order(order, 1.0):
        return math.inf
    return 1.0 if is_order(order, math.inf) else order / (order - 1.0)


def has_closed_form(domain: Order, codomain: Order) -> bool:
    """Whether ||W||_{p -> q} is a maximum over columns (p = 1) or over rows (q = inf)."""
    return is_order(domain, 1.0) or is_order(codomain, math.inf)


def stackable(operator: LinearOperator, domain: Order, codomain: Order) -> bool:
    """Whether kernels of several such operators may be stacked: small matrices with the norm 2 -> 2."""
    small = min(operator.num_inputs, operator.num_outputs) <= _SMALL
    return small and isinstance(operator, MatrixOperator) and is_order(domain, 2.0) and is_order(codomain, 2.0)


def lp_norm(x: tf.Tensor, order: Order) -> tf.Tensor:
    """Returns ||x||_p of each start, `[starts]`. The gradient at zero is zero."""
    axes, peak, order = list(range(1, len(x.shape))), _peak(x), _cast(order, x)
    if is_order(order, math.inf):
        return tf.reduce_max(tf.abs(x), axes)
    if is_order(order, 1.0):
        return tf.reduce_sum(tf.abs(x), axes)
    y = x / _nonzero(peak)
    powers = tf.square(y) if is_order(order, 2.0) else tf.abs(y) ** order
    total = tf.reduce_sum(powers, axes)  # at least 1, unless x is zero
    return tf.reshape(peak, [-1]) * tf.maximum(total, 0.5) ** (1.0 / order)


def dual_vector(x: tf.Tensor, order: Order) -> tf.Tensor:
    """Returns sgn(x) |x|^(p-1), normalized: the y with <x, y> = ||x||_p and ||y||_{p*} = 1, for p < inf."""
    y, order = x / _nonzero(_peak(x)), _cast(order, x)
    if not is_order(order, 2.0):
        y = tf.sign(y) * tf.abs(y) ** (order - 1.0)
    return y / _per_start(_nonzero(lp_norm(y, dual_order(order))), x)


def _normalized(kernel: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns kernel / peak and the peak, its largest magnitude, so that squares neither overflow nor underflow."""
    peak = tf.stop_gradient(tf.reduce_max(tf.abs(kernel)))
    return kernel / _nonzero(peak), peak


class InducedNorm:
    """||W||_{p -> q} of a linear operator W with its kernel. p is the order of the domain, q of the codomain."""

    def __init__(self, operator: LinearOperator, kernel: tf.Tensor, domain: Order, codomain: Order):
        self.operator, self.kernel, self.domain, self.codomain = operator, kernel, domain, codomain
        self._is_euclidean = is_order(domain, 2.0) and is_order(codomain, 2.0)

    @property
    def _is_stacked(self):
        return len(self.kernel.shape) > len(self.operator.shape)

    def maximizer(
        self, v: tf.Tensor, tolerance: float, max_iterations: int, num_fresh: int = 1
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Finds vectors v that maximize ||W v||_q / ||v||_p, for p > 1 and q < inf, from an initial guess.

        Iterates until ||v_new - v||_2 <= tolerance ||v_new||_2 for every start except a fresh one, or until
        `max_iterations` products with W and its transpose, rounded up to whole steps. For the norm 2 -> 2, it uses
        the Gram matrix if this is small. An iteration cannot leave a local maximum or a space that W maps to
        itself, so fresh starts compete with the guess. A single one replaces the worst of v, or tilts v for 2 -> 2.

        Returns v, with the best start first, and the number of iterations.
        """

        def move(v, tolerance, max_iterations):
            args = v, tf.constant(tolerance, v.dtype), tf.constant(max_iterations)
            if self._is_stacked:
                return self._over_peak()._move(*args)
            return self._traced_once(InducedNorm._move, *args)

        if num_fresh > 1 and not self._has_gram(_SMALL):
            fresh, _ = move(self._fresh_starts(num_fresh), *_FRESH)
            v = self._best(tf.concat([v, fresh], 0), v.shape[0])
        return move(v, tolerance, max_iterations)

    def caught_up(self, v: tf.Tensor) -> tf.Tensor:
        """Returns v if a power step would change its best start by less than 1 %, and a new maximizer otherwise."""
        if self._has_gram(_TINY):
            return self.maximizer(v, _STALE, _MAX_CATCH_UP)[0]
        if tf.executing_eagerly():  # the search is traced only if it is needed
            return v if self._traced_once(InducedNorm._is_fresh, v) else self._search(v)
        return self._traced_once(InducedNorm._catch_up, v)

    def estimate(self, v: tf.Tensor | None) -> tf.Tensor:
        """Returns the closed form if there is one, and max ||W v||_q / ||v||_p otherwise."""
        closed = has_closed_form(self.domain, self.codomain)
        # By the envelope theorem, the gradient at the maximum needs no gradient through v.
        norm = self._closed_form() if closed else self._ratios(tf.stop_gradient(v))
        norm = norm if self._is_stacked else tf.reduce_max(norm)
        return norm * self.operator.copies ** self._inclusion()

    def bound(self) -> tf.Tensor:
        """Returns an upper bound, computed in float64 and rounded up.

        It is exact for p = 1, for q = inf and for 2 -> 2, except for large 2 -> 2 convolutions
        (`ConvolutionOperator.spectral_bound`). Otherwise, it is the smallest of

            || (||row||_{p*}) ||_q,   || (||column||_q) ||_{p*},
            m^s RT(p),  n^s RT(q)     with s = max(0, 1/q - 1/p), for W: R^n -> R^m,

        where RT(r) >= ||W||_{r -> r} interpolates between r = 1, 2 and inf by the Riesz-Thorin theorem.
        """
        kernel = tf.cast(self.kernel, tf.float64)
        norm = InducedNorm(self.operator, kernel, _cast(self.domain, kernel), _cast(self.codomain, kernel))
        if has_closed_form(self.domain, self.codomain):
            bound = norm._closed_form()
        else:
            bound = self.operator.spectral_bound(kernel) if self._is_euclidean else norm._mixed_bound()
        return bound * self.operator.copies ** norm._inclusion() * (1.0 + 1e-9)

    def _over_peak(self):
        """Returns the norm for the kernel (or each stacked kernel) divided by its peak, with equal maximizers."""
        kernel = self.kernel / _nonzero(_peak(self.kernel)) if self._is_stacked else _normalized(self.kernel)[0]
        return InducedNorm(self.operator, kernel, self.domain, self.codomain)

    def _traced_once(self, method, *args):
        """Calls a method for the kernel divided by its peak, in a `tf.function` that equal operators share."""
        orders = tuple(_cast(order, self.kernel) for order in (self.domain, self.codomain))
        return _traced(method, self.operator, is_xla())(self.kernel, orders, *args)

    def _move(self, v, tolerance, max_iterations):
        if self._has_gram(_SMALL):
            return self._gram_step(v, tolerance), tf.constant(1)
        num_starts, fresh = v.shape[0], self._fresh_starts(1)
        if self._is_euclidean:
            return self._iterate(self._ritz, _KRYLOV, v + _TILT * fresh, tolerance, max_iterations)
        v = tf.concat([self._best(v, num_starts - 1), fresh], 0)
        v, count = self._iterate(self._power, 1, v, tolerance, max_iterations)
        return self._best(v, num_starts), count

    def _catch_up(self, v):
        return tf.cond(self._is_fresh(v), lambda: v, lambda: self._search(v))

    def _is_fresh(self, v):
        change = self._residual(v) if self._is_euclidean else _change(v[:1], self._power(v[:1]))
        return change <= _STALE  # False if W v is zero

    def _search(self, v):
        return self.maximizer(v, _STALE, _MAX_CATCH_UP, 1 if self._is_euclidean else _NUM_FRESH)[0]

    def _iterate(self, step, num_products, v, tolerance, max_iterations):
        """Repeats steps until all starts have converged, except the last of several, which is a fresh start."""
        num_judged = max(1, v.shape[0] - 1)

        def body(count, v, _):
            new = _keep_valid(step(v), v)
            return count + num_products, new, _change(v[:num_judged], new[:num_judged])

        def unfinished(count, v, change):
            return (change > tolerance) & (count < max_iterations)

        start = (tf.constant(0), v, tf.constant(math.inf, v.dtype))
        count, v, _ = tf.while_loop(unfinished, body, start)
        return v, count

    def _matvec(self, v):
        return self.operator.matvec(self.kernel, v)

    def _rmatvec(self, u):
        return self.operator.rmatvec(self.kernel, u)

    def _residual(self, v):
        """Returns ||W'W v - s^2 v|| / s^2 with s = ||W v||: about the change of unit vectors v by a power step."""
        image, axes = self._matvec(v), list(range(1, len(v.shape)))
        square = tf.reduce_sum(image * image, axes, keepdims=True)
        change = (self._rmatvec(image) - square * v) / square
        return tf.sqrt(tf.reduce_max(tf.reduce_sum(change * change, axes)))

    def _ratios(self, v):
        return lp_norm(self._matvec(v), self.codomain) / lp_norm(v, self.domain)

    def _best(self, v, num):
        return tf.gather(v, tf.math.top_k(self._ratios(v), num).indices)

    def _fresh_starts(self, num):
        """Returns random starts of p-norm 1, `[num, ...]`, a single one for 2 -> 2. The kernel determines the seed.

        For other orders, unit vectors of the inputs alternate with images under W' and duality of unit vectors of
        the outputs. If a random row or column is zero, the largest one replaces it.
        """
        dtype = self.kernel.dtype
        sums = tf.stack([tf.reduce_sum(self.kernel), tf.reduce_sum(tf.abs(self.kernel))])
        seed = tf.bitcast(tf.cast(sums, tf.float32), tf.int32)
        if self._is_euclidean:
            shape = [1, *self.operator.vector_shape]
            return dual_vector(tf.random.stateless_normal(shape, seed, dtype=dtype, alg="philox"), 2.0)

        def unit_vectors(shape, seed, sums):
            weights = tf.reshape(sums(tf.abs(self.kernel)), [-1])
            size = math.prod(shape)
            place = tf.random.stateless_uniform([num], seed, 0, size, tf.int32, alg="philox")
            place = tf.where(tf.gather(weights, place) > 0.0, place, tf.argmax(weights, output_type=tf.int32))
            return tf.reshape(tf.one_hot(place, size, dtype=dtype), [num, *shape])

        v = unit_vectors(self.operator.vector_shape, seed, self.operator.column_sums)
        of_outputs = self._rmatvec(unit_vectors(self.operator.output_shape, seed + 2, self.operator.row_sums))
        use = _per_start((tf.range(num) + seed[0]) % 2 == 0, v) & (_peak(of_outputs) > 0.0)
        return tf.where(use, dual_vector(of_outputs, dual_order(self.domain)), v)

    def _has_gram(self, most):
        return self._is_euclidean and min(self.operator.num_inputs, self.operator.num_outputs) <= most

    def _gram_step(self, v, tolerance):
        """Returns the unit vector that W stretches most, by 64 power steps if they converge, else by `eigh`."""
        gram = self.operator.gram(self.kernel)
        if self._has_gram(_TINY):
            return self._eigenvector(gram, v)
        new = self._from_smaller_side(_leading_direction(gram), v)
        return tf.cond(self._residual(new) <= tolerance, lambda: new, lambda: self._eigenvector(gram, v))

    def _eigenvector(self, gram, v):
        finite = tf.math.is_finite(tf.reduce_sum(gram, [-2, -1], keepdims=True))  # eigh raises an error otherwise
        return self._from_smaller_side(_leading_eigenvector(tf.where(finite, gram, tf.zeros_like(gram))), v)

    def _from_smaller_side(self, z, v):
        """Returns the unit vector along z or W'z, or v if that vector is zero or not finite."""
        if self.operator.gram_is_of_outputs:
            z = self._rmatvec(tf.reshape(z, [-1, *self.operator.output_shape]))
        return _keep_valid(dual_vector(tf.reshape(z, v.shape), 2.0), v)

    def _power(self, v):
        """A step of the generalized power method, which never decreases ||W v||_q. It returns 0 where W v is zero.

            u <- sgn(W v) |W v|^(q-1) / ||.||_{q*},   v <- sgn(W'u) |W'u|^(p*-1) / ||.||_p

        References:
          Boyd, "The power method for l^p norms", Linear Algebra Appl. 9 (1974).
        """
        image = dual_vector(self._matvec(v), self.codomain)
        return dual_vector(self._rmatvec(image), dual_order(self.domain))

    def _ritz(self, v):
        """Returns the unit vector that W stretches most in span{v, W'W v, ..., (W'W)^5 v}.

        This is a step of restarted Lanczos with full orthogonalization, on the smaller side of W.

        References:
          Golub and Van Loan, "Matrix Computations", section 10.1.
        """
        wide = self.operator.num_inputs > self.operator.num_outputs
        first, second = (self._rmatvec, self._matvec) if wide else (self._matvec, self._rmatvec)
        z = self._matvec(v) if wide else v
        shape = z.shape
        rows: list[tf.Tensor] = []
        images: list[tf.Tensor] = []
        for _ in range(_KRYLOV):
            rows.append(_orthonormalized(tf.reshape(z, [1, -1]), rows))
            z = second(first(tf.reshape(rows[-1], shape)))
            images.append(tf.reshape(z, [1, -1]))
        basis = tf.concat(rows, 0)
        projection = tf.matmul(basis, tf.concat(images, 0), transpose_b=True)
        rotation = _leading_eigenvector((projection + tf.transpose(projection)) / 2.0)
        new = tf.reshape(tf.matmul(rotation[tf.newaxis], basis), shape)
        return dual_vector(self._rmatvec(new), 2.0) if wide else new

    def _inclusion(self):
        """Returns s = max(0, 1/q - 1/p). The inclusion of l^p into l^q in n dimensions has the norm n^s."""
        excess = 1.0 / _cast(self.codomain, self.kernel) - 1.0 / _cast(self.domain, self.kernel)
        return max(excess, 0.0) if isinstance(excess, float) else tf.maximum(excess, 0.0)

    def _line_norms(self, sums, order):
        kernel, peak = _normalized(self.kernel)
        powers = tf.abs(kernel) ** order
        return peak * tf.maximum(sums(powers), 1e-30) ** (1.0 / order)

    def _closed_form(self):
        if is_order(self.domain, 1.0) and is_order(self.codomain, math.inf):
            return tf.reduce_max(tf.abs(self.operator.live(self.kernel)))
        if is_order(self.domain, 1.0):
            sums, order = self.operator.column_sums, self.codomain
        else:
            sums, order = self.operator.row_sums, dual_order(self.domain)
        return tf.reduce_max(self._line_norms(sums, _cast(order, self.kernel)))

    def _mixed_bound(self):
        dual, excess = dual_order(self.domain), self._inclusion()
        row_sums, column_sums = self.operator.row_sums, self.operator.column_sums
        rows, columns = self._line_norms(row_sums, dual), self._line_norms(column_sums, self.codomain)
        column_sum = tf.reduce_max(self._line_norms(column_sums, 1.0))
        row_sum = tf.reduce_max(self._line_norms(row_sums, 1.0))
        spectral = self.operator.spectral_bound(self.kernel)

        def riesz_thorin(order):
            inverse = 1.0 / tf.convert_to_tensor(order, self.kernel.dtype)
            weight = 2.0 * tf.minimum(inverse, 1.0 - inverse)
            return tf.where(inverse > 0.5, column_sum, row_sum) ** (1.0 - weight) * spectral**weight

        candidates = [
            lp_norm(tf.reshape(rows, [1, -1]), self.codomain)[0],
            lp_norm(tf.reshape(columns, [1, -1]), dual)[0],
            riesz_thorin(self.domain) * self.operator.num_outputs**excess,
            riesz_thorin(self.codomain) * self.operator.num_inputs**excess,
        ]
        return tf.reduce_min(tf.stack(candidates))


class SchattenNorm(InducedNorm):
    """||W||_{2 -> 2}, estimated from above by the Schatten norm of order 128, see `LipschitzDense`.

    The estimate is smooth, even where singular values cross. For a convolution with more than 64 dimensions, it is
    the largest Schatten norm of the Fourier symbols (`ConvolutionOperator.gram_blocks`).

    References:
      Delattre et al., "Efficient bound of Lipschitz constant for convolutional layers by Gram iteration" (2023).
    """

    def estimate(self, v: tf.Tensor | None = None) -> tf.Tensor:
        kernel, peak = _normalized(self.kernel)
        return peak * tf.sqrt(_largest_eigenvalue_bound(self.operator.gram_blocks(kernel)))


def _largest_eigenvalue_bound(gram: tf.Tensor) -> tf.Tensor:
    """Returns the largest (tr G^64)^(1/64) of Hermitian semidefinite matrices G, `[..., n, n]`, a real scalar."""
    bound = tf.ones([], gram.dtype.real_dtype)
    for i in range(_NUM_SQUARINGS):
        # Dividing by the largest trace keeps the squares from overflowing.
        trace = tf.stop_gradient(tf.reduce_max(tf.math.real(tf.linalg.trace(gram))))
        bound *= trace ** (0.5**i)
        gram /= tf.cast(tf.where(trace > 0, trace, tf.ones_like(trace)), gram.dtype)
        gram = tf.matmul(gram, gram)
    total = tf.reduce_max(tf.reduce_sum(tf.math.real(gram * tf.math.conj(gram)), [-2, -1]))
    return bound * tf.maximum(total, 1e-30) ** (0.5 ** (_NUM_SQUARINGS + 1))


@functools.lru_cache(maxsize=512)
def _traced(method, operator, for_xla):
    def call(kernel, orders, *args):
        return method(InducedNorm(operator, kernel, *orders)._over_peak(), *args)

    attributes = {"_noinline": True}
    return silence_retracing(tf.function(call, autograph=False, experimental_attributes=attributes))


def _peak(x):
    axes = list(range(1, len(x.shape)))
    return tf.stop_gradient(tf.reduce_max(tf.abs(x), axes, keepdims=True))


def _keep_valid(new, v):
    return tf.where(_peak(new) > 0.0, new, v)  # keeps v where the new vector is zero or NaN


def _nonzero(x):
    return tf.where(x > 0, x, tf.ones_like(x))


def _cast(order, x):
    return order if isinstance(order, float) else tf.cast(order, x.dtype)


def _per_start(numbers, x):
    return tf.reshape(numbers, [-1] + [1] * (len(x.shape) - 1))


def _change(v, new):
    """Returns the largest relative change of a start, up to its sign."""
    change = tf.minimum(lp_norm(new - v, 2.0), lp_norm(new + v, 2.0))
    return tf.reduce_max(change / _nonzero(lp_norm(new, 2.0)))


def _leading_eigenvector(matrix):
    """Returns the leading unit eigenvector of semidefinite matrices, `[..., n, n]` to `[..., n]`."""
    if not is_xla():  # XLA's eigh is slower than 2048 power steps
        return tf.linalg.eigh(matrix)[1][..., -1]
    vector = _leading_direction(matrix, rounds=2)
    return tf.math.divide_no_nan(vector, tf.norm(vector, axis=-1, keepdims=True))


def _leading_direction(matrix, rounds=1):
    """Returns approximate leading eigenvectors of semidefinite matrices `[..., n, n]`, not normalized."""
    if matrix.shape.rank == 3:  # faster than batched products
        return tf.stack([_leading_direction(one, rounds) for one in tf.unstack(matrix)])
    power = matrix
    for _ in range(rounds):
        power = _normalized(power)[0]
        power /= _nonzero(tf.norm(power))  # now one eigenvalue is at least 1 / sqrt(n)
        for _ in range(5):
            power = tf.matmul(power, power)
    power = _normalized(power)[0]
    # Each round took the power of 32. Multiplying by the longest column of the result doubles the exponent.
    longest = tf.gather(power, tf.argmax(tf.linalg.diag_part(power)))  # XLA would recompile a slice for each index
    return tf.linalg.matvec(power, longest)


def _orthonormalized(z, basis):
    """Returns z as a unit vector orthogonal to the rows in the list, or 0 if z is in their span."""
    for _ in range(2):
        if basis:
            rows = tf.concat(basis, 0)
            z = z - tf.matmul(tf.matmul(z, rows, transpose_b=True), rows)
        norm = tf.sqrt(tf.reduce_sum(tf.square(z)))
        z = tf.math.divide_no_nan(z, norm)
    return z * tf.cast(norm > 0.5, z.dtype)
