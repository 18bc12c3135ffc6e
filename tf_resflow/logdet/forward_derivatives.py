"""Derivatives of a branch in its first input, carried forward through its layers with the values."""

import functools
import operator
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_resflow.layers import (
    CLipSwish,
    CPila,
    LearnableConcatenation,
    LipschitzConv2D,
    LipschitzCube,
    LipschitzDense,
    LipSwish,
    scaled_kernels,
)
from tf_resflow.layers.lipschitz_constants import is_graph, known_slope
from tf_resflow.private_api import graph_steps

__all__ = ["forward_jacobian", "has_forward_jacobian", "is_known", "value_and_derivative"]

_CONSTRAINED = (LipschitzConv2D, LipschitzDense)
_SMOOTH = (CLipSwish, CPila, LipSwish)
_RESHAPING = (keras.layers.Flatten, keras.layers.Reshape)
_MERGING = (keras.layers.Add, keras.layers.Concatenate, LearnableConcatenation)


def is_known(branch: Any) -> bool:
    """Whether `value_and_derivative` knows the layers of a branch.

    It may be a `keras.Sequential` or a functional model, also of x and conditions. The layers that only conditions
    reach may be unconstrained dense ones, too.
    """
    return _is_made_of(branch, (*_CONSTRAINED, *_RESHAPING, *_MERGING))


def has_forward_jacobian(branch: Any) -> bool:
    """Whether `forward_jacobian` knows the layers of a branch: those of vectors, without convolutions."""
    return _is_made_of(branch, (LipschitzDense, *_MERGING)) and len(branch.inputs[0].shape) == 2


def _is_made_of(branch, kinds):
    """Whether x reaches layers of these kinds, elementwise ones, and the output."""
    if not is_graph(branch) or len(branch.outputs) != 1:
        return False
    reached = {id(branch.inputs[0])}
    for layer, arguments, results in graph_steps(branch):
        live = [tensor for tensor in arguments if id(tensor) in reached]
        if not (type(layer) in kinds or _is_elementwise(layer) or _is_conditioner(layer, live)):
            return False
        if type(layer) is keras.layers.Add and any(tensor.shape != results[0].shape for tensor in live):
            return False  # it broadcasts the derivative, too
        if type(layer) is keras.layers.Concatenate and layer.axis not in (-1, len(results[0].shape) - 1):
            return False
        reached |= {id(tensor) for tensor in results if live}
    return id(branch.outputs[0]) in reached


def _is_elementwise(layer):
    if type(layer) is keras.layers.Activation:
        return known_slope(layer) is not None
    return type(layer) in (*_SMOOTH, LipschitzCube)


def _is_conditioner(layer, live):
    return not live and type(layer) in (keras.layers.Dense, *_RESHAPING)


def value_and_derivative(
    branch: keras.Model, inputs: Sequence[tf.Tensor], v: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """g(x) and J v for a branch g that `is_known`, `[rows, *event]`; differentiable once.

    It serves the gradient of u'J v and g(x): pairs of tensors go once through each layer and once back, and what an
    activation computes of a pair takes few passes over memory.

    Args:
      branch: g.
      inputs: x, and conditions.
      v: like x.
    """
    return _through(branch, inputs, v, _pair)


def _pair(layer, x, v):
    if type(layer) in _SMOOTH:
        return layer.value_and_derivative(x, v)
    if type(layer) in _CONSTRAINED:
        return layer(x), layer.linear_part(v)
    if type(layer) in _RESHAPING:
        return layer(x), layer(v)
    x, slope = _value_and_slope(layer, x)
    return x, slope * v


def forward_jacobian(branch: keras.Model, inputs: Sequence[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """The value of a branch `[batch, outputs]`, and its derivatives in each coordinate, `[inputs, batch, outputs]`.

    For a branch that `has_forward_jacobian`; differentiable any number of times. It takes a product for each dense
    layer, instead of a reverse pass for each coordinate.

    Args:
      branch: the branch.
      inputs: x, and conditions.
    """
    x = inputs[0]
    unit = tf.eye(x.shape[-1], dtype=x.dtype)[:, tf.newaxis]  # derivatives that examples share have one row
    value, tangents = _through(branch, inputs, unit, _tangents)
    return value, tangents + tf.zeros([tf.shape(x)[0], 1], tangents.dtype)


def _tangents(layer, x, tangents):
    if type(layer) is LipschitzDense:
        return layer(x), _product(tangents, layer._applied_kernel())
    x, slope = _value_and_slope(layer, x)
    parts = slope.shape[-1] // tangents.shape[-1]
    return x, slope * tf.concat([tangents] * parts, -1)


def _through(branch, inputs, derivative, rule):
    """The value and the derivative of the output, for that of x: by `rule` at the layers of one input."""
    known = {id(tensor): (value, None) for tensor, value in zip(branch.inputs, inputs, strict=True)}
    known[id(branch.inputs[0])] = inputs[0], derivative
    with scaled_kernels(branch):
        for layer, arguments, (result,) in graph_steps(branch):
            values, derivatives = zip(*(known[id(tensor)] for tensor in arguments), strict=True)
            known[id(result)] = _at_layer(layer, _cast(layer, values), _cast(layer, derivatives), rule)
    return known[id(branch.outputs[0])]


def _cast(layer, tensors):
    return [None if tensor is None else tf.cast(tensor, layer.compute_dtype) for tensor in tensors]


def _at_layer(layer, values, derivatives, rule):
    """The value of a layer and its derivative, which is None where x does not enter."""
    live = [derivative for derivative in derivatives if derivative is not None]
    if not live:
        return layer(values if type(layer) in _MERGING else values[0]), None
    if type(layer) is keras.layers.Add:
        return functools.reduce(operator.add, values), functools.reduce(operator.add, live)
    if type(layer) is keras.layers.Concatenate:
        return layer(values), tf.concat(_with_zeros(values, derivatives, live), -1)
    if type(layer) is LearnableConcatenation:
        return layer(values), layer(_with_zeros(values, derivatives, live))
    return rule(layer, values[0], derivatives[0])


def _with_zeros(values, derivatives, live):
    """The derivatives, zeros for None, all of one shape but for the last axis."""
    leading = functools.reduce(tf.broadcast_dynamic_shape, [tf.shape(derivative)[:-1] for derivative in live])
    alike = all(derivative.shape[:-1] == live[0].shape[:-1] for derivative in live)

    def filled(value, derivative):
        if derivative is not None and alike:
            return derivative
        derivative = tf.zeros([], value.dtype) if derivative is None else derivative
        return tf.broadcast_to(derivative, tf.concat([leading, value.shape[-1:]], 0))

    return [filled(value, derivative) for value, derivative in zip(values, derivatives, strict=True)]


def _value_and_slope(layer, x):
    """What an elementwise layer computes of x, and the slope of each number of it."""
    if type(layer) in _SMOOTH:
        return layer.value_and_slope(x)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        y = layer(x)
    return y, tape.gradient(y, x)


def _product(tangents, kernel):
    """The product of the last axis with a matrix."""
    rows = tf.matmul(tf.reshape(tangents, [-1, kernel.shape[0]]), kernel)
    return tf.reshape(rows, [tangents.shape[0], -1, kernel.shape[1]])
