import keras
import numpy as np
import pytest

from tf_resflow.evaluation import InceptionFeatures, inception


class Pixels(keras.layers.Layer):
    """Replaces the network by the corners of the image, which show the preprocessing."""

    def call(self, x, training):
        assert not training and x.shape[1:] == (299, 299, 3)
        corners = [x[:, 0, 0], x[:, -1, -1], x[:, 149, 149]]
        return keras.ops.concatenate(corners, axis=-1)


def test_preprocessing(monkeypatch):
    monkeypatch.setattr(inception, "_network", lambda weights: Pixels())
    color = np.array([[[0, 16, 8], [4, 4, 4]], [[8, 8, 8], [16, 0, 12]]], np.uint8)[None]
    values = InceptionFeatures(levels=17)(color)
    expected = [*[-1, 1, 0], *[1, -1, 0.5], *color.mean(axis=(1, 2))[0] / 8 - 1]
    np.testing.assert_allclose(values, [expected], atol=1e-6)
    gray = InceptionFeatures(levels=256)(np.full([2, 4, 4, 1], 255, np.uint8))
    np.testing.assert_allclose(gray, np.ones([2, 9]), atol=1e-6)


def test_features_of_the_network():
    """Means of ReLU outputs: not negative, and different for different images, even with random weights."""
    keras.utils.set_random_seed(0)
    images = np.stack([np.zeros([8, 8, 1]), np.full([8, 8, 1], 255)]).astype(np.uint8)
    values = InceptionFeatures(weights=None)(images)
    assert values.shape == (2, 2048) and values.dtype == np.float32
    assert values.min() >= 0 and np.abs(values[0] - values[1]).max() > 0.1 * values.max()


def test_missing_weights():
    with pytest.raises(ValueError, match="'none.h5' cannot be loaded"):
        InceptionFeatures(weights="none.h5")
