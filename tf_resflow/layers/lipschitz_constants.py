"""The Lipschitz constant of a branch, computed from the constants of its layers."""

from typing import Any

import keras
import tensorflow as tf

from tf_resflow.layers.learned_order import LearnedOrder
from tf_resflow.layers.operations import BoundaryOperation
from tf_resflow.layers.precision import evaluation_dtype, leaves
from tf_resflow.layers.program import BoundNetwork, read
from tf_resflow.layers.rules import TensorBound, declared_constant, order_name, rule_of, unknown_constant
from tf_resflow.layers.vector_norms import dual_order, dual_vector, lp_norm

# Rows and steps in the search for large slopes, and the relative distance of points near the rows.
_ROWS = 8
_STEPS = 6  # in the 2-norm
_FURTHER_STEPS = 4  # in the norm of the branch
_STEP_SIZE = 1e-2


def lipschitz_constant(branch: Any, *, certified: bool = False) -> float | tf.Tensor:
    """Returns an upper bound of the Lipschitz constant of a branch with respect to its first input.

    The bound is the product of the constants of the layers in `keras.Sequential` and functional models, including
    nested models. `Add` sums the constants L of its inputs, `Concatenate` gives (sum L^p)^(1/p), and
    `LearnableConcatenation` gives its coefficient times the largest L or, if certified, (sum (eta L)^2)^(1/2) for
    its current weights. Further inputs, such as a condition, count as constants. The orders of the Lipschitz layers
    must chain, and end in the norm that they start with.

    Any other layer or `tf.Module` needs an attribute `lipschitz_constant`. It must hold in every l^p norm, or in
    the norm of the attribute `lipschitz_order`. A subclass that overrides `call` does not inherit it.

    Args:
      branch: A built Keras layer or model, or another object with a `lipschitz_constant`.
      certified: Whether to use `lipschitz_bound()` of each Lipschitz layer, which is proven for the current kernel.
        By default, the bound uses the coefficient, which relies on an estimate of the norm from below.

    Returns:
      A Python float. If certified, a float64 scalar tensor.

    Raises:
      ValueError: If the branch is not built, has a layer with an unknown constant, broadcasts a tensor that depends
        on its first input, has orders that do not chain, or has several outputs.
    """
    constant = _output(branch, certified).constant
    return tf.cast(constant, tf.float64) if certified else float(constant)


def lipschitz_order(branch: Any) -> float | LearnedOrder:
    """Returns the order p of the norm in which `lipschitz_constant` holds: 2 if there are no Lipschitz layers."""
    return _output(branch, certified=False).order


def declared_order(branch: Any) -> float | LearnedOrder:
    """Returns the order of the norm of a constant that the caller gives for a branch.

    It is the attribute `lipschitz_order` of the branch, or else the domain of its first layer that prescribes one.
    """
    order = getattr(branch, "lipschitz_order", None)
    return _first_order(read(branch)) if order is None else order


def observed_slope(
    branch: BoundNetwork, x: tf.Tensor, condition: tf.Tensor | None, order: Any
) -> tuple[float, float]:
    """Returns the largest of a few slopes in the norm of order p, and its relative rounding error, in eager mode.

    At rows of x and at points near them, the slopes are ||J' u||_{p*} / ||u||_{p*} <= ||J||_p. A generalized power
    method chooses u, first in the 2-norm. Differences of g would not do: its rounding error can exceed them.
    """
    order = order.order() if isinstance(order, LearnedOrder) else float(order)
    indices = tf.tile(tf.range(_ROWS) % x.shape[0], [2])
    rows = tf.gather(x, indices)
    noise, start = tf.unstack(tf.random.stateless_normal([2, *rows.shape], [0, 0], dtype=x.dtype))
    start = dual_vector(start, 2.0)
    distance = _STEP_SIZE * tf.maximum(tf.abs(rows), 1.0)
    is_near = tf.reshape(tf.range(2 * _ROWS) < _ROWS, [-1] + [1] * (x.shape.rank - 1))
    points = tf.where(is_near, rows + distance * noise, rows)  # the slope at a row can be 0 by symmetry
    inputs = [points] if condition is None else [points, tf.gather(condition, indices)]
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(points)
        image = branch(inputs)
    v = start
    for i, p in enumerate([2.0] * _STEPS + [order] * _FURTHER_STEPS):
        v = v + start if i == _STEPS else v  # rows with similar slopes search from different directions
        change = tf.cast(_change(branch, inputs, image, v), tf.float64)
        u = tf.cast(dual_vector(change, p), image.dtype)
        pullback = tf.cast(tape.gradient(image, points, u, unconnected_gradients="zero"), tf.float64)
        v = tf.cast(dual_vector(pullback, dual_order(p)), x.dtype)
    slopes = lp_norm(pullback, dual_order(order)) / lp_norm(tf.cast(u, tf.float64), dual_order(order))
    sublayers = leaves(branch.network) if isinstance(branch.network, keras.Layer) else []
    is_half = {"bfloat16", "float16"}.intersection([image.dtype.name, *map(evaluation_dtype, sublayers)])
    return max([0.0, *slopes[tf.math.is_finite(slopes)].numpy()]), 0.1 if is_half else 1e-3


