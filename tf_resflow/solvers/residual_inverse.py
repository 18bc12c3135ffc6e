"""The inverse of a residual map, differentiable by the implicit function theorem."""

import contextlib
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tf_resflow._internal.private_api import custom_gradient, unrecorded
from tf_resflow.layers.precision import evaluation_dtype, leaves
from tf_resflow.layers.program import bind
from tf_resflow.layers.tracing import first_order_only, traced_once
from tf_resflow.logdet.elimination import MOST_ELIMINATED, log_det_and_inverse
from tf_resflow.solvers.fixed_point import EPSILON, Solution, warn_unconverged

_ONCE = (
    "A second derivative of an inverse was requested, but the gradient holds the root constant, so the derivative "
    "would be silently wrong. The inverse is differentiable only once. Use finite differences of its gradient."
)


def solve_residual(
    branch: Callable[[Any], tf.Tensor],
    y: tf.Tensor,
    solver: Callable[..., Solution],
    *,
    condition: tf.Tensor | None = None,
    sign: float = 1.0,
    **settings: Any,
) -> Solution:
    r"""Solves `x + g(x) = y` for x, or `x - g(x) = y` with `sign=-1.0`, with gradients.

    Let \\(\bar x\\) be the upstream gradient and J the Jacobian of g at the root. The backward pass solves
    \\(w + J^T w = \bar x\\): by elimination for dense branches of up to 16 coordinates, and otherwise by the same
    solver at its relative tolerance, with a warning for examples that do not converge. The gradient in y is w. The
    gradient in the parameters and the condition is \\(-w^T \partial g / \partial \theta\\). Only the root is kept.

    `settings` are arguments of the solver for x: `min_atol`, and `min_rtol`, which also applies to w. The
    `root` of the `Solution` is differentiable once.
    """
    branch = bind(branch)
    conditions = [] if condition is None else [condition]
    dtype = _coarsest_dtype(branch, y.dtype)
    of_gradient = {key: value for key, value in settings.items() if key == "min_rtol"}

    def function_of(conditions, parameters):
        bound = branch.with_parameters(parameters)

        def g(x):
            gx = tf.cast(bound([x, *conditions]), x.dtype)
            return gx if sign == 1 else -gx

        return g

    def solve(y, conditions, parameters):
        return tuple(solver(function_of(conditions, parameters), y, dtype=dtype, **settings))

    key = None if branch.key is None else ("inverse", sign, branch.key, dtype, solver, *settings.items())

    @custom_gradient
    def operation(y, *tensors):
        num_conditions = len(conditions)
        arguments = (y, list(tensors[:num_conditions]), list(tensors[num_conditions:]))
        with unrecorded() if branch.program.supports_jvp else contextlib.nullcontext():  # others may use a tape
            solution = Solution(*traced_once(key, solve, *arguments))

        def grad(upstream, *_, variables=None):
            with tf.control_dependencies([upstream]):
                x = tf.identity(solution.root)
            copies = [tf.identity(tensor) for tensor in tensors]
            condition_copies = copies[:num_conditions]
            weights = copies[num_conditions:]
            targets = copies + list(variables or [])
            with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
                tape.watch([x, *targets])
                gx = function_of(condition_copies, weights)(x)
            if branch.program.supports_jacobian and branch.program.inputs[0][0][-1] in range(MOST_ELIMINATED + 1):
                inputs = [solution.root, *condition_copies]
                w = _eliminated(branch.with_parameters(weights), inputs, sign, upstream)
            else:
                vjp = lambda w: tape.gradient(gx, x, w, unconnected_gradients="zero")  # noqa: E731
                solution_of_vjp = solver(vjp, upstream, relative=True, dtype=dtype, **of_gradient)
                message = "the gradient of the inverse did not converge for some examples, or is not finite"
                with tf.control_dependencies([warn_unconverged(solution_of_vjp, message)]):
                    w = tf.identity(solution_of_vjp.root)
            others = tape.gradient(gx, targets, -w, unconnected_gradients="zero") if targets else []
            grads = [w, *map(tf.convert_to_tensor, others)]
            grads = first_order_only(grads, _ONCE)
            split = 1 + len(tensors)
            return grads[:split] if variables is None else (grads[:split], grads[split:])

        return tuple(solution), grad

    return Solution(*operation(y, *conditions, *branch.tensors()))


def _eliminated(branch, inputs, sign, upstream):
    """Returns the solution of w + J^T w = upstream (or w - J^T w), from the inverse of I + J (or I - J)."""
    x, *conditions = inputs
    _, jacobian = branch.jacobian([tf.ensure_shape(x, branch.program.inputs[0][0]), *conditions])
    jacobian = tf.cast(jacobian, upstream.dtype)
    eye = tf.eye(jacobian.shape[0], dtype=jacobian.dtype)[..., tf.newaxis]
    inverse = log_det_and_inverse(eye + sign * jacobian)[1]
    return tf.transpose(tf.reduce_sum(inverse * tf.transpose(upstream)[:, tf.newaxis], 0))


def _coarsest_dtype(branch, dtype):
    """Returns the coarsest of `dtype` and the dtypes that layers with weights compute in and round to."""
    layers = leaves(branch.network) if isinstance(branch.network, keras.Layer) else []
    computed = [evaluation_dtype(layer) for layer in layers if layer.weights]
    computed += [dtype for _, dtype in branch.program.sources]
    return max([dtype, *map(tf.as_dtype, computed)], key=EPSILON.__getitem__)
