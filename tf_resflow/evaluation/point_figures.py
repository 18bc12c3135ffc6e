"""Figures of samples over data, column by column."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tf_resflow.extras import extra
from tf_resflow.writing import whole_file

__all__ = ["points_figure"]

_MAX_COLUMNS = 7
_MAX_POINTS = 5000  # of a group in a scatter plot; histograms use all points
_BINS = 40
_DATA_COLOR = "0.4"


def points_figure(
    path: str | os.PathLike[str],
    samples: Mapping[str, np.ndarray],
    data: Mapping[str, np.ndarray] | None = None,
    *,
    columns: Sequence[str] | None = None,
    title: str = "",
) -> None:
    """Draws samples and data over each other.

    One column makes a histogram and two make a scatter plot. More columns make scatter plots of all pairs, with
    histograms on the diagonal. Only the first 7 columns are drawn, and scatter plots show at most 5,000 points of
    each group; the title notes what is left out.

    Args:
      path: image file to write.
      samples: dict of name to array `[num, columns]`.
      data: dict of one such pair, or `None`.
      columns: names of the columns, by default their numbers.
      title: text above the figure.
    """
    with extra("plots"):
        from matplotlib import figure

    groups = dict(_finite(name, points) for name, points in {**(data or {}), **samples}.items())
    total = next(iter(groups.values())).shape[1]
    names = columns or [f"column {i + 1}" for i in range(total)]
    num = min(total, _MAX_COLUMNS)
    colors = [_DATA_COLOR] * bool(data) + [f"C{i}" for i in range(1, len(samples) + 1)]
    limits = [plot_limits([points[:, i] for points in groups.values()]) for i in range(num)]
    size = 5.5 if num < 3 else max(6.0, 1.9 * num)
    fig = figure.Figure(figsize=(size, size), layout="constrained")
    if num < 3:
        axes = fig.subplots()
        draw = _histogram if num == 1 else _scatter
        draw(axes, groups, colors, limits, names, *range(num))
    else:
        _draw_pairs(fig, groups, colors, limits, names)
    fig.suptitle(_title(title, total, max(map(len, groups.values()))))
    marks = [fig.axes[0].plot([], [], "o", color=color)[0] for color in colors]
    fig.legend(marks, groups, loc="outside lower center" if num < 3 else (0.6, 0.75), ncols=1 + (num < 3))
    with whole_file(path) as temporary:
        fig.savefig(temporary, dpi=110)


def _finite(name, points):
    """The finite points of a group, and its name with their number."""
    finite = points[np.all(np.isfinite(points), axis=1)]
    missing = len(points) - len(finite)
    return f"{name} ({len(finite):,}{f', {missing:,} not finite' if missing else ''})", finite


def aspect(limits: Iterable[tuple[float, float]]) -> str:
    """The aspect of axes with these limits: "equal", unless the columns seem to have different units."""
    (left, right), (bottom, top) = limits
    return "equal" if 0.5 < (right - left) / (top - bottom) < 2 else "auto"


def _draw_pairs(fig, groups, colors, limits, names):
    columns = len(limits)
    grid = fig.subplots(columns, columns, squeeze=False)
    for row in range(columns):
        for column in range(columns):
            axes = grid[row, column]
            if column > row:
                axes.remove()
            elif column == row:
                _histogram(axes, groups, colors, limits, names, column)
                axes.set_ylabel("")
            else:
                _scatter(axes, groups, colors, limits, names, column, row)
                axes.set_aspect("auto")
            if column <= row < columns - 1:
                axes.set(xlabel="", xticklabels=[])
            if 0 < column < row:
                axes.set(ylabel="", yticklabels=[])


def _histogram(axes, groups, colors, limits, names, column):
    low, high = limits[column]
    bins = np.linspace(low, high, _BINS + 1)
    width = bins[1] - bins[0]
    for color, points in zip(colors, groups.values(), strict=True):
        weights = np.full(len(points), 1 / (max(1, len(points)) * width))
        kind: dict[str, Any] = {"histtype": "step", "linewidth": 1.5}
        if color == _DATA_COLOR:
            kind = {"histtype": "stepfilled", "alpha": 0.5}
        axes.hist(points[:, column], bins, weights=weights, color=color, **kind)
    axes.set(xlim=limits[column], xlabel=names[column], ylabel="density", yticks=[])


def _scatter(axes, groups, colors, limits, names, x, y):
    """All groups in random order: none covers another."""
    shown = [points[:_MAX_POINTS] for points in groups.values()]
    order = np.random.default_rng(0).permutation(sum(map(len, shown)))
    points = np.concatenate(shown)[order]
    color = np.repeat(colors, [len(points) for points in shown])[order]
    axes.scatter(points[:, x], points[:, y], s=3, c=color, linewidths=0, rasterized=True)
    axes.set(xlim=limits[x], ylim=limits[y], xlabel=names[x], ylabel=names[y])
    axes.set_aspect(aspect([limits[x], limits[y]]))


def plot_limits(values: list[np.ndarray], outside: float = 0.002, margin: float = 0.08) -> tuple[float, float]:
    """A range that holds all but the outermost values of each group."""
    low = min(np.quantile(group, outside) for group in values if len(group))
    high = max(np.quantile(group, 1 - outside) for group in values if len(group))
    pad = margin * (high - low) or 0.5
    return low - pad, high + pad


def _title(title, columns, points):
    if columns > _MAX_COLUMNS:
        title += f"\ncolumns 1 to {_MAX_COLUMNS} of {columns}"
    if columns > 1 and points > _MAX_POINTS:
        title += f"\nscatter plots of the first {_MAX_POINTS:,} points of each"
    return title.strip()
