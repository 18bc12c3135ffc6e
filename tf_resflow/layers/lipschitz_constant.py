"""The Lipschitz constant of a branch, multiplied through its layers."""

__all__ = ["lipschitz_constant"]

import math
import typing

import keras
import numpy as np
import tensorflow as tf

from tf_resflow.layers.learned_order import LearnedOrder
from tf_resflow.layers.lipschitz_layer import LipschitzLayer

# The largest |slope| of each of keras.activations, rounded up.
_ACTIVATIONS = {
    "elu": 1.0,
    "gelu": 1.129,
    "hard_sigmoid": 1.0 / 6.0,
    "hard_silu": 1.5,
    "hard_tanh": 1.0,
    "leaky_relu": 1.0,
    "linear": 1.0,
    "log_sigmoid": 1.0,
    "mish": 1.0885,
    "relu": 1.0,
    "relu6": 1.0,
    "selu": 1.7581,
    "sigmoid": 0.25,
    "silu": 1.0999,
    "softplus": 1.0,
    "softsign": 1.0,
    "tanh": 1.0,
}
_NONEXPANSIVE = (
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
)


class _Tensor(typing.NamedTuple):
    """How a tensor depends on the branch's first input: its constant, and the norm it is in."""

    constant: typing.Any
    order: typing.Any

    @property
    def is_fixed(self):
        return isinstance(self.constant, float) and self.constant == 0.0


_FIXED = _Tensor(0.0, None)


def lipschitz_constant(branch, certified=False):
    """An upper bound of the Lipschitz constant of a branch in its first input.

    The product of its layers' constants, through `keras.Sequential` and functional models, nested
    ones too: `Add` sums, `Concatenate` takes (sum L^p)^(1/p). Further inputs, such as a
    conditional one, count as constants. The orders of the Lipschitz layers must chain and end in
    the norm that they began with. A layer or a `tf.Module` of another kind is understood if it
    has an attribute `lipschitz_constant`, in every l^p norm or in that of its `lipschitz_order`.

    Args:
        branch: a built Keras layer or model, or another object with a `lipschitz_constant`.
        certified: whether to take `lipschitz_bound()` of each Lipschitz layer, a proof for the
            present kernels, instead of its coefficient, which rests on an estimate from below.

    Returns:
        A Python float; if certified a float64 scalar tensor.

    Raises:
        ValueError: if the branch is not built, has a layer of unknown constant, has orders that
            do not chain, or several outputs.
    """
    if isinstance(branch, keras.layers.Layer):
        constant = _of_layer(branch, certified)
    elif hasattr(branch, "lipschitz_constant"):
        constant = branch.lipschitz_constant
    else:
        raise ValueError(_unknown(branch))
    return tf.cast(constant, tf.float64) if certified else float(constant)


def _of_layer(branch, certified):
    if not branch.built:
        raise ValueError(
            f"The branch '{branch.name}' is not built: call it on an input, or start it with "
            "keras.Input(shape)."
        )
    order = _first_order(branch)
    outputs = _propagate(
        branch, _inputs(branch, order), lambda layer, inputs: _apply(layer, inputs, certified)
    )
    if len(outputs) != 1:
        raise ValueError(
            f"The branch '{branch.name}' must have one output, but it has {len(outputs)}."
        )
    if not outputs[0].is_fixed and outputs[0].order != order:
        raise ValueError(
            f"The branch '{branch.name}' maps the {_name(order)}-norm to the "
            f"{_name(outputs[0].order)}-norm: to contract, it must end in the norm that it began "
            "with. Make the codomain of its last Lipschitz layer the domain of its first."
        )
    return outputs[0].constant


def _inputs(branch, order):
    count = len(branch.inputs) if isinstance(branch, keras.Function) else 1
    return [_Tensor(1.0, order)] + [_FIXED] * (count - 1)


def _first_order(branch):
    """The domain of the first Lipschitz layer that the first input reaches; 2 without any."""
    found = []

    def visit(layer, inputs):
        live = [x for x in inputs if not x.is_fixed]
        if live and isinstance(layer, LipschitzLayer):
            found.append(layer.domain)
        return live[0] if live else _FIXED

    _propagate(branch, _inputs(branch, None), visit)
    return found[0] if found else 2.0


