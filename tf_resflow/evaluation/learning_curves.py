"""The learning curves of runs in one figure."""

import collections
import math
import pathlib

import numpy as np

from tf_resflow.extras import extra
from tf_resflow.writing import check_output_path, whole_file

__all__ = ["check_figure_path", "learning_curves", "run_names"]

_LABELS = {
    "bits_per_dim": "negative log-likelihood (bits/dim)",
    "nats": "negative log-likelihood (nats)",
    "steps_per_second": "steps / s",
}
_BEGINNING = 0.1  # of the training, which does not choose the range of the axis


def check_figure_path(path):
    """Checks that a figure can be written, before any long work.

    Args:
      path: file to write.

    Raises:
      ValueError: when matplotlib does not know its suffix, or it cannot be written.
    """
    with extra("plots"):
        from matplotlib import figure

    check_output_path(path, [f".{kind}" for kind in sorted(figure.Figure().canvas.get_supported_filetypes())])


def run_names(workdirs):
    """The names by which to tell runs apart: the ends of their paths, as short as that can be.

    Args:
      workdirs: list of paths.

    Returns:
      A dict of name to path, each run once.
    """
    paths = {pathlib.Path(workdir).expanduser().resolve(): workdir for workdir in workdirs}

    def name(path):
        for length in range(1, len(path.parts) + 1):
            end = path.parts[-length:]
            if [other.parts[-length:] for other in paths].count(end) == 1:
                break
        return str(pathlib.PurePath(*end))

    return {name(path): workdir for path, workdir in paths.items()}


def learning_curves(path, runs, key, ylabel=None):
    """Draws, over the steps, a held-out score of each run, and beside it what its training reported.

    The reported score is that of the estimator that trains. Where its gap to the held-out score is not one of data,
    it is the bias of that estimator: a truncated series reports what the model has not (see
    `tf_resflow.logdet.PowerSeries`).

    The axis has the range of what came after the first tenth of the steps: what a run begins with, and single
    outliers, may lie outside.

    Args:
      path: image file to write.
      runs: dict of name to the lines of metrics.jsonl, see `tf_resflow.training.read_metrics`.
      key: name of the score, such as "bits_per_dim", "nats" or "accuracy".
      ylabel: of the axis; by default it is the key, or what that stands for.

    Raises:
      ValueError: when a run has no such score.
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
            raise ValueError(f"The run {name!r} has no held-out {key!r}; its metrics are {known}.")
        axes.plot(*reported.T, ":", color=color, marker="x" if len(reported) == 1 else None)
        axes.plot(*held_out.T, "-", color=color, marker="o" if len(held_out) == 1 else None, label=name)
        curves += [reported, held_out]
    axes.plot([], [], "k:", label="reported by the training")
    axes.plot([], [], "k-", label="held out")
    axes.set(xlabel="training step", ylabel=ylabel or _LABELS.get(key, key.replace("_", " ")), ylim=_range(curves))
    axes.grid(alpha=0.3)
    axes.legend()
    with whole_file(path) as temporary:
        fig.savefig(temporary, dpi=110)


def _points(lines, key):
    """The steps and values of what training logged, and of the scores on the split that has most of them."""
    points = collections.defaultdict(list)
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
    """Limits of the y axis, by what follows the beginning of each curve."""
    late = [curve[curve[:, 0] >= _BEGINNING * np.max(curve[:, 0]), 1] for curve in curves if len(curve)]
    low = min(np.quantile(values, outside, method="nearest") for values in late)
    high = max(np.quantile(values, 1 - outside, method="nearest") for values in late)
    pad = margin * (high - low) or 0.05 * abs(low) or 1.0
    return low - pad, high + pad
