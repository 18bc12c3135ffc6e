import keras
import numpy as np
import pytest
from scipy import linalg

from tf_resflow.evaluation import FeatureMoments, InceptionFeatures, frechet_distance


def moments(features, parts=9):
    result = FeatureMoments()
    for part in np.array_split(features, parts):
        result.update(part)
    return result


def features(seed, num=300, size=8, shift=0.0):
    generator = np.random.default_rng(seed)
    return generator.normal(size=[num, size]) @ generator.normal(size=[size, size]) + shift


def test_moments_of_batches_equal_those_of_all_examples():
    """Uses values far from zero, where subtracting the squared mean from the mean square would fail."""
    x = features(0, shift=1e7)
    result = moments(x.astype(np.float64))
    assert result.num == 300
    np.testing.assert_allclose(result.mean, x.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(result.covariance, np.cov(x.T), rtol=1e-6)


def test_distance_equals_that_from_the_matrix_square_root():
    x, y = features(1), features(2, shift=0.5)
    root = linalg.sqrtm(np.cov(x.T) @ np.cov(y.T)).real
    expected = np.sum((x.mean(0) - y.mean(0)) ** 2)
    expected += np.trace(np.cov(x.T)) + np.trace(np.cov(y.T)) - 2 * np.trace(root)
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(expected, rel=1e-9)


def test_a_set_is_at_distance_zero_from_itself():
    """The covariance is singular, where the square root of a rounding error would be 1e-8."""
    x = features(4)[:, :3] @ np.random.default_rng(5).normal(size=[3, 8])
    assert frechet_distance(moments(x), moments(x, parts=1)) < 1e-12 * np.trace(np.cov(x.T))


def test_fewer_examples_than_features_are_a_warning():
    with pytest.warns(UserWarning, match="8 examples have a singular covariance of 8 features"):
        frechet_distance(moments(features(6, num=8), 1), moments(features(6)))


class Pixels(keras.layers.Layer):
    """Replaces the network, and returns pixels that show the preprocessing."""

    def call(self, x, training):
        assert not training and x.shape[1:] == (299, 299, 3)
        corners = [x[:, 0, 0], x[:, -1, -1], x[:, 149, 149]]
        return keras.ops.concatenate(corners, axis=-1)


def test_preprocessing_of_inception(monkeypatch):
    settings = {}
    monkeypatch.setattr(keras.applications, "InceptionV3", lambda **given: settings.update(given) or Pixels())
    color = np.array([[[0, 16, 8], [4, 4, 4]], [[8, 8, 8], [16, 0, 12]]], np.uint8)[None]
    values = InceptionFeatures(levels=17, weights="file.h5")(color)
    shape = (299, 299, 3)
    assert settings == {"include_top": False, "weights": "file.h5", "input_shape": shape, "pooling": "avg"}
    expected = [*[-1, 1, 0], *[1, -1, 0.5], *color.mean(axis=(1, 2))[0] / 8 - 1]
    np.testing.assert_allclose(values, [expected], atol=1e-6)
    gray = InceptionFeatures(levels=256)(np.full([2, 4, 4, 1], 255, np.uint8))
    np.testing.assert_allclose(gray, np.ones([2, 9]), atol=1e-6)
