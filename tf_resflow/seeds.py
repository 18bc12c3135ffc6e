"""Stateless seeds: the one place where a user's seed becomes a tensor, and a tensor becomes random numbers.

TensorFlow's stateless functions choose another algorithm where XLA compiles them than elsewhere, and make other
floats of the same bits. Here all comes from the integers of one counter-based generator, Philox, whose key is the
seed.

References:
  Salmon et al., Parallel random numbers: as easy as 1, 2, 3, 2011.
"""

import tensorflow as tf
import tensorflow_probability as tfp

__all__ = ["random_integers", "random_uniform", "split_seed", "stateless_seed"]

_PHILOX = tf.random.Algorithm.PHILOX.value


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
        seed = split_seed(seed, replica.num_replicas_in_sync)[replica.replica_id_in_sync_group]
    return seed


def split_seed(seed, num):
    """`num` seeds of one, an `int32` tensor of shape `[num, 2]`."""
    return random_integers([num, 2], seed, tf.int32.max, tf.int32.min)


def random_uniform(shape, seed, dtype):
    """Uniform in (0, 1), on the midpoints of a grid that float32 or float64, the `dtype`, has without rounding."""
    integer, bits = (tf.int64, 52) if dtype == tf.float64 else (tf.int32, 23)
    return (tf.cast(random_integers(shape, seed, tf.constant(2**bits, integer)), dtype) + 0.5) * 2.0**-bits


def random_integers(shape, seed, limit, least=0):
    """Uniform in `least`, ..., `limit - 1`, in the type of `limit`.

    Args:
      shape: that of the result.
      seed: as for `stateless_seed`, not `None`.
      limit: `int` (for `int32`), or an integer tensor.
      least: the same.
    """
    limit = tf.convert_to_tensor(limit)
    return tf.raw_ops.StatelessRandomUniformIntV2(
        shape=shape,
        key=tf.bitcast(_two_words(seed), tf.uint64)[tf.newaxis],
        counter=tf.zeros([2], tf.uint64),
        alg=_PHILOX,
        minval=tf.cast(least, limit.dtype),
        maxval=limit,
    )


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
    key, counter = tf.split(tf.bitcast(wide, tf.uint64), 2)
    counter = tf.pad(counter, [[0, 1]])
    hashed = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[2], key=key, counter=counter, alg=_PHILOX, dtype=tf.int32
    )
    return tf.where(tf.reduce_all(tf.cast(words, tf.int64) == wide), words, hashed)
