"""Induced norms ||W||_{p -> q} = max ||W v||_q / ||v||_p: maximizers, closed forms and bounds.

An order is a Python float in [1, inf] or, if it is learned, a scalar tensor. Vectors have a leading axis of starts:
`v` is `[starts, ...]`, and a norm reduces all other axes. For the norm 2 -> 2, kernels of small matrices may be
stacked, `[matrices, inputs, outputs]`, with one start per matrix.
"""

import math
from typing import TypeAlias

import numpy as np
import tensorflow as tf
from scipy.sparse import linalg

from tf_resflow.layers.linear_operators import LinearOperator, MatrixOperator
from tf_resflow.layers.tracing import traced_once
from tf_resflow.private_api import custom_gradient

Order: TypeAlias = "float | tf.Tensor"

_SMALL = 64  # matrices with at most this many inputs or outputs are stacked, and decomposed in eager mode
_STALE = 3e-3  # v is stale if a power step changes it by more, relative to its length
_REFINEMENT = (3e-4, 60, 32)  # tolerance, maximum number of steps, and fresh starts for orders other than 2
_FRESH = (1e-2, 60)  # tolerance and maximum number of steps of fresh starts, before the best ones continue
_TILT = 0.03  # length of the fixed vector that is added to v before an update, relative to v
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
    is_euclidean = is_order(domain, 2.0) and is_order(codomain, 2.0)
    return is_euclidean and isinstance(operator, MatrixOperator) and operator.smaller_side <= _SMALL


def lp_norm(x: tf.Tensor, order: Order) -> tf.Tensor:
    """Returns ||x||_p of each start, `[starts]`. The gradient at zero is zero."""
    axes, order = _axes(x), _cast(order, x)
    if is_order(order, math.inf):
        return tf.reduce_max(tf.abs(x), axes)
    if is_order(order, 1.0):
        return tf.reduce_sum(tf.abs(x), axes)
    peak = _peak(x)
    y = x / _nonzero(peak)
    powers = tf.square(y) if is_order(order, 2.0) else tf.abs(y) ** order
    total = tf.reduce_sum(powers, axes)  # at least 1, unless x is zero
    return tf.reshape(peak, [-1]) * tf.maximum(total, 0.5) ** (1.0 / order)


def dual_vector(x: tf.Tensor, order: Order) -> tf.Tensor:
    """Returns sgn(x) |x|^(p-1), normalized: the y with <x, y> = ||x||_p and ||y||_{p*} = 1, for p < inf."""
    y, order = x / _nonzero(_peak(x)), _cast(order, x)
    if not is_order(order, 2.0):
        y = tf.sign(y) * tf.abs(y) ** (order - 1.0)
    return y / _like(_nonzero(lp_norm(y, dual_order(order))), x)