def _propagate(layer, inputs, rule):
    """The outputs' `_Tensor`s: `rule(layer, inputs)` at each layer of a model, in order."""
    if isinstance(layer, keras.Sequential):
        for child in layer.layers:
            inputs = _propagate(child, inputs, rule)
        return inputs
    if not isinstance(layer, keras.Function):
        return [rule(layer, inputs)]
    known = {id(tensor): x for tensor, x in zip(layer.inputs, inputs, strict=True)}
    depths = sorted(layer._nodes_by_depth, reverse=True)
    for node in (node for depth in depths for node in layer._nodes_by_depth[depth]):
        if not node.is_input:
            arguments = [known[id(tensor)] for tensor in node.input_tensors]
            outputs = _propagate(node.operation, arguments, rule)
            if len(outputs) == 1:
                outputs = outputs * len(node.outputs)
            known.update((id(tensor), x) for tensor, x in zip(node.outputs, outputs, strict=True))
    return [known[id(tensor)] for tensor in layer.outputs]


def _apply(layer, inputs, certified):
    live = [x for x in inputs if not x.is_fixed]
    if not live:
        return _FIXED
    order = live[0].order
    if any(x.order != order for x in live):
        names = ", ".join(_name(x.order) for x in live)
        raise ValueError(f"Layer '{layer.name}' joins tensors of different norms: {names}.")
    if isinstance(layer, LipschitzLayer):
        if layer.domain != order:
            raise ValueError(
                f"Layer '{layer.name}' has the {_name(layer.domain)}-norm as its domain, but its "
                f"input is in the {_name(order)}-norm: the codomain of one Lipschitz layer must be "
                "the domain of the next."
            )
        constant = layer.lipschitz_bound() if certified else layer.coefficient
        return _Tensor(live[0].constant * constant, layer.codomain)
    constants = [x.constant for x in live]
    if isinstance(layer, keras.layers.Concatenate):
        return _Tensor(_joint(constants, order), order)
    return _Tensor(sum(constants) * _constant(layer, order, len(inputs)), order)


def _joint(constants, order):
    """(sum L^p)^(1/p), which falls with p: the infimum of a learned p is safe."""
    order = order.low if isinstance(order, LearnedOrder) else order
    if math.isinf(order):
        return tf.reduce_max(constants) if any(map(tf.is_tensor, constants)) else max(constants)
    return sum(constant**order for constant in constants) ** (1.0 / order)


def _constant(layer, order, num_inputs):
    """The constant of a layer that keeps the norm, for the sum of its inputs."""
    if isinstance(layer, (*_NONEXPANSIVE, keras.layers.Add, keras.layers.Subtract)):
        return 1.0
    if isinstance(layer, keras.layers.Average):
        return 1.0 / num_inputs
    if isinstance(layer, keras.layers.Rescaling):
        return float(np.max(np.abs(layer.scale)))
    if isinstance(layer, keras.layers.Activation):
        return _of_activation(layer)
    if isinstance(layer, keras.layers.LeakyReLU):
        return max(1.0, abs(layer.negative_slope))
    if isinstance(layer, keras.layers.ELU):
        return max(1.0, abs(layer.alpha))
    if isinstance(layer, keras.layers.ReLU) and not layer.threshold:
        return max(1.0, abs(layer.negative_slope))
    if isinstance(layer, keras.layers.Dropout):
        return _of_dropout(layer)
    if not hasattr(layer, "lipschitz_constant"):
        raise ValueError(_unknown(layer))
    if getattr(layer, "lipschitz_order", None) not in (None, order):
        raise ValueError(
            f"The Lipschitz constant of layer '{layer.name}' ({type(layer).__name__}) holds in the "
            f"{_name(layer.lipschitz_order)}-norm only, but its input is in the "
            f"{_name(order)}-norm. Use another activation there, or other orders."
        )
    return layer.lipschitz_constant


def _of_activation(layer):
    for name, constant in _ACTIVATIONS.items():
        if layer.activation is keras.activations.get(name):
            return constant
    raise ValueError(_unknown(layer))


def _of_dropout(layer):
    if layer.rate:
        raise ValueError(
            f"Layer '{layer.name}' is a Dropout of rate {layer.rate}: it draws another function at "
            "each call, so that the block has no inverse. Remove it, or set its rate to 0."
        )
    return 1.0


def _unknown(layer):
    name = f"'{layer.name}' ({type(layer).__name__})" if hasattr(layer, "name") else repr(layer)
    return (
        f"The Lipschitz constant of {name} is unknown. Give it an attribute `lipschitz_constant`, "
        "replace it by a layer of known constant, or pass lipschitz_constant= for the whole "
        "branch to what asks for it."
    )


def _name(order):
    return f"{order.name} (learned)" if isinstance(order, LearnedOrder) else f"{order:g}"
