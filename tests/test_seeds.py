"""Seeds: valid forms, and which draws are equal or independent."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow
from tf_resflow._internal.seeds import random_integers, random_uniform, split_seed
from tf_resflow.logdet.probes import draw_probes

PAIR = [7, 2**31 - 1]


@pytest.mark.parametrize("traced", [False, True])
def test_the_type_of_a_seed_does_not_matter(traced):
    """Equal numbers give equal seeds, and 32-bit numbers do not change."""
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
    """The sign and all 64 bits count, alone and in a pair."""
    integers = [0, 1, -1, 5, -5, 5 + 2**32, 5 + 2**40]
    integers += [sign * 2**n + one for n in (31, 32, 62) for sign in (-1, 1) for one in (-1, 0)]
    pairs = list(itertools.product(integers, repeat=2))
    seeds = {pair: tuple(resflow.stateless_seed(np.array(pair)).numpy()) for pair in pairs}
    assert len(set(seeds.values())) == len(pairs)
    for integer in integers:
        assert tuple(resflow.stateless_seed(integer).numpy()) == seeds[0, integer]


def test_wrong_seeds():
    for seed in (1.0, "1", [1, 2, 3], [[1, 2]], [1], [1.0, 2.0], True, 2**64, [2**64, 0]):
        with pytest.raises(ValueError, match="The seed is .* None, an integer of at most 64 bits, or two"):
            resflow.stateless_seed(seed)


DRAWS = {
    "split": lambda seed: split_seed(seed, 5),
    "integers": lambda seed: random_integers([3, 7], seed, tf.constant(2**40 + 1, tf.int64), -3),
    "uniform_float32": lambda seed: random_uniform([1001], seed, tf.float32),
    "uniform_float64": lambda seed: random_uniform([3, 7], seed, tf.float64),
    "salt": lambda seed: resflow.stateless_seed(seed, "salt"),
    "hash": lambda seed: resflow.stateless_seed(2**35 * tf.cast(seed, tf.int64)),
    "geometric": resflow.logdet.Geometric(0.3).sample,
    "poisson": resflow.logdet.Poisson(2.5).sample,
    "rademacher": lambda seed: draw_probes("rademacher", 2, tf.zeros([50, 2, 3]), seed),
    "gaussian_float32": lambda seed: draw_probes("gaussian", 2, tf.zeros([50, 2, 3]), seed),
    "gaussian_float64": lambda seed: draw_probes("gaussian", 2, tf.zeros([50, 2, 3], tf.float64), seed),
    "dequantize": lambda seed: resflow.models.dequantize(tf.zeros([5, 8, 8, 1], tf.uint8), 256, seed),
}


@pytest.mark.parametrize("name", DRAWS)
def test_xla_draws_the_same_numbers(name):
    """Integers and uniform numbers are bitwise equal, and normal numbers are equal up to rounding."""
    draw = (lambda seed: DRAWS[name]([200], seed)) if name in ("geometric", "poisson") else DRAWS[name]
    seed = tf.constant([3, -7])
    plain, compiled = draw(seed), tf.function(draw, jit_compile=True, autograph=False)(seed)
    if not name.startswith("gaussian"):
        np.testing.assert_array_equal(plain, compiled)
    # A normal number in the tail has the relative error of its distance from 1.
    np.testing.assert_allclose(plain, compiled, atol=1e-4 if plain.dtype == tf.float32 else 1e-12)
    assert np.any(plain != draw(seed + 1))


def test_seeds_in_a_row_draw_independently():
    """For 40,000 seeds (plain, salted and split), moments and correlations are within 4.5 standard errors."""
    num = 40_000
    seeds = tf.stack([tf.zeros([num], tf.int32), tf.range(num)], 1)
    draws = {
        "plain": lambda seed: random_uniform([2], seed, tf.float64),
        "salted": lambda seed: random_uniform([1], resflow.stateless_seed(seed, "a"), tf.float64),
        "other": lambda seed: random_uniform([1], resflow.stateless_seed(seed, "b"), tf.float64),
        "first": lambda seed: random_uniform([1], split_seed(seed, 2)[0], tf.float64),
        "second": lambda seed: random_uniform([1], split_seed(seed, 2)[1], tf.float64),
    }

    @tf.function(jit_compile=True, autograph=False)
    def draw_all(seeds):
        one = lambda seed: tf.concat([draw(seed) for draw in draws.values()], 0)  # noqa: E731
        return tf.map_fn(one, seeds, fn_output_signature=tf.float64)

    u = draw_all(seeds).numpy()
    u = np.concatenate([u, np.roll(u[:, :1], 1, 0)], 1)  # adds the draws of the next seed
    centered = (u - 0.5) * 12**0.5
    moments = centered.T @ centered / num
    assert np.max(np.abs(centered.mean(0))) < 4.5 / num**0.5
    assert np.max(np.abs(moments - np.eye(u.shape[1])) / (1 - 0.2 * np.eye(u.shape[1])) ** 0.5) < 4.5 / num**0.5
    assert 0 < np.min(u) and np.max(u) < 1
