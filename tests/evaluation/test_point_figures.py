import numpy as np
import pytest
from matplotlib.collections import PathCollection

from tf_resflow.evaluation import point_figures, points_figure


def normal(num, columns, seed):
    return np.random.default_rng(seed).normal(size=[num, columns])


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_pairs_of_columns(tmp_path, figures):
    samples, data = normal(30, 4, 0), normal(20, 4, 1)
    points_figure(tmp_path / "a.png", {"samples": samples}, {"data": data}, title="four")
    (figure,) = figures
    assert figure.get_suptitle() == "four" and legend(figure) == ["data (20)", "samples (30)"]
    assert len(figure.axes) == 4 + 6
    last = figure.axes[-4:]
    assert [axes.get_xlabel() for axes in last] == [f"column {i}" for i in (1, 2, 3, 4)]
    assert [axes.get_ylabel() for axes in last] == ["column 4", "", "", ""]
    (scatter,) = (part for part in last[1].get_children() if isinstance(part, PathCollection))
    expected = np.concatenate([samples, data])[:, [1, 3]]
    assert sorted(scatter.get_offsets().tolist()) == sorted(expected.tolist())
    colors, counts = np.unique(scatter.get_facecolors(), axis=0, return_counts=True)
    assert len(colors) == 2 and sorted(counts) == [20, 30]
    assert len(last[3].patches) == 2  # histograms


@pytest.mark.parametrize("columns, panels", [(1, 1), (2, 1), (4, 6)])
def test_title_notes_what_is_left_out(tmp_path, figures, monkeypatch, columns, panels):
    monkeypatch.setattr(point_figures, "_MAX_COLUMNS", 3)
    sweep = {f"temperature {t}": t * normal(5001, columns, 0) for t in (0.5, 1.0)}
    points_figure(tmp_path / "a.png", sweep)
    (figure,) = figures
    assert len(figure.axes) == panels and legend(figure) == ["temperature 0.5 (5,001)", "temperature 1.0 (5,001)"]
    title = figure.get_suptitle()
    assert ("columns 1 to 3 of 4" in title) == (columns == 4)
    assert ("the first 5,000 points" in title) == (columns > 1)
    if columns == 1:
        for patch in figure.axes[0].patches:
            (x, y), (x_next, y_next) = patch.get_xy()[:-1].T, patch.get_xy()[1:].T
            assert abs(np.sum(x * y_next - x_next * y)) / 2 == pytest.approx(1, abs=0.02)


def test_outliers_and_nonfinite_points_do_not_set_the_range(tmp_path, figures):
    samples = normal(1000, 2, 0)
    samples[0], samples[1, 1] = 1e6, np.nan
    points_figure(tmp_path / "a.png", {"samples": samples}, {"data": [0.0, 1000.0] * normal(1000, 2, 1)})
    (axes,) = figures[0].axes
    assert legend(figures[0])[1] == "samples (999, 1 not finite)"
    assert 2 < axes.get_xlim()[1] < 5 and 2000 < axes.get_ylim()[1] < 5000
    assert axes.get_aspect() == "auto"
