"""How a model passes its condition to the flow."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tf_resflow.bijectors.flow import modules
from tf_resflow.bijectors.networks import check_built
from tf_resflow.models.data_space import checked_integers
from tf_resflow.typing import TensorLike


class Condition(tf.Module):
    """The condition of a model: real numbers of one shape, or a label. It is false if there is no condition.

    Attributes:
      shape: shape of the condition of an example, `()` for a label, None without a condition.
      num_classes: number of classes of a label, which the flow receives one-hot.
      network: Keras model from the standardized numbers to the flow's condition, or None.
      statistics: dict of the variables "mean" and "std", which standardize real numbers for the flow.
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
        self.num_classes, self.network, self._dtype = num_classes, network, tf.as_dtype(dtype)
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
        parts = [part for part in modules(flow) if "condition" in getattr(part, "argument_names", ())]
        shapes = {part.name: getattr(part, "condition_shape", tf.TensorShape(None)) for part in parts}
        given = self.flow_shape if self else None
        if bool(shapes) != bool(self) or not all(shape.is_compatible_with(given) for shape in shapes.values()):
            raise ValueError(
                f"The parts of the flow expect conditions of shape {shapes or None}, but the model passes {given}. "
                "Build the flow with condition_size=, and the model with condition_shape= or num_classes=."
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
        if self and condition is None:
            raise ValueError(f"The model is conditional. Give condition=, for each example {self.description}.")
        if condition is not None and not self:
            raise ValueError("The model is not conditional. Leave out condition=.")
        given = {"condition": self.rows(condition, num)} if self else {}
        return given if networks is None else {**given, "networks": networks}

    def rows(self, condition: TensorLike, num: TensorLike) -> tf.Tensor:
        """Returns the condition of `num` examples for the flow, `[num, *flow_shape]`.

        `condition` is `[num, *shape]`, or `[1, *shape]` or `shape` if all examples share one.
        """
        values = tf.convert_to_tensor(condition)
        fits = any(values.shape.is_compatible_with(shape) for shape in (self.shape, (None, *self.shape)))
        if not fits or not (values.dtype.is_integer or (self.num_classes is None and values.dtype.is_floating)):
            found = f"The condition has the dtype {values.dtype.name} and the shape {values.shape}"
            raise ValueError(f"{found}. Give, for each example, {self.description}.")
        values = values[tf.newaxis] if values.shape.rank == len(self.shape) else values
        if self.num_classes is not None:
            values = tf.one_hot(checked_integers(values, self.num_classes, "labels"), self.num_classes)
        elif self.statistics:  # in float64, so that subtracting a large mean loses no digits
            mean, std = self.statistics["mean"], self.statistics["std"]
            values = (tf.cast(values, mean.dtype) - mean) / std
        values = tf.cast(values, self._dtype)
        if self.network is not None:
            values = tf.cast(self.network(values), self._dtype)
        rows = tf.broadcast_to(values, [num, *self.flow_shape])
        return tf.ensure_shape(rows, [tf.get_static_value(num), *self.flow_shape])
