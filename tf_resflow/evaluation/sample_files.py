"""Writes samples to files: image grids, scatter plots and arrays."""

import itertools
import math
import os
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from tf_resflow._internal.extras import extra
from tf_resflow._internal.writing import atomic_write
from tf_resflow.evaluation.figures import points_figure

MAX_TEMPERATURE = 100.0
"""The largest temperature for samples."""

_MIN_SIDE = 512  # pixels; smaller grids are enlarged to about this size
_MIN_CELL = 64  # pixels; smaller images in a large grid are enlarged to about this size


def write_samples(
    path: str | os.PathLike[str],
    batches: Iterable[np.ndarray],
    shape: Sequence[int],
    *,
    levels: int | None = None,
    labels: Sequence[str] = (),
    name: str = "",
) -> None:
    """Writes batches `[batch, *event_shape]` of samples as a .npy file or, by default, a picture.

    A picture shows images as a grid, and points as a scatter plot. A .npy file grows batch by batch.

    Args:
      shape: `(rows, columns, *event_shape)`. A picture has this number of rows of images, or groups of points. A
        single row of images is arranged as a grid that is about square.
      labels: Labels of the rows or groups.
      name: Name of the data, for the title.
    """
    rows, columns, *event_shape = shape
    if pathlib.Path(path).suffix.lower() == ".npy":
        _write_array(path, batches, (rows * columns, *event_shape))
        return
    samples = np.concatenate(list(batches))
    if len(event_shape) == 3:
        grid = image_grid(samples, levels or 256, columns=columns if rows > 1 else None)
        write_png(path, grid, labels=labels if rows > 1 else (), side=max(event_shape[:2]))
        return
    groups = dict(zip(labels if rows > 1 else ["samples"], samples.reshape(rows, columns, -1), strict=True))
    title = name if rows > 1 else " at ".join([f"{name}: {columns:,} samples", *labels])
    points_figure(path, groups, title=title)


def _write_array(path, batches, shape):
    batches = iter(batches)
    first = next(batches)
    header = {"descr": np.lib.format.dtype_to_descr(first.dtype), "fortran_order": False, "shape": shape}
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for batch in itertools.chain([first], batches):
            file.write(batch.tobytes())


def image_grid(images: ArrayLike, levels: int = 256, *, columns: int | None = None) -> np.ndarray:
    """Arranges images in rows, separated by gray lines one pixel wide.

    Args:
      images: Integer array `[num, height, width, channels]` with values 0, ..., levels - 1.
      levels: Number of levels, which are spread over 0, ..., 255.
      columns: Number of images in a row; by default the grid is about square.

    Returns:
      A uint8 array `[grid height, grid width, channels]`.
    """
    cells = np.round(np.asarray(images) * (255.0 / (levels - 1))).astype(np.uint8)
    num, height, width, channels = cells.shape
    columns = columns or math.ceil(math.sqrt(num))
    rows = math.ceil(num / columns)
    cells = np.pad(cells, [(0, rows * columns - num), (0, 1), (0, 1), (0, 0)], constant_values=128)
    cells = cells.reshape(rows, columns, height + 1, width + 1, channels).swapaxes(1, 2)
    grid = cells.reshape(rows * (height + 1), columns * (width + 1), channels)
    return np.pad(grid, [(1, 0), (1, 0), (0, 0)], constant_values=128)


def reconstruction_grid(
    originals: ArrayLike, reconstructions: ArrayLike, levels: int = 256, *, columns: int = 16
) -> np.ndarray:
    """Returns an `image_grid` with each row of originals above a row of their reconstructions."""
    pairs = np.stack([originals, reconstructions])
    columns = min(columns, pairs.shape[1])
    num = pairs.shape[1] // columns * columns
    rows = pairs[:, :num].reshape(2, -1, columns, *pairs.shape[2:]).swapaxes(0, 1)
    return image_grid(rows.reshape(-1, *pairs.shape[2:]), levels, columns=columns)


def write_png(
    path: str | os.PathLike[str], image: np.ndarray, *, labels: Sequence[str] = (), side: int | None = None
) -> None:
    """Writes a uint8 image `[height, width, 1 or 3]`, with `labels` to the left of the rows of a grid.

    A small image, or a grid of images that are only `side` pixels wide, is enlarged by an integer factor.
    """
    with extra("plots"):
        from PIL import Image, ImageDraw, ImageFont, ImageOps

    factor = max(1, _MIN_SIDE // max(image.shape[:2]), _MIN_CELL // (side + 1) if side else 1)
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture = ImageOps.scale(picture, factor, Image.Resampling.NEAREST)
    if labels:
        row = picture.height / len(labels)
        font = ImageFont.load_default(min(max(10, row / 3), 24))
        width = math.ceil(max(font.getlength(label) for label in labels)) + 12
        picture = ImageOps.expand(picture, (width, 0, 0, 0), fill="white")
        draw = ImageDraw.Draw(picture)
        for index, label in enumerate(labels):
            draw.text((width - 6, (index + 0.5) * row), label, fill="black", font=font, anchor="rm")
    with atomic_write(path) as temporary:
        picture.save(temporary)
