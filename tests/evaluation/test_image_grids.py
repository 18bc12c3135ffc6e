"""Grids of images, and the features of images for their Fréchet distance."""

import keras
import numpy as np
import pytest
from PIL import Image

from tf_resflow.evaluation import InceptionFeatures, image_grids, inception


def test_grid_places_every_image():
    x = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1) * np.ones([5, 2, 3, 1], np.uint8)
    grid = image_grids.image_grid(x, levels=5, columns=3)
    assert grid.shape == (2 * 3 + 1, 3 * 4 + 1, 1)
    tops, lefts = [1, 1, 1, 4, 4], [1, 5, 9, 1, 5]
    for index, (top, left) in enumerate(zip(tops, lefts, strict=True)):
        cell = grid[top : top + 2, left : left + 3]
        np.testing.assert_array_equal(cell, np.full([2, 3, 1], round(index * 255 / 4)))
    assert (grid[0] == 128).all() and (grid[:, 0] == 128).all()


def test_reconstructions_are_below_their_originals():
    originals, reconstructions = np.full([4, 2, 2, 3], 10, np.uint8), np.full([4, 2, 2, 3], 200, np.uint8)
    grid = image_grids.reconstruction_grid(originals, reconstructions, columns=2)
    assert grid.shape == (4 * 3 + 1, 2 * 3 + 1, 3)
    np.testing.assert_array_equal(grid[[1, 4, 7, 10], 1, 0], [10, 200, 10, 200])


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_is_enlarged_and_exact_and_its_rows_are_labeled(tmp_path, channels):
    """Each label is beside its row, and the grid is unchanged."""
    image = np.random.default_rng(0).integers(256, size=[20, 30, channels]).astype(np.uint8)
    image_grids.write_png(tmp_path / "grid.png", image)
    read = np.asarray(Image.open(tmp_path / "grid.png")).reshape(340, 510, channels)
    np.testing.assert_array_equal(read[::17, ::17], image)
    grid = np.random.default_rng(0).integers(256, size=[150, 520, channels]).astype(np.uint8)
    image_grids.write_png(tmp_path / "grid.png", grid, labels=["temperature 0.5", "", "temperature 1"])
    read = np.asarray(Image.open(tmp_path / "grid.png")).reshape(150, -1, channels)
    np.testing.assert_array_equal(read[:, -520:], grid)
    first, second, third = np.split(read[:, :-520], 3)
    assert first.min() < 100 and second.min() == 255 and third.min() < 100
    assert (first != third).any() and 80 < first.shape[1] < 200


class Pixels(keras.layers.Layer):
    """Replaces the network by the corners of the image, which show the preprocessing."""

    def call(self, x, training):
        assert not training and x.shape[1:] == (299, 299, 3)
        corners = [x[:, 0, 0], x[:, -1, -1], x[:, 149, 149]]
        return keras.ops.concatenate(corners, axis=-1)


def test_preprocessing_of_inception(monkeypatch):
    monkeypatch.setattr(inception, "_network", lambda weights: Pixels())
    color = np.array([[[0, 16, 8], [4, 4, 4]], [[8, 8, 8], [16, 0, 12]]], np.uint8)[None]
    values = InceptionFeatures(levels=17)(color)
    expected = [*[-1, 1, 0], *[1, -1, 0.5], *color.mean(axis=(1, 2))[0] / 8 - 1]
    np.testing.assert_allclose(values, [expected], atol=1e-6)
    gray = InceptionFeatures(levels=256)(np.full([2, 4, 4, 1], 255, np.uint8))
    np.testing.assert_allclose(gray, np.ones([2, 9]), atol=1e-6)


def test_features_of_inception():
    """Means of ReLU outputs: not negative, and different for different images, even with random weights."""
    keras.utils.set_random_seed(0)
    images = np.stack([np.zeros([8, 8, 1]), np.full([8, 8, 1], 255)]).astype(np.uint8)
    values = InceptionFeatures(weights=None)(images)
    assert values.shape == (2, 2048) and values.dtype == np.float32
    assert values.min() >= 0 and np.abs(values[0] - values[1]).max() > 0.1 * values.max()
    with pytest.raises(ValueError, match="'none.h5' cannot be loaded"):
        InceptionFeatures(weights="none.h5")
