"""Induced norms ||W||_{p -> q} = max ||W v||_q / ||v||_p: maximisers, closed forms and bounds.

An order is a Python float in [1, inf] or, where it is learned, a scalar tensor. Vectors carry a
leading axis of starts: `v` is `[starts, ...]`, and a norm reduces every other axis.
"""

__all__ = [
    "caught_up",
    "dual_order",
    "dual_vector",
    "has_closed_form",
    "is_order",
    "lp_norm",
    "maximiser",
    "norm_bound",
    "norm_estimate",
]

import functools
import math

import tensorflow as tf

from tf_resflow.private_api import silence_retracing

_KRYLOV = 6
# Dimensions up to which an eigenvector of the Gram matrix takes less time than a power step, than some iterations.
_TINY, _SMALL = 16, 64
_STALE = 1e-2  # relative change in v by a power step
_MAX_CATCH_UP = 60  # products with W and its transpose
_NUM_FRESH = 32  # starts of a catch-up at other orders than 2
_FRESH = (1e-2, 60)  # tolerance and most products of fresh starts, before the best of them go on
_TILT = 1e-3


def is_order(order, value):
    """Whether `order` is known statically to be `value`."""
    return isinstance(order, float) and order == value


def dual_order(order):
    """p* with 1/p + 1/p* = 1."""
    if is_order(order, 1.0):
        return math.inf
    return 1.0 if is_order(order, math.inf) else order / (order - 1.0)


def has_closed_form(domain, codomain):
    """Whether ||W||_{p -> q} is a maximum over columns (p = 1) or over rows (q = inf)."""
    return is_order(domain, 1.0) or is_order(codomain, math.inf)


def _peak(x):
    axes = list(range(1, len(x.shape)))
    return tf.stop_gradient(tf.reduce_max(tf.abs(x), axes, keepdims=True))


def _or_one(x):
    return tf.where(x > 0, x, tf.ones_like(x))


def _cast(order, x):
    return order if isinstance(order, float) else tf.cast(order, x.dtype)


def lp_norm(x, order):
    """||x||_p of each start, `[starts]`; its gradient is finite (zero) where x is zero."""
    axes, peak, order = list(range(1, len(x.shape))), _peak(x), _cast(order, x)
    if is_order(order, math.inf):
        return tf.reduce_max(tf.abs(x), axes)
    if is_order(order, 1.0):
        return tf.reduce_sum(tf.abs(x), axes)
    y = x / _or_one(peak)
    powers = tf.square(y) if is_order(order, 2.0) else tf.abs(y) ** order
    total = tf.reduce_sum(powers, axes)  # at least 1, unless x is zero
    return tf.reshape(peak, [-1]) * tf.maximum(total, 0.5) ** (1.0 / order)


def dual_vector(x, order):
    """The y with <x, y> = ||x||_p and ||y||_{p*} = 1, for p < inf: sgn(x) |x|^(p-1), normalised."""
    y, order = x / _or_one(_peak(x)), _cast(order, x)
    if not is_order(order, 2.0):
        y = tf.sign(y) * tf.abs(y) ** (order - 1.0)
    norm = lp_norm(y, dual_order(order))
    return y / tf.reshape(_or_one(norm), [-1] + [1] * (len(x.shape) - 1))


def maximiser(operator, kernel, v, orders, tolerance, max_iterations, num_fresh=1):
    """Vectors at which ||W v||_q / ||v||_p is largest, for p > 1 and q < inf, from a first guess.

    It iterates until ||v_new - v||_2 <= tolerance ||v_new||_2 for every start but a fresh one; at
    2 -> 2 it takes an eigenvector of the Gram matrix where that is small. An iteration does not
    leave a local maximum, nor a space that W maps to itself, so that fresh starts stand beside the
    guess: unit vectors of the inputs and of the outputs, or at 2 -> 2 a random direction. Their
    seed comes from the kernel: equal kernels give equal vectors.

    Args:
        operator: a linear operator of `tf_resflow.layers.linear_operators`.
        kernel: its kernel.
        v: `[starts, ...]`, the vectors to start from.
        orders: p and q.
        tolerance: relative change in v to stop at; 0 for a fixed count.
        max_iterations: the most products with W and its transpose, rounded up to whole steps.
        num_fresh: how many fresh starts to try. One costs nothing: it takes the place of the worst
            of v, or at 2 -> 2 tilts v.

    Returns:
        v, with the best start first, and the number of iterations, an int32 scalar.
    """
    fixed, learned = _divided(orders, v.dtype)

    def move(v, tolerance, max_iterations):
        limits = tf.constant(tolerance, v.dtype), tf.constant(max_iterations)
        return _move(operator, fixed)(kernel, v, learned, *limits)

    if num_fresh > 1 and not _has_gram(operator, fixed, _SMALL):
        fresh, _ = move(_fresh_starts(operator, kernel, num_fresh, fixed, orders), *_FRESH)
        v = _best(operator, kernel, tf.concat([v, fresh], 0), v.shape[0], orders)
    return move(v, tolerance, max_iterations)


