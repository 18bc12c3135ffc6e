"""The bases of bijectors whose parameters are Keras variables, or the output of an unconstrained network."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_resflow.bijectors.base import Context, FlowBijector
from tf_resflow.bijectors.networks import (
    bound_network,
    check_built,
    event_rows,
    from_rows,
    input_shapes,
    output_shape,
    parameter_dtype,
    share_trainable,
)
from tf_resflow.typing import DType


class VariableBijector(FlowBijector):
    """A bijector that holds Keras variables by name, of which the `frozen` ones are not trained."""

    def __init__(
        self,
        initial_values: Mapping[str, Any],
        dtype: DType,
        frozen: Collection[str] = (),
        *,
        name: str,
        **kwargs: Any,
    ) -> None:
        super().__init__(dtype=tf.as_dtype(dtype), name=name, **kwargs)
        variables = {}
        for key, value in initial_values.items():
            options = {"trainable": key not in frozen, "autocast": False, "name": f"{self.name}_{key}"}
            variables[key] = keras.Variable(value, dtype=dtype, **options)
        self._keras_variables = self._no_dependency(variables)
        self._tf_variables = self._no_dependency({key: share_trainable(v) for key, v in variables.items()})
        # Checkpoints have the variables under this key since version 0.1.
        self._track_trackable(tf.__internal__.tracking.wrap(self._tf_variables), name="_affine")

    def _get_parameterization(self):
        # Bijectors of equal arguments would share a cache, and these have different variables.
        return id(self)

    def _value(self, key):
        """The `tf.Variable` of this name; within a `keras.StatelessScope` that replaces it, the tensor."""
        return self._keras_variables[key].value

    @property
    def keras_variables(self) -> list[keras.Variable]:  # type: ignore[override]
        return list(self._keras_variables.values())


class NetworkBijector(FlowBijector):
    """A bijector that evaluates a network of x, of a condition, or of both.

    `condition_shapes` has the shape of the condition, if there is one. Other arguments are those of `tfb.Bijector`.
    """

    def __init__(self, network: Any, condition_shapes: Sequence[Any], **kwargs: Any) -> None:
        self.network = self._no_dependency(network)
        self.has_condition = bool(condition_shapes)
        self.condition_shape = tf.TensorShape(condition_shapes[0]) if condition_shapes else None
        super().__init__(dtype=parameter_dtype(network), **kwargs)

    @property
    def networks(self) -> Sequence[Any]:  # type: ignore[override]
        return (self.network,)

    @property
    def argument_names(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("networks", "condition") if self.has_condition else ("networks",)

    def _network_and_condition(self, context: Context) -> tuple[Any, Any]:
        """The bound network and the condition of a context, None for none."""
        given = dict(zip(self.argument_names, context.take(self.name, *self.argument_names), strict=True))
        return bound_network(self.network, given["networks"]), given.get("condition")

    def _to_rows(self, x: tf.Tensor, condition: Any) -> tuple[tf.Tensor, Any, Any]:
        """See `event_rows`."""
        return event_rows(self.name, x, self.forward_min_event_ndims, condition, self.condition_shape)

    def _output(self, context: Context) -> Callable[[tf.Tensor], tf.Tensor]:
        """The network as a function of x `[..., *event]`, with the condition of a context."""
        network, condition = self._network_and_condition(context)

        def apply(x):
            rows, of_rows, batch_shape = self._to_rows(x, condition)
            output = network(rows if of_rows is None else [rows, of_rows])
            return tf.cast(from_rows(output, batch_shape), x.dtype)

        return apply


def network_shapes(network: keras.Layer) -> tuple[list[tuple[Any, ...]], tuple[Any, ...]]:
    """The shapes of the inputs, x or x and a condition, and of the output of a network, without the batch."""
    check_built(network)
    inputs = [shape[1:] for shape in input_shapes(network)]
    known = len(inputs) in (1, 2) and all(shape and shape[-1] for shape in inputs)
    output = output_shape(network, inputs) if known else None
    if not isinstance(output, tf.TensorShape) or not output[1:].rank or not output[-1]:
        raise ValueError(
            "The network needs one input, or two with a condition, and one output, all with a last axis of known "
            f"size; {network.name!r} maps {inputs} to {output}."
        )
    return inputs, tuple(output[1:])
