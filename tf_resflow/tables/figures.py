"""Figures of the rows of tables."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from tf_resflow.evaluation.figures import written_figure
from tf_resflow.extras import LazyPackage
from tf_resflow.tables.column import in_words
from tf_resflow.tables.encoder import TableEncoder

mpl_ticker: Any = LazyPackage("matplotlib.ticker", "plots")

_MAX_COLUMNS = 7
_MAX_POINTS = 5000  # per group in a scatter plot; histograms use all points
_BINS = 40
_MAX_CELLS = 60  # columns with more values are binned
_MAX_LEVELS = 12  # axes with more levels do not name them
_GROUPS = 8  # groups of values of a column whose mutual information with another one is estimated
_DATA_COLOR = "0.4"


def pairs_figure(
    path: str | os.PathLike[str],
    encoder: TableEncoder,
    tables: Mapping[str, Any],
    *,
    title: str = "",
) -> None:
    """Draws the rows of tables: scatter plots of all pairs of columns, and histograms on the diagonal.

    Of more than 7 columns, it draws those with the most mutual information with each other in the first table.
    Scatter plots show at most 5,000 rows of each table. The title notes what is left out. The axes name levels and
    dates, and rows are spread over the cells of levels and whole numbers.

    Args:
      tables: dict of name to `pandas.DataFrame`. The first table is gray if there are several.
    """
    own = encoder.own.columns
    columns = [column.name for column in encoder.columns]
    groups = {
        f"{name} ({len(table):,})": _finite(encoder.numbers(table.reindex(columns=columns)).values[:, : len(own)])
        for name, table in tables.items()
    }
    chosen = most_dependent(next(iter(groups.values())), _MAX_COLUMNS)
    if len(chosen) < len(own):
        title += f"\nthe {len(chosen)} of {len(own)} columns that depend most on each other"
    if len(chosen) > 1 and max(map(len, groups.values())) > _MAX_POINTS:
        title += f"\nscatter plots of the first {_MAX_POINTS:,} rows of each"
    colors = [_DATA_COLOR, "C1"] if len(groups) == 2 else [f"C{i}" for i in range(1, len(groups) + 1)]
    axes = [_Axis(own[place], [points[:, place] for points in groups.values()]) for place in chosen]
    parts = [points[:, chosen] for points in groups.values()]
    size = max(5.5, 1.9 * len(chosen))
    with written_figure(path, (size, size)) as fig:
        _draw(fig, parts, colors, axes)
        fig.suptitle(title.strip())
        marks = [fig.axes[0].plot([], [], "o", color=color)[0] for color in colors]
        fig.legend(marks, groups, loc="outside lower center" if len(chosen) < 3 else (0.6, 0.75))


def most_dependent(numbers: np.ndarray, most: int) -> list[int]:
    """Returns the positions of at most `most` columns of numbers `[num, columns]` that depend most on each other.

    It adds one column after another, the one with the largest sum of mutual information with the chosen ones.
    """
    size = numbers.shape[1]
    if size <= most:
        return list(range(size))
    groups = np.stack([_groups_of(column) for column in numbers.T])
    information = np.zeros([size, size])
    for i in range(size):
        for j in range(i):
            information[i, j] = information[j, i] = _mutual_information(groups[i], groups[j])
    chosen = list(np.unravel_index(np.argmax(information), information.shape))
    while len(chosen) < most:
        gains = information[:, chosen].sum(axis=1)
        gains[chosen] = -np.inf
        chosen.append(np.argmax(gains))
    return sorted(map(int, chosen))


def _groups_of(x):
    """Returns the number of the group of each value: missing, or between quantiles."""
    if np.isnan(x).all():
        return np.full(len(x), _GROUPS)
    edges = np.unique(np.nanquantile(x, np.arange(1, _GROUPS) / _GROUPS))
    return np.where(np.isnan(x), _GROUPS, np.searchsorted(edges, x))


def _mutual_information(i, j):
    """Returns the mutual information of two columns of groups in nats, less its bias (Miller 1955)."""
    counts = np.zeros([_GROUPS + 1, _GROUPS + 1])
    np.add.at(counts, (i, j), 1)
    joint = counts / len(i)
    product = np.outer(joint.sum(axis=1), joint.sum(axis=0))
    used = joint > 0
    num_groups = [np.count_nonzero(joint.sum(axis=axis)) - 1 for axis in (0, 1)]
    return np.sum(joint[used] * np.log(joint[used] / product[used])) - np.prod(num_groups) / (2 * len(i))


def _finite(numbers):
    return np.where(np.isinf(numbers), np.nan, numbers)


class _Axis:
    """The axis of a column: its range, bins, cell width and ticks."""

    def __init__(self, column, values):
        self.column, self.step, self._limits = column, 0.0, _limits(values)
        self.bins = np.linspace(self._limits[0], self._limits[1], _BINS + 1)
        if column.is_discrete and column.num <= _MAX_CELLS:
            self.step = float(column.step)
            start = float(column.first - column.offset)
            self.bins = start + self.step * (np.arange(column.num + 1) - 0.5)
            self._limits = self.bins[0], self.bins[-1]

    def label(self, axis):
        """Sets the range, the name and the ticks of an axis of the figure."""
        column = self.column
        axis.axes.set(**{f"{axis.axis_name}lim": self._limits})
        axis.set_label_text(str(column.name))
        if column.levels is not None and len(column.levels) <= _MAX_LEVELS:
            axis.set_ticks(range(len(column.levels)), [in_words(level) for level in column.levels])
        elif column.start is not None:
            axis.set_major_locator(mpl_ticker.MaxNLocator(4))
            axis.set_major_formatter(lambda day, _: str(column.start + np.timedelta64(round(day), "D"))[:10])
        elif column.offset:
            axis.set_major_formatter(lambda x, _: f"{x + column.offset:g}")
            return
        else:
            return
        axis.set_tick_params(labelsize="small", labelrotation=90 if axis.axis_name == "x" else 0)


def _draw(fig, parts, colors, shown):
    last = len(shown) - 1
    for (row, column), axes in np.ndenumerate(fig.subplots(last + 1, last + 1, squeeze=False)):
        if column > row:
            axes.remove()
            continue
        if column == row:
            _histogram(axes, [part[:, column] for part in parts], colors, shown[column])
        else:
            _scatter(axes, [part[:, [column, row]] for part in parts], colors, shown[column], shown[row])
        if row < last:
            axes.set(xlabel="", xticklabels=[])
        if 0 < column < row:
            axes.set(ylabel="", yticklabels=[])


def _histogram(axes, parts, colors, shown):
    bins = shown.bins
    for color, values in zip(colors, parts, strict=True):
        kind = {"histtype": "stepfilled", "alpha": 0.5} if color == _DATA_COLOR else {"histtype": "step"}
        values = values[~np.isnan(values)]
        share = 1 / (max(len(values), 1) * (bins[1] - bins[0]))  # includes values outside the bins
        axes.hist(values, bins, weights=np.full(len(values), share), color=color, **kind)
    axes.set(yticks=[])
    shown.label(axes.xaxis)


def _scatter(axes, parts, colors, across, up):
    """Draws the points of all groups in random order, so that no group covers another."""
    rng = np.random.default_rng(0)
    parts = [points[:_MAX_POINTS] for points in parts]
    order = rng.permutation(sum(map(len, parts)))
    points, color = np.concatenate(parts)[order], np.repeat(colors, list(map(len, parts)))[order]
    jitter = 0.7 * np.array([across.step, up.step]) * (rng.uniform(size=points.shape) - 0.5)
    axes.scatter(*(points + jitter).T, s=3, c=color, linewidths=0, rasterized=True)
    across.label(axes.xaxis)
    up.label(axes.yaxis)


def _limits(values, tail=0.002):
    """Returns a range that contains all but the outermost values of each group."""
    groups = [group[~np.isnan(group)] for group in values]
    lows, highs = np.transpose([np.quantile(group, [tail, 1 - tail]) for group in groups if len(group)] or [[0, 1]])
    low, high = lows.min(), highs.max()
    pad = 0.08 * (high - low) or 0.5
    return low - pad, high + pad
