"""The base of the bijectors that scale and shift elements by an unconstrained network."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tf_resflow.bijectors.base import Context, FlowBijector
from tf_resflow.bijectors.networks import (
    adopt,
    bound_network,
    check_built,
    event_rows,
    from_rows,
    input_shapes,
    parameter_dtype,
)

__all__ = ["NetworkBijector"]


class NetworkBijector(FlowBijector):
    """A bijector whose parameters are the output of a network, of x, of a condition, or of both.

    The shape of a condition is `condition_shape`, None for none. Other arguments are those of `tfb.Bijector`.
    """

    def __init__(self, network: keras.Layer, condition_shape: Any, **kwargs: Any) -> None:
        self._network = self._no_dependency(network)
        self._condition_shape = None if condition_shape is None else tf.TensorShape(condition_shape)
        self._network_variables = adopt(network)
        super().__init__(dtype=parameter_dtype(network), **kwargs)

    @property
    def network(self) -> keras.Layer:
        return self._network

    keras_parts = network

    @property
    def conditional(self) -> bool:
        """Whether the network takes a condition."""
        return self._condition_shape is not None

    @property
    def condition_shape(self) -> tf.TensorShape | None:
        """The shape of the condition of an event, of a conditional bijector."""
        return self._condition_shape

    @property
    def argument_names(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("networks", "conditional_input") if self.conditional else ("networks",)

    def _network_and_condition(self, context: Context) -> tuple[Any, Any]:
        """The bound network and the condition of a context, None for none."""
        networks, *given = context.take(self.name, *self.argument_names)
        condition = given[0] if given else None
        if self.conditional and condition is None:
            raise ValueError(f"{self.name} needs conditional_input, of shape {self._condition_shape}.")
        return bound_network(self._network, networks), condition

    def _output(self, context: Context) -> Callable[[tf.Tensor], tf.Tensor]:
        """The network as a function of x `[..., *event]`, with the condition of a context beside it."""
        network, condition = self._network_and_condition(context)

        def apply(x):
            rank = self.forward_min_event_ndims
            rows, of_rows, batch_shape = event_rows(self.name, x, rank, condition, self._condition_shape)
            output = network(rows if of_rows is None else [rows, of_rows])
            return tf.cast(from_rows(output, batch_shape), x.dtype)

        return apply


def network_shapes(network: keras.Layer) -> list[tuple[Any, ...]]:
    """The shapes of x and, if it takes one, of the condition; a ValueError for a network of other inputs."""
    check_built(network)
    shapes = [shape[1:] for shape in input_shapes(network)]
    if len(shapes) not in (1, 2) or not all(map(_ends_in_size, shapes)):
        raise ValueError(
            "The network has one input, or two with a condition, whose last axis has a known size; the inputs of "
            f"{network.name!r} have the shapes {shapes}. Build it as keras.Sequential([keras.Input(shape), ...]) "
            "or keras.Model([x, condition], output)."
        )
    return shapes


def output_shape(network: keras.Layer) -> tuple[Any, ...]:
    """The shape of the network's output for an event, which is computed without a value."""
    dtype = (parameter_dtype(network) or tf.float32).name
    specs = [keras.KerasTensor((None, *shape), dtype=dtype) for shape in network_shapes(network)]
    output = network.compute_output_spec(specs if len(specs) > 1 else specs[0])
    shape = tuple(getattr(output, "shape", ()))[1:]
    if not _ends_in_size(shape):
        shapes = tf.nest.map_structure(lambda tensor: tensor.shape, output)
        raise ValueError(
            f"The network has one output, whose last axis has a known size; that of {network.name!r} has the shape "
            f"{shapes}."
        )
    return shape


def _ends_in_size(shape):
    return bool(shape) and shape[-1] is not None
