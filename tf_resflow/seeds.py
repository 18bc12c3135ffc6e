"""Stateless seeds: the one place where a user's seed becomes the tensor that the samplers take."""

import numbers

import tensorflow as tf
import tensorflow_probability as tfp

__all__ = ["stateless_seed"]


def stateless_seed(seed, salt=""):
    """Turns `seed` into a stateless seed, salted, and different on every replica.

    TFP treats Python integers as stateful op seeds: two calls with the same integer give different
    numbers. Here an integer is a stateless seed: the same integer gives the same numbers.

    Args:
      seed: `None` (fresh randomness at every execution), an integer, or an integer tensor of shape
        `[2]` as taken by `tf.random.stateless_*`.
      salt: `str`, so that two users of one seed (say, two blocks of a flow) draw independently.

    Returns:
      An `int32` tensor of shape `[2]`. Inside `tf.distribute`'s replica context the replica's number
      is folded in.

    Raises:
      ValueError: when `seed` is of another kind or shape.
    """
    if isinstance(seed, numbers.Integral):
        seed = tf.constant([0, int(seed) & 0x7FFFFFFF], tf.int32)
    elif seed is not None:
        seed = tf.convert_to_tensor(seed)
        if not seed.dtype.is_integer or not seed.shape.is_compatible_with([2]):
            raise ValueError(
                "A seed is None, an integer, or an integer tensor of shape [2] (as for "
                f"tf.random.stateless_uniform); got dtype {seed.dtype.name}, shape {seed.shape}."
            )
    seed = tfp.random.sanitize_seed(seed, salt=salt)
    replica = tf.distribute.get_replica_context()
    if replica is not None and replica.num_replicas_in_sync > 1:
        seed = tf.random.experimental.stateless_fold_in(seed, replica.replica_id_in_sync_group)
    return seed
