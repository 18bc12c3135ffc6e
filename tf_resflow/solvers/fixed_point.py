"""Plain and Anderson-accelerated fixed-point iteration for x + g(x) = y."""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tf_resflow.private_api import is_xla

__all__ = ["EPSILON", "Anderson", "FixedPoint", "Solution", "warn_unconverged"]

EPSILON = {tf.bfloat16: 2.0**-7, tf.float16: 2.0**-10, tf.float32: 2.0**-23, tf.float64: 2.0**-52}


class Solution(NamedTuple):
    """The result of a solver, for each example of the batch.

    Attributes:
      root: `[batch, *event]`: `y - g(x)` for the evaluated point x with the smallest residual. This plain step
        beyond x costs nothing and leaves at most Lip(g) times its error.
      residual: `[batch]`, `max |x + g(x) - y|` over the event, at that x.
      num_iterations: `[batch]` int32, evaluations of g until the example converged.
      converged: `[batch]` bool, whether x meets the tolerance (see `FixedPoint`).
    """

    root: tf.Tensor
    residual: tf.Tensor
    num_iterations: tf.Tensor
    converged: tf.Tensor


@dataclasses.dataclass(eq=False)
class FixedPoint:
    r"""Iterates \\(x \leftarrow y - g(x)\\), which converges at the rate Lip(g) < 1 (Banach).

    An example has converged when its residual \\(r = x + g(x) - y\\) is small. By default this is relative to the
    largest coordinate of the event: all \\(|r_i|\\) are at most `atol + rtol max_j(|x_j|, |y_j|)`. Since g mixes
    the coordinates, each is rounded like the largest, and a small coordinate beside a large one may have no correct
    digit. A given `rtol` applies to each coordinate, as in `numpy.isclose`: \\(|r_i|\\) is at most `atol + rtol
    max(|x_i|, |y_i|)`, for which float32 may not have the digits.

    The error of the root is at most the residual over 1 - Lip(g) (in the norm of the Lipschitz constant). Converged
    examples are left alone while the others continue.

    Args:
      atol: absolute tolerance; by default two units of rounding (2.4e-7 in float32) of the coarsest type that g
        computes in.
      rtol: relative tolerance; the same by default.
      max_iterations: largest number of evaluations of g.

    Raises:
      ValueError: if a tolerance is negative or `max_iterations` is below 1.

    References:
      Behrmann et al., Invertible Residual Networks, 2019, Algorithm 1.
    """

    _: dataclasses.KW_ONLY
    atol: float | None = None
    rtol: float | None = None
    max_iterations: int = 500

    def __post_init__(self):
        if (self.atol or 0) < 0 or (self.rtol or 0) < 0:
            raise ValueError(f"Tolerances must not be negative; got atol={self.atol}, rtol={self.rtol}.")
        if self.max_iterations < 1:
            raise ValueError(f"max_iterations must be at least 1; got {self.max_iterations}.")

    def __call__(
        self,
        g: Callable[[tf.Tensor], tf.Tensor],
        y: tf.Tensor,
        *,
        relative: bool = False,
        dtype: tf.DType | None = None,
    ) -> Solution:
        """Solves `x + g(x) = y` for x.

        Args:
          g: callable from `[batch, *event]` to the same shape, Lip(g) < 1.
          y: tensor of shape `[batch, *event]`.
          relative: whether the tolerance is relative alone, and at least two units of rounding: for an equation
            whose scale is not the one for which the tolerances were chosen.
          dtype: the type to whose precision g is rounded, if it is coarser than that of `y`.

        Returns:
          A `Solution`. Not differentiable: see `solve_residual`.
        """
        shape = tf.shape(y)
        flat_y = tf.reshape(y, [shape[0], -1])
        if flat_y.dtype.size < 4:
            flat_y = tf.cast(flat_y, tf.float32)
        met = self._criterion(flat_y, 2 * EPSILON[dtype or y.dtype], relative)

        def like_y(x):
            return tf.ensure_shape(tf.reshape(tf.cast(x, y.dtype), shape), y.shape)

        def evaluate(x):
            gx = tf.reshape(tf.cast(g(like_y(x)), flat_y.dtype), [shape[0], -1])
            return flat_y - tf.ensure_shape(gx, flat_y.shape) - x

        def body(i, x, best, pending, history, num_iterations):
            step = evaluate(x)
            best = _better(best, x, step)
            pending = ~met(best) & _finite(step)
            proposal, history = self._propose(i, x, step, best, history)
            x = tf.where(pending[:, tf.newaxis], proposal, x)
            return i + 1, x, best, pending, history, num_iterations + tf.cast(pending, tf.int32)

        def go_on(i, x, best, pending, history, num_iterations):
            return (i < self.max_iterations) & tf.reduce_any(pending)

        best = _Best(flat_y, tf.zeros_like(flat_y), tf.fill([shape[0]], flat_y.dtype.max))
        pending = tf.ones([shape[0]], tf.bool)
        history, counts = self._start(flat_y), tf.zeros([shape[0]], tf.int32)
        state = (tf.constant(0), flat_y, best, pending, history, counts)
        _, _, best, _, _, num_iterations = tf.while_loop(go_on, body, state)
        return Solution(
            root=like_y(best.point + best.step),
            residual=tf.cast(best.residual, y.dtype),
            num_iterations=tf.minimum(num_iterations + 1, self.max_iterations),
            # Comparisons with NaN are false, and a graph may rewrite not (a <= b) as a > b: test for finiteness.
            converged=met(best) & _finite(flat_y),
        )

    def _criterion(self, flat_y, rounding, relative):
        """Whether an example meets the tolerance, as a function of its best point."""
        atol, rtol = (rounding if t is None else t for t in (self.atol, self.rtol))
        atol, rtol = (0.0, max(rtol, rounding)) if relative else (atol, rtol)
        by_coordinate = self.rtol is not None and not relative

        def met(best):
            scale = tf.maximum(tf.abs(best.point), tf.abs(flat_y))
            if by_coordinate:
                return tf.reduce_all(tf.abs(best.step) <= atol + rtol * scale, axis=1)
            return best.residual <= atol + rtol * tf.reduce_max(scale, axis=1)

        return met

    def _start(self, flat_y) -> tuple[Any, ...]:
        """The history that `_propose` carries through the loop."""
        return ()

    def _propose(self, i, x, step, best, history):
        """The next point, from the newest point `x` and `step = y - g(x) - x`; and the history."""
        return x + step, history


