"""Figures of a two-dimensional density: beside its data and samples, and under paths."""

import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tf_resflow.evaluation.point_figures import aspect, plot_limits
from tf_resflow.extras import extra
from tf_resflow.writing import whole_file

__all__ = ["density_figure", "paths_figure"]

_NATS_SHOWN = 12  # below the largest log density


def density_figure(
    path: str | os.PathLike[str],
    data: ArrayLike,
    samples: ArrayLike,
    log_prob: Callable[[np.ndarray], ArrayLike],
    *,
    title: str = "",
    resolution: int = 150,
    batch: int = 4500,
) -> None:
    """Draws the data, the model's density and the model's samples in three panels with the same axes and colors.

    The color scale follows the square root of the density, which also shows rare values.

    Args:
      path: image file to write.
      data: array `[num, 2]`.
      samples: array `[num, 2]`.
      log_prob: function of a float32 array `[batch, 2]`, to log-densities `[batch]` in nats.
      title: text above the density.
      resolution: number of grid points along each axis.
      batch: number of points evaluated at a time.
    """
    with extra("plots"):
        from matplotlib import colors, figure

    data, samples = np.asarray(data), np.asarray(samples)
    limits = [plot_limits([column]) for column in data.T]
    density = np.exp(_on_grid(log_prob, limits, resolution, batch))
    histograms = [_histogram(points, limits, resolution // 2) for points in (data, samples)]
    norm = colors.PowerNorm(0.5, 0, max(_peak(values) for values in (density, histograms[0])))
    fig = figure.Figure(figsize=(13, 4.4), layout="constrained")
    left, middle, right = fig.subplots(1, 3, sharex=True, sharey=True)
    for axes, values in zip((left, middle, right), (histograms[0], density, histograms[1]), strict=True):
        image = _draw(axes, values, limits, norm=norm)
    left.set_title(f"data ({len(data):,})")
    right.set_title(f"samples ({len(samples):,})")
    middle.set(title=title or "model density", ylabel="")
    right.set_ylabel("")
    fig.colorbar(image, ax=right, extend="max", label="density (1 / unit²)")
    with whole_file(path) as temporary:
        fig.savefig(temporary, dpi=110, bbox_inches="tight")


def paths_figure(
    path: str | os.PathLike[str],
    paths: ArrayLike,
    data: ArrayLike,
    log_prob: Callable[[np.ndarray], ArrayLike],
    *,
    square: bool = False,
    title: str = "",
    resolution: int = 150,
    batch: int = 4500,
) -> None:
    """Draws paths as lines over the log density.

    Args:
      path: image file to write.
      paths: array `[paths, points, 2]`.
      data: array `[num, 2]`; the axes cover it and the paths.
      log_prob: as for `density_figure`.
      square: whether the paths are the rows of a square. If so, its columns are drawn, too, and its corners are
        marked instead of the ends of the paths.
      title: text above the figure.
      resolution: as for `density_figure`.
      batch: as for `density_figure`.
    """
    with extra("plots"):
        from matplotlib import figure

    paths, data = np.asarray(paths), np.asarray(data)
    lines, ends = (np.concatenate([paths, paths.swapaxes(0, 1)]), paths[[0, -1]]) if square else (paths, paths)
    limits = [plot_limits([column], outside=0) for column in np.concatenate([data, *paths]).T]
    logs = _on_grid(log_prob, limits, resolution, batch)
    top = np.max(logs)
    fig = figure.Figure(figsize=(6.5, 5.5), layout="constrained")
    axes = fig.subplots()
    image = _draw(axes, logs, limits, cmap="Blues", vmin=top - _NATS_SHOWN, vmax=top)
    axes.plot(*lines.T, "-", color="C1", linewidth=1)
    axes.plot(*ends[:, [0, -1]].reshape(-1, 2).T, "o", color="C1", markeredgecolor="black", markersize=5)
    axes.set_title(title)
    fig.colorbar(image, ax=axes, extend="min", label="log density (nats)")
    with whole_file(path) as temporary:
        fig.savefig(temporary, dpi=110)


def _draw(axes, values, limits, cmap="viridis", **options: Any):
    """An image of values on a grid, `[row, column]` with rows from the bottom."""
    axes.set(xlabel="column 1", ylabel="column 2")
    options |= {"extent": [*limits[0], *limits[1]], "aspect": aspect(limits)}
    return axes.imshow(values, origin="lower", cmap=cmap, interpolation="none", **options)


def _histogram(points, limits, most_bins):
    """The density of all points in cells; points outside the limits count towards the total."""
    bins = min(most_bins, math.isqrt(len(points)))
    counts, x_edges, y_edges = np.histogram2d(points[:, 0], points[:, 1], bins, limits)
    areas = np.multiply.outer(np.diff(x_edges), np.diff(y_edges))
    return (counts / areas / len(points)).T


def _peak(density, above=0.02):
    """The density that only this share of the mass exceeds; a spike would make everything else dark."""
    values = np.sort(np.nan_to_num(density, nan=0.0, posinf=0.0), axis=None)[::-1]
    mass = np.cumsum(values)
    return values[np.searchsorted(mass, above * mass[-1])] or 1.0


def _on_grid(log_prob, limits, resolution, batch):
    """Log-densities at the centers of the cells, `[row, column]` with rows from the bottom."""
    centers = (np.arange(resolution) + 0.5) / resolution
    x, y = np.meshgrid(*(low + (high - low) * centers for low, high in limits))
    points = np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float32)
    parts = [np.asarray(log_prob(points[i : i + batch])) for i in range(0, len(points), batch)]
    return np.concatenate(parts).reshape(resolution, resolution)
