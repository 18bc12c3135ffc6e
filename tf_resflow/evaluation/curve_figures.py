"""A figure with the learning curves of runs."""

import collections
import math
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tf_resflow.extras import extra
from tf_resflow.writing import check_output_path, whole_file

__all__ = ["check_figure_path", "learning_curves", "run_names"]

_LABELS = {
    "bits_per_dim": "negative log-likelihood (bits/dim)",
    "nats": "negative log-likelihood (nats)",
    "steps_per_second": "steps / s",
}
_BEGINNING = 0.1  # the share of the training that the range of the axis ignores


def check_figure_path(path: str | os.PathLike[str]) -> None:
    """Checks, before any long work, that a figure can be written.

    Args:
      path: file to write.

    Raises:
      ValueError: when matplotlib does not know the suffix, or the file cannot be written.
    """
    with extra("plots"):
        from matplotlib import figure

    check_output_path(path, [f".{kind}" for kind in sorted(figure.Figure().canvas.get_supported_filetypes())])


def run_names(workdirs: Iterable[str | os.PathLike[str]]) -> dict[str, str | os.PathLike[str]]:
    """Names runs by the shortest ends of their paths that distinguish them.

    Args:
      workdirs: paths of the runs.

    Returns:
      A dict of name to path with each run once.
    """
    paths = {pathlib.Path(workdir).expanduser().resolve(): workdir for workdir in workdirs}

    def name(path):
        for length in range(1, len(path.parts) + 1):
            end = path.parts[-length:]
            if [other.parts[-length:] for other in paths].count(end) == 1:
                break
        return str(pathlib.PurePath(*end))

    return {name(path): workdir for path, workdir in paths.items()}


def learning_curves(
    path: str | os.PathLike[str],
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    key: str,
    *,
    ylabel: str | None = None,
) -> None:
    """Draws the held-out score of each run over its steps, and the score that its training reported.

    The reported score comes from the training estimator. A gap to the held-out score that overfitting does not
    explain is the bias of that estimator: a truncated series reports a density that the model does not have (see
    `tf_resflow.logdet.PowerSeries`).

    The range of the axis comes from the scores after the first tenth of the steps; the start of a run and single
    outliers may lie outside it.

    Args:
      path: image file to write.
      runs: dict of name to the lines of metrics.jsonl, see `tf_resflow.training.read_metrics`.
      key: name of the score, such as "bits_per_dim", "nats" or "accuracy".
      ylabel: label of the axis; by default the key, spelled out.

    Raises:
      ValueError: when a run does not have this score.
    """
    with extra("plots"):
        from matplotlib import figure

    fig = figure.Figure(figsize=(7.5, 4), layout="constrained")
    axes = fig.subplots()
    curves = []
    for index, (name, lines) in enumerate(runs.items()):
        color = f"C{index}"
        reported, held_out = _points(lines, key)
        if not len(held_out):
            known = ", ".join(sorted({k for line in lines for k in line} - {"step", "split"})) or "none"
            raise ValueError(
                f"The run {name!r} has no held-out {key!r}; its metrics are {known}. Choose one that all runs have."
            )
        axes.plot(*reported.T, ":", color=color, marker="x" if len(reported) == 1 else None)
        axes.plot(*held_out.T, "-", color=color, marker="o" if len(held_out) == 1 else None, label=name)
        curves += [reported, held_out]
    axes.plot([], [], "k:", label="reported by the training")
    axes.plot([], [], "k-", label="held out")
    axes.set(xlabel="training step", ylabel=ylabel or _LABELS.get(key, key.replace("_", " ")), ylim=_range(curves))
    axes.grid(alpha=0.3)
    fig.legend(loc="outside right upper")  # where no curve is
    with whole_file(path) as temporary:
        fig.savefig(temporary, dpi=110)


def _points(lines, key):
    """The steps and values that training logged, and the scores on the split that has most of them."""
    points: dict[str | None, list] = collections.defaultdict(list)
    for line in lines:
        if _is_finite(line.get(key)):
            is_score = line["split"] != "train" or "num_examples" in line
            points[line["split"] if is_score else None].append((line["step"], line[key]))
    reported = points.pop(None, [])
    held_out = max(points.values(), key=len, default=[])
    return np.reshape(reported, [-1, 2]), np.reshape(held_out, [-1, 2])


def _is_finite(value):
    return isinstance(value, (int, float)) and math.isfinite(value)


def _range(curves, outside=0.02, margin=0.06):
    """Limits of the y axis, from each curve after its beginning."""
    late = [curve[curve[:, 0] >= _BEGINNING * np.max(curve[:, 0]), 1] for curve in curves if len(curve)]
    low = min(np.quantile(values, outside, method="nearest") for values in late)
    high = max(np.quantile(values, 1 - outside, method="nearest") for values in late)
    pad = margin * (high - low) or 0.05 * abs(low) or 1.0
    return low - pad, high + pad
