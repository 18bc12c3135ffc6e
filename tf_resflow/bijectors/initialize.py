"""Data-dependent initialisation."""

import tensorflow as tf

from tf_resflow.bijectors.base import Context, FlowBijector, run
from tf_resflow.bijectors.flow import route

__all__ = ["initialize"]


def initialize(flow, batch, seed=None, conditional_input=None):
    """Sets every `ActNorm` of a flow from the statistics of a batch, in order, data to latent.

    Call it once, before training, outside of `strategy.run` (inside `strategy.scope()` is fine). Inside of a
    `tfb.Invert` the data pass through the inverse of an `ActNorm`: it is the inverse that normalises them.

    Args:
      flow: bijector mapping data to latent: a single one, or a `Flow`, `MultiscaleFlow`, `tfb.Chain`,
        `tfb.JointMap`, `tfb.Blockwise` or `tfb.Invert` of such.
      batch: `[batch, *event]`, data as the flow takes it (dequantised).
      seed: for members that draw.
      conditional_input: for conditional blocks.

    Returns:
      The batch mapped to the latent space.

    Raises:
      RuntimeError: inside a replica of `tf.distribute`.
      ValueError: when the batch has NaN or infinite values, or an `ActNorm` is inside a bijector whose members are
        not known.
    """
    replica = tf.distribute.get_replica_context()
    if replica is not None and replica.num_replicas_in_sync > 1:
        raise RuntimeError("initialize assigns variables: call it outside of strategy.run.")
    batch = tf.convert_to_tensor(batch, flow.dtype)
    if not bool(tf.reduce_all(tf.math.is_finite(batch))):
        raise ValueError("The batch for initialize holds NaN or infinite values: clean the data first.")
    kwargs = {"seed": seed, "conditional_input": conditional_input}
    kwargs = {key: value for key, value in kwargs.items() if value is not None}
    return run(flow, batch, Context(route(flow, kwargs), log_det=False, visit=_initialize)).value


def _initialize(bijector, x, inverse):
    if isinstance(bijector, FlowBijector):
        bijector._initialize(x, inverse)
    parts = [part for part in bijector.submodules if isinstance(part, FlowBijector)]
    hidden = [part.name for part in parts if type(part)._initialize is not FlowBijector._initialize]
    if hidden:
        raise ValueError(
            f"initialize cannot tell what reaches {', '.join(hidden)} inside of {bijector.name} "
            f"({type(bijector).__name__}): it looks into Flow, MultiscaleFlow, tfb.Chain, tfb.JointMap, "
            "tfb.Blockwise and tfb.Invert. Take it out of there, or call the initialize of each ActNorm yourself."
        )
