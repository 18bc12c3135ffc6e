"""How a model passes its condition to the flow."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tf_resflow._internal.typing import TensorLike
from tf_resflow.bijectors.base import _flattened
from tf_resflow.bijectors.flow import modules
from tf_resflow.bijectors.networks import check_built
from tf_resflow.models.data_space import checked_integers


class Condition(tf.Module):
    """The condition of a model: real numbers of one shape, or a label. It is false if there is no condition.

    Attributes:
      shape: Shape of the condition of an example, `()` for a label, None without a condition.
      num_classes: Number of classes of a label, which the flow receives one-hot.
      network: Keras model from the standardized numbers to the flow's condition, or None.
      statistics: Dict of the variables "mean" and "std", which standardize real numbers for the flow.
    """

    def __init__(
        self,
        shape: Sequence[int] | None = None,
        num_classes: int | None = None,
        mean: TensorLike | None = None,
        std: TensorLike | None = None,
        network: keras.Layer | None = None,
        dtype: tf.DType = tf.float32,
    ):
        super().__init__(name="condition")
        statistics = {name: value for name, value in {"mean": mean, "std": std}.items() if value is not None}
        needs_numbers = bool(statistics) or network is not None
        is_ambiguous = shape is not None and num_classes is not None
        if is_ambiguous or (shape is None and needs_numbers) or len(statistics) == 1:
            raise ValueError(
                f"Got condition_shape={shape}, num_classes={num_classes} and the statistics {[*statistics]}. For "
                "real numbers, give condition_shape= (and condition_mean= with condition_std=). For labels, give "
                "num_classes= alone."
            )
        if std is not None and not np.all(np.asarray(std) > 0):
            raise ValueError(f"condition_std is {std}, but must be positive. Leave out constant conditions.")
        if network is not None:
            check_built(network)
        self.shape: Any = () if num_classes is not None else None if shape is None else tuple(shape)
        self.num_classes = num_classes
        self.network = network
        self._dtype = tf.as_dtype(dtype)
        self.statistics = {
            name: tf.Variable(np.asarray(value, np.float64), trainable=False, name=f"condition_{name}")
            for name, value in statistics.items()
        }

    def __bool__(self) -> bool:
        return self.shape is not None

    @property
    def flow_shape(self) -> tuple[int, ...]:
        """The shape of an example's condition as the flow receives it."""
        if self.network is not None:
            return tuple(self.network.compute_output_shape((None, *self.shape))[1:])
        return self.shape if self.num_classes is None else (self.num_classes,)

    @property
    def description(self) -> str:
        """A description of the condition of an example, for messages."""
        if self.num_classes is not None:
            return f"a label 0, ..., {self.num_classes - 1}"
        return f"real numbers of shape {self.shape}"

    def check_flow(self, flow: tfp.bijectors.Bijector) -> None:
        """Raises a ValueError if the parts of a flow expect conditions of another shape."""
        bijectors = [module for module in modules(flow) if "condition" in getattr(module, "argument_names", ())]
        shapes = {
            bijector.name: getattr(bijector, "condition_shape", tf.TensorShape(None)) for bijector in bijectors
        }
        flow_shape = self.flow_shape if self else None
        fits = all(shape.is_compatible_with(flow_shape) for shape in shapes.values())
        if bool(shapes) != bool(self) or not fits:
            raise ValueError(
                f"The parts of the flow expect conditions of shape {shapes or None}, but the model passes "
                f"{flow_shape}. Build the flow with condition_size=, and the model with condition_shape= or "
                "num_classes=."
            )

    def split(self, batch: Any) -> tuple[Any, Any]:
        """Splits a batch into the examples and the condition, or None for an unconditional model."""
        if not self:
            return batch, None
        if not (isinstance(batch, tuple) and len(batch) == 2):
            raise ValueError(f"Got the batch {batch!r:.80}, but a conditional model needs a pair (x, condition).")
        return batch

    def arguments(self, condition: TensorLike | None, num: TensorLike, networks: Any = None) -> dict[str, Any]:
        """Returns the flow's arguments: the condition of `num` examples and the bound networks."""
        self.check_given(condition)
        arguments: dict[str, Any] = {}
        if self:
            arguments["condition"] = self.rows(condition, num)
        if networks is not None:
            arguments["networks"] = networks
        return arguments

    def check_given(self, condition: TensorLike | None) -> None:
        """Raises a ValueError if a condition is missing, or given to an unconditional model."""
        if self and condition is None:
            raise ValueError(f"The model is conditional. Give condition=, for each example {self.description}.")
        if condition is not None and not self:
            raise ValueError("The model is not conditional. Leave out condition=.")

    def rows(self, condition: TensorLike, num: TensorLike) -> tf.Tensor:
        """Returns the condition of `num` examples for the flow, `[num, *flow_shape]`.

        `condition` is `[num, *shape]`, or `[1, *shape]` or `shape` if all examples share one.
        """
        values = self.values(condition)
        batch = tf.TensorShape([tf.get_static_value(num)])
        if self._broadcast_batch(batch, values).as_list() != batch.as_list():
            raise ValueError(f"Got conditions of shape {values.shape} for {batch[0]} examples. Give one for each.")
        return self._for_rows(values, num)

    def in_rows(
        self, x: tf.Tensor, event_rank: int, condition: TensorLike | None, networks: Any = None
    ) -> tuple[tf.Tensor, dict[str, Any], tf.Tensor | None]:
        """Broadcasts x `[*batch, *event]` with conditions `[*batch, *shape]`, and flattens their batch to rows.

        Returns:
          x `[num, *event]`, the flow's arguments, and the batch shape for `from_rows` (None if x is unchanged).
        """
        self.check_given(condition)
        values = self.values(condition) if self else None
        batch = x.shape[: x.shape.rank - event_rank]
        batch_shape = None
        if self._broadcast_batch(batch, values).as_list() != batch.as_list() or batch.rank != 1:
            batch_shape = tf.shape(x)[: batch.rank]
            if values is not None:
                rank = len(self.flow_shape)
                batch_shape = tf.broadcast_dynamic_shape(batch_shape, tf.shape(values)[: values.shape.rank - rank])
                values = _flattened(values, batch_shape, rank)
            x = _flattened(x, batch_shape, event_rank)
        elif values is not None:
            values = self._for_rows(values, tf.shape(x)[0])
        arguments = {"condition": values, "networks": networks}
        return x, {name: value for name, value in arguments.items() if value is not None}, batch_shape

    def batch_shape(self, condition: TensorLike | None) -> tf.TensorShape | tf.Tensor:
        """Returns the batch shape of conditions `[*batch, *shape]`, which is `[]` without a condition."""
        self.check_given(condition)
        if condition is None:
            return tf.TensorShape([])
        values = self._checked(condition)
        rank = values.shape.rank - len(self.shape)
        return values.shape[:rank] if values.shape[:rank].is_fully_defined() else tf.shape(values)[:rank]

    def values(self, condition: TensorLike) -> tf.Tensor:
        """Returns conditions `[*batch, *shape]` as the flow receives them, `[*batch, *flow_shape]`."""
        values = self._checked(condition)
        rank = values.shape.rank - len(self.shape)
        batch = values.shape[:rank]
        batch_shape = tf.shape(values)[:rank]
        if self.num_classes is not None:
            values = tf.one_hot(checked_integers(values, self.num_classes, "labels"), self.num_classes)
        elif self.statistics:  # in float64, so that subtracting a large mean loses no digits
            mean = self.statistics["mean"]
            values = (tf.cast(values, mean.dtype) - mean) / self.statistics["std"]
        values = tf.cast(values, self._dtype)
        if self.network is not None:
            rows = values if rank == 1 else _flattened(values, batch_shape, len(self.shape))
            values = tf.cast(self.network(rows), self._dtype)
            values = tf.reshape(values, tf.concat([batch_shape, tf.shape(values)[1:]], axis=0))
        return tf.ensure_shape(values, [*batch, *self.flow_shape])

    def _checked(self, condition):
        """Returns conditions as a tensor of known rank, after checking its shape and dtype."""
        values = tf.convert_to_tensor(condition)
        rank = len(self.shape)
        if values.shape.rank is None:
            values = tf.ensure_shape(values, [None, *self.shape])
        fits = values.shape.rank >= rank and values.shape[values.shape.rank - rank :].is_compatible_with(self.shape)
        if not fits or not (values.dtype.is_integer or (self.num_classes is None and values.dtype.is_floating)):
            raise ValueError(
                f"The condition has the dtype {values.dtype.name} and the shape {values.shape}. Give, for each "
                f"example, {self.description}."
            )
        return values

    def _broadcast_batch(self, batch, values):
        """Returns the static batch shape of examples and conditions, or raises a ValueError if they do not fit."""
        batch_of_conditions = tf.TensorShape([])
        if values is not None:
            batch_of_conditions = values.shape[: values.shape.rank - len(self.flow_shape)]
        try:
            return tf.broadcast_static_shape(batch, batch_of_conditions)
        except ValueError:
            raise ValueError(
                f"Got examples with the batch shape {batch}, but conditions with the batch shape "
                f"{batch_of_conditions}. Give one condition for each example, or one for all. For the density of "
                "each of n examples given each of k conditions, give examples of shape [n, 1, ...]."
            ) from None

    def _for_rows(self, values, num):
        rows = tf.broadcast_to(values, [num, *self.flow_shape])
        return tf.ensure_shape(rows, [tf.get_static_value(num), *self.flow_shape])
