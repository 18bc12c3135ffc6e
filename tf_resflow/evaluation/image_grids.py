"""Grids of images as PNG files."""

import math
import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from tf_resflow.extras import extra
from tf_resflow.writing import whole_file

__all__ = ["image_grid", "reconstruction_grid", "write_png"]

_MIN_SIDE = 512  # pixels; small grids are enlarged to about this size


def image_grid(images: ArrayLike, levels: int = 256, *, columns: int | None = None, gap: int = 1) -> np.ndarray:
    """Lays images out in rows, separated by gray lines.

    Args:
      images: integer array `[num, height, width, channels]` with values 0, ..., levels - 1.
      levels: number of levels, which are spread over 0, ..., 255.
      columns: number of images in a row; by default the grid is about square.
      gap: width of the lines in pixels.

    Returns:
      A uint8 array `[grid height, grid width, channels]`.
    """
    images = np.asarray(images)
    num, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(num))
    rows = math.ceil(num / columns)
    shape = [rows * (height + gap) + gap, columns * (width + gap) + gap, channels]
    grid = np.full(shape, 128, np.uint8)
    for index, image in enumerate(images):
        top = gap + index // columns * (height + gap)
        left = gap + index % columns * (width + gap)
        grid[top : top + height, left : left + width] = np.round(image * (255.0 / (levels - 1)))
    return grid


def reconstruction_grid(
    originals: ArrayLike, reconstructions: ArrayLike, levels: int = 256, *, columns: int = 16
) -> np.ndarray:
    """Lays out pairs of rows: originals above their reconstructions.

    Args:
      originals: integer array `[num, height, width, channels]`.
      reconstructions: array of the same shape.
      levels: number of levels of both.
      columns: number of images in a row.

    Returns:
      A uint8 array `[grid height, grid width, channels]`.
    """
    pairs = np.stack([originals, reconstructions])
    columns = min(columns, pairs.shape[1])
    num = pairs.shape[1] // columns * columns
    rows = pairs[:, :num].reshape(2, -1, columns, *pairs.shape[2:]).swapaxes(0, 1)
    return image_grid(rows.reshape(-1, *pairs.shape[2:]), levels, columns=columns)


def write_png(path: str | os.PathLike[str], image: np.ndarray, *, labels: Sequence[str] = ()) -> None:
    """Writes an image; a small one is enlarged by a whole factor.

    Args:
      path: file to write.
      image: uint8 array `[height, width, 1 or 3]`.
      labels: texts for the rows of an image grid, written to the left of them.
    """
    with extra("plots"):
        from PIL import Image

    factor = max(1, _MIN_SIDE // max(image.shape[:2]))
    image = image.repeat(factor, axis=0).repeat(factor, axis=1)
    if labels:
        image = np.concatenate([_label_column(labels, image.shape), image], axis=1)
    with whole_file(path) as temporary:
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(temporary)


def _label_column(labels, shape):
    """A white image with black text, as high as the grid."""
    with extra("plots"):
        from PIL import Image, ImageDraw, ImageFont

    height, _, channels = shape
    row = height / len(labels)
    font = ImageFont.load_default(min(max(10, row / 3), 24))
    width = math.ceil(max(font.getlength(label) for label in labels)) + 12
    column = Image.new("L", (width, height), 255)
    draw = ImageDraw.Draw(column)
    for index, label in enumerate(labels):
        draw.text((width - 6, (index + 0.5) * row), label, fill=0, font=font, anchor="rm")
    return np.repeat(np.asarray(column)[..., np.newaxis], channels, axis=-1)
