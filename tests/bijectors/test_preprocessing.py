"""Logit and Normalize against their formulas."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import special

from tf_resflow.bijectors import Logit, Normalize


@pytest.mark.parametrize("alpha", [0.05, 1e-6])
def test_logit(alpha):
    x = np.linspace(0.0, 1.0, 11)
    y = Logit(alpha).forward(x)
    np.testing.assert_allclose(y, special.logit(alpha + (1 - 2 * alpha) * x), atol=1e-9)
    np.testing.assert_allclose(Logit(alpha).inverse(y + 0.0), x, atol=1e-12)


@pytest.mark.parametrize("y", [-90.0, 0.0, 16.0, 90.0])
def test_the_inverse_of_logit_is_precise_where_the_sigmoid_rounds(y):
    """log(s (1 - s) / 0.9) with s the sigmoid of y, in float32, where s(90) = 1."""
    found = Logit(0.05).inverse_log_det_jacobian(tf.constant([y]), 1)
    s = special.expit(np.float64(-abs(y)))
    np.testing.assert_allclose(found, np.log(s) + np.log1p(-s) - np.log(0.9), rtol=1e-6)


def test_logit_accumulates_over_the_event():
    x = np.random.default_rng(0).uniform(size=[3, 2, 2, 1])
    s = 0.1 + 0.8 * x
    expected = np.sum(np.log(0.8 / (s * (1 - s))), (1, 2, 3))
    np.testing.assert_allclose(Logit(0.1).forward_log_det_jacobian(x, 3), expected)


@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_logit_checks_its_domain_when_asked(value):
    for call in (
        Logit(validate_args=True).forward,
        lambda x: Logit(validate_args=True).forward_log_det_jacobian(x, 0),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match="dequantize"):
            call(tf.constant([0.5, value]))
    assert np.isfinite(Logit(validate_args=True).forward(tf.constant([0.0, 1.0]))).all()


@pytest.mark.parametrize("alpha", [0.0, 0.5, -1.0])
def test_alpha_out_of_range(alpha):
    with pytest.raises(ValueError, match="alpha"):
        Logit(alpha)


def test_normalize():
    x = np.random.default_rng(0).normal(size=[100, 3]).astype("float32") * [1.0, 2.0, 3.0] + 5.0
    mean, std = x.mean(0), x.std(0)
    normalize = Normalize(mean, std)
    y = normalize.forward(tf.cast(x, tf.float32))
    np.testing.assert_allclose(np.mean(y, 0), 0.0, atol=1e-5)
    np.testing.assert_allclose(np.std(y, 0), 1.0, atol=1e-5)
    fldj = normalize.forward_log_det_jacobian(tf.cast(x, tf.float32), 1)
    np.testing.assert_allclose(fldj, -np.sum(np.log(std)), rtol=1e-5)


def test_normalize_per_channel_counts_every_position():
    x = tf.zeros([2, 4, 5, 3])
    fldj = Normalize([0.0] * 3, [2.0, 1.0, 1.0]).forward_log_det_jacobian(x, 3)
    np.testing.assert_allclose(np.broadcast_to(fldj, [2]), -20 * np.log(2.0), rtol=1e-6)


def test_bad_statistics():
    with pytest.raises(ValueError, match="positive"):
        Normalize([0.0, 0.0], [1.0, 0.0])
    with pytest.raises(ValueError, match="positive"):
        Normalize([0.0], [np.nan])
    with pytest.raises(ValueError, match="one shape"):
        Normalize([0.0, 0.0], 1.0)


def test_logit_is_accurate_near_one_in_single_precision():
    x = np.linspace(1 - 2.0**-10, 1, 1025, dtype="float32")  # all exact
    x64 = x.astype("float64")
    expected = np.log(1e-6 + (1 - 2e-6) * x64) - np.log(1e-6 + (1 - 2e-6) * (1 - x64))
    np.testing.assert_allclose(Logit(1e-6).forward(x), expected, rtol=3e-7)
    expected = np.log(1 - 2e-6) - np.log(1e-6 + (1 - 2e-6) * (1 - x64)) - np.log(1e-6 + (1 - 2e-6) * x64)
    np.testing.assert_allclose(Logit(1e-6).forward_log_det_jacobian(x, 0), expected, rtol=3e-7, atol=3e-7)


@pytest.mark.parametrize("shape", [(1,), (3,), (1, 1, 3), (4, 1, 3), ()])
def test_normalize_counts_what_it_broadcasts(shape):
    std = np.random.default_rng(0).uniform(0.5, 2.0, size=shape)
    x = np.random.default_rng(1).normal(size=[2, 4, 5, 3])
    expected = -np.sum(np.log(np.broadcast_to(std, [4, 5, 3])))
    actual = Normalize(np.zeros(shape), std, dtype="float64").forward_log_det_jacobian(x, 3)
    np.testing.assert_allclose(actual, expected, rtol=1e-12)
