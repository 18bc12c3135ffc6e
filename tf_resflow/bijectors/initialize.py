"""Data-dependent initialisation."""

import tensorflow as tf

from tf_resflow.bijectors.act_norm import ActNorm
from tf_resflow.bijectors.transform import transform

__all__ = ["initialize"]


def initialize(flow, batch, seed=None, conditional_input=None):
    """Sets every `ActNorm` of a flow from the statistics of a batch, in order, data to latent.

    Call it once, before training, outside of `strategy.run` (inside `strategy.scope()` is fine).

    Args:
      flow: `Flow`, `MultiscaleFlow`, `tfb.Chain`, or one bijector, mapping data to latent.
      batch: `[batch, *event]`, data as the flow takes it (dequantised).
      seed: for members that draw.
      conditional_input: for conditional blocks.

    Returns:
      The batch mapped to the latent space.

    Raises:
      RuntimeError: inside a replica of `tf.distribute`.
      ValueError: when the batch has NaN or infinite values.
    """
    replica = tf.distribute.get_replica_context()
    if replica is not None and replica.num_replicas_in_sync > 1:
        raise RuntimeError("initialize assigns variables: call it outside of strategy.run.")
    batch = tf.convert_to_tensor(batch, flow.dtype)
    if not bool(tf.reduce_all(tf.math.is_finite(batch))):
        raise ValueError("The batch for initialize holds NaN or infinite values: clean the data first.")
    kwargs = {"seed": seed, "conditional_input": conditional_input}
    kwargs = {key: value for key, value in kwargs.items() if value is not None}
    return transform(flow, batch, _initialize, **kwargs)


def _initialize(bijector, x):
    if isinstance(bijector, ActNorm):
        bijector.initialize(x)
