"""Samples of a model, in batches, and as a file."""

import itertools
import math
import pathlib
import shutil

import numpy as np
import tensorflow as tf
import tqdm

from tf_resflow.evaluation.images import image_grid, write_png
from tf_resflow.evaluation.output_file import check_output_path, whole_file
from tf_resflow.evaluation.point_figures import points_figure

__all__ = ["MAX_TEMPERATURE", "check_samples", "draw_samples", "write_samples"]

MAX_TEMPERATURE = 100.0
"""The largest temperature that a model is asked for."""

_MAX_PICTURE = 2**24  # values: 4,096 x 4,096 gray pixels
_BATCH_VALUES = 2**16  # of a batch, if it has more than the examples below
_MIN_BATCH = 64


def check_samples(path, shape, levels=None):
    """Checks that `write_samples` can write a file, before any long work.

    Args:
      path: file to write.
      shape: `(num, *event_shape)` of the samples.
      levels: number of levels of integer data, `None` for floats.

    Raises:
      ValueError: when the path ends neither in .png nor in .npy, or cannot be written; when the samples are more
        than fit the disk, or a picture.
    """
    check_output_path(path, [".png", ".npy"])
    path, num, values = pathlib.Path(path).absolute(), shape[0], math.prod(shape)
    if path.suffix.lower() == ".npy":
        needed, free = values * (4 if levels is None else 1), shutil.disk_usage(path.parent).free
        if needed > free:
            raise ValueError(
                f"{num:,} samples take {_size(needed)}, and {path.parent} has {_size(free)} free. Lower --num, or "
                "write to another disk."
            )
    elif values > _MAX_PICTURE:
        raise ValueError(
            f"{num:,} samples are too many for a picture, which takes {_MAX_PICTURE * num // values:,} of them at "
            f"most ({_MAX_PICTURE:,} values). Lower --num, or write them to a .npy file."
        )


def draw_samples(model, num, seed=0, temperatures=(1.0,), progress=True):
    """Draws examples in batches, with a progress bar.

    The same seed gives the same latents at each temperature. The first batch is that of `model.sample(num, seed)`,
    and how many follow does not matter to the samples before: the first k of n are those that are drawn if k are
    asked for (on one device, and to the tolerance of the inverse).

    Args:
      model: a `FlowModel`.
      num: number of examples at each temperature.
      seed: integer in 0, ..., 2^63 - 1.
      temperatures: factors of the latents' deviation from their mean.
      progress: whether to show a bar on standard error.

    Yields:
      Arrays `[batch, *event_shape]`, as `model.sample` gives them, one temperature after the other.

    Raises:
      ValueError: when a sample is not finite.
    """
    draw = tf.function(model.sample, autograph=False)
    size = batch_size(model.event_shape)
    with tqdm.tqdm(total=num * len(temperatures), desc="samples", unit="sample", disable=not progress) as bar:
        for temperature in temperatures:
            scale = tf.constant(temperature, model.distribution.dtype)
            for index, start in enumerate(range(0, num, size)):
                rows = min(size, num - start)
                samples = draw(tf.constant(rows), tf.constant([index, seed], tf.int64), scale).numpy()
                if not np.all(np.isfinite(samples)):
                    raise ValueError(
                        f"Samples at temperature {temperature:g} are NaN or infinite: the model does not decode "
                        "latents so far out. Lower the temperature."
                    )
                yield samples
                bar.update(rows)


def batch_size(event_shape):
    """Number of examples that are drawn at a time."""
    return max(_MIN_BATCH, _BATCH_VALUES // math.prod(event_shape))


def write_samples(path, batches, shape, levels=None, temperatures=(), data=None, name=""):
    """Writes samples: images as a grid, vectors as scatter plots and histograms, any as .npy.

    A .npy file is written batch by batch. The file is there when it is whole, and not before.

    Args:
      path: file to write; .png or .npy.
      batches: iterable of arrays `[batch, *event_shape]`.
      shape: `(rows, columns, *event_shape)`: a grid has as many rows, or is about square if they are 1.
      levels: number of levels of integer images.
      temperatures: of each row, to label it, or empty.
      data: dict of one pair of a name and an array `[num, size]`, drawn under the samples if they are vectors.
      name: of the data, for the title of a picture of vectors.

    Raises:
      OSError: when the file cannot be written.
    """
    rows, columns, *event_shape = shape
    if pathlib.Path(path).suffix.lower() == ".npy":
        _write_array(path, batches, (rows * columns, *event_shape))
        return
    samples = np.concatenate(list(batches))
    labels = [f"temperature {temperature:g}" for temperature in temperatures]
    if len(event_shape) == 3:
        is_sweep = rows > 1
        write_png(path, image_grid(samples, levels, columns if is_sweep else None), labels if is_sweep else ())
    elif rows == 1:
        title = " at ".join([f"{name}: {columns:,} samples", *labels])
        points_figure(path, {"samples": samples}, data, title)
    else:
        groups = zip(labels, samples.reshape(rows, columns, *event_shape), strict=True)
        points_figure(path, dict(groups), data, name)


def _write_array(path, batches, shape):
    batches = iter(batches)
    first = next(batches)
    header = {"descr": np.lib.format.dtype_to_descr(first.dtype), "fortran_order": False, "shape": shape}
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for batch in itertools.chain([first], batches):
            file.write(batch.tobytes())


def _size(number):
    """A number of bytes as text."""
    unit = min(int(math.log(max(number, 1), 1000)), 5)
    return f"{number / 1000**unit:.3g} {['bytes', 'kB', 'MB', 'GB', 'TB', 'PB'][unit]}"