def caught_up(operator, kernel, v, orders):
    """v, and where it is not the maximiser for this kernel any more, that.

    One product more tells: v is kept if a power step would change the best start by less than 1 %.
    """
    fixed, learned = _divided(orders, v.dtype)
    if _has_gram(operator, fixed, _TINY):
        return maximiser(operator, kernel, v, orders, _STALE, _MAX_CATCH_UP)[0]
    return _catch_up(operator, fixed)(kernel, v, learned)


def _divided(orders, dtype):
    """The orders, with None for those that are learned, and these."""
    fixed = tuple(order if isinstance(order, float) else None for order in orders)
    return fixed, [tf.cast(order, dtype) for order in orders if not isinstance(order, float)]


def _joined(fixed, learned):
    learned = iter(learned)
    return tuple(next(learned) if order is None else order for order in fixed)


def _traced_once(function):
    """A `tf.function` for all the layers of the same operator and orders.

    It is neither inlined nor, so, specialised for each layer: Grappler would spend longer on the
    copies than the trace takes.
    """
    attributes = {"_noinline": True}
    return silence_retracing(tf.function(function, autograph=False, experimental_attributes=attributes))


@functools.lru_cache(maxsize=256)
def _move(operator, fixed):
    """Moves v to the maximiser; v comes back with its best start first."""

    @_traced_once
    def run(kernel, v, learned, tolerance, max_iterations):
        if _has_gram(operator, fixed, _SMALL):
            return _gram_step(operator, kernel, v), tf.constant(1)
        orders, num_starts = _joined(fixed, learned), v.shape[0]
        fresh = _fresh_starts(operator, kernel, 1, fixed, orders)
        if fixed == (2.0, 2.0):
            return _iterate(_ritz_step, operator, kernel, v + _TILT * fresh, orders, tolerance, max_iterations)
        v = tf.concat([_best(operator, kernel, v, num_starts - 1, orders), fresh], 0)
        v, count = _iterate(_power_step, operator, kernel, v, orders, tolerance, max_iterations)
        return _best(operator, kernel, v, num_starts, orders), count

    return run


@functools.lru_cache(maxsize=256)
def _catch_up(operator, fixed):
    num_fresh = 1 if fixed == (2.0, 2.0) else _NUM_FRESH

    @_traced_once
    def run(kernel, v, learned):
        orders = _joined(fixed, learned)
        maximum = lambda: maximiser(operator, kernel, v, orders, _STALE, _MAX_CATCH_UP, num_fresh)[0]  # noqa: E731
        if fixed == (2.0, 2.0):
            change = _residual(operator, kernel, v)
        else:
            change = _change(v[:1], _power_step(operator, kernel, v[:1], *orders)[0])
        return tf.cond(change > _STALE, maximum, lambda: v)

    return run


def _iterate(step, operator, kernel, v, orders, tolerance, max_iterations):
    """Steps until all starts but the last of several, which is a fresh one, have converged."""
    num_judged = max(1, v.shape[0] - 1)

    def body(count, v, _):
        new, products = step(operator, kernel, v, *orders)
        return count + products, new, _change(v[:num_judged], new[:num_judged])

    def unfinished(count, v, change):
        return (change > tolerance) & (count < max_iterations)

    start = (tf.constant(0), v, tf.constant(math.inf, v.dtype))
    count, v, _ = tf.while_loop(unfinished, body, start)
    return v, count


def _change(v, new):
    """The largest relative change of a start, up to its sign."""
    change = tf.minimum(lp_norm(new - v, 2.0), lp_norm(new + v, 2.0))
    return tf.reduce_max(change / _or_one(lp_norm(new, 2.0)))


def _residual(operator, kernel, v):
    """||W'W v - s^2 v|| / s^2 with s = ||W v||, for a unit vector v: about its change by a power step."""
    image = operator.matvec(kernel, v)
    square = tf.reduce_sum(image * image)
    return tf.norm(operator.rmatvec(kernel, image) - square * v) / square


