"""Base classes of bijectors that own Keras variables or evaluate a network."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_resflow.bijectors.base import Context, FlowBijector
from tf_resflow.bijectors.networks import bound_network, check_event, from_rows, parameter_dtype, share_trainable
from tf_resflow.typing import DType


class VariableBijector(FlowBijector):
    """A bijector of events of `_event_shape` that owns Keras variables. `frozen` variables are not trained."""

    def __init__(
        self, values: Mapping[str, Any], dtype: DType, frozen: Collection[str] = (), **kwargs: Any
    ) -> None:
        super().__init__(dtype=tf.as_dtype(dtype), forward_min_event_ndims=self._event_shape.rank, **kwargs)
        variables = {}
        for key, value in values.items():
            options = {"trainable": key not in frozen, "autocast": False, "name": f"{self.name}_{key}"}
            variables[key] = keras.Variable(value, dtype=dtype, **options)
        self._keras_variables = self._no_dependency(variables)
        self._tf_variables = self._no_dependency({key: share_trainable(v) for key, v in variables.items()})
        # Checkpoints since version 0.1 contain the variables under this key.
        self._track_trackable(tf.__internal__.tracking.wrap(self._tf_variables), name="_affine")

    def _get_parameterization(self):
        # Otherwise bijectors with equal arguments would share a cache, although their variables differ.
        return id(self)

    def _value(self, key):
        """Returns the `tf.Variable`, or the tensor that replaces it in a `keras.StatelessScope`."""
        return self._keras_variables[key].value

    @property
    def keras_variables(self) -> list[keras.Variable]:  # type: ignore[override]
        return list(self._keras_variables.values())


class NetworkBijector(FlowBijector):
    """A bijector of events of `_event_shape` that evaluates a network of x, of a condition, or of both."""

    def __init__(self, network: Any, condition_shapes: Sequence[Any], *, name: str, **kwargs: Any) -> None:
        self.network = self._no_dependency(network)
        self.has_condition = bool(condition_shapes)
        self.condition_shape = tf.TensorShape(condition_shapes[0]) if condition_shapes else None
        options = {"dtype": parameter_dtype(network), "forward_min_event_ndims": self._event_shape.rank}
        super().__init__(name=f"{name}/", **options, **kwargs)

    @property
    def networks(self) -> Sequence[Any]:  # type: ignore[override]
        return (self.network,)

    @property
    def argument_names(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("networks", "condition") if self.has_condition else ("networks",)

    def _network_and_condition(self, context: Context) -> tuple[Any, Any]:
        given = dict(zip(self.argument_names, context.take(self.name, *self.argument_names), strict=True))
        return bound_network(self.network, given["networks"]), given.get("condition")

    def _to_rows(self, x: tf.Tensor, condition: Any) -> tuple[tf.Tensor, Any, Any]:
        """Broadcasts the condition to the batch of x, flattens both, and returns that batch for `from_rows`."""
        if condition is None and self.has_condition:
            shape = f"of shape {self.condition_shape}, after any batch axes"
            raise ValueError(f"{self.name} got no condition; it needs one {shape}. Pass condition=.")
        rank, condition_shape = self.forward_min_event_ndims, self.condition_shape
        batch = x.shape[: x.shape.rank - rank]
        if condition is None and batch.rank == 1:
            return x, None, None
        batch_shape = tf.shape(x)[: batch.rank]
        if condition is not None:
            if condition_shape is None:
                raise ValueError(f"{self.name} got a condition, but is not conditional. Leave condition out.")
            condition = tf.convert_to_tensor(condition)
            check_event(f"{self.name} needs conditions", condition_shape, condition.shape)
            condition_batch = condition.shape[: condition.shape.rank - condition_shape.rank]
            sizes = zip(reversed(batch), reversed(condition_batch), strict=False)
            if condition_batch.rank > batch.rank or any(b is not None and n not in (None, 1, b) for b, n in sizes):
                raise ValueError(
                    f"{self.name} got condition with batch shape {condition_batch}, which must broadcast to the "
                    f"batch shape {batch} of the value. Draw one value per condition, for example sample(4, ...) "
                    "for four conditions, or use tf.broadcast_to."
                )
            condition = _flattened(condition, batch_shape, condition_shape.rank)
        return _flattened(x, batch_shape, rank), condition, batch_shape

    def _output(self, context: Context) -> Callable[[tf.Tensor], tf.Tensor]:
        """Returns the network as a function of x `[..., *event]`, with the condition of the context."""
        network, condition = self._network_and_condition(context)

        def apply(x):
            rows, condition_rows, batch_shape = self._to_rows(x, condition)
            output = network(rows if condition_rows is None else [rows, condition_rows])
            return tf.cast(from_rows(output, batch_shape), x.dtype)

        return apply


def _flattened(tensor, batch_shape, event_rank):
    """Broadcasts events to a batch shape, and flattens the batch to the one axis that Keras layers need."""
    static_event = tensor.shape[tensor.shape.rank - event_rank :]
    event = tf.shape(tensor)[tf.rank(tensor) - event_rank :]
    tensor = tf.broadcast_to(tensor, tf.concat([batch_shape, event], 0))
    tensor = tf.reshape(tensor, tf.concat([[-1], event], 0))
    return tf.ensure_shape(tensor, [None, *static_event])
