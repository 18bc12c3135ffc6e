"""A training step."""

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tf_resflow import layers
from tf_resflow._internal.private_api import is_xla
from tf_resflow._internal.typing import TensorLike

NON_FINITE = "The loss or its gradient is NaN or infinite"


def train_step(model: Any, batch: Any, seed: tf.Tensor, weights: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
    """Performs one gradient step, then updates the norms of the layers.

    In a replica context, the loss of each of n replicas is weighted by its share of the examples, and gradients are
    summed. The optimizer of each replica receives, and clips, 1/n of this sum. Learned orders of norms minimize a
    different objective, the mean norm of the layers (`tf_resflow.layers.mean_norm`), which affects no other
    variables.

    Args:
      model: A compiled `FlowModel` or `HybridModel`.
      batch: This replica's batch, as for `model.example_losses`.
      seed: Integer tensor of shape `[2]`; the replica's number is folded in.
      weights: `[batch]`, weights of the examples in the objective; by default 1.

    Returns:
      A dict of scalars: the means of `model.example_losses` over this replica's batch (0 if it is empty), including
      the minimized `model.objective`; "gradient_norm", the norm of this replica's gradient before clipping; and,
      if orders are learned, "order_min", "order_mean" and "order_max", before the step.

    Raises:
      tf.errors.InvalidArgumentError: If the loss or the gradient is NaN or infinite. No variable has changed then.
        With XLA, a step raises no error, but its losses or "gradient_norm" are NaN or infinite.
    """
    means, gradients = loss_and_gradients(model, batch, seed, weights)
    loss = means[model.objective]
    norm = tf.linalg.global_norm(gradients) * _num_replicas(loss.dtype)
    orders = _orders(model.flow)
    with _only_if_finite(model, loss, norm):
        model.optimizer.apply(divide_by_replicas(gradients), model.trainable_variables)
        layers.update_norms(model)
    return {**means, "gradient_norm": norm, **orders}


def loss_and_gradients(
    model: Any, batch: Any, seed: tf.Tensor, weights: tf.Tensor | None = None
) -> tuple[dict[str, tf.Tensor], list[tf.Tensor | None]]:
    """Returns the mean losses of a `train_step`, and this replica's share of the gradients of the objective."""
    batch = tf.nest.map_structure(tf.identity, batch)
    with tf.GradientTape() as tape:
        losses = weigh(model.example_losses(batch, seed, training=True), model.objective, weights)
        means = {name: _mean(value) for name, value in losses.items()}
        loss = means[model.objective]
        norms = tf.cast(layers.mean_norm(model.flow), loss.dtype) / _num_replicas(loss.dtype)
        objective = _share(losses[model.objective]) * loss + norms
    _check_owned(model, tape.watched_variables())
    return means, tape.gradient(objective, [weight.value for weight in model.trainable_variables])


def _check_owned(model, variables):
    """Raises a ValueError if the loss depends on trainable variables that are not weights of the model."""
    values = [weight.value for weight in model.weights]
    owned = {id(replica) for value in values for replica in (value, *getattr(value, "values", ()))}
    missing = [variable.name for variable in variables if id(variable) not in owned]
    if missing:
        raise ValueError(
            f"The loss depends on trainable variables that do not belong to the model: {', '.join(missing)}. They "
            "would neither be trained nor saved. Assign the layer or variable to an attribute of its bijector "
            "before super().__init__(...)."
        )


def weigh(losses: Mapping[str, tf.Tensor], objective: str, weights: TensorLike | None) -> dict[str, tf.Tensor]:
    """Multiplies the objective, one of the losses `[batch]`, by weights `[batch]` or `[batch, 1]`.

    Raises:
      ValueError: If the weights have another shape.
    """
    if weights is None:
        return dict(losses)
    loss = losses[objective]
    shape = tf.TensorShape(np.shape(weights))
    if not any(shape.is_compatible_with(expected) for expected in (loss.shape, [*loss.shape, 1])):
        raise ValueError(
            f"sample_weight of a batch has the shape {shape}. Pass one number for each example, of shape [batch]."
        )
    return {**losses, objective: tf.reshape(tf.cast(weights, loss.dtype), tf.shape(loss)) * loss}


def divide_by_replicas(gradients: list[tf.Tensor | None]) -> list[tf.Tensor | None]:
    """Returns 1/n of the gradients summed over n replicas, so that clipping is the same on each."""
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return gradients
    present = [gradient for gradient in gradients if gradient is not None]
    means = iter(tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, present))
    return [None if gradient is None else next(means) for gradient in gradients]


def _mean(values):
    return tf.math.divide_no_nan(tf.reduce_sum(values), tf.cast(tf.size(values), values.dtype))


def _share(values):
    """Returns this replica's share of the examples of all replicas."""
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return 1.0
    num = tf.cast(tf.size(values), values.dtype)
    return num / tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, num)


def _num_replicas(dtype):
    return tf.cast(tf.distribute.get_strategy().num_replicas_in_sync, dtype)


def assert_finite(loss: tf.Tensor, gradient_norm: tf.Tensor) -> tf.Operation | None:
    """Asserts that the loss of a step and the norm of its gradient are finite."""
    message = (
        f"{NON_FINITE}; no weight has changed. Lower the learning rate, set global_clipnorm of the optimizer, or "
        "look for NaN in the data. Loss, norm of the gradient:"
    )
    return tf.debugging.Assert(_all_finite(loss, gradient_norm), [message, loss, gradient_norm])


@contextlib.contextmanager
def _only_if_finite(model, loss, gradient_norm):
    """A context in which variables change only if the loss and the norm of the gradient are finite.

    Otherwise an assertion fails, or, since XLA has no assertions, the variables get their old values back.
    """
    if not is_xla():
        with tf.control_dependencies([assert_finite(loss, gradient_norm)]):
            yield
        return
    finite = _all_finite(loss, gradient_norm)
    if tf.distribute.get_strategy().num_replicas_in_sync > 1:
        replica = tf.distribute.get_replica_context()
        finite = replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.cast(~finite, tf.float32)) == 0.0
    variables = [*model.weights, *model.optimizer.variables]
    before = [tf.convert_to_tensor(variable) for variable in variables]
    yield
    for variable, value in zip(variables, before, strict=True):
        variable.assign(tf.where(finite, variable, value))


def _all_finite(*values):
    return tf.reduce_all(tf.math.is_finite(tf.stack(values)))


def _orders(flow):
    orders = [order.order() for order in layers.norm_updates.learned_orders(flow)]
    if not orders:
        return {}
    orders = tf.stack(orders)
    reductions = {"min": tf.reduce_min, "mean": tf.reduce_mean, "max": tf.reduce_max}
    return {f"order_{name}": reduce(orders) for name, reduce in reductions.items()}
