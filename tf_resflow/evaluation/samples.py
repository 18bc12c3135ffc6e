"""Samples of a model as a file."""

import csv
import itertools
import math
import os
import pathlib
import shutil
from collections.abc import Iterable, Sequence

import numpy as np

from tf_resflow.evaluation.image_grids import image_grid, write_png
from tf_resflow.evaluation.point_figures import points_figure
from tf_resflow.writing import check_output_path, whole_file

__all__ = ["MAX_TEMPERATURE", "check_paths", "check_samples", "write_samples"]

MAX_TEMPERATURE = 100.0
"""The largest temperature that samples may have."""

_MAX_PICTURE = 2**24  # values: 4,096 x 4,096 gray pixels
_MAX_VALUES = 2**28  # of paths, which are kept in memory


def check_samples(path: str | os.PathLike[str], shape: Sequence[int], levels: int | None = None) -> None:
    """Checks that `write_samples` can write a file, before any long work.

    Args:
      path: file to write.
      shape: `(num, *event_shape)` of the samples.
      levels: number of levels of integer data, `None` for floats.

    Raises:
      ValueError: when the path ends neither in .png nor in .npy (nor for vectors in .csv), or cannot be written;
        when the samples do not fit the disk, or a picture.
    """
    check_output_path(path, [".png", ".npy", *([".csv"] if len(shape) == 2 else [])])
    path, num, values = pathlib.Path(path).absolute(), shape[0], math.prod(shape)
    if path.suffix.lower() == ".npy":
        needed, free = values * (4 if levels is None else 1), shutil.disk_usage(path.parent).free
        if needed > free:
            raise ValueError(
                f"{num:,} samples take {_size(needed)}, and {path.parent} has {_size(free)} free. Lower --num, or "
                "write to another disk."
            )
    elif path.suffix.lower() == ".png" and values > _MAX_PICTURE:
        raise ValueError(
            f"{num:,} samples are too many for a picture, which takes {_MAX_PICTURE * num // values:,} of them at "
            f"most ({_MAX_PICTURE:,} values). Lower --num, or write them to a .npy file."
        )


def check_paths(path: str | os.PathLike[str], shape: Sequence[int], levels: int | None = None) -> None:
    """Checks that paths can be written, before any long work.

    Args:
      path: file to write.
      shape: `(number of all points, *event_shape)`.
      levels: number of levels of integer data, `None` for floats.

    Raises:
      ValueError: as `check_samples`, for more than 2^28 values, and for a picture of vectors not of size 2.
    """
    check_samples(path, shape, levels)
    if math.prod(shape) > _MAX_VALUES:
        raise ValueError(
            f"{shape[0]:,} points of paths have {math.prod(shape):,} values, which are kept in memory: at most "
            f"{_MAX_VALUES:,}. Lower --num."
        )
    event_shape = shape[1:]
    if pathlib.Path(path).suffix.lower() == ".png" and len(event_shape) == 1 and event_shape != (2,):
        raise ValueError(
            f"Paths of vectors of {event_shape[0]} cannot be drawn, only those of images or in a plane: write them "
            "to a .npy file."
        )


def write_samples(
    path: str | os.PathLike[str],
    batches: Iterable[np.ndarray],
    shape: Sequence[int],
    *,
    levels: int | None = None,
    temperatures: Sequence[float] = (),
    labels: Sequence[str] = (),
    data: dict[str, np.ndarray] | None = None,
    names: Sequence[str] | None = None,
    name: str = "",
) -> None:
    """Writes samples: images as a grid, vectors as scatter plots and histograms, any as .npy, vectors as .csv.

    .npy and .csv files are written batch by batch. The file appears when it is complete.

    Args:
      path: file to write; .png, .npy or .csv.
      batches: iterable of arrays `[batch, *event_shape]`.
      shape: `(rows, columns, *event_shape)`: a grid has as many rows, or is about square if they are 1.
      levels: number of levels of integer images.
      temperatures: of each row, to label it, or empty.
      labels: of each row, instead of its temperature.
      data: dict of one pair of a name and an array `[num, size]`, drawn under the samples if they are vectors.
      names: of the coordinates of vectors, by default column 1, column 2 and so on.
      name: of the data, for the title of a picture of vectors.

    Raises:
      OSError: when the file cannot be written.
    """
    rows, columns, *event_shape = shape
    if pathlib.Path(path).suffix.lower() == ".npy":
        _write_array(path, batches, (rows * columns, *event_shape))
        return
    if pathlib.Path(path).suffix.lower() == ".csv":
        _write_rows(path, batches, names or [f"column {i + 1}" for i in range(event_shape[0])])
        return
    samples = np.concatenate(list(batches))
    labels = list(labels) or [f"temperature {temperature:g}" for temperature in temperatures]
    if len(event_shape) == 3:
        is_sweep = rows > 1
        grid = image_grid(samples, levels or 256, columns=columns if is_sweep else None)
        write_png(path, grid, labels=labels if is_sweep else ())
    elif rows == 1:
        title = " at ".join([f"{name}: {columns:,} samples", *labels])
        points_figure(path, {"samples": samples}, data, columns=names, title=title)
    else:
        groups = zip(labels, samples.reshape(rows, columns, *event_shape), strict=True)
        points_figure(path, dict(groups), data, columns=names, title=name)


def _write_array(path, batches, shape):
    batches = iter(batches)
    first = next(batches)
    header = {"descr": np.lib.format.dtype_to_descr(first.dtype), "fortran_order": False, "shape": shape}
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for batch in itertools.chain([first], batches):
            file.write(batch.tobytes())


def _write_rows(path, batches, names):
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for batch in batches:
            writer.writerows([f"{value:.9g}" for value in row] for row in batch)


def _size(number):
    """A number of bytes as text."""
    unit = min(int(math.log(max(number, 1), 1000)), 5)
    return f"{number / 1000**unit:.3g} {['bytes', 'kB', 'MB', 'GB', 'TB', 'PB'][unit]}"
