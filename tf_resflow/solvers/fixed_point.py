"""Plain and Anderson-accelerated fixed-point iteration for x + g(x) = y."""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tf_resflow._internal.private_api import is_xla, unrecorded
from tf_resflow._internal.serialization import Settings

EPSILON = {tf.bfloat16: 2.0**-7, tf.float16: 2.0**-10, tf.float32: 2.0**-23, tf.float64: 2.0**-52}
_MIN_REMAINDER = 1e-6  # Anderson drops a difference if less than this share of its square remains


class Solution(NamedTuple):
    """The result of a solver for each example in the batch.

    Attributes:
      root: `[batch, *event]`, `y - g(x)` for the evaluated point x with the smallest residual.
      residual: `[batch]`, `max |x + g(x) - y|` over the event at that x.
      num_iterations: `[batch]` int32, number of evaluations of g until the example converged.
      converged: `[batch]` bool, whether x meets the tolerance (see `FixedPoint`).
    """

    root: tf.Tensor
    residual: tf.Tensor
    num_iterations: tf.Tensor
    converged: tf.Tensor


@dataclasses.dataclass(frozen=True)
class FixedPoint(Settings):
    r"""Iterates \\(x \leftarrow y - g(x)\\), which converges at the rate Lip(g) < 1 (Banach).

    An example has converged when its residual \\(r = x + g(x) - y\\) is small. By default, the tolerance is
    relative to the largest coordinate of the event: all \\(|r_i|\\) must be at most
    `atol + rtol max_j(|x_j|, |y_j|)`. If `rtol` is given, it applies to each coordinate: \\(|r_i|\\) must be at
    most `atol + rtol max(|x_i|, |y_i|)`, which float32 may be unable to resolve.

    The error of the root is at most the residual divided by 1 - Lip(g), in the norm of the Lipschitz constant.

    Args:
      atol: Absolute tolerance. By default, two rounding units (2.4e-7 in float32) of the coarsest dtype in g.
      rtol: Relative tolerance, with the same default.
      max_iterations: Maximum number of evaluations of g.

    References:
      Behrmann et al., Invertible Residual Networks, 2019, Algorithm 1.
    """

    _: dataclasses.KW_ONLY
    atol: float | None = None
    rtol: float | None = None
    max_iterations: int = 500

    def __call__(
        self,
        g: Callable[[tf.Tensor], tf.Tensor],
        y: tf.Tensor,
        *,
        relative: bool = False,
        dtype: tf.DType | None = None,
        min_atol: float = 0.0,
        min_rtol: float = 0.0,
    ) -> Solution:
        """Solves `x + g(x) = y` for x.

        Args:
          g: Callable from `[batch, *event]` to the same shape, with Lip(g) < 1.
          y: Tensor of shape `[batch, *event]`.
          relative: Whether to use only the relative tolerance, of at least two rounding units.
          dtype: Dtype to which g is rounded, if it is coarser than that of `y`.
          min_atol: Absolute tolerance that replaces the solver's own if it is larger.
          min_rtol: Relative tolerance that replaces the solver's own if it is larger.

        Returns:
          A `Solution`. It is not differentiable; see `solve_residual`.
        """
        flat_y, unflatten = _columns(y)
        in_tolerances = self._measure(flat_y, 2 * EPSILON[dtype or y.dtype], relative, min_atol, min_rtol)

        def body(i, x, best, pending, history, num_iterations):
            image = flat_y - _columns(tf.cast(g(unflatten(x)), flat_y.dtype))[0]
            point = _Point(image - x, image)
            residual = in_tolerances(point)
            improved = pending & (residual < best.residual)
            proposal, history = self._propose(i, point, best.point, improved, history)
            point = _Point(*(tf.where(improved, new, old) for new, old in zip(point, best.point, strict=True)))
            best = _Best(point, tf.where(improved, residual, best.residual))
            pending &= residual > 1  # False for NaN
            return i + 1, proposal, best, pending, history, num_iterations + tf.cast(pending, tf.int32)

        def go_on(i, x, best, pending, history, num_iterations):
            return (i < self.max_iterations) & tf.reduce_any(pending)

        best = _Best(_Point(tf.zeros_like(flat_y), flat_y), tf.fill(tf.shape(flat_y)[1:], flat_y.dtype.max))
        pending = tf.ones_like(best.residual, tf.bool)
        counts = tf.ones_like(best.residual, tf.int32)
        state = (tf.constant(0), flat_y, best, pending, self._start(flat_y), counts)
        _, _, best, _, _, num_iterations = tf.while_loop(go_on, body, state)
        step, root = best.point
        return Solution(
            root=unflatten(root),
            residual=tf.cast(tf.reduce_max(tf.abs(step), axis=0), y.dtype),
            num_iterations=tf.minimum(num_iterations, self.max_iterations),
            converged=(best.residual <= 1) & tf.reduce_all(tf.math.is_finite(root + flat_y), axis=0),
        )

    def _measure(self, flat_y, rounding, relative, min_atol, min_rtol):
        """Returns a function from a `_Point` to the residual `[batch]`, in multiples of the tolerance."""
        atol, rtol = (rounding if t is None else t for t in (self.atol, self.rtol))
        atol, rtol = (0.0, max(rtol, rounding)) if relative else (atol, rtol)
        rtol = max(rtol, min_rtol)
        atol = max(atol, min_atol, np.finfo(flat_y.dtype.as_numpy_dtype).tiny)
        by_coordinate = self.rtol is not None and not relative
        size = tf.abs(flat_y) if by_coordinate else tf.reduce_max(tf.abs(flat_y), axis=0)

        def in_tolerances(point):
            step, image = map(tf.abs, point)
            if not by_coordinate:
                step = tf.reduce_max(step, axis=0)
                image = tf.reduce_max(image, axis=0)
            residual = step / (atol + rtol * tf.maximum(image, size))
            return tf.reduce_max(residual, axis=0) if by_coordinate else residual

        return in_tolerances

    def _start(self, flat_y) -> tuple[Any, ...]:
        return ()

    def _propose(self, i, point, best, improved, history):
        """Returns the next x and the history, given the newest `_Point` and the best one before it."""
        return point.image, history


