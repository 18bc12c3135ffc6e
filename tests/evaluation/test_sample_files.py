"""Samples written to files: arrays, figures and image grids."""

import os

import numpy as np
import pytest
from PIL import Image

from tf_resflow.evaluation import image_grid
from tf_resflow.evaluation.sample_files import reconstruction_grid, write_png, write_samples


def test_bare_samples_are_written_as_they_come(tmp_path):
    """The first batch is in the file before the last one is drawn."""
    values = np.arange(3 * 5000 * 6).reshape(15_000, 2, 3, 1).astype(np.uint8)
    path, sizes = tmp_path / "samples.NPY", []

    def batches():
        for batch in np.split(values, 3):
            yield batch
            (file,) = tmp_path.glob("*/samples.NPY")
            sizes.append(file.stat().st_size)

    write_samples(path, batches(), (1, 15_000, 2, 3, 1))
    read = np.load(path)
    np.testing.assert_array_equal(read, values)
    assert read.dtype == np.uint8 and os.listdir(tmp_path) == ["samples.NPY"]
    assert sizes[0] < sizes[1] < sizes[2]


def test_images(tmp_path):
    """A single row is arranged as a square. Several rows keep their layout and get labels."""
    values, path = np.full([4, 3, 3, 1], 16, np.uint8), tmp_path / "samples.png"
    write_samples(path, [values], (1, 4, 3, 3, 1), levels=17, labels=["0.5"])
    square = np.asarray(Image.open(path))
    assert square.max() == 255 and square.shape[0] == square.shape[1]
    write_samples(path, [values], (2, 2, 3, 3, 1), levels=17, labels=["temperature 0.5", "temperature 1"])
    rows = np.asarray(Image.open(path))
    assert rows.shape[0] == square.shape[0] and rows.shape[1] > square.shape[1] + 50
    write_samples(path, [np.full([256, 8, 8, 1], 16, np.uint8)], (16, 16, 8, 8, 1), levels=17)
    assert Image.open(path).size == (7 * 145, 7 * 145)  # enlarged 7 times, like a grid of 8 rows


def test_grid_places_every_image():
    x = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1) * np.ones([5, 2, 3, 1], np.uint8)
    grid = image_grid(x, levels=5, columns=3)
    assert grid.shape == (2 * 3 + 1, 3 * 4 + 1, 1)
    tops, lefts = [1, 1, 1, 4, 4], [1, 5, 9, 1, 5]
    for index, (top, left) in enumerate(zip(tops, lefts, strict=True)):
        cell = grid[top : top + 2, left : left + 3]
        np.testing.assert_array_equal(cell, np.full([2, 3, 1], round(index * 255 / 4)))
    assert (grid[0] == 128).all() and (grid[:, 0] == 128).all()


def test_reconstructions_are_below_their_originals():
    originals, reconstructions = np.full([4, 2, 2, 3], 10, np.uint8), np.full([4, 2, 2, 3], 200, np.uint8)
    grid = reconstruction_grid(originals, reconstructions, columns=2)
    assert grid.shape == (4 * 3 + 1, 2 * 3 + 1, 3)
    np.testing.assert_array_equal(grid[[1, 4, 7, 10], 1, 0], [10, 200, 10, 200])


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_is_enlarged_and_exact_and_its_rows_are_labeled(tmp_path, channels):
    """Labels are to the left of their rows, and the grid is unchanged."""
    image = np.random.default_rng(0).integers(256, size=[20, 30, channels]).astype(np.uint8)
    write_png(tmp_path / "grid.png", image)
    read = np.asarray(Image.open(tmp_path / "grid.png")).reshape(340, 510, channels)
    np.testing.assert_array_equal(read[::17, ::17], image)
    grid = np.random.default_rng(0).integers(256, size=[150, 520, channels]).astype(np.uint8)
    write_png(tmp_path / "grid.png", grid, labels=["temperature 0.5", "", "temperature 1"])
    read = np.asarray(Image.open(tmp_path / "grid.png")).reshape(150, -1, channels)
    np.testing.assert_array_equal(read[:, -520:], grid)
    first, second, third = np.split(read[:, :-520], 3)
    assert first.min() < 100 and second.min() == 255 and third.min() < 100
    assert (first != third).any() and 80 < first.shape[1] < 200
