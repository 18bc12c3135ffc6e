"""Writes figures of densities, samples and calibration to files."""

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tf_resflow._internal.extras import LazyPackage
from tf_resflow._internal.writing import atomic_write

mpl_colors: Any = LazyPackage("matplotlib.colors", "plots")
mpl_figure: Any = LazyPackage("matplotlib.figure", "plots")

_RESOLUTION = 150  # grid points of a density along each axis
_BATCH = 4500  # points per call of log_prob
_MAX_POINTS = 5000  # per group in a scatter plot


@contextlib.contextmanager
def written_figure(path: str | os.PathLike[str], size: tuple[float, float], **options: Any) -> Iterator[Any]:
    """Yields an empty figure with this size in inches, and saves it at the end."""
    fig = mpl_figure.Figure(figsize=size, layout="constrained")
    yield fig
    with atomic_write(path) as temporary:
        fig.savefig(temporary, dpi=110, **options)


def density_figure(
    path: str | os.PathLike[str],
    data: np.ndarray,
    samples: np.ndarray,
    log_prob: Callable[[np.ndarray], ArrayLike],
) -> None:
    """Draws data `[num, 2]` and a model's density and samples, in panels with the same axes and colors.

    The color scale follows the square root of the density, so that rare values are visible too.
    """
    limits = [robust_limits([column]) for column in data.T]
    shown, sampled = (_density_of(points, limits) for points in (data, samples))
    density = np.exp(_on_grid(log_prob, limits))
    norm = mpl_colors.PowerNorm(0.5, 0, max(_peak(density), _peak(shown)))
    axes_options = {"origin": "lower", "extent": [*limits[0], *limits[1]], "aspect": _aspect(limits)}
    titles = f"data ({len(data):,})", "density of the model", f"samples ({len(samples):,})"
    with written_figure(path, (13, 4.4), bbox_inches="tight") as fig:
        grid = fig.subplots(1, 3, sharex=True, sharey=True)
        for axes, title, values in zip(grid, titles, (shown, density, sampled), strict=True):
            drawn = axes.imshow(values, norm=norm, interpolation="none", **axes_options)
            axes.set(xlabel="x", title=title)
        grid[0].set_ylabel("y")
        fig.colorbar(drawn, ax=grid[-1], extend="max", label="density (1 / unit²)")


def _density_of(points, limits):
    """Returns the density of the points within the limits, in grid cells `[row, column]`."""
    bins = min(_RESOLUTION // 2, math.isqrt(len(points)))
    return np.histogram2d(points[:, 0], points[:, 1], bins, limits, density=True)[0].T


def _peak(density):
    """Returns the density that 2 % of the mass exceeds. Scaling to a spike would darken everything else."""
    values = np.sort(np.nan_to_num(density, nan=0.0, posinf=0.0), axis=None)[::-1]
    mass = np.cumsum(values)
    return values[np.searchsorted(mass, 0.02 * mass[-1])] or 1.0


def _on_grid(log_prob, limits):
    """Returns log-densities at the cell centers, `[row, column]`, with rows from bottom to top."""
    centers = (np.arange(_RESOLUTION) + 0.5) / _RESOLUTION
    x, y = np.meshgrid(*(low + (high - low) * centers for low, high in limits))
    points = np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float32)
    batches = [points[start : start + _BATCH] for start in range(0, len(points), _BATCH)]
    return np.concatenate([log_prob(batch) for batch in batches]).reshape(_RESOLUTION, _RESOLUTION)


def points_figure(path: str | os.PathLike[str], groups: Mapping[str, np.ndarray], *, title: str = "") -> None:
    """Draws a scatter plot of groups of points `[num, 2]`, at most 5,000 of each."""
    colors = [f"C{i}" for i in range(len(groups))]
    limits = [robust_limits([points[:, i] for points in groups.values()]) for i in range(2)]
    with written_figure(path, (5.5, 5.5)) as fig:
        axes = fig.subplots()
        scatter(axes, [*groups.values()], colors)
        axes.set(xlim=limits[0], ylim=limits[1], xlabel="x", ylabel="y", aspect=_aspect(limits))
        fig.suptitle(title)
        draw_legend(fig, groups, colors, loc="outside lower center", ncols=2)


def scatter(axes: Any, groups: Sequence[np.ndarray], colors: Sequence[str]) -> None:
    """Draws the points `[num, 2]` of all groups in random order, so that no group covers another."""
    groups = [points[:_MAX_POINTS] for points in groups]
    sizes = [len(points) for points in groups]
    order = np.random.default_rng(0).permutation(sum(sizes))
    color = np.repeat(colors, sizes)[order]
    axes.scatter(*np.concatenate(groups)[order].T, s=3, c=color, linewidths=0, rasterized=True)


def draw_legend(fig: Any, groups: Mapping[str, Any], colors: Sequence[str], **options: Any) -> None:
    """Names the groups and their sizes."""
    marks = [fig.axes[0].plot([], [], "o", color=color)[0] for color in colors]
    fig.legend(marks, [f"{name} ({len(points):,})" for name, points in groups.items()], **options)


def _aspect(limits):
    """Returns "equal", unless the columns seem to have different units."""
    (left, right), (bottom, top) = limits
    return "equal" if 0.5 < (right - left) / (top - bottom) < 2 else "auto"


def robust_limits(values: Sequence[np.ndarray], tail: float = 0.002) -> tuple[float, float]:
    """Returns a range that contains all but the outermost values of each group, ignoring NaN."""
    groups = [group[~np.isnan(group)] for group in values]
    lows, highs = np.transpose([np.quantile(group, [tail, 1 - tail]) for group in groups if len(group)] or [[0, 1]])
    low, high = lows.min(), highs.max()
    pad = 0.08 * (high - low) or 0.5
    return low - pad, high + pad
