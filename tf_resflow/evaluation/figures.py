"""Writes figures of densities, samples and calibration to files."""

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tf_resflow.extras import LazyPackage
from tf_resflow.writing import whole_file

mpl_colors: Any = LazyPackage("matplotlib.colors", "plots")
mpl_figure: Any = LazyPackage("matplotlib.figure", "plots")

_RESOLUTION = 150  # grid points of a density along each axis
_BATCH = 4500  # points per call of log_prob
_MAX_COLUMNS = 7
_MAX_POINTS = 5000  # per group in a scatter plot; histograms use all points
_BINS = 40
_DATA_COLOR = "0.4"


@contextlib.contextmanager
def written_figure(path: str | os.PathLike[str], size: tuple[float, float], **options: Any) -> Iterator[Any]:
    """Yields an empty figure with this size in inches, and saves it at the end."""
    fig = mpl_figure.Figure(figsize=size, layout="constrained")
    yield fig
    with whole_file(path) as temporary:
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
    limits = [_limits([column]) for column in data.T]
    shown, sampled = (_density_of(points, limits) for points in (data, samples))
    density = np.exp(_on_grid(log_prob, limits))
    norm = mpl_colors.PowerNorm(0.5, 0, max(_peak(density), _peak(shown)))
    place = {"origin": "lower", "extent": [*limits[0], *limits[1]], "aspect": _aspect(limits)}
    titles = f"data ({len(data):,})", "density of the model", f"samples ({len(samples):,})"
    with written_figure(path, (13, 4.4), bbox_inches="tight") as fig:
        grid = fig.subplots(1, 3, sharex=True, sharey=True)
        for axes, title, values in zip(grid, titles, (shown, density, sampled), strict=True):
            drawn = axes.imshow(values, norm=norm, interpolation="none", **place)
            axes.set(xlabel="x", title=title)
        grid[0].set_ylabel("y")
        fig.colorbar(drawn, ax=grid[-1], extend="max", label="density (1 / unit²)")


def _density_of(points, limits):
    """Returns the density of points in grid cells. Points outside the limits count toward the total."""
    bins = min(_RESOLUTION // 2, math.isqrt(len(points)))
    counts, x_edges, y_edges = np.histogram2d(points[:, 0], points[:, 1], bins, limits)
    return (counts / np.multiply.outer(np.diff(x_edges), np.diff(y_edges)) / len(points)).T


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
    parts = [log_prob(points[i : i + _BATCH]) for i in range(0, len(points), _BATCH)]
    return np.concatenate(parts).reshape(_RESOLUTION, _RESOLUTION)


def points_figure(
    path: str | os.PathLike[str],
    samples: Mapping[str, np.ndarray],
    data: Mapping[str, np.ndarray] | None = None,
    *,
    columns: Sequence[str] | None = None,
    title: str = "",
) -> None:
    """Draws samples over data. Both are dicts of name to points `[num, columns]`.

    One column gives a histogram, and two columns a scatter plot. More columns give scatter plots of all pairs, with
    histograms on the diagonal. Only the first 7 columns are drawn, and scatter plots show at most 5,000 points per
    group; the title notes what is left out.
    """
    given = {**(data or {}), **samples}
    total, most = next(iter(given.values())).shape[1], max(map(len, given.values()))
    names = columns or (["x", "y"] if total == 2 else [f"column {i + 1}" for i in range(total)])
    num = min(total, _MAX_COLUMNS)
    groups = {f"{name} ({len(points):,})": points for name, points in given.items()}
    if total > num:
        title += f"\ncolumns 1 to {num} of {total}"
    if total > 1 and most > _MAX_POINTS:
        title += f"\nscatter plots of the first {_MAX_POINTS:,} points of each"
    colors = [_DATA_COLOR] * bool(data) + [f"C{i}" for i in range(1, len(samples) + 1)]
    shown = [(names[i], _limits([points[:, i] for points in groups.values()])) for i in range(num)]
    size = 5.5 if num < 3 else max(6.0, 1.9 * num)
    with written_figure(path, (size, size)) as fig:
        if num < 3:
            draw = _histogram if num == 1 else _scatter
            draw(fig.subplots(), groups, colors, shown, *range(num))
        else:
            _draw_pairs(fig, groups, colors, shown)
        fig.suptitle(title.strip())
        marks = [fig.axes[0].plot([], [], "o", color=color)[0] for color in colors]
        fig.legend(marks, groups, loc="outside lower center" if num < 3 else (0.6, 0.75), ncols=1 + (num < 3))


def _draw_pairs(fig, groups, colors, shown):
    last = len(shown) - 1
    for (row, column), axes in np.ndenumerate(fig.subplots(last + 1, last + 1)):
        if column > row:
            axes.remove()
            continue
        if column == row:
            _histogram(axes, groups, colors, shown, column)
            axes.set_ylabel("")
        else:
            _scatter(axes, groups, colors, shown, column, row)
            axes.set_aspect("auto")
        if row < last:
            axes.set(xlabel="", xticklabels=[])
        if 0 < column < row:
            axes.set(ylabel="", yticklabels=[])


def _histogram(axes, groups, colors, shown, column):
    name, limits = shown[column]
    bins = np.linspace(limits[0], limits[1], _BINS + 1)
    for color, points in zip(colors, groups.values(), strict=True):
        kind = {"histtype": "stepfilled", "alpha": 0.5} if color == _DATA_COLOR else {"histtype": "step"}
        share = 1 / (len(points) * (bins[1] - bins[0]))  # includes points outside the bins
        axes.hist(points[:, column], bins, weights=np.full(len(points), share), color=color, **kind)
    axes.set(xlim=limits, xlabel=name, ylabel="density", yticks=[])


def _scatter(axes, groups, colors, shown, x, y):
    """Draws the points of all groups in random order, so that no group covers another."""
    parts = [points[:_MAX_POINTS] for points in groups.values()]
    order = np.random.default_rng(0).permutation(sum(map(len, parts)))
    points = np.concatenate(parts)[order][:, [x, y]]
    color = np.repeat(colors, [len(points) for points in parts])[order]
    (xlabel, xlim), (ylabel, ylim) = shown[x], shown[y]
    axes.scatter(*points.T, s=3, c=color, linewidths=0, rasterized=True)
    axes.set(xlim=xlim, ylim=ylim, xlabel=xlabel, ylabel=ylabel)
    axes.set_aspect(_aspect([xlim, ylim]))


def _aspect(limits):
    """Returns "equal", unless the columns seem to have different units."""
    (left, right), (bottom, top) = limits
    return "equal" if 0.5 < (right - left) / (top - bottom) < 2 else "auto"


def _limits(values, tail=0.002):
    """Returns a range that contains all but the outermost values of each group."""
    lows, highs = np.transpose([np.quantile(group, [tail, 1 - tail]) for group in values])
    low, high = lows.min(), highs.max()
    pad = 0.08 * (high - low) or 0.5
    return low - pad, high + pad
