"""Seeds: what is one, and which numbers are the same."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow

PAIR = [7, 2**31 - 1]


@pytest.mark.parametrize("traced", [False, True])
def test_the_type_of_a_seed_does_not_matter(traced):
    """Equal numbers give equal seeds, and numbers of 32 bits are their own."""
    call = tf.function(resflow.stateless_seed, autograph=False) if traced else resflow.stateless_seed
    pairs = [PAIR, tuple(PAIR), [7, tf.constant(PAIR[1])]]
    pairs += [np.array(PAIR, kind) for kind in ("int32", "int64", "uint32", "uint64")]
    pairs += [tf.constant(PAIR, kind) for kind in ("int32", "int64", "uint32", "uint64")]
    for seed in (*pairs, tf.Variable(PAIR)):
        np.testing.assert_array_equal(call(seed), call(pairs[0]))
    plain = call(pairs[0]) ^ call([0, 0])  # the salt is a bitwise exclusive or
    np.testing.assert_array_equal(plain, PAIR)
    numbers = [np.int64(5), np.uint8(5), np.array(5), tf.constant(5), tf.constant(5, tf.int64), [0, 5]]
    for seed in numbers:
        np.testing.assert_array_equal(call(seed), resflow.stateless_seed(5))


def test_no_two_integers_share_a_seed():
    """Neither alone nor as one of two: signs and all of 64 bits count."""
    integers = [0, 1, -1, 5, -5, 5 + 2**32, 5 + 2**40]
    integers += [sign * 2**n + one for n in (31, 32, 62) for sign in (-1, 1) for one in (-1, 0)]
    pairs = list(itertools.product(integers, repeat=2))
    seeds = {pair: tuple(resflow.stateless_seed(np.array(pair)).numpy()) for pair in pairs}
    assert len(set(seeds.values())) == len(pairs)
    for integer in integers:
        assert tuple(resflow.stateless_seed(integer).numpy()) == seeds[0, integer]


@pytest.mark.parametrize("seed", [1.0, "1", [1, 2, 3], [[1, 2]], [1], [1.0, 2.0], True, 2**64, [2**64, 0]])
def test_what_is_no_seed(seed):
    with pytest.raises(ValueError, match=r"A seed is None, an integer of at most 64 bits, or two .*; got"):
        resflow.stateless_seed(seed)
