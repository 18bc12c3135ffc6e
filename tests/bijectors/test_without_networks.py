"""Bijectors without networks: ActNorm, DCTConv, InvertibleConv1x1, Logit, Normalize, Squeeze2D and Whiten."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import fft, linalg, special

from tf_resflow.bijectors import ActNorm, DCTConv, InvertibleConv1x1, Logit, Normalize, Squeeze2D, Whiten

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("per_channel", [True, False])
def test_initialize_gives_mean_zero_and_variance_one(per_channel):
    x = 3.0 + 2.0 * np.random.default_rng(0).normal(size=[50, 2, 3, 4]).astype("float32")
    act_norm = ActNorm([2, 3, 4], per_channel)
    np.testing.assert_array_equal(act_norm.forward(x), x)
    act_norm.initialize(x)
    axes = (0, 1, 2) if per_channel else 0
    np.testing.assert_allclose(act_norm.forward(x), (x - x.mean(axes)) / x.std(axes), atol=1e-4)
    np.testing.assert_allclose(act_norm.shift, -x.mean(axes), rtol=1e-5)
    np.testing.assert_allclose(act_norm.log_scale, -np.log(x.std(axes)), atol=1e-5)
    act_norm.initialize(np.ones_like(x))  # deviations count as at least 1e-3
    np.testing.assert_allclose(act_norm.log_scale, np.full(act_norm.shift.shape, np.log(1e3)), rtol=1e-5)


def test_bijectors_with_equal_arguments_do_not_share_a_cache():
    x = tf.ones([1, 1, 1, 2])
    for make, changed in (
        (lambda: ActNorm([2]), lambda bijector: bijector.shift),
        (lambda: Normalize([0.0, 0.0], [1.0, 1.0]), lambda bijector: bijector.statistics["mean"]),
    ):
        first, second = make(), make()
        changed(second).assign_add(tf.ones_like(changed(second)))
        assert first != second
        y = first.forward(x), second.forward(x)
        assert np.max(np.abs(y[0] - y[1])) > 0.1


def frequencies(x):
    return fft.dctn(x, axes=(-3, -2), norm="ortho")


def test_dct_conv_multiplies_each_frequency():
    rng = np.random.default_rng(0)
    x, lower = rng.normal(size=[3, 4, 6, 2]), rng.normal(size=[4, 6, 2, 2])
    conv = DCTConv([4, 6, 2], "float64")
    np.testing.assert_allclose(conv.forward(x), x, atol=1e-14)
    conv.lower.assign(lower)
    mixed = frequencies(x)
    mixed[..., 1] += lower[..., 1, 0] * mixed[..., 0]
    mixed *= np.exp(lower[..., [0, 1], [0, 1]])
    np.testing.assert_allclose(frequencies(conv.forward(x)), mixed, atol=1e-12)


@pytest.mark.parametrize("inverse", [False, True])
def test_dct_conv_whitens_a_batch(inverse):
    """The images are smooth, with three dependent channels."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=[2000, 4, 6, 3]).cumsum(axis=1).cumsum(axis=2)
    x = x @ [[1.0, 0.5, 0.2], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]] + 5.0
    conv = DCTConv([4, 6, 3])
    conv.initialize(x, inverse)
    white = frequencies(conv.inverse(x) if inverse else conv.forward(x))
    white = (white - white.mean(axis=0)).reshape(2000, 24, 3)
    covariance = np.einsum("nkc,nkd->kcd", white, white) / 2000
    np.testing.assert_allclose(covariance, np.broadcast_to(np.eye(3), covariance.shape), atol=1e-3)


def test_dct_conv_of_few_or_equal_images():
    """A batch of one image, or of equal images, has no covariance. Deviations count as at least 1e-3."""
    for batch in (np.ones([1, 2, 2, 3]), np.ones([8, 2, 2, 3])):
        conv = DCTConv([2, 2, 3])
        conv.initialize(batch)
        assert np.all(np.isfinite(conv.lower)) and np.max(conv.lower) < np.log(1.01e3)


