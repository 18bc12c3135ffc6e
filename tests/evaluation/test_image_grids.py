import numpy as np
import pytest
from PIL import Image

from tf_resflow.evaluation import image_grids


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
    originals = np.full([4, 2, 2, 3], 10, np.uint8)
    reconstructions = np.full([4, 2, 2, 3], 200, np.uint8)
    grid = image_grids.reconstruction_grid(originals, reconstructions, columns=2)
    assert grid.shape == (4 * 3 + 1, 2 * 3 + 1, 3)
    np.testing.assert_array_equal(grid[[1, 4, 7, 10], 1, 0], [10, 200, 10, 200])


def test_png_is_enlarged_and_exact(tmp_path):
    for channels in (1, 3):
        image = np.random.default_rng(0).integers(256, size=[20, 30, channels]).astype(np.uint8)
        image_grids.write_png(tmp_path / "grid.png", image)
        read = np.asarray(Image.open(tmp_path / "grid.png")).reshape(340, 510, channels)
        np.testing.assert_array_equal(read[::17, ::17], image)


@pytest.mark.parametrize("channels", [1, 3])
def test_rows_are_labeled(tmp_path, channels):
    """Each label is beside its row, and the grid is unchanged."""
    grid = np.random.default_rng(0).integers(256, size=[150, 520, channels]).astype(np.uint8)
    image_grids.write_png(tmp_path / "grid.png", grid, labels=["temperature 0.5", "", "temperature 1"])
    read = np.asarray(Image.open(tmp_path / "grid.png")).reshape(150, -1, channels)
    np.testing.assert_array_equal(read[:, -520:], grid)
    first, second, third = np.split(read[:, :-520], 3)
    assert first.min() < 100 and second.min() == 255 and third.min() < 100
    assert (first != third).any() and 80 < first.shape[1] < 200
