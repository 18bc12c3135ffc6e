"""Induced norms ||W||_{p -> q} = max ||W v||_q / ||v||_p: maximizers, closed forms and bounds.

An order is a Python float in [1, inf] or, if it is learned, a scalar tensor. Vectors have a leading axis of starts:
`v` is `[starts, ...]`, and a norm reduces all other axes. For the norm 2 -> 2, kernels of small matrices may be
stacked, `[matrices, inputs, outputs]`, with one start per matrix.
"""

import math
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
from scipy.sparse import linalg

from tf_resflow.layers.linear_operators import LinearOperator, MatrixOperator
from tf_resflow.layers.tracing import first_order_only, traced_once
from tf_resflow.private_api import custom_gradient

Order: TypeAlias = "float | tf.Tensor"

_SMALL = 64  # the norm 2 -> 2 of an operator with at most this many inputs or outputs comes from its Gram matrix
_MOST_STACKED = 2**18  # largest number of weights of a matrix that is stacked with others
_DOUBLINGS = 11  # of the exponent of a small Gram matrix; underestimates norms by at most ln(64) / 2**13 = 5e-4
_LONGEST_RUN = 12  # steps of the Lanczos method
_TILT = 0.3  # length of the random vector that is added to the unit vector v before a search
_STALE = 3e-4  # change of v by a power step beyond which v no longer fits its kernel
_REFINEMENT = (_STALE, 60, None)  # tolerance, maximum number of steps, and number of fresh starts
_OVERTAKEN = 1e-3  # relative excess of another vector's ||W v||_q / ||v||_p beyond which v is searched for again
_CHECK_LANCZOS_STEPS = 6
_CHECK_STARTS = 32
_CHECK_POWER_STEPS = 2
_FEWEST_FRESH = 8
_MOST_FRESH = 128
_FRESH_VALUES = 2**14  # largest number of coordinates of all fresh starts
_FRESH_STEPS = 4  # of all fresh starts, before the best ones continue
_ONCE = (
    "A second derivative in the kernel of a Lipschitz layer was requested, but the gradient holds the maximizer of "
    "its norm constant, so the derivative would be silently wrong. Use finite differences of the gradient in the "
    "kernel. For a mixed derivative, differentiate in the inputs first, or use a GradientTape with "
    "watch_accessed_variables=False that watches only the inputs."
)


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
    """Whether kernels of such operators may be stacked: matrices with the norm 2 -> 2 that are not large."""
    is_euclidean = is_order(domain, 2.0) and is_order(codomain, 2.0)
    return is_euclidean and isinstance(operator, MatrixOperator) and math.prod(operator.shape) <= _MOST_STACKED


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
        self.operator = operator
        self.kernel = kernel
        self.domain = domain
        self.codomain = codomain
        self._factor: Any = 1.0
        self._is_euclidean = is_order(domain, 2.0) and is_order(codomain, 2.0)
        self._is_stacked = len(kernel.shape) > len(operator.shape)

    def maximizer(
        self, v: tf.Tensor, tolerance: float, max_iterations: int, num_fresh: int | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Finds vectors v that maximize ||W v||_q / ||v||_p, for p > 1 and q < inf, from an initial guess.

        For the norm 2 -> 2, NumPy and SciPy find the leading singular vector in eager mode, unless `num_fresh` is
        0. A graph computes the vector of a small operator from its Gram matrix, and takes `max_iterations` steps
        of the Lanczos method for a larger one. After every 12 steps, it stops if a power step would change v by at
        most the tolerance, relative to its 2-norm. Other orders take steps of the generalized power method from
        several starts, until a power step would change none by more than the tolerance, or `max_iterations` end.

        A vector that hardly changes is a singular vector or a local maximum, but not necessarily the largest one.
        The Lanczos method therefore starts from v plus a random vector. For other orders, `num_fresh` fresh starts
        compete with v, by default 8 to 128, fewer for larger operators.

        Returns v, with the best start first, and the number of steps.
        """
        if tf.executing_eagerly() and self._is_euclidean and num_fresh != 0:
            return self._singular_vectors(v, tolerance), tf.constant(1)
        return self._traced_once(InducedNorm._search, v, tolerance, max_iterations, num_fresh)

    def refined(self, v: tf.Tensor) -> tf.Tensor:
        """Returns vectors that fit the kernel, from stored ones, which may belong to an earlier kernel.

        The vector of a small operator with the norm 2 -> 2 is always computed. Other stored vectors are kept if
        a power step would not change the best one by more than 0.03 % and a short search from random vectors finds
        no larger norm (see `_is_current`).
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

        The result is differentiable once in the kernel. The norm has the gradient \\(u v^T\\), where v is the
        maximizer, \\(u^T W v = \|W v\|_q\\) and \\(\|u\|_{q^*} = 1\\). If the norm exceeds the limit, an upstream
        gradient G therefore becomes
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
                (scaled,) = first_order_only([result], _ONCE, [kernel])
                product = tf.reduce_sum(upstream * scaled, _axes(kernel) if self._is_stacked else None)
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
        """Returns the norm, whose searches divide each kernel by its largest magnitude. This changes no maximizer.

        They divide images instead of kernels, because temporary copies of stacked kernels would take longer.
        """
        norm = InducedNorm(self.operator, self.kernel, self.domain, self.codomain)
        axes = _axes(self.kernel) if self._is_stacked else None
        peak = tf.maximum(tf.reduce_max(self.kernel, axes), -tf.reduce_min(self.kernel, axes))
        norm._factor = 1.0 / _nonzero(peak)
        return norm

    def _traced_once(self, method, v, *settings):
        """Calls a method for the kernels divided by their peaks, in a function that equal operators share."""
        orders = tuple(_cast(order, self.kernel) for order in (self.domain, self.codomain))

        def call(kernel, orders, v):
            return method(InducedNorm(self.operator, kernel, *orders)._over_peak(), v, *settings)

        return traced_once((method.__name__, self.operator, *settings), call, self.kernel, orders, v)

    def _refine(self, v):
        def search():
            return self._search(v, *_REFINEMENT)[0]

        if self._has_small_gram_matrix:
            return search()
        return tf.cond(self._is_current(v), lambda: v, search)

    def _is_current(self, v):
        """Whether the best of v hardly changes in a power step, and a short search finds no larger norm.

        The short search finds norms in directions that v excludes, such as those of another block of a
        block-diagonal kernel. Six Lanczos steps found 119 of 120 singular values that overtook the stored one by at
        least 10 % (dense kernels with 66 to 300 rows); four steps missed half of those that overtook it by 20 %.
        """
        if self._is_euclidean:
            x = self._tilted(v)
            competitor = self._lanczos(x, _CHECK_LANCZOS_STEPS)
            if self._searches_outputs:
                competitor = self._rmatvec(competitor)
            stepped = self._rmatvec(self._matvec(v))
            stepped = tf.math.divide_no_nan(stepped, _lengths(stepped))
            largest = self._ratios(v)
            largest_found = self._ratios(competitor)
        else:
            competitor, _ = self._iterate(self._fresh_starts(_CHECK_STARTS), 0.0, _CHECK_POWER_STEPS)
            v = self._best(v, 1)
            v /= _like(lp_norm(v, self.domain), v)
            stepped = self._power(v)
            largest = self._ratios(v)
            largest_found = tf.reduce_max(self._ratios(competitor))
        is_stale = _lengths(stepped - v) > _STALE
        is_overtaken = largest_found > (1.0 + _OVERTAKEN) * largest
        return ~(tf.reduce_any(is_stale) | tf.reduce_any(is_overtaken))

    def _search(self, v, tolerance, max_iterations, num_fresh):
        if self._is_euclidean:
            if self._has_small_gram_matrix:
                new = self._from_gram_matrix(v.shape)
                count = tf.constant(1)
            else:
                new, count = self._from_krylov_spaces(v, tolerance, max_iterations)
            new = tf.math.divide_no_nan(new, _lengths(new))
            is_better = _lengths(self._matvec(new)) > _lengths(self._matvec(v))  # not if the kernel is zero or NaN
            return tf.where(_like(is_better, v), new, v), count
        if num_fresh is None:
            affordable = _FRESH_VALUES // int(self.operator.num_inputs)
            num_fresh = max(_FEWEST_FRESH, min(_MOST_FRESH, affordable))
        fresh, _ = self._iterate(self._fresh_starts(num_fresh), 0.0, _FRESH_STEPS)
        v = self._best(tf.concat([v, fresh], 0), v.shape[0])
        v, count = self._iterate(v, tolerance, max_iterations)
        return self._best(v, v.shape[0]), count

    def _from_gram_matrix(self, shape):
        """Returns leading right singular vectors of small operators, not normalized.

        Let G = W'W or W W', with eigenvalues a_1 >= a_2 >= ... For m = 2048, the columns of G^m are multiples of
        its leading eigenvector, up to terms with the factors (a_i / a_1)^m. The longest column has a share of at
        least 1/n in this vector, so ||W v||^2 >= a_1 (1 - ln(n) / (2 m)), whatever v was before.
        """
        gram = self.operator.gram(self.kernel * self._per_kernel(self.kernel))
        power = tf.reshape(gram, [-1, *gram.shape[-2:]])
        for i in range(_DOUBLINGS):
            if i % 3 == 0:  # float32 represents the eighth power of the trace of at most 64 eigenvalues
                power /= _nonzero(tf.linalg.trace(power))[:, tf.newaxis, tf.newaxis]
            power = tf.matmul(power, power)
        longest = tf.argmax(tf.linalg.diag_part(power), axis=1)
        x = tf.gather(power, longest, batch_dims=1)
        x /= _nonzero(_peak(x))
        if self._searches_outputs:
            x = self._rmatvec(tf.reshape(x, [-1, *self.operator.output_shape]))
        return tf.reshape(x, shape)

    def _from_krylov_spaces(self, v, tolerance, max_iterations):
        """Moves v to leading right singular vectors, by way of left ones if they are smaller, see `_lanczos`.

        The steps are divided into runs. Each run starts from the result of the last one. The vectors returned are
        not normalized.
        """
        num_steps = min(max_iterations, _LONGEST_RUN)

        def unfinished(count, x):
            return (count < max_iterations) & tf.reduce_any(self._change(x) > tolerance)

        def run(count, x):
            return count + num_steps, self._lanczos(x, num_steps)

        count, x = run(tf.constant(0), self._tilted(v))
        if num_steps < max_iterations:
            count, x = tf.while_loop(unfinished, run, (count, x))
        return self._rmatvec(x) if self._searches_outputs else x, count

    def _tilted(self, v):
        """Returns v, or W v if a search uses W W', divided by its length, plus a random vector."""
        x = self._matvec(v) if self._searches_outputs else v
        x = tf.math.divide_no_nan(x, _lengths(x))
        return x + _random(x.shape, v) * (_TILT / self.operator.smaller_side**0.5)

    def _lanczos(self, x, num_steps):
        """Returns the vector with the largest <x, G x> / <x, x> in the Krylov space of x, G x, G^2 x, ...

        G is W'W or W W', and the space has `num_steps` dimensions. In its orthonormal basis q_1, q_2, ..., where
        b_k q_(k+1) is G q_k without its components in q_1, ..., q_k, G is the tridiagonal matrix of the numbers
        a_k = <q_k, G q_k> and b_k.

        References:
          Golub and Van Loan, "Matrix Computations", sections 10.1 and 10.3.
        """
        least = 100.0 * float(np.finfo(x.dtype.as_numpy_dtype).eps)
        axes = list(range(2, 1 + len(x.shape)))

        def body(k, q, largest, basis, numbers):
            basis += tf.reshape(tf.one_hot(k, num_steps, dtype=q.dtype), [-1] + [1] * len(q.shape)) * q
            image = self._gram(q)
            a = _inner(image, q)
            largest = tf.maximum(largest, a)
            for _ in range(2):  # the second time removes rounding errors of the first
                components = tf.reduce_sum(basis * image, axes, keepdims=True)
                image -= tf.reduce_sum(basis * components, 0)
            b = _lengths(image)
            b = tf.where(b > least * largest, b, 0.0)  # otherwise, the next vector would consist of rounding errors
            pair = tf.reshape(tf.stack([a, b], axis=1), [-1, 2])
            return k + 1, tf.math.divide_no_nan(image, b), largest, basis, numbers.write(k, pair)

        length = _lengths(x)
        q = tf.math.divide_no_nan(x, length)
        basis = tf.zeros([num_steps, *x.shape], x.dtype)
        start = tf.constant(0), q, tf.zeros_like(length), basis, tf.TensorArray(x.dtype, num_steps)
        *_, basis, numbers = tf.while_loop(lambda k, *_: k < num_steps, body, start)
        diagonal, beside = tf.unstack(tf.transpose(numbers.stack(), [2, 1, 0]))
        matrix = tf.linalg.diag(diagonal) + tf.linalg.diag(beside[:, :-1], k=-1)  # eigh reads the lower part
        matrix = tf.where(tf.math.is_finite(matrix), matrix, 0.0)  # TensorFlow raises an error for NaN
        weights = tf.transpose(tf.linalg.eigh(matrix)[1][..., -1])
        return tf.reduce_sum(basis * tf.reshape(weights, [num_steps, -1] + [1] * len(axes)), 0)

    def _iterate(self, v, tolerance, max_iterations):
        """Takes power steps until all starts have converged."""

        def body(count, v, _):
            new = self._power(v)
            return count + 1, new, tf.reduce_max(_lengths(new - v) / _lengths(new))

        def unfinished(count, v, change):
            return (change > tolerance) & (count < max_iterations)

        count, v, _ = tf.while_loop(unfinished, body, (tf.constant(0), v, tf.constant(math.inf, v.dtype)))
        return v, count

    def _matvec(self, v):
        image = self.operator.matvec(self.kernel, v)
        return image * self._per_kernel(image)

    def _rmatvec(self, u):
        image = self.operator.rmatvec(self.kernel, u)
        return image * self._per_kernel(image)

    def _per_kernel(self, x):
        return _like(self._factor, x) if self._is_stacked and tf.is_tensor(self._factor) else self._factor

    @property
    def _has_small_gram_matrix(self):
        return self._is_euclidean and self.operator.smaller_side <= _SMALL

    @property
    def _searches_outputs(self):
        """Whether a search for 2 -> 2 uses the smaller W W' instead of W'W."""
        return self.operator.num_outputs < self.operator.num_inputs

    def _change(self, x):
        """Returns ||G x - s x|| / s with s = <x, G x>: about the change of unit vectors x by a power step."""
        x /= _lengths(x)
        image = self._gram(x)
        value = _inner(x, image)
        return tf.math.divide_no_nan(_lengths(image - value * x), value)

    def _gram(self, x):
        return self._matvec(self._rmatvec(x)) if self._searches_outputs else self._rmatvec(self._matvec(x))

    def _ratios(self, v):
        return lp_norm(self._matvec(v), self.codomain) / lp_norm(v, self.domain)

    def _best(self, v, num):
        return tf.gather(v, tf.math.top_k(self._ratios(v), num).indices)

    def _fresh_starts(self, num):
        """Returns one power step from each of `num` normal vectors."""
        return self._power(_random([num, *self.operator.vector_shape], self.kernel))

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
        operator = self.operator
        kernel = kernel / peak
        if operator.smaller_side <= _SMALL:
            z = np.linalg.eigh(operator.gram(tf.cast(kernel, tf.float64)))[1][:, -1:].T
            if operator.num_outputs < operator.num_inputs:
                z = operator.rmatvec(tf.cast(kernel, tf.float64), z.reshape(1, *operator.output_shape)).numpy()
            return z.ravel() / np.linalg.norm(z)

        def gram(z):
            z = tf.constant(z.reshape(v.shape), v.dtype)
            return tf.reshape(operator.rmatvec(kernel, operator.matvec(kernel, z)), [-1]).numpy()

        size, dtype = int(operator.num_inputs), v.dtype.as_numpy_dtype
        start = v.numpy().ravel() + np.random.default_rng(0).normal(size=size).astype(dtype) / size**0.5
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


def _random(shape, x):
    """Returns normal numbers. The values of x determine the seed, so each step of a training has other numbers."""
    sums = tf.stack([tf.reduce_sum(x), tf.reduce_sum(tf.abs(x))])
    seed = tf.bitcast(tf.cast(sums, tf.float32), tf.int32)
    return tf.random.stateless_normal(shape, seed, dtype=x.dtype)


def _axes(x):
    return list(range(1, len(x.shape)))


def _peak(x):
    return tf.stop_gradient(tf.reduce_max(tf.abs(x), _axes(x), keepdims=True))


def _lengths(x):
    """Returns the 2-norm of each start, with all axes. Squares must neither overflow nor underflow."""
    return tf.sqrt(tf.reduce_sum(tf.square(x), _axes(x), keepdims=True))


def _inner(x, y):
    return tf.reduce_sum(x * y, _axes(x), keepdims=True)


def _nonzero(x):
    return tf.where(x > 0, x, tf.ones_like(x))


def _cast(order, x):
    return order if isinstance(order, float) else tf.cast(order, x.dtype)


def _like(numbers, x):
    """Reshapes one number per start to the rank of x."""
    return tf.reshape(numbers, [-1] + [1] * (len(x.shape) - 1))