@pytest.mark.parametrize("size", [1, 5])
def test_an_invertible_conv_starts_as_a_rotation(size):
    conv = InvertibleConv1x1(size, seed=3, dtype="float64")
    weight = conv.weight().numpy()
    np.testing.assert_allclose(weight @ weight.T, np.eye(size), atol=1e-14)
    np.testing.assert_allclose(np.linalg.det(weight), 1.0)
    np.testing.assert_array_equal(weight, InvertibleConv1x1(size, 3, "float64").weight())


def test_images_are_mixed_by_the_product_of_the_factors():
    conv = InvertibleConv1x1(3, 1, "float64")
    noise = tf.random.stateless_normal([3, 3], [1, 2], stddev=0.5, dtype=tf.float64)
    conv.lower_upper.assign(conv.lower_upper + noise)
    packed, permutation = conv.lower_upper.numpy(), conv.permutation.numpy()
    np.testing.assert_array_equal(np.sort(np.abs(permutation)), np.sort(np.eye(3)))
    lower = np.tril(packed, -1) + np.eye(3)
    weight = permutation @ lower @ (np.triu(packed, 1) + np.diag(np.exp(np.diag(packed))))
    np.testing.assert_allclose(conv.weight(), weight, rtol=1e-12)
    x = tf.random.stateless_normal([5, 4, 2, 3], [0, 1], dtype=tf.float64)
    np.testing.assert_allclose(conv.forward(x), np.einsum("oc,nhwc->nhwo", weight, x), rtol=1e-11)


def test_constants_of_mixed_channels_of_float32():
    """They hold for nearly singular triangular factors, unlike the constants of their product in float32."""
    conv = InvertibleConv1x1(48, 1)
    conv.lower_upper.assign(conv.lower_upper + tf.random.stateless_normal([48, 48], [1, 1], stddev=0.6))
    packed = conv.lower_upper.numpy().astype(np.float64)
    lower = np.tril(packed, -1) + np.eye(48)
    upper = np.triu(packed, 1) + np.diag(np.exp(np.diag(packed)))
    inverse = linalg.solve_triangular(upper, linalg.inv(lower))
    found, rounded = conv.lipschitz_constants(certified=True), conv.weight().numpy().astype(np.float64)
    for matrix, constant in ((lower @ upper, found.forward), (inverse, found.inverse)):
        assert np.linalg.norm(matrix, 2) <= constant <= 1.00001 * np.linalg.norm(matrix, 2)
    assert found.inverse > 2 / np.linalg.norm(rounded, -2)


@pytest.mark.parametrize("alpha", [0.05, 1e-6])
def test_logit_is_accurate_near_one_in_single_precision(alpha):
    x = np.linspace(1 - 2.0**-10, 1, 1025, dtype="float32")  # all exact in float32
    s, rest = (alpha + (1 - 2 * alpha) * part for part in (x.astype("float64"), 1 - x.astype("float64")))
    np.testing.assert_allclose(Logit(alpha).forward(x), np.log(s) - np.log(rest), rtol=3e-7)
    expected = np.log(1 - 2 * alpha) - np.log(rest) - np.log(s)
    np.testing.assert_allclose(Logit(alpha).forward_log_det_jacobian(x, 0), expected, rtol=3e-7, atol=3e-7)
    np.testing.assert_allclose(Logit(alpha).inverse(np.log(s) - np.log(rest)), x, atol=1e-12)


def test_the_inverse_of_logit_is_precise_where_the_sigmoid_rounds():
    """log(s (1 - s) / 0.9) with s the sigmoid of y, in float32, where s(90) = 1."""
    y = np.float32([-90.0, 0.0, 16.0, 90.0])
    s = special.expit(np.float64(-abs(y)))
    found = Logit(0.05).inverse_log_det_jacobian(y, 0)
    np.testing.assert_allclose(found, np.log(s) + np.log1p(-s) - np.log(0.9), rtol=1e-6)


