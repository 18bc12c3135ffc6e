"""What a conditional model is told beside each example, and how its flow takes it."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tf_resflow.bijectors.flow import modules
from tf_resflow.bijectors.networks import check_built
from tf_resflow.sequences import check_sequence
from tf_resflow.typing import TensorLike

__all__ = ["Condition", "make_condition"]


class Condition(tf.Module):
    """The condition of a model: real numbers of one shape, or a label; or none.

    Attributes:
      shape: of the condition of an example, `()` for a label, None without a condition.
      num_classes: number of classes, of a label; it is one-hot for the flow.
      network: the Keras model of what is standardized, whose output the flow takes; or None.
      statistics: the variables "mean" and "std", by which real numbers are standardized for the flow: a dict.
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
        self.network = network
        self._dtype = tf.as_dtype(dtype)
        self.shape: Any = None if shape is None else tuple(shape)
        self.num_classes = num_classes
        self.statistics = {
            name: tf.Variable(np.asarray(value, np.float64), trainable=False, name=f"condition_{name}")
            for name, value in {"mean": mean, "std": std}.items()
            if value is not None
        }

    def __bool__(self) -> bool:
        return self.shape is not None

    @property
    def flow_shape(self) -> tuple[int, ...]:
        """The shape in which the flow takes the condition of an example."""
        if self.network is not None:
            return tuple(self.network.compute_output_shape((None, *self.shape))[1:])
        return self.shape if self.num_classes is None else (self.num_classes,)

    @property
    def description(self) -> str:
        """What the condition of an example is, for messages and documents."""
        if self.num_classes is not None:
            return f"a label 0, ..., {self.num_classes - 1}"
        return f"real numbers of shape {self.shape}"

    def split(self, batch: Any) -> tuple[Any, Any]:
        """The examples and the condition of a batch: of a pair of them, else the batch and None."""
        if not self:
            return batch, None
        if not (isinstance(batch, tuple) and len(batch) == 2):
            raise ValueError(f"A batch of a conditional model is a pair (x, condition); got {batch!r:.80}.")
        return batch

    def join(self, x: Any, condition: Any) -> Any:
        """A batch of examples, in a pair with their condition if there is one."""
        self._check_given(condition)
        return (x, condition) if self else x

    def arguments(self, condition: TensorLike | None, num: TensorLike, networks: Any = None) -> dict[str, Any]:
        """The arguments by which a flow takes the condition of `num` examples, and its bound networks."""
        self._check_given(condition)
        given = {"conditional_input": self.rows(condition, num)} if self else {}
        return given if networks is None else {**given, "networks": networks}

    def _check_given(self, condition):
        if self and condition is None:
            raise ValueError(
                f"The model is conditional: give condition=, or fit(x, condition), for each example "
                f"{self.description}."
            )
        if condition is not None and not self:
            raise ValueError(
                "The model has no condition: leave out condition=, or build it with condition_shape= or "
                "num_classes=."
            )

    def rows(self, condition: TensorLike, num: TensorLike) -> tf.Tensor:
        """The condition of each of `num` examples as the flow takes it, `[num, *flow_shape]`.

        It is given as `[num, *shape]`, or for all examples as `[1, *shape]` or `shape`. What does not fit is a
        ValueError, or an InvalidArgumentError if only the graph can tell when it runs.
        """
        values = self.checked(condition)
        values = values[tf.newaxis] if values.shape.rank == len(self.shape) else values
        if self.num_classes is not None:
            labels = _in_classes(tf.cast(values, tf.int64), self.num_classes)
            values = tf.one_hot(labels, self.num_classes, dtype=self._dtype)
        else:
            if self.statistics:  # in their precision, in which an offset costs no digits
                mean, std = self.statistics["mean"], self.statistics["std"]
                values = (tf.cast(values, mean.dtype) - mean) / std
            values = tf.cast(values, self._dtype)
            if self.network is not None:
                values = tf.cast(self.network(values), self._dtype)
        with tf.control_dependencies(_check_rows(values, num)):
            rows = tf.broadcast_to(values, [num, *self.flow_shape])
        return tf.ensure_shape(rows, [tf.get_static_value(num), *self.flow_shape])

    def checked(self, condition: TensorLike) -> tf.Tensor:
        """The condition as a tensor, unless its type or its shape is wrong."""
        try:
            values = tf.convert_to_tensor(condition)
        except (TypeError, ValueError):
            raise ValueError(
                f"The condition of an example is {self.description}; got what is no array: {condition!r:.80}."
            ) from None
        shapes = (self.shape, (None, *self.shape))
        if values.shape.rank is None or not any(map(values.shape.is_compatible_with, shapes)):
            raise ValueError(
                f"The condition of an example is {self.description}: give an array of shape "
                f"{['batch', *self.shape]}; got {values.shape}."
            )
        if not (values.dtype.is_integer or (self.num_classes is None and values.dtype.is_floating)):
            raise ValueError(f"The condition of an example is {self.description}; got {values.dtype.name}.")
        return values


