"""A two-dimensional density: beside its data and its samples, and under paths."""

import math

import numpy as np

from tf_resflow.evaluation.point_figures import aspect, plot_limits
from tf_resflow.extras import extra
from tf_resflow.writing import whole_file

__all__ = ["density_figure", "paths_figure"]

_NATS_SHOWN = 12  # below the largest log density


def density_figure(path, data, samples, log_prob, title="", resolution=150, batch=4500):
    """Draws three panels on the same axes, in the same colors: data, the model's density, the model's samples.

    The colors' scale is that of the square root of the density, so that they show what is rare, too.

    Args:
      path: image file to write.
      data: array `[num, 2]`.
      samples: array `[num, 2]`.
      log_prob: function of a float32 array `[batch, 2]`, to log-densities `[batch]` in nats.
      title: text above the density.
      resolution: points of the density's grid along each axis.
      batch: points evaluated at a time.
    """
    with extra("plots"):
        from matplotlib import colors, figure

    limits = [plot_limits([column]) for column in np.asarray(data).T]
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


def paths_figure(path, paths, data, log_prob, square=False, title="", resolution=150, batch=4500):
    """Draws paths as lines over the log density.

    Args:
      path: image file to write.
      paths: array `[paths, points, 2]`.
      data: array `[num, 2]`, whose range the axes have if the paths do not leave it.
      log_prob: as for `density_figure`.
      square: whether the paths are the rows of a square; then its columns are drawn, too, and its corners marked,
        instead of the ends of the paths.
      title: text above.
      resolution: as for `density_figure`.
      batch: as for `density_figure`.
    """
    with extra("plots"):
        from matplotlib import figure

    paths = np.asarray(paths)
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


def _draw(axes, values, limits, cmap="viridis", **options):
    """An image of values on a grid, `[row, column]` with rows from the bottom."""
    axes.set(xlabel="column 1", ylabel="column 2")
    options |= {"extent": [*limits[0], *limits[1]], "aspect": aspect(limits)}
    return axes.imshow(values, origin="lower", cmap=cmap, interpolation="none", **options)


def _histogram(points, limits, most_bins):
    """The density of points in cells, of all points, so that those outside of the limits are missing in it."""
    bins = min(most_bins, math.isqrt(len(points)))
    counts, *edges = np.histogram2d(*np.asarray(points).T, bins, limits)
    areas = np.multiply.outer(*map(np.diff, edges))
    return (counts / areas / len(points)).T


def _peak(density, above=0.02):
    """The density that is exceeded for so much of the mass: one spike does not darken all else."""
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
