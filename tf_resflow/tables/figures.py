"""Figures of the rows of tables."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from tf_resflow._internal.extras import LazyPackage
from tf_resflow._internal.messages import cut
from tf_resflow.evaluation.figures import draw_legend, robust_limits, scatter, written_figure
from tf_resflow.tables.columns.column import Column
from tf_resflow.tables.encoder import TableEncoder

mpl_ticker: Any = LazyPackage("matplotlib.ticker", "plots")
pandas: Any = LazyPackage("pandas", "data")

_MAX_COLUMNS = 7
_BINS = 40
_MAX_CELLS = 60  # columns with more values are binned
_MAX_LEVELS = 12  # axes with more levels do not name them
_MAX_LEVELS_ALONE = 30  # if the figure has one panel
_LONGEST_LABEL = 20  # letters
_SIZE = (4.6, 2.8)  # of a figure with one panel, in inches


def pairs_figure(
    path: str | os.PathLike[str],
    encoder: TableEncoder,
    numbers: Mapping[str, np.ndarray],
    *,
    title: str = "",
) -> None:
    """Draws groups of rows: scatter plots of all pairs of columns, and histograms on the diagonal.

    Of more than 7 columns, it draws those with the strongest rank correlations in the first group, and the title
    notes it. Scatter plots show at most 5,000 rows of each group. The axes name levels and dates, and rows are
    spread over the cells of levels and whole numbers.

    Args:
      numbers: Dict of the name of a group to its `TableEncoder.numbers`. The first of two groups is gray.
    """
    columns = encoder.columns[: encoder.num_own]
    groups = [_possible(array[:, : len(columns)]) for array in numbers.values()]
    drawn = most_dependent(groups[0], _MAX_COLUMNS)
    num = len(drawn)
    if num < len(columns):
        title += f"\nthe {num} of {len(columns)} columns that depend most on each other"
    groups = [rows[:, drawn] for rows in groups]
    axes = [_Axis(columns[index], [rows[:, i] for rows in groups]) for i, index in enumerate(drawn)]
    colors = ["0.4", "C1"] if len(groups) == 2 else [f"C{i}" for i in range(1, len(groups) + 1)]
    size = max(5.5, 1.9 * num)
    with written_figure(path, (size, size)) as fig:
        for (row, column), panel in np.ndenumerate(fig.subplots(num, num, squeeze=False)):
            if column > row:
                panel.remove()
                continue
            if column == row:
                _histogram(panel, [rows[:, column] for rows in groups], colors, axes[column].bins)
            else:
                jitter = 0.7 * np.array([axes[column].step, axes[row].step])
                uniform = np.random.default_rng(0).uniform(-0.5, 0.5, [max(map(len, groups)), 2])
                points = [rows[:, [column, row]] + jitter * uniform[: len(rows)] for rows in groups]
                scatter(panel, points, colors)
                axes[row].label(panel.yaxis)
            axes[column].label(panel.xaxis)
            if row < num - 1:
                panel.set(xlabel="", xticklabels=[])
            if 0 < column < row:
                panel.set(ylabel="", yticklabels=[])
        fig.suptitle(title.strip(), parse_math=False)
        draw_legend(fig, numbers, colors, loc="outside lower center" if num < 3 else (0.6, 0.75))


def column_figure(path: str | os.PathLike[str], column: Column, numbers: Mapping[str, np.ndarray]) -> None:
    """Draws histograms of the numbers `[num]` of a column in groups of rows. The first group is gray.

    Its range and as much on both sides are shown.
    """
    groups = [_possible(values) for values in numbers.values()]
    low, high = robust_limits(groups[:1])
    axis = _Axis(column, [np.clip(values, 2 * low - high, 2 * high - low) for values in groups], _MAX_LEVELS_ALONE)
    colors = ["0.4", *(f"C{index}" for index in range(len(groups) - 1))]
    with written_figure(path, _SIZE) as fig:
        panel = fig.subplots()
        _histogram(panel, groups, colors, axis.bins)
        axis.label(panel.xaxis)
        panel.set(xlabel="")
        draw_legend(fig, numbers, colors, loc="outside upper center", ncols=2, fontsize="small")


def p_value_figure(path: str | os.PathLike[str], p_values: Mapping[str, np.ndarray], least: float) -> None:
    """Draws histograms of p-values of groups of rows, multiples of the least one, and a line at the expected 1."""
    num = round(1 / least)
    bins = np.round(np.linspace(0, num, min(num, _BINS // 2) + 1)) / num
    colors = [f"C{index}" for index in range(len(p_values))]
    with written_figure(path, _SIZE) as fig:
        panel = fig.subplots()
        for color, values in zip(colors, p_values.values(), strict=True):
            panel.hist(values - least / 2, bins, density=True, histtype="step", color=color)
        panel.axhline(1, color="0.4", linestyle="--")
        panel.set(xlabel="p-value", ylabel="density", xlim=(0, 1))
        draw_legend(fig, p_values, colors, loc="outside upper center", ncols=2, fontsize="small")


def most_dependent(numbers: np.ndarray, most: int) -> list[int]:
    """Returns the positions of at most `most` columns of numbers `[num, columns]` that depend most on others.

    These have the largest sums of absolute rank correlations.
    """
    correlations = pandas.DataFrame(numbers).rank().corr().abs().sum()
    return sorted(correlations.nlargest(most).index)


def _possible(numbers):
    """Returns numbers with NaN instead of infinity, which stands for values that cannot occur."""
    return np.where(np.isinf(numbers), np.nan, numbers)


def _histogram(panel, groups, colors, bins):
    """Draws histograms of groups of numbers."""
    for color, values in zip(colors, groups, strict=True):
        is_filled = len(groups) > 1 and color == colors[0]
        kind = {"histtype": "stepfilled", "alpha": 0.5} if is_filled else {"histtype": "step"}
        values = values[~np.isnan(values)]
        share = 1 / (max(len(values), 1) * (bins[1] - bins[0]))  # includes values outside the bins
        panel.hist(values, bins, weights=np.full(len(values), share), color=color, **kind)
    panel.set(yticks=[])


class _Axis:
    """The axis of a column: its bins, cell width and ticks."""

    def __init__(self, column, values, most_levels=_MAX_LEVELS):
        self.column = column
        self.most_levels = most_levels
        self.step = 0.0
        self.bins = np.linspace(*robust_limits(values), _BINS + 1)
        if 0 < column.num_cells <= _MAX_CELLS:
            self.step = float(column.cell_width)
            self.bins = column.first_number + self.step * (np.arange(column.num_cells + 1) - 0.5)

    def label(self, axis):
        """Sets the range, the name and the ticks of an axis of the figure."""
        axis.axes.set(**{f"{axis.axis_name}lim": (self.bins[0], self.bins[-1])})
        axis.set_label_text(cut(self.column.name, _LONGEST_LABEL), parse_math=False)
        labels = [cut(label, _LONGEST_LABEL) for label in self.column.tick_labels()]
        has_levels = 0 < len(labels) <= self.most_levels
        has_few_ticks = self.column.most_ticks is not None  # because their labels are long, such as dates
        if has_levels or has_few_ticks:
            axis.set_tick_params(labelsize="small", labelrotation=90 if axis.axis_name == "x" else 0)
        if has_levels:
            axis.set_ticks(range(len(labels)), labels, parse_math=False)
        tick_format = self.column.tick_format()
        if tick_format is not None:
            axis.set_major_formatter(lambda number, _: tick_format(number))
        if has_few_ticks:
            axis.set_major_locator(mpl_ticker.MaxNLocator(self.column.most_ticks))
