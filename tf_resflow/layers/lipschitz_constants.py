"""The Lipschitz constant of a branch, multiplied through its layers."""

import math
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tf_resflow.layers.learned_concatenation import LearnableConcatenation
from tf_resflow.layers.learned_order import LearnedOrder
from tf_resflow.layers.lipschitz_conv2d import LipschitzConv2D
from tf_resflow.layers.lipschitz_dense import LipschitzDense
from tf_resflow.layers.operations import Boundary
from tf_resflow.layers.program import BoundNetwork, is_altered, known_slope, read

__all__ = ["lipschitz_constant", "lipschitz_order"]


class _Tensor(NamedTuple):
    """A tensor in a branch: its Lipschitz constant in the first input, the order of the norm, its shape."""

    constant: Any
    order: Any
    shape: Any

    @property
    def is_fixed(self):
        return isinstance(self.constant, float) and self.constant == 0.0


def lipschitz_constant(branch: Any, *, certified: bool = False) -> float | tf.Tensor:
    """An upper bound of the Lipschitz constant of a branch in its first input.

    The product of the constants of its layers, through `keras.Sequential` and functional models, also nested ones:
    `Add` sums, `Concatenate` takes (sum L^p)^(1/p), and `LearnableConcatenation` its coefficient times the largest
    L; if certified, (sum (eta L)^2)^(1/2) of its current weights. Further inputs, such as a conditional one, count
    as constants. The orders of the Lipschitz layers must chain and end in the norm that they began with, that of
    the first Lipschitz layer that the first input reaches.
    A layer or a `tf.Module` of another kind needs an attribute `lipschitz_constant`, which holds in every l^p norm
    or in the one of its attribute `lipschitz_order`. A subclass that overrides `call` does not inherit the
    attribute.

    Args:
      branch: a built Keras layer or model, or another object with a `lipschitz_constant`.
      certified: whether to take `lipschitz_bound()` of each Lipschitz layer, which is proved for the current
        kernel, instead of its coefficient, which relies on an estimate from below.

    Returns:
      A Python float; if certified, a float64 scalar tensor.

    Raises:
      ValueError: if the branch is not built, has a layer of unknown constant, broadcasts a tensor that depends on
        its first input, has orders that do not chain, or has several outputs.
    """
    constant = _output(branch, certified).constant
    return tf.cast(constant, tf.float64) if certified else float(constant)


def lipschitz_order(branch: Any) -> float | LearnedOrder:
    """The order p of the norm in which `lipschitz_constant` holds; 2 without Lipschitz layers."""
    return _output(branch, certified=False).order


def _output(branch, certified):
    """The `_Tensor` of the output; a bound network has the certificate of the kernels that it applies."""
    bound = branch if isinstance(branch, BoundNetwork) else None
    branch = branch.network if bound else branch
    if not isinstance(branch, keras.layers.Layer):
        if not _declares_constant(branch):
            raise ValueError(_unknown(branch))
        order = getattr(branch, "lipschitz_order", None) or 2.0
        return _Tensor(branch.lipschitz_constant, order, None)
    if not branch.built:
        raise ValueError(
            f"The branch '{branch.name}' is not built: call it on an input, or start it with keras.Input(shape)."
        )
    program = bound.program if bound else read(branch)
    order = _first_order(program)

    def rule(step, inputs, shape):
        weights = [bound.parameters[i] for i in step.weights] if bound else None
        return _apply(step.layer, inputs, shape, certified, weights)

    outputs = _through(program, order, rule)
    if len(outputs) != 1:
        raise ValueError(f"The branch '{branch.name}' must have one output, but it has {len(outputs)}.")
    if not outputs[0].is_fixed and outputs[0].order != order:
        raise ValueError(
            f"The branch '{branch.name}' maps the {_name(order)}-norm to the {_name(outputs[0].order)}-norm: to "
            "contract, it must end in the norm that it began with. Make the codomain of its last Lipschitz layer "
            "the domain of its first."
        )
    return outputs[0]._replace(order=order)


def _first_order(program):
    """The domain of the first Lipschitz layer that the first input reaches; 2 without any."""
    found = []

    def visit(step, inputs, shape):
        live = not all(x.is_fixed for x in inputs)
        if live and type(step.layer) in _LIPSCHITZ:
            found.append(step.layer.domain)
        return _Tensor(float(live), None, shape)

    _through(program, None, visit)
    return found[0] if found else 2.0