class _Best(NamedTuple):
    point: tf.Tensor
    step: tf.Tensor
    residual: tf.Tensor


def _finite(rows):
    return tf.reduce_all(tf.math.is_finite(rows), axis=1)


def _better(best, x, step):
    residual = tf.reduce_max(tf.abs(step), axis=1)
    improved = residual < best.residual
    column = improved[:, tf.newaxis]
    return _Best(
        tf.where(column, x, best.point),
        tf.where(column, step, best.step),
        tf.where(improved, residual, best.residual),
    )


@dataclasses.dataclass(eq=False)
class Anderson(FixedPoint):
    r"""Fixed-point iteration with Anderson acceleration, safeguarded for each example.

    From the last m points and steps \\(f_j = y - g(x_j) - x_j\\) it takes the affine combination with the smallest
    \\(\|\sum_j \alpha_j f_j\|_2\\) and moves to \\(\sum_j \alpha_j (x_j + f_j)\\). If this does not give the
    smallest residual so far, it returns to the best point and takes plain steps, which converge, until one does.

    Args:
      memory: m, number of points kept, at least 2.
      atol: absolute tolerance, see `FixedPoint`.
      rtol: relative tolerance, likewise.
      max_iterations: largest number of evaluations of g.

    Raises:
      ValueError: if an argument is out of range.

    References:
      Walker and Ni, Anderson acceleration for fixed-point iterations, 2011.
    """

    memory: int = 8

    def __post_init__(self):
        super().__post_init__()
        if self.memory < 2:
            raise ValueError(f"Anderson needs a memory of at least 2 points; got {self.memory}.")

    def _start(self, flat_y):
        batch, size = tf.unstack(tf.shape(flat_y))
        empty = tf.zeros([batch, self.memory, size], flat_y.dtype)
        return empty, empty, tf.zeros([batch], tf.bool)

    def _propose(self, i, x, step, best, history):
        *past, was_plain = history
        points, steps = (self._record(i, old, new) for old, new in zip(past, (x, step), strict=True))
        mixed = _mix(x, step, points, steps)
        newest = tf.reduce_max(tf.abs(step), axis=1)
        trusted = (newest <= best.residual) & _finite(mixed)
        start = tf.where(was_plain[:, tf.newaxis], x + step, best.point + best.step)
        proposal = tf.where(trusted[:, tf.newaxis], mixed, start)
        return proposal, (points, steps, ~trusted)

    def _record(self, i, past, new):
        """Writes `new` over the oldest of `past`; the first point fills all places."""
        slots = tf.range(self.memory)
        write = (slots == i % self.memory) | (i == 0)
        return tf.where(write[tf.newaxis, :, tf.newaxis], new[:, tf.newaxis], past)


def _mix(x, step, points, steps):
    """Least squares over differences to the newest point.

    The differences of the steps are scaled to length one; the ridge exceeds the rounding of their products, and the
    system is positive definite even if they are linearly dependent.
    """
    points, steps = points - x[:, tf.newaxis], steps - step[:, tf.newaxis]
    lengths = tf.norm(steps, axis=2, keepdims=True)
    unit = tf.math.divide_no_nan(steps, lengths)
    unit = tf.where(tf.math.is_finite(unit), unit, tf.zeros_like(unit))
    ridge = 100 * EPSILON[x.dtype] * tf.eye(points.shape[1], dtype=x.dtype)
    gram = tf.matmul(unit, unit, transpose_b=True) + ridge
    weights = tf.linalg.solve(gram, -tf.matmul(unit, step[:, :, tf.newaxis]))
    weights = tf.math.divide_no_nan(weights, lengths)
    return x + step + tf.reduce_sum(weights * (points + steps), axis=1)


def warn_unconverged(solution: Solution, message: str) -> tf.Operation | tf.Tensor:
    """Prints a warning to stderr if some examples did not converge. (What XLA compiles cannot print.)

    Args:
      solution: result of a solver.
      message: the failure, as the first words of the warning.

    Returns:
      An operation to use as a control dependency of the result.
    """
    if is_xla():
        return tf.no_op()
    failed = tf.reduce_sum(tf.cast(~solution.converged, tf.int32))
    # tf.vectorized_map runs both branches if each element has a condition; what it formats is one string for all.
    some_failed = tf.strings.regex_full_match(tf.strings.format("{}", failed, summarize=-1), "(?s).*[1-9].*")
    warn = lambda: tf.print(  # noqa: E731
        "WARNING:", message, "\n  number of examples:", failed, "most evaluations:",
        tf.reduce_max(solution.num_iterations), "largest residual:", tf.reduce_max(solution.residual),
        output_stream=sys.stderr,
    )  # fmt: skip
    return tf.cond(some_failed, warn, tf.no_op)
