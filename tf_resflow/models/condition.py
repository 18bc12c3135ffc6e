"""The condition of a model, and how its flow receives it."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tf_resflow.bijectors.flow import modules
from tf_resflow.bijectors.networks import check_built
from tf_resflow.models.dequantization import checked_integers
from tf_resflow.typing import TensorLike


class Condition(tf.Module):
    """The condition of each example of a model: real numbers of one shape, or a label. It is false without one.

    Attributes:
      shape: shape of the condition of an example, `()` for a label, None without a condition.
      num_classes: number of classes of a label, which is one-hot for the flow.
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
        is_of_numbers = bool(statistics) or network is not None
        is_ambiguous = shape is not None and num_classes is not None
        if is_ambiguous or (shape is None and is_of_numbers) or len(statistics) == 1:
            numbers = "condition_shape= if the condition is real numbers (and condition_mean= with condition_std=)"
            raise ValueError(f"Give {numbers}, or num_classes= alone if it is a label.")
        if std is not None and not np.all(np.asarray(std) > 0):
            raise ValueError("condition_std must be positive: leave out conditions that are constant.")
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
        """The shape of the condition that the flow receives for an example."""
        if self.network is not None:
            return tuple(self.network.compute_output_shape((None, *self.shape))[1:])
        return self.shape if self.num_classes is None else (self.num_classes,)

    @property
    def description(self) -> str:
        """The condition of an example in words."""
        if self.num_classes is not None:
            return f"a label 0, ..., {self.num_classes - 1}"
        return f"real numbers of shape {self.shape}"

    def check_taken_by(self, flow: tfp.bijectors.Bijector) -> None:
        """Raises ValueError unless the parts of a flow take this condition, or none if there is none."""
        parts = [part for part in modules(flow) if "condition" in getattr(part, "argument_names", ())]
        shapes = {part.name: getattr(part, "condition_shape", tf.TensorShape(None)) for part in parts}
        given = self.flow_shape if self else None
        if bool(shapes) != bool(self) or not all(shape.is_compatible_with(given) for shape in shapes.values()):
            raise ValueError(
                f"The parts of the flow take conditions of shape {shapes or None}, but the model gives {given}: "
                "build the flow with condition_size=, and the model with condition_shape= or num_classes=."
            )

    def split(self, batch: Any) -> tuple[Any, Any]:
        """The examples and the condition of a batch, which is a pair if there is a condition."""
        if not self:
            return batch, None
        if not (isinstance(batch, tuple) and len(batch) == 2):
            raise ValueError(f"A batch of a conditional model is a pair (x, condition); got {batch!r:.80}.")
        return batch

    def join(self, x: Any, condition: Any) -> Any:
        """The batch of examples, which is a pair if there is a condition."""
        self._check_given(condition)
        return (x, condition) if self else x

    def arguments(self, condition: TensorLike | None, num: TensorLike, networks: Any = None) -> dict[str, Any]:
        """The arguments of a flow for the condition of `num` examples, and its bound networks."""
        self._check_given(condition)
        given = {"condition": self.rows(condition, num)} if self else {}
        return given if networks is None else {**given, "networks": networks}

    def _check_given(self, condition):
        if self and condition is None:
            raise ValueError(f"The model is conditional: give condition=, for each example {self.description}.")
        if condition is not None and not self:
            raise ValueError("The model has no condition: leave out condition=.")

    def rows(self, condition: TensorLike, num: TensorLike) -> tf.Tensor:
        """The condition that the flow receives for each of `num` examples, `[num, *flow_shape]`.

        Args:
          condition: `[num, *shape]`, or `[1, *shape]` or `shape` if all examples have the same one.
          num: number of examples.
        """
        values = tf.convert_to_tensor(condition)
        fits = any(values.shape.is_compatible_with(shape) for shape in (self.shape, (None, *self.shape)))
        if not fits or not (values.dtype.is_integer or (self.num_classes is None and values.dtype.is_floating)):
            got = f"{values.dtype.name} of shape {values.shape}"
            raise ValueError(f"Expected conditions, for each example {self.description}; got {got}.")
        values = values[tf.newaxis] if values.shape.rank == len(self.shape) else values
        if self.num_classes is not None:
            values = tf.one_hot(checked_integers(values, self.num_classes, "labels"), self.num_classes)
        elif self.statistics:  # in their dtype, in which an offset costs no digits
            mean, std = self.statistics["mean"], self.statistics["std"]
            values = (tf.cast(values, mean.dtype) - mean) / std
        values = tf.cast(values, self._dtype)
        if self.network is not None:
            values = tf.cast(self.network(values), self._dtype)
        rows = tf.broadcast_to(values, [num, *self.flow_shape])
        return tf.ensure_shape(rows, [tf.get_static_value(num), *self.flow_shape])