def _through(program, order, rule):
    """The `_Tensor`s of the outputs, for a first input of constant 1 and others of constant 0.

    Each is `rule(step, inputs, shape of the output)` of its step, in order.
    """
    shapes = [shape for shape, _ in program.inputs or [(None, None)]]
    known = {i: _Tensor(float(i == 0), order, shape) for i, shape in enumerate(shapes)}
    for step in program.steps:
        inputs = [known[i] for i in step.inputs]
        if isinstance(step.operation, Boundary):
            if step.layer is not None:
                _check_inputs(step.layer, inputs)
            results = [x._replace(shape=shape or x.shape) for x, shape in zip(inputs, step.shapes, strict=True)]
        else:
            results = [rule(step, inputs, shape) for shape in step.shapes]
        known.update(zip(step.outputs, results, strict=True))
    return [known[i] for i in program.outputs]


def _check_inputs(model, inputs):
    """Raises unless the shapes are those that the model was built for: otherwise its layers may broadcast."""
    ours, theirs = [x.shape[1:] for x in model.inputs], [x.shape[1:] for x in inputs]
    if len(ours) != len(theirs) or not all(map(_fits, ours, theirs)):
        raise ValueError(
            f"Model '{model.name}' was built for inputs of shapes {ours} without the batch, but is applied to "
            f"tensors of shapes {theirs}, and its layers may broadcast them. Build a model for these shapes."
        )


def _fits(shape, given):
    pairs = zip(shape, given, strict=False)
    return len(shape) == len(given) and all(size in (None, known) for size, known in pairs)


def _apply(layer, inputs, shape, certified, weights):
    live = [x for x in inputs if not x.is_fixed]
    if not live:
        return _Tensor(0.0, None, shape)
    order = live[0].order
    if any(x.order != order for x in live):
        names = ", ".join(_name(x.order) for x in live)
        raise ValueError(f"Layer '{layer.name}' joins tensors of different norms: {names}.")
    constants = [x.constant for x in live]
    if is_altered(layer):
        return _Tensor(sum(constants) * _declared_constant(layer, order), order, shape)
    if type(layer) in _LIPSCHITZ:
        if layer.domain != order:
            raise ValueError(
                f"Layer '{layer.name}' has the {_name(layer.domain)}-norm as its domain, but its input is in the "
                f"{_name(order)}-norm: the codomain of one Lipschitz layer must be the domain of the next."
            )
        constant = layer.coefficient
        if certified:
            constant = layer.bound_of(weights[0]) if weights else layer.lipschitz_bound()
        return _Tensor(constants[0] * constant, layer.codomain, shape)
    if type(layer) is keras.layers.Concatenate:
        _check_axis(layer, shape)
        return _Tensor(_joint(constants, order), order, shape)
    if type(layer) is LearnableConcatenation:
        _check_order(layer, order)
        return _Tensor(_of_weights(layer, [x.constant for x in inputs], certified, weights), order, shape)
    if type(layer) in _MERGING:
        _check_broadcast(layer, live, shape)
        scale = 1.0 / len(inputs) if type(layer) is keras.layers.Average else 1.0
    elif type(layer) in _CONSTANTS:
        scale = _CONSTANTS[type(layer)](layer, shape)
    else:
        scale = _declared_constant(layer, order)
    return _Tensor(sum(constants) * scale, order, shape)


def _check_axis(layer, shape):
    if shape is None or layer.axis % len(shape) == 0:
        raise ValueError(
            f"Layer '{layer.name}' joins examples of the batch, or inputs of unknown shape (axis={layer.axis}). "
            "Concatenate along another axis."
        )


def _check_broadcast(layer, live, shape):
    if shape is None or None in shape[1:] or any(x.shape[1:] != shape[1:] for x in live):
        shapes = ", ".join(str(x.shape) for x in live)
        raise ValueError(
            f"Layer '{layer.name}' ({type(layer).__name__}) may broadcast its inputs, {shapes}, to {shape}, which "
            "expands the norm. Give all inputs that depend on the first input of the branch the same, known shape."
        )