def test_logit_checks_its_domain_when_asked():
    logit = Logit(validate_args=True)
    for value in (-0.1, 1.1):
        with pytest.raises(tf.errors.InvalidArgumentError, match="dequantize"):
            logit.forward(tf.constant([0.5, value]))
    assert np.isfinite(logit.forward(tf.constant([0.0, 1.0]))).all()


@pytest.mark.parametrize("shape", [(), (1,), (3,), (4, 1, 3)])
def test_normalize_counts_what_it_broadcasts(shape):
    rng = np.random.default_rng(0)
    mean, std, x = rng.normal(size=shape), rng.uniform(0.5, 2.0, size=shape), rng.normal(size=[2, 4, 5, 3])
    normalize = Normalize(mean, std, dtype="float64")
    np.testing.assert_allclose(normalize.forward(x), (x - mean) / std, rtol=1e-12)
    expected = -np.sum(np.log(np.broadcast_to(std, [4, 5, 3])))
    np.testing.assert_allclose(normalize.forward_log_det_jacobian(x, 3), expected, rtol=1e-12)


def test_whitened_vectors_have_the_covariance_i():
    """With statistics in float64, an offset of 1e6 deviations costs float64 vectors no relevant digits."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=[1000, 4]) @ rng.normal(size=[4, 4]) + 1e6
    covariance = np.cov(x.T, bias=True)
    whiten = Whiten(x.mean(axis=0), covariance, "float64")
    y = whiten.forward(x).numpy()
    np.testing.assert_allclose(y.T @ y / len(y), np.eye(4), atol=1e-6)
    root = linalg.sqrtm(np.linalg.inv(covariance))  # the symmetric one
    np.testing.assert_allclose(y, (x - x.mean(axis=0)) @ root, rtol=1e-5, atol=1e-6)
    stretches = np.linalg.svd(root, compute_uv=False)
    constants = whiten.lipschitz_constants()
    np.testing.assert_allclose([constants.forward, constants.inverse], [stretches[0], 1 / stretches[-1]], rtol=1e-6)
    assert constants.order == 2.0
    whiten.assign(np.zeros(4), np.diag([1.0, 4.0, 9.0, 16.0]))
    np.testing.assert_allclose(whiten.forward(np.ones([1, 4]))[0], [1, 1 / 2, 1 / 3, 1 / 4], rtol=1e-12)


@pytest.mark.parametrize("factor", [2, 3])
def test_where_each_pixel_goes(factor):
    x = np.arange(60 * factor**2, dtype="float32").reshape(5, 2 * factor, 3 * factor, 2)
    y = Squeeze2D(factor).forward(x).numpy()
    assert y.shape == (5, 2, 3, 2 * factor**2)
    for channel, dy, dx in np.ndindex(2, factor, factor):
        place = channel * factor**2 + dy * factor + dx
        np.testing.assert_array_equal(y[..., place], x[:, dy::factor, dx::factor, channel])


def test_invalid_arguments(refused):
    for call in (ActNorm([3]).forward, InvertibleConv1x1(3).inverse):
        refused(r"maps events of shape \(3,\)", call, tf.zeros([5, 2]))
    refused("incompatible", Normalize([0.0, 1.0], [1.0, 2.0]).forward, tf.zeros([5, 1]))
    refused("alpha", Logit, 0.5)
    refused("every std must be positive", Normalize, [0.0, 0.0], [1.0, np.nan])
    refused(r"maps events of shape \(3,\)", ActNorm([3]).inverse_event_shape, [4])
    refused(r"shapes \(2,\) and \(3, 3\)", Whiten, [0.0, 0.0], np.eye(3))
    refused("smallest eigenvalue .* is 0;.*positive definite", Whiten, [0.0, 0.0], [[1.0, 0.0], [0.0, 0.0]])
    refused("values", Squeeze2D().inverse, tf.zeros([2, 2, 2, 6]), error=tf.errors.InvalidArgumentError)
