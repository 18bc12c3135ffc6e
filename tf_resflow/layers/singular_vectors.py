"""Leading right singular vectors of linear operators, by TensorFlow in graphs and by SciPy in eager mode.

Kernels of small matrices may be stacked, `[matrices, inputs, outputs]`, with one vector per matrix. G is the
smaller one of the Gram matrices W'W and W W'.
"""

import numpy as np
import tensorflow as tf
from scipy.sparse import linalg

from tf_resflow.layers.linear_operators import LinearOperator
from tf_resflow.layers.vector_norms import (
    inner,
    lengths,
    lp_norm,
    nonzero,
    peaks,
    per_start,
    random_like,
    vector_axes,
)

_SMALL = 64  # the vector of an operator with at most this many inputs or outputs comes from its Gram matrix
_DOUBLINGS = 11  # of the exponent of a small Gram matrix; underestimates norms by at most ln(64) / 2**13 = 5e-4
_LONGEST_RUN = 14  # steps of the Lanczos method
_STEPS_OF_CHECK = 8
_TILT = 0.3  # length of the random vector that is added to the unit vector v before a search


class SingularVectorSearch:
    """A search for the leading right singular vector v of each kernel, a unit vector, in a graph.

    The search divides each kernel by its largest magnitude. This changes no vector. It divides images instead of
    kernels, because temporary copies of stacked kernels would take longer.
    """

    def __init__(self, operator: LinearOperator, kernel: tf.Tensor):
        self._operator = operator
        self._kernel = kernel
        self._is_stacked = operator.is_stacked(kernel)
        axes = vector_axes(kernel) if self._is_stacked else None
        peak = tf.maximum(tf.reduce_max(kernel, axes), -tf.reduce_min(kernel, axes))
        self._factor = 1.0 / nonzero(peak)

    @property
    def is_small(self) -> bool:
        """Whether `run` computes the vectors from Gram matrices, whatever the initial vectors are."""
        return self._operator.smaller_side <= _SMALL

    def run(self, v: tf.Tensor, tolerance: float, max_iterations: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the vectors, and the number of steps. Keeps v if its image is the longest one."""
        if self.is_small:
            new = self._from_gram_matrix(v.shape)
            num_steps = tf.constant(1)
        else:
            new, num_steps = self._from_krylov_spaces(v, tolerance, max_iterations)
        new = tf.math.divide_no_nan(new, lengths(new))
        is_better = lengths(self._matvec(new)) > lengths(self._matvec(v))  # not if the kernel is zero or NaN
        return tf.where(per_start(is_better, v), new, v), num_steps

    def is_stale(self, v: tf.Tensor, most: float) -> tf.Tensor:
        """Whether a power step changes a vector by more than `most`."""
        stepped = self._rmatvec(self._matvec(v))
        stepped = tf.math.divide_no_nan(stepped, lengths(stepped))
        return tf.reduce_any(lengths(stepped - v) > most)

    def is_overtaken(self, v: tf.Tensor, excess: float) -> tf.Tensor:
        """Whether a short search finds a norm that is larger than the norm at v by a relative `excess`.

        The short search finds norms in directions that v excludes, such as those of another block of a
        block-diagonal kernel. For dense random kernels with 66 to 300 rows, eight Lanczos steps missed 1.6 % of the
        singular values that overtook the stored one by 10 %, and 0.1 % of those that overtook it by 30 %; six steps
        missed 12 % and 0.4 %.
        """
        competitor = self._lanczos(self._tilted(v), _STEPS_OF_CHECK)
        if self._searches_outputs:
            competitor = self._rmatvec(competitor)
        return tf.reduce_any(self._norms(competitor) > (1.0 + excess) * self._norms(v))

    def _from_gram_matrix(self, shape):
        """Returns leading right singular vectors of small operators, not normalized.

        Let G have the eigenvalues a_1 >= a_2 >= ... For m = 2048, the columns of G^m are multiples of its leading
        eigenvector, up to terms with the factors (a_i / a_1)^m. The longest column has a share of at least 1/n in
        this vector, so ||W v||^2 >= a_1 (1 - ln(n) / (2 m)), whatever v was before.
        """
        gram = self._operator.gram(self._kernel * self._per_kernel(self._kernel))
        power = tf.reshape(gram, [-1, *gram.shape[-2:]])
        for i in range(_DOUBLINGS):
            if i % 3 == 0:  # float32 represents the eighth power of the trace of at most 64 eigenvalues
                power /= nonzero(tf.linalg.trace(power))[:, tf.newaxis, tf.newaxis]
            power = tf.matmul(power, power)
        longest = tf.argmax(tf.linalg.diag_part(power), axis=1)
        x = tf.gather(power, longest, batch_dims=1)
        x /= nonzero(peaks(x))
        if self._searches_outputs:
            x = self._rmatvec(tf.reshape(x, [-1, *self._operator.output_shape]))
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
        x = tf.math.divide_no_nan(x, lengths(x))
        return x + random_like(v, x.shape) * (_TILT / self._operator.smaller_side**0.5)

    def _lanczos(self, x, num_steps):
        """Returns the vector with the largest <x, G x> / <x, x> in the Krylov space of x, G x, G^2 x, ...

        The space has `num_steps` dimensions. In its orthonormal basis q_1, q_2, ..., where b_k q_(k+1) is G q_k
        without its components in q_1, ..., q_k, G is the tridiagonal matrix of the numbers a_k = <q_k, G q_k> and
        b_k. If b_k is a rounding error, G maps the space to itself, and might have a larger eigenvalue outside. The
        search then goes on with b_k = 0 and a random q_(k+1).

        References:
          Golub and Van Loan, "Matrix Computations", sections 10.1 and 10.3.
        """
        least = 100.0 * float(np.finfo(x.dtype.as_numpy_dtype).eps)

        def body(k, q, largest, basis, numbers):
            basis += tf.reshape(tf.one_hot(k, num_steps, dtype=q.dtype), [-1] + [1] * len(q.shape)) * q
            image = self._gram(q)
            a = inner(image, q)
            largest = tf.maximum(largest, a)
            image = _without_components(image, basis)
            b = lengths(image)
            is_exhausted = b <= least * largest

            def with_random():
                random = _without_components(random_like(q, q.shape), basis)
                return tf.where(is_exhausted, random, image)

            image = tf.cond(tf.reduce_any(is_exhausted), with_random, lambda: image)
            b = tf.where(is_exhausted, tf.zeros_like(b), b)
            pair = tf.reshape(tf.stack([a, b], axis=1), [-1, 2])
            return k + 1, tf.math.divide_no_nan(image, lengths(image)), largest, basis, numbers.write(k, pair)

        length = lengths(x)
        q = tf.math.divide_no_nan(x, length)
        basis = tf.zeros([num_steps, *x.shape], x.dtype)
        start = (tf.constant(0), q, tf.zeros_like(length), basis, tf.TensorArray(x.dtype, num_steps))
        *_, basis, numbers = tf.while_loop(lambda k, *_: k < num_steps, body, start)
        diagonal, below = tf.unstack(tf.transpose(numbers.stack(), [2, 1, 0]))
        matrix = tf.linalg.diag(diagonal) + tf.linalg.diag(below[:, :-1], k=-1)  # eigh reads the lower part
        matrix = tf.where(tf.math.is_finite(matrix), matrix, 0.0)  # TensorFlow raises an error for NaN
        weights = tf.transpose(tf.linalg.eigh(matrix)[1][..., -1])
        return tf.reduce_sum(basis * tf.reshape(weights, [num_steps, -1] + [1] * (len(x.shape) - 1)), 0)

    def _change(self, x):
        """Returns ||G x - s x|| / s with s = <x, G x>: about the change of unit vectors x by a power step."""
        x /= lengths(x)
        image = self._gram(x)
        value = inner(x, image)
        return tf.math.divide_no_nan(lengths(image - value * x), value)

    def _norms(self, v):
        return lp_norm(self._matvec(v), 2.0) / lp_norm(v, 2.0)

    @property
    def _searches_outputs(self):
        """Whether G is W W' instead of W'W."""
        return self._operator.num_outputs < self._operator.num_inputs

    def _gram(self, x):
        return self._matvec(self._rmatvec(x)) if self._searches_outputs else self._rmatvec(self._matvec(x))

    def _matvec(self, v):
        image = self._operator.matvec(self._kernel, v)
        return image * self._per_kernel(image)

    def _rmatvec(self, u):
        image = self._operator.rmatvec(self._kernel, u)
        return image * self._per_kernel(image)

    def _per_kernel(self, x):
        return per_start(self._factor, x) if self._is_stacked else self._factor


def _without_components(x, basis):
    """Returns x without its components in an orthonormal basis, `[steps, starts, ...]`."""
    axes = list(range(2, len(basis.shape)))
    for _ in range(2):  # the second time removes rounding errors of the first
        components = tf.reduce_sum(basis * x, axes, keepdims=True)
        x -= tf.reduce_sum(basis * components, 0)
    return x


def leading_in_eager_mode(operator: LinearOperator, kernel: tf.Tensor, v: tf.Tensor, tolerance: float) -> tf.Tensor:
    """Returns the leading right singular vector of each kernel, or v if the kernel is zero or not finite."""
    kernels = tf.unstack(kernel) if operator.is_stacked(kernel) else [kernel]
    starts = tf.split(v, len(kernels))
    vectors = [_leading(operator, *pair, tolerance) for pair in zip(kernels, starts, strict=True)]
    return tf.cast(tf.reshape(tf.stack(vectors), v.shape), v.dtype)


def _leading(operator, kernel, v, tolerance):
    peak = np.abs(kernel).max()
    if not np.isfinite(kernel).all() or peak == 0.0:
        return tf.reshape(v, [-1])
    kernel = kernel / peak
    if operator.smaller_side <= _SMALL:
        return _leading_of_small(operator, tf.cast(kernel, tf.float64))

    def gram(z):
        z = tf.constant(z.reshape(v.shape), v.dtype)
        return tf.reshape(operator.rmatvec(kernel, operator.matvec(kernel, z)), [-1]).numpy()

    size = int(operator.num_inputs)
    dtype = v.dtype.as_numpy_dtype
    start = v.numpy().ravel() + np.random.default_rng(0).normal(size=size).astype(dtype) / size**0.5
    product = linalg.LinearOperator((size, size), gram, dtype=dtype)
    tolerance = max(tolerance, 10.0 * float(np.finfo(dtype).eps))
    return linalg.eigsh(product, 1, v0=start, tol=tolerance)[1][:, 0]


def _leading_of_small(operator, kernel):
    z = np.linalg.eigh(operator.gram(kernel))[1][:, -1:].T
    if operator.num_outputs < operator.num_inputs:
        z = operator.rmatvec(kernel, z.reshape(1, *operator.output_shape)).numpy()
    return z.ravel() / np.linalg.norm(z)
