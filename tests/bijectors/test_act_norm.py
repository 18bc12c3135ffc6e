"""ActNorm's statistics, parameters and errors."""

import numpy as np
import pytest
import tensorflow as tf

from tf_resflow.bijectors import ActNorm


@pytest.mark.parametrize("per_channel", [True, False])
def test_initialize_gives_mean_zero_and_variance_one(per_channel):
    x = 3.0 + 2.0 * np.random.default_rng(0).normal(size=[50, 2, 3, 4]).astype("float32")
    act_norm = ActNorm([2, 3, 4], per_channel)
    np.testing.assert_array_equal(act_norm.forward(x), x)
    act_norm.initialize(x)
    y = act_norm.forward(x).numpy()
    axes = (0, 1, 2) if per_channel else 0
    np.testing.assert_allclose(y.mean(axes), 0.0, atol=1e-5)
    np.testing.assert_allclose(y.var(axes), 1.0, atol=1e-4)
    np.testing.assert_allclose(act_norm.shift, -x.mean(axes), rtol=1e-5)
    np.testing.assert_allclose(act_norm.log_scale, -np.log(x.std(axes)), atol=1e-5)


def test_constant_channel():
    x = np.array([[1.0, 5.0], [3.0, 5.0]], "float32")
    act_norm = ActNorm([2])
    act_norm.initialize(x)
    np.testing.assert_allclose(act_norm.forward(x), [[-1.0, 0.0], [1.0, 0.0]], atol=1e-4)
    np.testing.assert_allclose(act_norm.log_scale[1], np.log(1e3), rtol=1e-5)


def test_events_of_other_channels_are_not_broadcast():
    for apply in (ActNorm([3]).forward, ActNorm([3]).inverse):
        for shape in ([4, 1], [4, 2], []):
            with pytest.raises(ValueError, match=r"act_norm maps events of shape \(3,\)"):
                apply(tf.zeros(shape))


def test_gradients_reach_the_parameters():
    act_norm = ActNorm([2, 2, 3])
    x = tf.random.stateless_normal([4, 2, 2, 3], [0, 1])
    with tf.GradientTape(persistent=True) as tape:
        y = tf.reduce_sum(act_norm.forward(x))
        fldj = act_norm.forward_log_det_jacobian(x, 3)
    np.testing.assert_allclose(tape.gradient(fldj, act_norm.log_scale), [4.0] * 3)
    np.testing.assert_allclose(tape.gradient(y, act_norm.shift), [16.0] * 3)
    np.testing.assert_allclose(tape.gradient(y, act_norm.log_scale), np.sum(x, (0, 1, 2)), rtol=1e-4)


def test_keras_variables_are_the_variables():
    act_norm = ActNorm([3], dtype="float64")
    assert [
        v.value is w for v, w in zip(act_norm.keras_variables, [act_norm.log_scale, act_norm.shift], strict=True)
    ] == [True, True]
    assert {id(v) for v in act_norm.trainable_variables} == {
        id(act_norm.log_scale),
        id(act_norm.shift),
    }
    assert act_norm.dtype == tf.float64


def test_two_of_one_shape_do_not_share_a_cache():
    first, second = ActNorm([2]), ActNorm([2])
    second.shift.assign([1.0, 2.0])
    x = tf.zeros([1, 2])
    y = first.forward(x), second.forward(x)
    np.testing.assert_array_equal(y[0], [[0.0, 0.0]])
    np.testing.assert_array_equal(y[1], [[1.0, 2.0]])
    assert first != second


@pytest.mark.parametrize("shape", [[], [None], [4, 4, None]])
def test_unknown_event_shape(shape):
    with pytest.raises(ValueError, match="known, non-scalar event shape"):
        ActNorm(shape)