def make_condition(
    flow: tfp.bijectors.Bijector,
    shape: Sequence[int] | None,
    num_classes: int | None,
    mean: TensorLike | None,
    std: TensorLike | None,
    network: keras.Layer | None,
    dtype: tf.DType,
) -> Condition:
    """The condition of a model, from its arguments; raises ValueError unless the flow takes such a condition."""
    parts = {part.name: part for part in modules(flow) if _takes_condition(part)}
    if shape is None and num_classes is None:
        if parts:
            raise ValueError(
                f"These parts of the flow take a condition: {', '.join(parts)}. Tell the model its shape, as "
                "condition_shape=[3], or num_classes=10 for labels."
            )
        if any(given is not None for given in (mean, std, network)):
            raise ValueError("condition_mean, condition_std and condition_network need condition_shape.")
        return Condition()
    condition = _checked_arguments(shape, num_classes, mean, std, network, dtype)
    if not parts:
        raise ValueError(
            f"The condition is {condition.description}, but no part of the flow takes one: build the flow with "
            f"condition_size={condition.flow_shape[-1] if condition.flow_shape else 1}."
        )
    for name, part in parts.items():
        taken = getattr(part, "condition_shape", tf.TensorShape(None))
        if not taken.is_compatible_with(condition.flow_shape):
            raise ValueError(
                f"The condition is {condition.description}, of shape {condition.flow_shape} for the flow, but "
                f"{name} takes one of shape {tuple(taken)}."
            )
    return condition


def _takes_condition(part):
    return "conditional_input" in getattr(part, "argument_names", ())


def _checked_arguments(shape: Any, num_classes, mean, std, network, dtype):
    if shape is not None and num_classes is not None:
        raise ValueError("A condition has either condition_shape= or, if it is a label, num_classes=.")
    if num_classes is not None:
        if num_classes < 1 or any(given is not None for given in (mean, std, network)):
            raise ValueError(
                "num_classes is at least 1, and labels have no condition_mean, condition_std or condition_network; "
                f"got {num_classes}."
            )
        return Condition((), num_classes, dtype=dtype)
    check_sequence("condition_shape", shape, f"[{shape}]")
    if (mean is None) != (std is None):
        raise ValueError("condition_mean and condition_std belong together: give both or neither.")
    if std is not None and not np.all(np.asarray(std) > 0):
        raise ValueError("condition_std must be positive: leave out conditions that are constant.")
    if network is not None:
        check_built(network)
    return Condition(shape, None, mean, std, network, dtype)


def _in_classes(labels, num_classes):
    """The labels, after a check that they are among the classes."""
    message = f"Labels must be in 0, ..., {num_classes - 1}, but the least and the greatest one are"
    extremes = tf.stack([tf.reduce_min(labels), tf.reduce_max(labels)])
    right = tf.reduce_all((labels >= 0) & (labels < num_classes))
    with tf.control_dependencies(_assertion(right, message, extremes)):
        return tf.identity(labels)


def _check_rows(values, num):
    """Checks that there is a condition for each of `num` examples, or one for all of them."""
    message = "There must be one condition for each example, or one for all. Conditions and examples:"
    known, wanted = values.shape[0], tf.get_static_value(num)
    if known == 1 or (known is not None and known == wanted):
        return []
    if known is not None and wanted is not None:
        raise ValueError(f"{message} [{known}, {wanted}].")
    found = tf.shape(values)[0]
    return _assertion((found == 1) | (found == num), message, tf.stack([found, num]))


def _assertion(holds, message, found):
    """An assertion in a graph, in a list; eagerly a ValueError."""
    if not tf.executing_eagerly():
        return [tf.debugging.Assert(holds, [message, found])]
    if not holds:
        raise ValueError(f"{message} {found.numpy().tolist()}.")
    return []
