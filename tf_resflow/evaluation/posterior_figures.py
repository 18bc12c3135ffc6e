"""Figures of calibration: histograms of ranks, and the expected coverage of credible regions."""

import os
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from tf_resflow.extras import extra
from tf_resflow.writing import whole_file

__all__ = ["coverage_figure", "rank_figure"]

_BAND = 0.99  # the probability with which a calibrated bin, or point of a curve, is inside of its band


def rank_figure(
    path: str | os.PathLike[str],
    ranks: ArrayLike,
    num_draws: int,
    *,
    num_bins: int = 20,
    names: Sequence[str] | None = None,
    title: str = "",
) -> None:
    r"""Draws a histogram of the ranks of each parameter, over the band in which 99 % of uniform ones would be.

    A bin that holds the share p of the L + 1 possible ranks has, of N calibrated data sets,
    \\(\mathrm{Binomial}(N, p)\\).

    Args:
      path: image file to write.
      ranks: integers `[num, dimensions]`, see `calibration_ranks`.
      num_draws: L, the samples among which each has its rank.
      num_bins: most bins; at most L + 1 are drawn.
      names: of the parameters; by default their numbers.
      title: text above the figure.

    Raises:
      ValueError: if a rank is not an integer from 0 to L, or the names do not fit.
    """
    with extra("plots"):
        from matplotlib import figure

    ranks = np.asarray(ranks)
    if ranks.ndim != 2 or not ranks.size or ranks.dtype.kind not in "iu":
        raise ValueError(f"Expected integers [num, dimensions]; got {ranks.dtype} of the shape {ranks.shape}.")
    if ranks.min() < 0 or ranks.max() > num_draws:
        raise ValueError(
            f"Ranks among {num_draws} draws are from 0 to {num_draws}; got {ranks.min()} to {ranks.max()}. Give "
            "the number of draws for each data set as num_draws."
        )
    num, dimensions = ranks.shape
    names = [f"parameter {i + 1}" for i in range(dimensions)] if names is None else list(names)
    if len(names) != dimensions:
        raise ValueError(f"Expected {dimensions} names, one for each parameter; got {len(names)}.")
    edges = np.linspace(0, num_draws + 1, min(num_bins, num_draws + 1) + 1).round() - 0.5
    share = np.diff(edges) / (num_draws + 1)
    low, high = stats.binom.interval(_BAND, num, share)
    columns = min(dimensions, 4)
    rows = -(-dimensions // columns)
    fig = figure.Figure(figsize=(3.2 * columns, 2.4 * rows + 0.5), layout="constrained")
    grid = fig.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    for axes, name, column in zip(grid, names, ranks.T, strict=False):
        axes.stairs(high, edges, baseline=low, fill=True, color="0.85", label=f"{_BAND:.0%} of uniform ranks")
        axes.stairs(np.histogram(column, edges)[0], edges, color="C0", linewidth=1.5, label="ranks")
        axes.set(xlabel=f"rank of {name}", ylim=(0, None), xlim=edges[[0, -1]])
    for axes in grid[dimensions:]:
        axes.remove()
    grid[0].set_ylabel("data sets")
    fig.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize="small")
    fig.suptitle(title)
    with whole_file(path) as temporary:
        fig.savefig(temporary, dpi=110)


def coverage_figure(path: str | os.PathLike[str], levels: Mapping[str, ArrayLike], *, title: str = "") -> None:
    """Draws the expected coverage of credible regions over their mass, and the band of a calibrated posterior.

    Below the diagonal a posterior is overconfident, above it too wide. At each mass 99 % of the curves of as many
    calibrated data sets as the first one has are in the band.

    Args:
      path: image file to write.
      levels: dict of name to the levels `[num]` of a posterior, see `coverage_levels`.
      title: text above the figure.

    Raises:
      ValueError: if there are none, or a level is not between 0 and 1.
    """
    with extra("plots"):
        from matplotlib import figure

    curves = {name: np.sort(np.asarray(values)) for name, values in levels.items()}
    if not curves:
        raise ValueError("There are no levels to draw: give a dict of name to levels.")
    for name, values in curves.items():
        if values.ndim != 1 or not values.size or not np.all((values >= 0) & (values <= 1)):
            raise ValueError(
                f"{name!r}: expected levels [num] between 0 and 1, of coverage_levels; got values of the shape "
                f"{values.shape}."
            )
    mass = np.linspace(0, 1, 201)
    first = next(iter(curves.values()))
    fig = figure.Figure(figsize=(4.6, 4.4), layout="constrained")
    axes = fig.subplots()
    band = stats.binom.interval(_BAND, len(first), mass)
    axes.fill_between(mass, *(edge / len(first) for edge in band), color="0.85", label=f"{_BAND:.0%} if calibrated")
    axes.plot([0, 1], [0, 1], color="0.5", linewidth=1)
    for name, values in curves.items():
        axes.plot(mass, np.searchsorted(values, mass, side="right") / len(values), label=name)
    axes.set(
        xlabel="mass of the region",
        ylabel="expected coverage",
        xlim=(0, 1),
        ylim=(0, 1),
        aspect="equal",
        title=title,
    )
    axes.legend(loc="upper left", fontsize="small")
    with whole_file(path) as temporary:
        fig.savefig(temporary, dpi=110)