def _ratios(operator, kernel, v, domain, codomain):
    return lp_norm(operator.matvec(kernel, v), codomain) / lp_norm(v, domain)


def _best(operator, kernel, v, num, orders):
    """The `num` starts of the largest ratios."""
    return tf.gather(v, tf.math.top_k(_ratios(operator, kernel, v, *orders), num).indices)


def _fresh_starts(operator, kernel, num, fixed, orders):
    """Random starts, `[num, ...]`, at 2 -> 2 a single one; of p-norm 1. The kernel gives their seed.

    Elsewhere they are unit vectors of the inputs, and what W' and duality make of unit vectors of the outputs: the
    power method was seen to find higher maxima from these than from normal vectors.
    """
    sums = tf.stack([tf.reduce_sum(kernel), tf.reduce_sum(tf.abs(kernel))])
    seed = tf.bitcast(tf.cast(sums, tf.float32), tf.int32)
    if fixed == (2.0, 2.0):
        v = tf.random.stateless_normal([1, *operator.vector_shape], seed, dtype=kernel.dtype, alg="philox")
        return dual_vector(v, 2.0)

    def unit_vectors(shape, seed):
        size = math.prod(shape)
        place = tf.random.stateless_uniform([num], seed, 0, size, tf.int32, alg="philox")
        return tf.reshape(tf.one_hot(place, size, dtype=kernel.dtype), [num, *shape])

    v = unit_vectors(operator.vector_shape, seed)
    of_outputs = operator.rmatvec(kernel, unit_vectors(operator.output_shape, seed + 2))
    use = (tf.range(num) + seed[0]) % 2 == 0
    use = tf.reshape(use, [-1] + [1] * (len(v.shape) - 1)) & (_peak(of_outputs) > 0.0)
    return tf.where(use, dual_vector(of_outputs, dual_order(orders[0])), v)


def _has_gram(operator, fixed, most):
    return fixed == (2.0, 2.0) and min(operator.num_inputs, operator.num_outputs) <= most


def _gram_step(operator, kernel, v):
    """The unit vector that W stretches most, from the eigenvectors of its Gram matrix."""
    gram = operator.gram(kernel)
    finite = tf.math.is_finite(tf.reduce_sum(gram))  # eigh raises otherwise
    _, vectors = tf.linalg.eigh(tf.where(finite, gram, tf.zeros_like(gram)))
    new = vectors[:, -1]
    if operator.gram_is_of_outputs:
        new = operator.rmatvec(kernel, tf.reshape(new, [1, *operator.output_shape]))
    new = dual_vector(tf.reshape(new, v.shape), 2.0)
    return tf.where(_peak(new) > 0.0, new, v)


def _power_step(operator, kernel, v, domain, codomain):
    """One step of the generalised power method; ||W v||_q never falls.

        u <- sgn(W v) |W v|^(q-1) / ||.||_{q*},   v <- sgn(W'u) |W'u|^(p*-1) / ||.||_p

    References:
        Boyd, "The power method for l^p norms", Linear Algebra Appl. 9 (1974).
    """
    u = dual_vector(operator.matvec(kernel, v), codomain)
    z = operator.rmatvec(kernel, u)
    return tf.where(_peak(z) > 0, dual_vector(z, dual_order(domain)), v), 1


def _ritz_step(operator, kernel, v, *_):
    """The unit vector that W stretches most among span{v, W'W v, ..., (W'W)^5 v}.

    A step of restarted Lanczos with full orthogonalisation, on the smaller side of W: where it has fewer
    outputs than inputs, in the span of W v, WW'W v, .... The leading singular values of a
    convolution are close to one another, where as many power iterations hardly move.

    References:
        Golub and Van Loan, "Matrix Computations", section 10.1.
    """

    def gram(z):
        if wide:
            return operator.matvec(kernel, operator.rmatvec(kernel, z))
        return operator.rmatvec(kernel, operator.matvec(kernel, z))

    wide = operator.num_inputs > operator.num_outputs
    z = operator.matvec(kernel, v) if wide else v
    shape, basis, images = z.shape, [], []
    for _ in range(_KRYLOV):
        basis.append(_orthonormalised(tf.reshape(z, [1, -1]), basis))
        z = gram(tf.reshape(basis[-1], shape))
        images.append(tf.reshape(z, [1, -1]))
    basis = tf.concat(basis, 0)
    projection = tf.matmul(basis, tf.concat(images, 0), transpose_b=True)
    _, rotation = tf.linalg.eigh((projection + tf.transpose(projection)) / 2.0)
    new = tf.reshape(tf.matmul(rotation[:, -1:], basis, transpose_a=True), shape)
    new = dual_vector(operator.rmatvec(kernel, new), 2.0) if wide else new
    return tf.where(_peak(new) > 0.0, new, v), _KRYLOV