def _joint(constants, order):
    """(sum L^p)^(1/p), which falls with p: the infimum of a learned p is safe."""
    order = order.low if isinstance(order, LearnedOrder) else order
    if math.isinf(order):
        return tf.reduce_max(constants) if any(map(tf.is_tensor, constants)) else max(constants)
    return sum(constant**order for constant in constants) ** (1.0 / order)


def _of_weights(layer, constants, certified, weights):
    if certified:
        bounds = tf.cast(weights[0], tf.float64) if weights else layer.weight_bounds()
        return tf.norm(bounds * tf.stack([tf.cast(x, tf.float64) for x in constants]))
    return layer.coefficient * max(constants)


def _of_activation(layer, _):
    if (slope := known_slope(layer)) is None:
        raise ValueError(_unknown(layer))
    return slope


def _of_dropout(layer, _):
    if layer.rate:
        raise ValueError(
            f"Layer '{layer.name}' is a Dropout of rate {layer.rate}: it draws another function at each call, and "
            "the block has no inverse. Remove it, or set its rate to 0."
        )
    return 1.0


def _of_relu(layer, _):
    if layer.threshold:
        raise ValueError(_unknown(layer))
    return max(1.0, abs(layer.negative_slope))


def _of_rescaling(layer, shape):
    """The largest |scale|. The output shape that Keras infers does not show whether scale or offset broadcasts."""
    example = tf.zeros([1, *(size or 1 for size in (shape or ())[1:])])
    if layer(example).shape != example.shape:
        raise ValueError(
            f"Layer '{layer.name}' (Rescaling) broadcasts its input, {shape}, to the shapes of its scale and "
            "offset, which expands the norm. Give it scalars, or arrays that broadcast to the input."
        )
    return float(np.max(np.abs(layer.scale)))


_LIPSCHITZ = {LipschitzConv2D, LipschitzDense}
_MERGING = {keras.layers.Add, keras.layers.Average, keras.layers.Subtract}
_NONEXPANSIVE = {
    keras.layers.Cropping1D,
    keras.layers.Cropping2D,
    keras.layers.Cropping3D,
    keras.layers.Flatten,
    keras.layers.Identity,
    keras.layers.InputLayer,
    keras.layers.Permute,
    keras.layers.Reshape,
    keras.layers.ZeroPadding1D,
    keras.layers.ZeroPadding2D,
    keras.layers.ZeroPadding3D,
}
_CONSTANTS = {
    **dict.fromkeys(_NONEXPANSIVE, lambda layer, shape: 1.0),
    keras.layers.Activation: _of_activation,
    keras.layers.Dropout: _of_dropout,
    keras.layers.ELU: lambda layer, shape: max(1.0, abs(layer.alpha)),
    keras.layers.LeakyReLU: lambda layer, shape: max(1.0, abs(layer.negative_slope)),
    keras.layers.ReLU: _of_relu,
    keras.layers.Rescaling: _of_rescaling,
}


def _declared_constant(layer, order):
    if not _declares_constant(layer):
        raise ValueError(_unknown(layer))
    _check_order(layer, order)
    return layer.lipschitz_constant


def _check_order(layer, order):
    if getattr(layer, "lipschitz_order", None) not in (None, order):
        raise ValueError(
            f"The Lipschitz constant of layer '{layer.name}' ({type(layer).__name__}) holds in the "
            f"{_name(layer.lipschitz_order)}-norm only, but its input is in the {_name(order)}-norm. Use another "
            "layer there, or other orders."
        )


def _declares_constant(layer):
    """Whether `lipschitz_constant` is set by the class that defines the call, or by a subclass of it."""
    if "lipschitz_constant" in getattr(layer, "__dict__", {}) or is_altered(layer):
        return "lipschitz_constant" in vars(layer)
    for kind in type(layer).__mro__:
        if "lipschitz_constant" in vars(kind):
            return True
        if "call" in vars(kind) or "__call__" in vars(kind):
            return False
    return False


def _unknown(layer):
    name = f"'{layer.name}' ({type(layer).__name__})" if hasattr(layer, "name") else repr(layer)
    return (
        f"The Lipschitz constant of {name} is unknown. Give it an attribute `lipschitz_constant` (which a subclass "
        "that overrides `call` does not inherit), replace it by a layer of known constant, or pass "
        "lipschitz_constant= for the whole branch to its bijector or estimator."
    )


def _name(order):
    return f"{order.name} (learned)" if isinstance(order, LearnedOrder) else f"{order:g}"