class InducedNorm:
    """||W||_{p -> q} of a linear operator W with its kernel. p is the order of the domain, q of the codomain."""

    def __init__(self, operator: LinearOperator, kernel: tf.Tensor, domain: Order, codomain: Order):
        self.operator, self.kernel, self.domain, self.codomain = operator, kernel, domain, codomain
        self._is_euclidean = is_order(domain, 2.0) and is_order(codomain, 2.0)
        self._is_stacked = len(kernel.shape) > len(operator.shape)

    def maximizer(
        self, v: tf.Tensor, tolerance: float, max_iterations: int, num_fresh: int = 1
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Finds vectors v that maximize ||W v||_q / ||v||_p, for p > 1 and q < inf, from an initial guess.

        For the norm 2 -> 2, SciPy finds the leading singular vector in eager mode, and a graph takes steps of
        conjugate gradients. Other orders take steps of the generalized power method from several starts. Steps end
        when a power step would change every start, except a fresh one, by at most the tolerance (relative to its
        2-norm), or after `max_iterations`.

        Steps cannot leave a local maximum or a space that W maps to itself. Therefore, for 2 -> 2, v is tilted
        first. For other orders, `num_fresh` fresh starts compete with v, and one replaces the worst of v. With
        `num_fresh=0`, eager mode returns v if a power step changes it by less than the tolerance.

        Returns v, with the best start first, and the number of steps.
        """
        if tf.executing_eagerly():
            if num_fresh == 0 and self._over_peak()._has_converged(v, tolerance):
                return v, tf.constant(0)
            if self._is_euclidean:
                return self._singular_vectors(v, tolerance), tf.constant(1)
        return self._traced_once(InducedNorm._search, v, tolerance, max_iterations, num_fresh)

    def refined(self, v: tf.Tensor) -> tf.Tensor:
        """Returns vectors that fit the kernel, from stored ones, which may belong to an earlier kernel.

        They are returned as they are if a power step would change none (for orders other than 2, the best start)
        by more than 0.3 %.
        """
        return self._traced_once(InducedNorm._refine, v)

    def estimate(self, v: tf.Tensor | None) -> tf.Tensor:
        """Returns the closed form if there is one, and max ||W v||_q / ||v||_p otherwise."""
        closed = has_closed_form(self.domain, self.codomain)
        # By the envelope theorem, the gradient at the maximum needs no gradient through v.
        norm = self._closed_form() if closed else self._ratios(tf.stop_gradient(v))
        norm = norm if self._is_stacked else tf.reduce_max(norm)
        return norm * self.operator.copies ** self._inclusion()

    def scaled(self, v: tf.Tensor | None, limits: list[float]) -> tf.Tensor:
        r"""Returns \\(\hat W = W / d\\) with \\(d = \max(1, \|W\| / \mathrm{limit})\\), with one limit per kernel.

        The norm has the gradient \\(u v^T\\), where v is the maximizer, \\(u^T W v = \|W v\|_q\\) and
        \\(\|u\|_{q^*} = 1\\). If the norm exceeds the limit, an upstream gradient G therefore becomes
        \\((G - \langle G, \hat W \rangle u v^T / \mathrm{limit}) / d\\), and G / d = G otherwise.
        """
        limit = tf.constant(limits if self._is_stacked else limits[:1], self.kernel.dtype)
        if v is None:
            return self.kernel / tf.maximum(self.estimate(v) / limit, 1.0)
        operator, copies = self.operator, self.operator.copies ** self._inclusion()
        if not self._is_euclidean:
            v = self._best(v, 1)
            v /= _like(lp_norm(v, self.domain), v)
        of_each = _like if self._is_stacked else lambda numbers, like: numbers

        @custom_gradient
        def divided(kernel):
            image = operator.matvec(kernel, v)
            if self._is_euclidean:  # squares of float32 neither overflow nor underflow in float64
                square = tf.reduce_sum(tf.square(tf.cast(image, tf.float64)), _axes(image))
                norm = tf.cast(tf.sqrt(square), kernel.dtype)
            else:
                norm = copies * lp_norm(image, self.codomain)
            divisor = tf.maximum(norm / limit, 1.0)
            result = kernel / of_each(divisor, kernel)

            def grad(upstream):
                product = tf.reduce_sum(upstream * result, _axes(kernel) if self._is_stacked else None)
                share = tf.where(norm > limit, product / norm, tf.zeros_like(norm))
                if self._is_euclidean:
                    dual = image * of_each(tf.math.divide_no_nan(share, norm), image)
                else:
                    dual = dual_vector(image, self.codomain) * (copies * share)
                return upstream / of_each(divisor, kernel) - operator.outer(v, dual)

            return result, grad

        return divided(self.kernel)

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
        """Returns the norm for each kernel divided by its largest magnitude, with equal maximizers."""
        peak = _peak(self.kernel) if self._is_stacked else tf.reduce_max(tf.abs(self.kernel))
        return InducedNorm(self.operator, self.kernel / _nonzero(peak), self.domain, self.codomain)

    def _traced_once(self, method, v, *settings):
        """Calls a method for the kernels divided by their peaks, in a function that equal operators share."""
        orders = tuple(_cast(order, self.kernel) for order in (self.domain, self.codomain))

        def call(kernel, orders, v):
            return method(InducedNorm(self.operator, kernel, *orders)._over_peak(), v, *settings)

        return traced_once((method.__name__, self.operator, *settings), call, self.kernel, orders, v)

    def _search(self, v, tolerance, max_iterations, num_fresh):
        if self._is_euclidean:
            return self._conjugate_gradients(v, tolerance, max_iterations)
        num_starts = v.shape[0]
        if num_fresh > 1:
            fresh, _ = self._iterate(self._fresh_starts(num_fresh), *_FRESH)
            v = self._best(tf.concat([v, fresh], 0), num_starts)
        v = tf.concat([self._best(v, num_starts - 1), self._fresh_starts(1)], 0)
        v, count = self._iterate(v, tolerance, max_iterations)
        return self._best(v, num_starts), count

    def _refine(self, v):
        return tf.cond(self._has_converged(v, _STALE), lambda: v, lambda: self._search(v, *_REFINEMENT)[0])

    def _has_converged(self, v, tolerance):
        if self._is_euclidean:
            _, value, change = _residual(v, self._gram(v))
            return tf.reduce_all((value != 0.0) & ~(change > tolerance))  # NaN cannot be improved
        new = self._power(v[:1])
        return tf.reduce_all(_lengths(new - v[:1]) <= tolerance * _lengths(new))

    def _conjugate_gradients(self, v, tolerance, max_iterations):
        """Moves unit vectors v to the leading singular vectors.

        Each step rotates v towards a direction d, in the plane of both, to the largest ||W v||. With the residual
        r = W'W v - ||W v||^2 v, the next direction is r + beta d, conjugate to d with respect to W'W - ||W v||^2.
        Steps end when ||r|| <= tolerance ||W v||^2.

        References:
          Feng and Owen, "Conjugate gradient methods for solving the smallest eigenpair of large symmetric
          eigenvalue problems" (1996).
        """

        def body(count, v, image, value, d, _):
            d -= _inner(d, v) * v
            d = tf.math.divide_no_nan(d, _lengths(d))
            image_d = self._gram(d)
            other = _inner(d, image_d)
            angle = tf.atan2(2.0 * _inner(d, image), value - other) / 2.0
            cos, sin = tf.cos(angle), tf.sin(angle)
            v, d = cos * v + sin * d, cos * d - sin * v
            image, image_d = cos * image + sin * image_d, cos * image_d - sin * image
            total = value + other
            residual, value, change = _residual(v, image)
            d = residual + tf.math.divide_no_nan(_inner(residual, image_d), 2.0 * value - total) * d
            return count + 1, v, image, value, d, change

        def unfinished(count, v, image, value, d, change):
            return tf.reduce_any(change > tolerance) & (count < max_iterations)

        seed = {"key": tf.constant([0], tf.uint64), "counter": tf.constant([0, 0], tf.uint64), "alg": 1}
        tilt = tf.raw_ops.StatelessRandomUniformV2(shape=v.shape, dtype=v.dtype, **seed) - 0.5
        tilted = v + tilt * (_TILT * (12.0 / self.operator.num_inputs) ** 0.5)
        tilted /= _lengths(tilted)
        image = self._gram(tilted)
        residual, value, change = _residual(tilted, image)
        count, new, *_ = tf.while_loop(unfinished, body, (tf.constant(0), tilted, image, value, residual, change))
        lengths = _lengths(new)
        return tf.where(lengths > 0.0, new / lengths, v), count

    def _iterate(self, v, tolerance, max_iterations):
        """Takes power steps until all starts have converged, except the last of several, which is a fresh start."""
        judged = max(1, v.shape[0] - 1)

        def body(count, v, _):
            new = self._power(v)
            return count + 1, new, tf.reduce_max((_lengths(new - v) / _lengths(new))[:judged])

        def unfinished(count, v, change):
            return (change > tolerance) & (count < max_iterations)

        count, v, _ = tf.while_loop(unfinished, body, (tf.constant(0), v, tf.constant(math.inf, v.dtype)))
        return v, count

    def _matvec(self, v):
        return self.operator.matvec(self.kernel, v)

    def _rmatvec(self, u):
        return self.operator.rmatvec(self.kernel, u)

    def _gram(self, v):
        return self._rmatvec(self._matvec(v))

    def _ratios(self, v):
        return lp_norm(self._matvec(v), self.codomain) / lp_norm(v, self.domain)

    def _best(self, v, num):
        return tf.gather(v, tf.math.top_k(self._ratios(v), num).indices)

    def _fresh_starts(self, num):
        """Returns one power step from each of `num` normal vectors. The kernel determines the seed."""
        sums = tf.stack([tf.reduce_sum(self.kernel), tf.reduce_sum(tf.abs(self.kernel))])
        seed, shape = tf.bitcast(tf.cast(sums, tf.float32), tf.int32), [num, *self.operator.vector_shape]
        v = tf.random.stateless_normal(shape, seed, dtype=self.kernel.dtype)
        return self._power(v)

    def _power(self, v):
        """A step of the generalized power method, which never decreases ||W v||_q. If W v is zero, it shifts v.

            u <- sgn(W v) |W v|^(q-1) / ||.||_{q*},   v <- sgn(W'u) |W'u|^(p*-1) / ||.||_p

        References:
          Boyd, "The power method for l^p norms", Linear Algebra Appl. 9 (1974).
        """
        image = dual_vector(self._matvec(v), self.codomain)
        new = dual_vector(self._rmatvec(image), dual_order(self.domain))
        return tf.where(_peak(new) > 0.0, new, tf.roll(v, 1, -1))

    def _singular_vectors(self, v, tolerance):
        """Returns the leading right singular vector of each kernel, or v if the kernel is zero or not finite."""
        kernels = tf.unstack(self.kernel) if self._is_stacked else [self.kernel]
        starts = tf.split(v, len(kernels))
        found = [self._singular_vector(*pair, tolerance) for pair in zip(kernels, starts, strict=True)]
        return tf.cast(tf.reshape(tf.stack(found), v.shape), v.dtype)

    def _singular_vector(self, kernel, v, tolerance):
        peak = np.abs(kernel).max()
        if not np.isfinite(kernel).all() or peak == 0.0:
            return tf.reshape(v, [-1])
        operator, kernel = self.operator, kernel / peak
        if operator.smaller_side <= _SMALL:
            z = np.linalg.eigh(operator.gram(tf.cast(kernel, tf.float64)))[1][:, -1:].T
            if operator.num_outputs < operator.num_inputs:
                z = operator.rmatvec(tf.cast(kernel, tf.float64), z.reshape(1, *operator.output_shape)).numpy()
            return z.ravel() / np.linalg.norm(z)

        def gram(z):
            z = tf.constant(z.reshape(v.shape), v.dtype)
            return tf.reshape(operator.rmatvec(kernel, operator.matvec(kernel, z)), [-1]).numpy()

        size, dtype = int(operator.num_inputs), v.dtype.as_numpy_dtype
        start = v.numpy().ravel() + _TILT / size**0.5 * np.random.default_rng(0).normal(size=size).astype(dtype)
        product = linalg.LinearOperator((size, size), gram, dtype=dtype)
        tolerance = max(tolerance, 10.0 * float(np.finfo(dtype).eps))
        return linalg.eigsh(product, 1, v0=start, tol=tolerance)[1][:, 0]

    def _inclusion(self):
        """Returns s = max(0, 1/q - 1/p). The inclusion of l^p into l^q in n dimensions has the norm n^s."""
        excess = 1.0 / _cast(self.codomain, self.kernel) - 1.0 / _cast(self.domain, self.kernel)
        return max(excess, 0.0) if isinstance(excess, float) else tf.maximum(excess, 0.0)

    def _line_norms(self, sums, order):
        peak = tf.stop_gradient(tf.reduce_max(tf.abs(self.kernel)))
        powers = tf.abs(self.kernel / _nonzero(peak)) ** order
        return peak * tf.maximum(sums(powers), 1e-30) ** (1.0 / order)

    def _closed_form(self):
        if is_order(self.domain, 1.0) and is_order(self.codomain, math.inf):
            return tf.reduce_max(tf.abs(self.operator.effective_kernel(self.kernel)))
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
        peak = tf.stop_gradient(tf.reduce_max(tf.abs(self.kernel)))
        return peak * tf.sqrt(_largest_eigenvalue_bound(self.operator.gram_blocks(self.kernel / _nonzero(peak))))


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


def _axes(x):
    return list(range(1, len(x.shape)))


def _peak(x):
    return tf.stop_gradient(tf.reduce_max(tf.abs(x), _axes(x), keepdims=True))


def _lengths(x):
    """Returns the 2-norm of each start, with all axes. Squares must neither overflow nor underflow."""
    return tf.sqrt(tf.reduce_sum(tf.square(x), _axes(x), keepdims=True))


def _inner(x, y):
    return tf.reduce_sum(x * y, _axes(x), keepdims=True)


def _residual(v, image):
    """Returns r = W'W v - s v with s = ||W v||^2, s, and ||r|| / s: about the change of v by a power step."""
    value = _inner(v, image)
    residual = image - value * v
    return residual, value, tf.math.divide_no_nan(_lengths(residual), value)


def _nonzero(x):
    return tf.where(x > 0, x, tf.ones_like(x))


def _cast(order, x):
    return order if isinstance(order, float) else tf.cast(order, x.dtype)


def _like(numbers, x):
    """Reshapes one number per start to the rank of x."""
    return tf.reshape(numbers, [-1] + [1] * (len(x.shape) - 1))
