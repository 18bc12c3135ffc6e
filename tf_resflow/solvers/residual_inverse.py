"""The inverse of a residual map, differentiable by the implicit function theorem."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tf_resflow.layers import lipschitz_layers, scaled_kernels
from tf_resflow.layers.architecture import shared_architecture, weights_of, with_weights
from tf_resflow.layers.norm_updates import held_kernels, reachable_kernels
from tf_resflow.layers.precision import leaves
from tf_resflow.layers.shared_traces import traced_once
from tf_resflow.logdet import first_order_only
from tf_resflow.logdet.elimination import MOST_ELIMINATED, inverse_of
from tf_resflow.logdet.forward_derivatives import forward_jacobian, has_forward_jacobian, is_known
from tf_resflow.private_api import custom_gradient, unrecorded
from tf_resflow.solvers.fixed_point import EPSILON, Solution, warn_unconverged

__all__ = ["loose_solutions", "solve_residual", "solutions_are_loose"]

_LOOSE = contextvars.ContextVar("tf_resflow_loose_solutions", default=False)


@contextlib.contextmanager
def loose_solutions() -> Iterator[None]:
    """A context in which the equations of monotone blocks with the default solver are solved to 0.1 % of the event.

    For a training step: the error of its gradient is far below the noise of its estimate, and a step takes three
    quarters of the time. `FlowModel` trains in it; your own training step may, too, with its gradient tape inside.
    It holds in the current thread, while a `tf.function` is traced.

    ```python
    branch = keras.Sequential([keras.Input([2]), resflow.layers.LipschitzDense(2)])
    block = resflow.bijectors.MonotoneBlock(branch, resflow.logdet.Exact())
    with resflow.solvers.loose_solutions():
        y = block.forward(tf.ones([1, 2]))
    ```
    """
    token = _LOOSE.set(True)
    try:
        yield
    finally:
        _LOOSE.reset(token)


def solutions_are_loose() -> bool:
    """Whether `loose_solutions` holds."""
    return _LOOSE.get()


def solve_residual(
    branch: Callable[[Any], tf.Tensor],
    y: tf.Tensor,
    solver: Callable[..., Solution],
    *,
    conditional_input: tf.Tensor | None = None,
    sign: float = 1.0,
    **settings: Any,
) -> Solution:
    r"""Solves `x + g(x) = y` for x, with gradients; with `sign=-1.0`, `x - g(x) = y`.

    With \\(\bar x\\) the upstream gradient and J the Jacobian of g at the root, the backward pass solves
    \\(w + J^T w = \bar x\\). Up to 16 coordinates, if the branch is made of dense layers, elimination does, else
    the same solver, to its relative tolerance, with a warning for examples that do not converge. The gradient in y
    is w, and the one in the parameters (and the conditional input) is \\(-w^T \partial g / \partial \theta\\).
    Only the root is kept for it.

    A branch whose layers compute in bfloat16 or float16 is rounded to that type. The default tolerances are
    therefore those of the coarsest type among its layers with weights, whatever the type of `y`. (In a bijector,
    layers of a mixed policy compute in float32 outside of `tf_resflow.layers.mixed_precision`.)

    Args:
      branch: callable `g`: `branch(x)`, or `branch([x, conditional_input])`. The kernels of a Keras layer or model
        are scaled once, the ones in a plain function at each evaluation.
      y: tensor of shape `[batch, *event]`.
      solver: `FixedPoint`, `Anderson`, or a callable like them.
      conditional_input: tensor of shape `[batch, ...]`, if the branch takes one.
      sign: of g, 1 or -1.
      **settings: of the call of the solver for x: `enough`, and `enough_relative`, which holds for w, too.

    Returns:
      A `Solution`, whose `root` is differentiable (once).

    Raises:
      ValueError: if a second derivative is taken.
    """
    conditions = [] if conditional_input is None else [conditional_input]
    dtype = _coarsest_dtype(branch, y.dtype)
    of_gradient = {key: value for key, value in settings.items() if key == "enough_relative"}
    layers = lipschitz_layers(branch) if isinstance(branch, (keras.Layer, tf.Module)) else []

    def g(x, *conditions):
        gx = tf.cast(branch([x, *conditions] if conditions else x), y.dtype)
        return gx if sign == 1 else -gx

    architecture = shared_architecture(branch)
    held = reachable_kernels(branch)
    weights = list(held.values()) if architecture is None else weights_of(branch)

    def with_these(weights):
        if architecture is None:
            return held_kernels(dict(zip(held, weights, strict=True)))
        return with_weights(branch, weights)

    def solve(y, conditions, weights):
        with with_these(weights), scaled_kernels(layers):
            return tuple(solver(lambda x: g(x, *conditions), y, dtype=dtype, **settings))

    @custom_gradient
    def operation(y, *parameters):
        arguments = y, list(parameters[: len(conditions)]), list(parameters[len(conditions) :])
        key = "inverse", sign, architecture, repr(solver), dtype, *sorted(settings.items())
        with unrecorded() if is_known(branch) else contextlib.nullcontext():  # others may have tapes in them
            parts = solve(*arguments) if architecture is None else traced_once(key, solve, *arguments)
        solution = Solution(*parts)

        def grad(upstream, *_, variables=None):
            with tf.control_dependencies([upstream]):
                x = tf.identity(solution.root)
            given = [tf.identity(parameter) for parameter in parameters]
            targets = given + list(variables or [])
            with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
                tape.watch([x, *targets])
                with with_these(given[len(conditions) :]):
                    gx = g(x, *given[: len(conditions)])
            if _is_small(branch):
                with with_these(given[len(conditions) :]):
                    w = _eliminated(branch, [solution.root, *given[: len(conditions)]], sign, upstream)
            else:
                vjp = lambda w: tape.gradient(gx, x, w, unconnected_gradients="zero")  # noqa: E731
                solution_of_vjp = solver(vjp, upstream, relative=True, dtype=dtype, **of_gradient)
                message = "the gradient of the inverse did not converge for some examples, or is not finite"
                with tf.control_dependencies([warn_unconverged(solution_of_vjp, message)]):
                    w = tf.identity(solution_of_vjp.root)
            others = tape.gradient(gx, targets, -w, unconnected_gradients="zero") if targets else []
            grads = [w, *map(tf.convert_to_tensor, others)]
            grads = first_order_only(grads, "The inverse is differentiable only once.")
            split = 1 + len(parameters)
            return grads[:split] if variables is None else (grads[:split], grads[split:])

        return tuple(solution), grad

    return Solution(*operation(y, *conditions, *weights))


def _is_small(branch):
    """Whether the Jacobian of a branch is cheap, and its equation can be solved by elimination."""
    return has_forward_jacobian(branch) and branch.inputs[0].shape[-1] <= MOST_ELIMINATED


def _eliminated(branch, inputs, sign, upstream):
    """The solution of w + J^T w = upstream, or of w - J^T w, by the inverse of I + J."""
    x, *conditions = inputs
    _, tangents = forward_jacobian(branch, [tf.ensure_shape(x, branch.inputs[0].shape), *conditions])
    jacobian = tf.cast(tf.transpose(tangents, [1, 2, 0]), upstream.dtype)
    inverse = inverse_of(tf.eye(jacobian.shape[-1], dtype=jacobian.dtype) + sign * jacobian)
    return tf.linalg.matvec(inverse, upstream, transpose_a=True)


def _coarsest_dtype(branch, dtype):
    """The coarsest of `dtype` and the compute dtypes of the layers."""
    layers = leaves(branch) if isinstance(branch, keras.Layer) else []
    computed = [tf.as_dtype(layer.compute_dtype) for layer in layers if layer.weights]
    return max([dtype, *computed], key=EPSILON.__getitem__)