class _Point(NamedTuple):
    step: tf.Tensor  # [size, batch]: y - g(x) - x
    image: tf.Tensor  # [size, batch]: y - g(x)


class _Best(NamedTuple):
    point: _Point
    residual: tf.Tensor  # [batch]: the residual of the point, in multiples of the tolerance


def _columns(y):
    """Returns `y` as `[size, batch]`, which is fast, in at least float32, and the function that restores it."""
    size = y.shape[1:].num_elements()
    rows = tf.reshape(y, [-1, size] if size else [tf.shape(y)[0], -1])  # XLA and TFLite need known sizes in a loop
    rows = tf.cast(rows, tf.float32) if y.dtype.size < 4 else rows
    shape = [-1, *y.shape[1:]] if size else tf.shape(y)

    def unflatten(x):
        return tf.ensure_shape(tf.reshape(tf.cast(tf.transpose(x), y.dtype), shape), y.shape)

    return tf.transpose(rows), unflatten


@dataclasses.dataclass(frozen=True)
class Anderson(FixedPoint):
    r"""Fixed-point iteration with Anderson acceleration and a safeguard for each example.

    From the last m points and their steps \\(f_j = y - g(x_j) - x_j\\), the solver computes the affine combination
    with the smallest \\(\|\sum_j \alpha_j f_j\|_2\\) and moves to \\(\sum_j \alpha_j (x_j + f_j)\\). If the move
    does not give the smallest residual so far, the solver forgets the points and returns to the best one. It then
    takes plain steps, which converge, until one of them gives the smallest residual.

    Args:
      memory: Number m >= 2 of points combined. The other arguments are those of `FixedPoint`.

    References:
      Walker and Ni, Anderson acceleration for fixed-point iterations, 2011.
    """

    memory: int = 4

    def _start(self, flat_y):
        zeros = tf.zeros_like(flat_y)
        older = tuple((_Point(zeros, zeros), zeros) for _ in range(self.memory - 2))
        return older, tf.zeros_like(flat_y[0], tf.bool)

    def _propose(self, i, point, best, improved, history):
        older, was_mixed = history
        mixed, newest = _mix(point, best, older, tf.cast(i > 0, point.image.dtype))
        proposal = tf.where(improved, mixed, tf.where(was_mixed, best.image, point.image))
        kept = (newest, *older)[: self.memory - 2]
        restarted = tuple((difference, tf.where(improved, dual, tf.zeros_like(dual))) for difference, dual in kept)
        return proposal, (restarted, improved)


def _mix(point, best, older, weight):
    """Returns the image with the smallest step in the span of the differences, and the newest difference.

    A difference is a `_Point` with a step of size about 1. The inner product of its dual `[size, batch]` with the
    step of a point is the component of the step along the difference. The newest difference is left out if the
    weight is 0, or if the older ones leave only rounding errors of it, as in events with few coordinates.
    """
    difference = _Point(point.step - best.step, point.image - best.image)
    peak = tf.reduce_max(tf.abs(difference.step), axis=0)  # keeps squares in range
    difference = _Point(*(vector * tf.math.reciprocal_no_nan(peak) for vector in difference))
    whole = _dot(difference.step, difference.step)
    for old, dual in older:
        point = _without(point, old, dual)
        difference = _without(difference, old, dual)
    rest = _dot(difference.step, difference.step)
    scale = tf.math.divide_no_nan(weight, tf.where(rest > _MIN_REMAINDER * whole, rest, tf.zeros_like(rest)))
    dual = scale * difference.step
    return _without(point, difference, dual).image, (difference, dual)


def _without(point, difference, dual):
    """Removes the component of a point along a difference."""
    along = _dot(point.step, dual)
    return _Point(point.step - along * difference.step, point.image - along * difference.image)


def _dot(one, other):
    return tf.reduce_sum(one * other, axis=0)


def warn_unconverged(solution: Solution, message: str, warning_threshold: float = 0.0) -> tf.Operation | tf.Tensor:
    """Prints a warning that starts with `message` to stderr if an example did not converge. XLA cannot print it.

    Examples with a residual of at most `warning_threshold` do not count.
    """
    if is_xla():
        return tf.no_op()
    event = range(len(solution.residual.shape), len(solution.root.shape))
    is_finite = tf.reduce_all(tf.math.is_finite(solution.root), axis=list(event))
    is_counted = ~is_finite | (solution.residual > warning_threshold)
    failed = tf.reduce_sum(tf.cast(~solution.converged & is_counted, tf.int32))
    # tf.vectorized_map runs both branches if each element has its own condition. It formats one string for all.
    some_failed = tf.strings.regex_full_match(tf.strings.format("{}", failed, summarize=-1), "(?s).*[1-9].*")
    warn = lambda: tf.print(  # noqa: E731
        "WARNING:", message, "\n  number of examples:", failed, "maximum evaluations:",
        tf.reduce_max(solution.num_iterations), "largest residual:", tf.reduce_max(solution.residual),
        output_stream=sys.stderr,
    )  # fmt: skip
    with unrecorded():  # under two tapes, TensorFlow puts a condition into a function without outputs
        return tf.cond(some_failed, warn, tf.no_op)