def _change(branch, inputs, image, v):
    """Returns J v at inputs with a known image, by a difference if forward mode fails."""
    if branch.program.supports_jvp:
        return branch.value_and_jvp(inputs, v)[1]
    x, *conditions = inputs
    try:
        with tf.autodiff.ForwardAccumulator(x, v) as accumulator:
            moved = branch(inputs)
        return accumulator.jvp(moved, "zero")
    except Exception:  # its type depends on the operation, and an error of the branch itself is raised again below
        return branch([x + _STEP_SIZE * tf.maximum(tf.abs(x), 1.0) * v, *conditions]) - image


def _output(branch, certified):
    """Returns the `TensorBound` of the output. For a bound network, it holds for the kernels that it applies."""
    bound = branch if isinstance(branch, BoundNetwork) else None
    branch = branch.network if bound else branch
    if not isinstance(branch, keras.layers.Layer):
        constant = declared_constant(branch)
        if constant is None:
            raise ValueError(unknown_constant(branch))
        return TensorBound(constant, getattr(branch, "lipschitz_order", None) or 2.0, None)
    if not branch.built:
        raise ValueError(f"The branch '{branch.name}' is not built. Start it with keras.Input(shape).")
    program = bound.program if bound else read(branch)
    order = _first_order(program)
    shapes = [shape for shape, _ in program.inputs or [(None, None)]]
    known = {i: TensorBound(float(i == 0), order, shape) for i, shape in enumerate(shapes)}
    for step in program.steps:
        inputs = [known[i] for i in step.inputs]
        if isinstance(step.operation, BoundaryOperation):
            x = inputs[0]
            shape = step.shapes[0]
            if step.operation.dtype and not _fits(shape[1:], x.shape[1:]):
                raise ValueError(
                    f"Model '{step.layer.name}' is called on an input of shape {x.shape[1:]}, but was built for "
                    f"{shape[1:]}, so its layers may broadcast. Call it on inputs of the shape it was built for."
                )
            results = [x._replace(shape=shape or x.shape)]
        else:
            weights = [bound.parameters[i] for i in step.weights] if bound else None
            results = [_bound(step.layer, inputs, shape, certified, weights) for shape in step.shapes]
        known.update(zip(step.outputs, results, strict=True))
    outputs = [known[i] for i in program.outputs]
    if len(outputs) != 1:
        raise ValueError(f"The branch '{branch.name}' has {len(outputs)} outputs; it must have one output.")
    if not outputs[0].is_fixed and outputs[0].order != order:
        raise ValueError(
            f"The branch '{branch.name}' maps the {order_name(order)}-norm to the "
            f"{order_name(outputs[0].order)}-norm, but must end in the norm that it starts with. Change its orders."
        )
    return outputs[0]._replace(order=order)


def _first_order(program):
    """Returns the domain of the first Lipschitz layer that depends on the first input, or 2 if there is none."""
    for step in program.steps:
        if program.reached.intersection(step.inputs):
            order = rule_of(step.layer).domain(step.layer)
            if order is not None:
                return order
    return 2.0


def _fits(expected_shape, shape):
    pairs = zip(expected_shape, shape, strict=False)
    return len(expected_shape) == len(shape) and all(expected in (None, size) for expected, size in pairs)


def _bound(layer, inputs, shape, certified, weights):
    varying = [x for x in inputs if not x.is_fixed]
    if not varying:
        return TensorBound(0.0, None, shape)
    if any(x.order != varying[0].order for x in varying):
        names = ", ".join(order_name(x.order) for x in varying)
        raise ValueError(f"Layer '{layer.name}' combines tensors of different norms: {names}. Use equal codomains.")
    return rule_of(layer).bound(layer, inputs, shape, certified, weights)
