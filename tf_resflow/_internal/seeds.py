"""Converts seeds to tensors, and draws random numbers that do not depend on whether XLA compiles the code.

Under XLA, TensorFlow's stateless functions use a different algorithm and convert the same bits to different floats.
The functions here derive all numbers from the integers of one counter-based generator, Philox, keyed by the seed.

References:
  Salmon et al., Parallel random numbers: as easy as 1, 2, 3, 2011.
"""

import tensorflow as tf
import tensorflow_probability as tfp

from tf_resflow._internal.typing import DType, Seed, Shape

__all__ = ["random_integers", "random_uniform", "split_seed", "stateless_seed"]

_PHILOX = tf.random.Algorithm.PHILOX.value


def stateless_seed(seed: Seed, salt: str = "") -> tf.Tensor:
    """Converts `seed` to a stateless seed tensor that is salted and differs between replicas.

    TFP treats Python integers as stateful op seeds: two calls with the same integer give different numbers. With
    this function, the same integer always gives the same numbers.

    Args:
      seed: `None` (fresh randomness at every execution), one integer or two integers, given as Python or NumPy
        numbers, a list, a tuple, an array or a tensor of shape `[]` or `[2]`. Only the values matter (modulo 2^64),
        not the type. A single integer s means `[0, s]`.
      salt: Text that makes several users of one seed, such as the blocks of a flow, draw independent numbers.

    Returns:
      An `int32` tensor of shape `[2]`. Numbers that fit into 32 bits are used as they are, and larger numbers are
        hashed. In a replica context of `tf.distribute`, the index of the replica is folded in.
    """
    seed = tfp.random.sanitize_seed(seed if seed is None else _to_int32_pair(seed), salt=salt)
    replica = tf.distribute.get_replica_context()
    if replica is not None and replica.num_replicas_in_sync > 1:
        seed = split_seed(seed, replica.num_replicas_in_sync)[replica.replica_id_in_sync_group]
    return seed


def split_seed(seed: Seed, num: int) -> tf.Tensor:
    """Splits one seed into `num` seeds, an `int32` tensor of shape `[num, 2]`."""
    return random_integers([num, 2], seed, tf.int32.max, tf.int32.min)


def random_uniform(shape: Shape | tf.Tensor, seed: Seed, dtype: DType) -> tf.Tensor:
    """Draws uniformly from (0, 1), on midpoints of a grid that `dtype` (float32 or float64) represents exactly."""
    integer, bits = (tf.int64, 52) if dtype == tf.float64 else (tf.int32, 23)
    return (tf.cast(random_integers(shape, seed, tf.constant(2**bits, integer)), dtype) + 0.5) * 2.0**-bits


def random_integers(
    shape: Shape | tf.Tensor, seed: Seed, limit: int | tf.Tensor, least: int | tf.Tensor = 0
) -> tf.Tensor:
    """Draws uniform integers from `least` to `limit - 1`, in the dtype of `limit`. `seed` must not be `None`."""
    limit = tf.convert_to_tensor(limit)
    key = tf.bitcast(_to_int32_pair(seed), tf.uint64)[tf.newaxis]
    counter = tf.zeros([2], tf.uint64)
    return tf.raw_ops.StatelessRandomUniformIntV2(
        shape=shape, key=key, counter=counter, alg=_PHILOX, minval=tf.cast(least, limit.dtype), maxval=limit
    )


def _to_int32_pair(seed):
    """Converts a user's seed to an `int32` tensor of shape `[2]`."""
    try:
        tensor = tf.convert_to_tensor(seed)
    except (OverflowError, TypeError, ValueError):
        tensor = None
    fits = tensor is not None and tensor.dtype.is_integer
    if not fits or not (tensor.shape.rank == 0 or tensor.shape.is_compatible_with([2])):
        raise ValueError(
            f"The seed is {seed!r:.80}. It must be None, an integer of at most 64 bits, or two such integers. Pass "
            "two integers as a list, an array or a tensor of shape [2], as for tf.random.stateless_uniform."
        )
    if tensor.shape.rank == 0:
        tensor = tf.stack([tf.zeros_like(tensor), tensor])
    words = tf.cast(tensor, tf.int32)
    if tensor.dtype.max <= tf.int32.max:
        return words
    wide = tf.cast(tensor, tf.int64)
    key, counter = tf.split(tf.bitcast(wide, tf.uint64), 2)
    counter = tf.pad(counter, [[0, 1]])
    hashed = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[2], key=key, counter=counter, alg=_PHILOX, dtype=tf.int32
    )
    return tf.where(tf.reduce_all(tf.cast(words, tf.int64) == wide), words, hashed)
