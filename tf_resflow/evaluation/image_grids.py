"""Grids of images as PNG files."""

import math

import numpy as np

from tf_resflow.extras import extra
from tf_resflow.writing import whole_file

__all__ = ["image_grid", "reconstruction_grid", "write_png"]

_MIN_SIDE = 512  # pixels; small grids are enlarged to about this


def image_grid(images, levels=256, columns=None, gap=1):
    """Lays images out in rows, separated by a grey line.

    Args:
      images: integer array `[num, height, width, channels]` with values 0, ..., levels - 1.
      levels: number of levels; they are spread over 0, ..., 255.
      columns: images in a row; by default the grid is about square.
      gap: width of the line in pixels.

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


def reconstruction_grid(originals, reconstructions, levels=256, columns=16):
    """Lays out pairs of rows: originals above their reconstructions.

    Args:
      originals: integer array `[num, height, width, channels]`.
      reconstructions: array of the same shape.
      levels: number of levels of both.
      columns: images in a row.

    Returns:
      A uint8 array `[grid height, grid width, channels]`.
    """
    columns = min(columns, len(originals))
    num = len(originals) // columns * columns
    pairs = [np.asarray(x)[:num].reshape(-1, columns, *x.shape[1:]) for x in (originals, reconstructions)]
    rows = np.stack(pairs, axis=1)
    return image_grid(rows.reshape(-1, *rows.shape[3:]), levels, columns)


def write_png(path, image, labels=()):
    """Writes an image, enlarged by a whole factor if it is small.

    Args:
      path: file to write.
      image: uint8 array `[height, width, 1 or 3]`.
      labels: a text for each row of the grid that the image is, written to the left of it.
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
    """An image of as many rows, white with black text."""
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
