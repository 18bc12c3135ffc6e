"""One step of training."""

import tensorflow as tf

from tf_resflow import layers

__all__ = ["train_step"]


def train_step(model, batch, seed):
    """Takes one gradient step, then brings the norms of the layers up to date.

    In replica context the gradients are summed over the replicas, so that each replica's loss is divided by
    their number. Learned orders of norms have an objective of their own, the mean norm of the layers
    (`tf_resflow.layers.mean_norm`), which reaches nothing else.

    Args:
      model: a compiled `FlowModel`.
      batch: what `model.scores` takes, of this replica: `[batch, *event_shape]`, for a `HybridModel` with labels.
      seed: integer tensor of shape `[2]`; the replica's number is folded in.

    Returns:
      A dict of scalars: the means of the scores over this replica's batch, "loss" (of a `FlowModel`: bits per
      dimension, or nats) and what the model reports beside it; "gradient_norm", of this replica's own gradient,
      before clipping; and, where orders are learned, "order_min", "order_mean" and "order_max", before the step.
    """
    batch = tf.nest.map_structure(tf.identity, batch)
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    weights = model.trainable_variables
    with layers.fused_kernels():
        with tf.GradientTape() as tape:
            means = {name: tf.reduce_mean(value) for name, value in model.scores(batch, seed).items()}
            loss = means["loss"]
            objective = loss + tf.cast(layers.mean_norm(model.flow), loss.dtype)
            objective /= tf.cast(replicas, loss.dtype)
        gradients = tape.gradient(objective, [weight.value for weight in weights])
    orders = _orders(model.flow)
    model.optimizer.apply(gradients, weights)
    layers.update_norms(model.flow)
    norm = tf.linalg.global_norm(gradients) * tf.cast(replicas, loss.dtype)
    return {**means, "gradient_norm": norm, **orders}


def _orders(flow):
    """The least, mean and greatest learned order, if there is one."""
    orders = [order.order() for order in layers.learned_orders(flow)]
    if not orders:
        return {}
    orders = tf.stack(orders)
    reductions = {"min": tf.reduce_min, "mean": tf.reduce_mean, "max": tf.reduce_max}
    return {f"order_{name}": reduce(orders) for name, reduce in reductions.items()}
