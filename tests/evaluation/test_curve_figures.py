import math
import pathlib

import numpy as np
import pytest

from tf_resflow import evaluation
from tf_resflow.evaluation import curve_figures

LINES = [
    {"step": 1, "split": "train", "nats": 3.0},
    {"step": 2, "split": "train", "nats": None},
    {"step": 2, "split": "test", "nats": 2.5, "num_examples": 7},
]


def test_lines(tmp_path, figures):
    """Reported and held-out scores, the latter also on training examples; a single point is a mark.

    Values that are not numbers, and the last score on another split, are left out.
    """
    scored = [{"step": step, "split": "train", "nats": 2.0 - step, "num_examples": 7} for step in (1, 2)]
    scored += LINES[2:]
    strange = [{"step": 3, "split": "train", "nats": value} for value in (math.nan, -math.inf, "2.5")]
    runs = {"one": LINES + strange, "train": LINES[:1] + scored}
    evaluation.learning_curves(tmp_path / "curves.png", runs, "nats")
    (axes,) = figures[0].axes
    first, held_out, second, scores, *_ = axes.get_lines()
    for line, points, marker in (
        (first, [[1, 3.0]], "x"),
        (held_out, [[2, 2.5]], "o"),
        (second, [[1, 3.0]], "x"),
        (scores, [[1, 1.0], [2, 0.0]], "None"),
    ):
        assert line.get_xydata().tolist() == points and line.get_marker() == marker
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("training step", "negative log-likelihood (nats)")


def test_the_beginning_and_spikes_do_not_set_the_range(tmp_path, figures):
    steps = np.arange(1, 101)
    values = 2 + 1000 * np.exp(-steps) + 500 * (steps == 60)
    lines = [{"step": int(s), "split": "train", "nats": v} for s, v in zip(steps, values, strict=True)]
    lines += [{"step": s, "split": "test", "nats": 3 - s / 100, "num_examples": 7} for s in (50, 100)]
    evaluation.learning_curves(tmp_path / "curves.png", {"one": lines}, "nats")
    low, high = figures[0].axes[0].get_ylim()
    assert 1.8 < low < 2 and 2.5 < high < 2.7


def test_missing_scores(tmp_path):
    path = tmp_path / "curves.png"
    with pytest.raises(
        ValueError, match="The run 'one' has no held-out 'accuracy'; its metrics are nats, num_ex.* Choose one"
    ):
        evaluation.learning_curves(path, {"one": LINES}, "accuracy")
    assert not path.exists()


def test_runs_with_the_same_name_are_distinguished():
    """A run that is given twice appears once."""
    paths = ["runs/a/x", "runs/b/x", "/else/runs/b/x", "runs/y/", "runs/a/../a/x"]
    names = curve_figures.run_names(paths)
    here = str(pathlib.Path().resolve().name)
    assert list(names) == ["a/x", f"{here}/runs/b/x", "else/runs/b/x", "y"]
    assert list(names.values()) == ["runs/a/../a/x", *paths[1:4]]


def test_suffixes(tmp_path):
    curve_figures.check_figure_path(tmp_path / "curves.SVG")
    with pytest.raises(ValueError, match=r"'curves.docx' should end in .*\.pdf.*\.png"):
        curve_figures.check_figure_path(tmp_path / "curves.docx")