def _orthonormalised(z, basis):
    """z, made a unit vector orthogonal to the rows in the list; 0 if it is in their span."""
    for _ in range(2):
        if basis:
            rows = tf.concat(basis, 0)
            z = z - tf.matmul(tf.matmul(z, rows, transpose_b=True), rows)
        norm = tf.sqrt(tf.reduce_sum(tf.square(z)))
        z = tf.math.divide_no_nan(z, norm)
    return z * tf.cast(norm > 0.5, z.dtype)


def norm_estimate(operator, kernel, v, domain, codomain):
    """The closed form of ||W||_{p -> q} where there is one, else max ||W v||_q / ||v||_p.

    By the envelope theorem the gradient in the kernel and in the orders needs no gradient through
    v, at the maximum; at 2 -> 2 it is that of u'Wv with u = Wv / ||Wv||.
    """
    if has_closed_form(domain, codomain):
        norm = _closed_form(operator, kernel, domain, codomain)
    else:
        norm = tf.reduce_max(_ratios(operator, kernel, tf.stop_gradient(v), domain, codomain))
    return norm * operator.copies ** _inclusion(domain, codomain, norm)


def norm_bound(operator, kernel, domain, codomain):
    """An upper bound of ||W||_{p -> q}, computed in float64 and rounded up.

    Exact for p = 1, for q = inf and for 2 -> 2, but for the bound of large 2 -> 2 convolutions
    (`ConvolutionOperator.spectral_bound`). Otherwise the least of

        || (||row||_{p*}) ||_q,   || (||column||_q) ||_{p*},
        m^s RT(p),  n^s RT(q)     with s = max(0, 1/q - 1/p), for W: R^n -> R^m,

    where RT(r) >= ||W||_{r -> r} by Riesz and Thorin, between r = 1, 2 and inf.
    """
    kernel = tf.cast(kernel, tf.float64)
    domain, codomain = _cast(domain, kernel), _cast(codomain, kernel)
    if has_closed_form(domain, codomain):
        bound = _closed_form(operator, kernel, domain, codomain)
    elif is_order(domain, 2.0) and is_order(codomain, 2.0):
        bound = operator.spectral_bound(kernel)
    else:
        bound = _mixed_bound(operator, kernel, domain, codomain)
    return bound * operator.copies ** _inclusion(domain, codomain, kernel) * (1.0 + 1e-9)


def _inclusion(domain, codomain, like):
    """max(0, 1/q - 1/p): the norm of the inclusion of l^p into l^q in n dimensions is n to it."""
    excess = 1.0 / _cast(codomain, like) - 1.0 / _cast(domain, like)
    return max(excess, 0.0) if isinstance(excess, float) else tf.maximum(excess, 0.0)


def _line_norms(sums, kernel, order):
    """r-norms of the rows or columns, from sums(|kernel|^r) of the same."""
    peak = tf.stop_gradient(tf.reduce_max(tf.abs(kernel)))
    powers = tf.abs(kernel / _or_one(peak)) ** order
    return peak * tf.maximum(sums(powers), 1e-30) ** (1.0 / order)


def _closed_form(operator, kernel, domain, codomain):
    if is_order(domain, 1.0) and is_order(codomain, math.inf):
        return tf.reduce_max(tf.abs(operator.live(kernel)))
    if is_order(domain, 1.0):
        sums, order = operator.column_sums, _cast(codomain, kernel)
    else:
        sums, order = operator.row_sums, _cast(dual_order(domain), kernel)
    return tf.reduce_max(_line_norms(sums, kernel, order))


def _mixed_bound(operator, kernel, domain, codomain):
    dual = dual_order(domain)
    rows = _line_norms(operator.row_sums, kernel, dual)
    columns = _line_norms(operator.column_sums, kernel, codomain)
    column_sum = tf.reduce_max(_line_norms(operator.column_sums, kernel, 1.0))
    row_sum = tf.reduce_max(_line_norms(operator.row_sums, kernel, 1.0))
    spectral = operator.spectral_bound(kernel)
    excess = _inclusion(domain, codomain, kernel)

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
    return tf.reduce_min(tf.stack(candidates))
