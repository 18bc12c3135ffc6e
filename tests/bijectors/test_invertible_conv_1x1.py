"""The 1x1 convolution: its matrix, where it starts, what is trained, and errors."""

import numpy as np
import pytest
import tensorflow as tf

from tf_resflow.bijectors import InvertibleConv1x1


def perturbed(num_channels=3, seed=1, dtype="float64"):
    conv = InvertibleConv1x1(num_channels, seed, dtype)
    noise = tf.random.stateless_normal([num_channels] * 2, [1, 2], stddev=0.5, dtype=dtype)
    conv.lower_upper.assign(conv.lower_upper + noise)
    return conv


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_it_starts_as_a_rotation(size):
    conv = InvertibleConv1x1(size, seed=3, dtype="float64")
    weight = conv.weight().numpy()
    np.testing.assert_allclose(weight @ weight.T, np.eye(size), atol=1e-14)
    np.testing.assert_allclose(np.linalg.det(weight), 1.0)
    fldj = conv.forward_log_det_jacobian(tf.zeros([2, 4, 4, size], tf.float64), 3)
    np.testing.assert_allclose(fldj, 0.0, atol=1e-13)
    if size > 1:
        assert np.max(np.abs(weight - np.eye(size))) > 0.1


def test_rotations_are_uniform():
    """The mean over 400 seeds of each element is 0, and of its square 1/3, up to 4 standard errors."""
    weights = np.stack([InvertibleConv1x1(3, seed).weight().numpy() for seed in range(400)])
    assert np.max(np.abs(weights.mean(0))) < 4 / np.sqrt(3 * 400)
    # The square of an element of a uniform rotation has variance 1/5 - 1/9.
    assert np.max(np.abs(np.square(weights).mean(0) - 1 / 3)) < 4 * np.sqrt(4 / 45 / 400)


def test_weight_is_the_product_of_its_factors():
    conv = perturbed()
    packed, permutation = conv.lower_upper.numpy(), conv.permutation.numpy()
    np.testing.assert_array_equal(np.sort(np.abs(permutation)), np.sort(np.eye(3)))
    lower = np.tril(packed, -1) + np.eye(3)
    upper = np.triu(packed, 1) + np.diag(np.exp(np.diag(packed)))
    np.testing.assert_allclose(conv.weight(), permutation @ lower @ upper, rtol=1e-12)


def test_images():
    conv = perturbed()
    x = tf.random.stateless_normal([5, 4, 2, 3], [0, 1], dtype=tf.float64)
    weight = conv.weight().numpy()
    kernel = weight.T.reshape(1, 1, 3, 3)
    expected = tf.nn.conv2d(x, kernel, strides=1, padding="SAME")
    y = conv.forward(x)
    np.testing.assert_allclose(y, expected, rtol=1e-12)
    np.testing.assert_allclose(conv.inverse(tf.identity(y)), x, rtol=1e-11)
    # One matrix for each of the 8 pixels.
    expected = 8 * np.linalg.slogdet(weight)[1]
    assert abs(expected) > 1
    np.testing.assert_allclose(conv.forward_log_det_jacobian(x, 3), expected, rtol=1e-12)
    np.testing.assert_allclose(conv.inverse_log_det_jacobian(tf.identity(y), 3), -expected, rtol=1e-12)


def test_inverse_of_many_channels():
    """After training-like noise, float32 gives the input back to the condition number times its rounding."""
    conv = InvertibleConv1x1(64, seed=2)
    noise = tf.random.stateless_normal([64, 64], [1, 2], stddev=0.02)
    conv.lower_upper.assign(conv.lower_upper + noise)
    x = tf.random.stateless_normal([100, 64], [0, 1])
    back = conv.inverse(tf.identity(conv.forward(x)))
    bound = np.linalg.cond(conv.weight().numpy().astype("float64")) * 64 * np.finfo("float32").eps
    assert np.max(np.abs(back - x)) < bound < 1e-2


def test_what_is_trained():
    conv = InvertibleConv1x1(3)
    assert [v.value is w for v, w in zip(conv.keras_variables, (conv.permutation, conv.lower_upper), strict=True)]
    assert [v is conv.lower_upper for v in conv.trainable_variables] == [True]
    assert {id(v) for v in conv.variables} == {id(conv.permutation), id(conv.lower_upper)}
    x = tf.random.stateless_normal([5, 3], [0, 1])
    with tf.GradientTape(persistent=True) as tape:
        y = tf.reduce_sum(tf.sin(conv.forward(x)))
        fldj = conv.forward_log_det_jacobian(x, 1)
    assert np.min(np.abs(tape.gradient(y, conv.lower_upper))) > 1e-3
    np.testing.assert_array_equal(tape.gradient(fldj, conv.lower_upper), np.eye(3))


def test_seed():
    first, same, other = (InvertibleConv1x1(3, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.weight(), same.weight())
    assert np.max(np.abs(first.weight() - other.weight())) > 0.1


def test_two_of_one_seed_do_not_share_a_cache():
    first, second = InvertibleConv1x1(2), InvertibleConv1x1(2)
    second.lower_upper.assign(second.lower_upper + 1.0)
    x = tf.ones([1, 2])
    y = first.forward(x), second.forward(x)
    assert np.max(np.abs(y[0] - y[1])) > 0.1


def test_checkpoint_holds_the_permutation(tmp_path):
    first, other = perturbed(4, seed=1), InvertibleConv1x1(4, seed=2, dtype="float64")
    assert np.any(first.permutation != other.permutation)
    path = tf.train.Checkpoint(conv=first).write(str(tmp_path / "c"))
    tf.train.Checkpoint(conv=other).read(path).assert_consumed()
    np.testing.assert_array_equal(other.weight(), first.weight())


def test_wrong_arguments():
    with pytest.raises(ValueError, match="at least one channel; got 0"):
        InvertibleConv1x1(0)
    conv = InvertibleConv1x1(3, name="mix")
    for call in (conv.forward, conv.inverse):
        with pytest.raises(ValueError, match=r"mix maps channels of shape \(3,\).*got an input of shape \(5, 4\)"):
            call(tf.zeros([5, 4]))
