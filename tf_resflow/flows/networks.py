"""Helpers for all networks, and unconstrained networks for couplings and affine autoregressive layers."""

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import keras
import numpy as np

from tf_resflow import bijectors
from tf_resflow._internal.functions import _relu
from tf_resflow.layers.masked_dense import MaskedDense

DType: TypeAlias = str | keras.DTypePolicy | None
EventShape: TypeAlias = int | Sequence[int]

_EXAMPLES = {"a vector": (5,), "an image": (32, 32, 3)}


def network_policy(dtype: DType) -> keras.DTypePolicy:
    """Returns the dtype policy of a flow's networks, by default Keras's global policy.

    Other variables of the flow have its `variable_dtype`. Unsupported policies raise a ValueError.
    """
    policy = keras.dtype_policies.get(dtype)
    if policy.name not in ("float32", "float64", "mixed_bfloat16"):
        raise ValueError(
            f"The dtype policy is {policy.name!r}, but a flow needs 'float32', 'float64' or 'mixed_bfloat16' "
            "(bfloat16 in training). Pass it as dtype=, or call keras.config.set_dtype_policy."
        )
    return policy


def shape_of_event(event_shape: EventShape, kind: str | None = None) -> tuple[int, ...]:
    """Returns a shape as a tuple, where an `int` is the size of a vector, and checks it for the kind of event."""
    shape = (event_shape,) if isinstance(event_shape, (int, np.integer)) else tuple(event_shape)
    if not all(isinstance(size, (int, np.integer)) or size is None for size in shape):
        raise ValueError(f"The shape is {event_shape!r:.100}. Give integers, such as {_EXAMPLES['an image']}.")
    if kind is not None and len(shape) != len(_EXAMPLES[kind]):
        raise ValueError(
            f"event_shape is {event_shape}, but must be the shape of {kind}, such as {_EXAMPLES[kind]}."
        )
    return shape


def bijector_of(argument: str, value: Any, known: Mapping[str, str]) -> Any:
    """Returns the class of a name in `known`, and other callables unchanged. Otherwise raises a ValueError."""
    if isinstance(value, str) and value in known:
        return getattr(bijectors, known[value])
    if isinstance(value, bijectors.FlowBijector) or not callable(value):
        raise ValueError(
            f"{argument} is {value!r}. Give one of the names {', '.join(known)}, a class such as "
            f"tf_resflow.bijectors.{next(iter(known.values()))}, or a functools.partial of a class."
        )
    return value


def is_coupling(factory: Any) -> bool:
    """Whether a class, or a `functools.partial` of it, makes couplings."""
    kind = getattr(factory, "func", factory)
    return isinstance(kind, type) and issubclass(kind, bijectors.couplings.Coupling)


def num_parameters_of(factory: Any) -> int:
    """Returns the number of outputs for each mapped element that a factory of couplings needs."""
    return getattr(factory, "func", factory).num_parameters_with(**getattr(factory, "keywords", {}))


def shifted(h, condition, shape, initializer, policy):
    """Adds a dense layer of the condition to the tensor h; the layer's output has a shape that broadcasts to h."""
    dtype = policy.name
    shift = keras.layers.Dense(shape[-1], kernel_initializer=initializer, dtype=dtype, name="condition")(condition)
    if len(condition.shape) - 1 < len(shape):
        shift = keras.layers.Reshape(shape, dtype=dtype)(shift)
    return keras.layers.Add(dtype=dtype)([h, shift])


def stacked(name, shapes, head, tail, condition_size, shift_shape, initializer, policy):
    """Builds a sequential model from events of shape `shapes[0]` to events of shape `shapes[1]`.

    A dense layer of the condition, if any, shifts the output of `head`. Vector shifts need flattened events.
    """
    if len(shift_shape) == 1 < len(shapes[0]):
        head = [keras.layers.Flatten(dtype=policy.name), *head]
        tail = [*tail, keras.layers.Reshape(shapes[1], dtype=policy.name)]
    h = x = keras.Input(shapes[0], dtype=policy.variable_dtype)
    if condition_size is None:
        return keras.Sequential([x, *head, *tail], name=name)
    for layer in head:
        h = layer(h)
    condition = keras.Input(shape_of_event(condition_size), dtype=policy.variable_dtype)
    h = shifted(h, condition, shift_shape, initializer, policy)
    for layer in tail:
        h = layer(h)
    return keras.Model([x, condition], h, name=name)


