"""Stateless seeds: the one place where a user's seed becomes the tensor that the samplers take."""

import tensorflow as tf
import tensorflow_probability as tfp

__all__ = ["stateless_seed"]


def stateless_seed(seed, salt=""):
    """Turns `seed` into a stateless seed, salted, and different on every replica.

    TFP treats Python integers as stateful op seeds: two calls with the same integer give different
    numbers. Here an integer is a stateless seed: the same integer gives the same numbers.

    Args:
      seed: `None` (fresh randomness at every execution), an integer, or two: a Python or NumPy number, a list,
        a tuple, an array or a tensor of the shape `[]` or `[2]`. The type does not matter, only the numbers do
        (modulo 2^64); an integer s alone is `[0, s]`.
      salt: `str`, so that two users of one seed (say, two blocks of a flow) draw independently.

    Returns:
      An `int32` tensor of shape `[2]`: numbers that fit into 32 bits as they are, others hashed. Inside
      `tf.distribute`'s replica context the replica's number is folded in.

    Raises:
      ValueError: when `seed` is of another kind or shape.
    """
    seed = tfp.random.sanitize_seed(seed if seed is None else _two_words(seed), salt=salt)
    replica = tf.distribute.get_replica_context()
    if replica is not None and replica.num_replicas_in_sync > 1:
        seed = tf.random.experimental.stateless_fold_in(seed, replica.replica_id_in_sync_group)
    return seed


def _two_words(seed):
    """A user's seed as an `int32` tensor of shape `[2]`."""
    try:
        tensor = tf.convert_to_tensor(seed)
    except (OverflowError, TypeError, ValueError):
        tensor = None
    fits = tensor is not None and tensor.dtype.is_integer
    if not fits or not (tensor.shape.rank == 0 or tensor.shape.is_compatible_with([2])):
        raise ValueError(
            "A seed is None, an integer of at most 64 bits, or two of them (a list, an array or a tensor of shape "
            f"[2], as for tf.random.stateless_uniform); got {seed!r}."
        )
    if tensor.shape.rank == 0:
        tensor = tf.stack([tf.zeros_like(tensor), tensor])
    words = tf.cast(tensor, tf.int32)
    if tensor.dtype.max <= tf.int32.max:
        return words
    wide = tf.cast(tensor, tf.int64)
    hashed = tf.random.stateless_uniform([2], wide, None, None, tf.int32)
    return tf.where(tf.reduce_all(tf.cast(words, tf.int64) == wide), words, hashed)
