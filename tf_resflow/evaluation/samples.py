"""Samples of a model as a file."""

import pathlib

import numpy as np

from tf_resflow.evaluation.images import image_grid, write_png

__all__ = ["check_samples_path", "write_samples"]


def check_samples_path(path):
    """Checks that `write_samples` can write there, before any long work.

    Args:
      path: file to write.

    Raises:
      ValueError: when it ends neither in .png nor in .npy, or its folder does not exist.
    """
    path = pathlib.Path(path)
    if path.suffix not in (".png", ".npy"):
        raise ValueError(f"Samples are written to a .png or .npy file; {str(path)!r} is neither.")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"The folder {path.absolute().parent} does not exist: make it first.")


def write_samples(path, samples, levels=None, columns=None):
    """Writes samples: images as a grid, points in the plane as a scatter plot, any as .npy.

    Args:
      path: file to write; .png or .npy.
      samples: array `[num, *event_shape]`.
      levels: number of levels of integer images.
      columns: images in a row; by default the grid is about square.

    Raises:
      ValueError: when the samples cannot be drawn.
    """
    check_samples_path(path)
    samples = np.asarray(samples)
    if pathlib.Path(path).suffix == ".npy":
        np.save(path, samples)
    elif samples.ndim == 4:
        write_png(path, image_grid(samples, levels, columns))
    elif samples.shape[1:] == (2,):
        _scatter(path, samples)
    else:
        raise ValueError(
            f"Samples of shape {samples.shape[1:]} cannot be drawn: write them to a .npy file."
        )


def _scatter(path, samples):
    from matplotlib import figure

    fig = figure.Figure(figsize=(5, 5), layout="constrained")
    axes = fig.subplots()
    axes.scatter(samples[:, 0], samples[:, 1], s=4, alpha=0.6, linewidths=0)
    axes.set_aspect("equal")
    fig.savefig(path, dpi=110)
