"""The check of a target."""

import re

import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow

pytestmark = pytest.mark.quick
checked = resflow.vi.checked_log_prob


def target(x, scale):
    return tf.math.log(scale) - tf.reduce_sum(x**2, -1)


@pytest.mark.parametrize("graph", [False, True])
def test_the_first_point_that_is_wrong(graph):
    log_prob = tf.function(checked(target), autograph=False) if graph else checked(target)
    x = tf.constant([[0.0, 1.0], [2.5, 3.5], [4.0, 5.0]])
    good = tf.constant([1.0, 2.0, 3.0])
    np.testing.assert_array_equal(log_prob(x, scale=good), target(x, good))
    for bad, value in ((-1.5, "-1.5"), (0.0, "0")):
        with pytest.raises(tf.errors.InvalidArgumentError, match="NaN or infinite") as caught:
            log_prob(x, scale=tf.constant([1.0, bad, bad]))
        words = re.sub(r"(\bb')|[^\w.-]+", " ", str(caught.value)).split()
        assert " ".join(words).count(f"2 of 3 The first of them 2.5 3.5 {value}") == 1


def test_compiled_it_is_the_target():
    x = tf.constant([[1.0, 2.0]])
    compiled = tf.function(checked(target), autograph=False, jit_compile=True)
    np.testing.assert_allclose(compiled(x, tf.constant([2.0])), target(x, 2.0), rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: checked(x), "must be a function"),
        (checked(lambda x: tf.cast(x, tf.int32)), "a float for each sample; got int32"),
        (checked(lambda x: tf.cast(x, tf.float64)), "is float64, and its parameters are float32: give.*'float64'"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call(tf.constant(1.0))
