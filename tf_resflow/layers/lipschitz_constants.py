"""The Lipschitz constant of a branch, computed from the constants of its layers."""

from typing import Any

import keras
import tensorflow as tf

from tf_resflow.layers.learned_order import LearnedOrder
from tf_resflow.layers.operations import BoundaryOperation
from tf_resflow.layers.operator_norms import lp_norm
from tf_resflow.layers.program import BoundNetwork, read
from tf_resflow.layers.rules import TensorBound, declared_constant, order_name, rule_of, unknown_constant

_PLACES, _STEPS, _STEP_SIZE = 16, 10, 1e-2  # rows, directions and their lengths in the search for large slopes


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
      branch: a built Keras layer or model, or another object with a `lipschitz_constant`.
      certified: whether to use `lipschitz_bound()` of each Lipschitz layer, which is proven for the current kernel.
        By default, the bound uses the coefficient, which relies on an estimate of the norm from below.

    Returns:
      A Python float. If certified, a float64 scalar tensor.

    Raises:
      ValueError: if the branch is not built, has a layer with an unknown constant, broadcasts a tensor that depends
        on its first input, has orders that do not chain, or has several outputs.
    """
    constant = _output(branch, certified).constant
    return tf.cast(constant, tf.float64) if certified else float(constant)


def lipschitz_order(branch: Any) -> float | LearnedOrder:
    """Returns the order p of the norm in which `lipschitz_constant` holds: 2 if there are no Lipschitz layers."""
    return _output(branch, certified=False).order


def observed_slope(branch: Any, x: tf.Tensor, condition: tf.Tensor | None, order: Any) -> float:
    """Returns the largest of a few slopes ||g(x + v) - g(x)||_p / ||v||_p at rows of x, in eager mode.

    Power steps v <- J^T J v choose v. The order p is 2 if it is None. Half precision is too coarse, and gives 0.
    """
    given = [] if condition is None else [condition[:_PLACES]]
    order, x = order.order() if isinstance(order, LearnedOrder) else order or 2.0, x[:_PLACES]
    length, largest = _STEP_SIZE * tf.maximum(tf.reduce_max(tf.abs(x)), 1.0), tf.zeros([], x.dtype)
    start, v = branch([x, *given] if given else x), tf.random.stateless_normal(tf.shape(x), [0, 0], dtype=x.dtype)
    for _ in range(_STEPS):
        v *= tf.reshape(length / lp_norm(v, order), [-1] + [1] * (x.shape.rank - 1))
        with tf.GradientTape() as tape:
            tape.watch(v)
            image = branch([x + v, *given] if given else x + v)
        change = image - start
        slopes = lp_norm(tf.cast(change, x.dtype), order) / lp_norm(v, order)
        v = tape.gradient(image, v, change)
        if v is None or image.dtype.size < tf.float32.size:
            break
        largest = tf.reduce_max([largest, *tf.unstack(tf.where(tf.math.is_finite(slopes), slopes, 0.0))])
    return float(largest)


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
            (x,), (shape,) = inputs, step.shapes
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


def _fits(shape, given):
    pairs = zip(shape, given, strict=False)
    return len(shape) == len(given) and all(size in (None, known) for size, known in pairs)


def _bound(layer, inputs, shape, certified, weights):
    varying = [x for x in inputs if not x.is_fixed]
    if not varying:
        return TensorBound(0.0, None, shape)
    if any(x.order != varying[0].order for x in varying):
        names = ", ".join(order_name(x.order) for x in varying)
        raise ValueError(f"Layer '{layer.name}' combines tensors of different norms: {names}. Use equal codomains.")
    return rule_of(layer).bound(layer, inputs, shape, certified, weights)