def coupling_network(
    event_shape: EventShape,
    width: int,
    kernels: Sequence[int] = (3, 1, 3),
    *,
    split: str = "channels",
    num_parameters: int = 2,
    condition_size: int | None = None,
    seed: int = 0,
    dtype: DType = None,
) -> keras.Model:
    """Builds a network of unconstrained convolutions with ReLUs, for a coupling on images `[H, W, C]`.

    The last layer is initialized to zero, so the coupling starts near the identity. See
    `tf_resflow.flows.dense_branch` for the result.

    Args:
      width: Number of channels of the inner layers.
      kernels: Kernel sizes, one for each layer.
      split: See `tf_resflow.bijectors.AffineCoupling`. With "channels", the network receives `C // 2` channels.
      num_parameters: Number of outputs for each mapped element: the attribute `num_parameters` of the coupling.
      condition_size: Size of a condition vector. A dense layer of the condition shifts each channel of the first
        layer's output. `None` for an unconditional coupling.
      dtype: Dtype policy, see `image_flow`.

    References:
      Kingma and Dhariwal, Glow, 2018, Section 3.3.
    """
    event_shape = shape_of_event(event_shape, "an image")
    shapes = _coupling_shapes(event_shape, split, num_parameters)
    widths = [width] * (len(kernels) - 1) + [shapes[1][-1]]
    conv = functools.partial(keras.layers.Conv2D, padding="same")
    linear = [functools.partial(conv, *sizes) for sizes in zip(widths, kernels, strict=True)]
    return _unconstrained(shapes, linear, "relu", condition_size, (1, 1, widths[0]), seed, dtype)


def dense_coupling_network(
    event_shape: EventShape,
    hidden: Sequence[int],
    *,
    split: str = "channels",
    num_parameters: int = 2,
    condition_size: int | None = None,
    seed: int = 0,
    dtype: DType = None,
) -> keras.Model:
    """Like `coupling_network`, but with dense layers of widths `hidden`, for vectors or flattened images."""
    shapes = _coupling_shapes(shape_of_event(event_shape), split, num_parameters)
    widths = [*hidden, math.prod(shapes[1])]
    linear = [functools.partial(keras.layers.Dense, units) for units in widths]
    return _unconstrained(shapes, linear, "relu", condition_size, (widths[0],), seed, dtype)


def autoregressive_network(
    event_shape: EventShape,
    hidden: Sequence[int],
    *,
    reverse: bool = False,
    condition_size: int | None = None,
    seed: int = 0,
    dtype: DType = None,
) -> keras.Model:
    """Builds a network of masked dense layers with SiLUs, for a `tf_resflow.bijectors.AffineAutoregressive`.

    The network has two outputs for each coordinate, which depend only on earlier coordinates and on the condition.
    The last layer is initialized to zero, so the bijector starts as the identity. See
    `tf_resflow.flows.dense_branch` for the result.

    Args:
      event_shape: Size of a vector, or its shape.
      hidden: Widths of the inner layers, at least one.
      reverse: Whether to order the coordinates from last to first.
      condition_size: See `tf_resflow.flows.dense_branch`.
      dtype: Dtype policy, see `image_flow`.

    References:
      Germain et al., MADE, 2015, Section 4.
    """
    (size,) = shape_of_event(event_shape, "a vector")
    order = np.arange(size)[:: -1 if reverse else 1]
    first = 0 if condition_size is None else -1  # a unit of degree -1 depends only on the condition
    degrees = [_degrees(width, first, size - 2) for width in hidden]
    degrees = [each.tolist() for each in (order, *degrees, np.tile(order, 2) - 1)]
    linear = [functools.partial(MaskedDense, *pair) for pair in itertools.pairwise(degrees)]
    return _unconstrained(((size,), (2 * size,)), linear, "silu", condition_size, (hidden[0],), seed, dtype)


def _degrees(width, first, last):
    """Returns the degrees of the units: in cycles, or evenly spaced if there are more degrees than units."""
    if width <= last - first:
        return np.rint(np.linspace(last, first, width)).astype(int)
    return np.arange(width) % max(1, last - first + 1) + first


def _coupling_shapes(event_shape, split, num_parameters):
    *positions, channels = event_shape
    if split == "checkerboard":
        return event_shape, (*positions, num_parameters * channels)
    if channels < 2:
        raise ValueError(
            f"split='channels' needs at least two channels, but the event_shape is {event_shape}. For images, use "
            "split='checkerboard'. For vectors of one coordinate, use an AffineAutoregressive, such as "
            "vector_flow(1, affine_layers=(2, 0), affine='affine_autoregressive')."
        )
    return (*positions, channels // 2), (*positions, num_parameters * (channels - channels // 2))


def _unconstrained(shapes, linear, activation, condition_size, shift_shape, seed, dtype):
    policy = network_policy(dtype)
    seeds = np.random.default_rng(seed)
    kernels = [keras.initializers.HeNormal(int(seeds.integers(2**31))) for _ in linear]
    if activation == "relu" and condition_size is not None:
        # TensorFlow logs an error when it fuses a ReLU with the sum of a dense layer and a shift.
        activation = _relu
    stack = []
    for i, make in enumerate(linear):
        kernel = "zeros" if i == len(linear) - 1 else kernels[i]
        stack += [keras.layers.Activation(activation, dtype=policy.name)] if i else []
        stack.append(make(kernel_initializer=kernel, dtype=policy.name, name=f"layer_{i}"))
    condition_kernel = kernels[-1] if len(linear) > 1 else "zeros"
    return stacked("network", shapes, stack[:1], stack[1:], condition_size, shift_shape, condition_kernel, policy)
