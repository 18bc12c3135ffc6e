"""Contents of the figures."""

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from PIL import Image
from scipy import stats

from tf_resflow.evaluation import figures as module
from tf_resflow.evaluation.figures import density_figure, points_figure


@pytest.mark.parametrize("scale, aspect", [(1.0, 1.0), (500.0, "auto")])
def test_data_density_and_samples_are_on_one_scale(tmp_path, figures, monkeypatch, scale, aspect):
    """The columns of a normal distribution have different units. Each panel has its own mean."""
    normal = stats.multivariate_normal([1, -2 * scale], [1, scale**2])
    data, samples = (normal.rvs(num, random_state=num) for num in (20_000, 5000))
    samples += [0.3, 0.3 * scale]
    monkeypatch.setattr(module, "_RESOLUTION", 40)
    density_figure(tmp_path / "density.png", data, samples, normal.logpdf)
    *panels, bar = figures[0].axes
    assert bar.get_ylabel() == "density (1 / unit²)"
    names = [(axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) for axes in panels]
    assert names[0] == ("x", "y", "data (20,000)") and names[2] == ("x", "", "samples (5,000)")
    for axes, shift in zip(panels, (0, 0, 0.3), strict=True):
        (image,) = axes.get_images()
        assert axes.get_aspect() == aspect and image.norm is panels[0].get_images()[0].norm
        limits, values = np.array([axes.get_xlim(), axes.get_ylim()]), image.get_array()
        sides = limits[:, 1] - limits[:, 0]
        assert np.sum(values) * np.prod(sides) / values.size == pytest.approx(1, abs=0.02)
        shares = [values.sum(axis) @ (np.arange(len(values)) + 0.5) / len(values) / values.sum() for axis in (0, 1)]
        np.testing.assert_allclose((limits[:, 0] + sides * shares) / [1, scale], [1 + shift, -2 + shift], atol=0.1)
        assert np.max(values) == pytest.approx(1 / (2 * np.pi * scale), rel=0.35)
    assert np.asarray(Image.open(tmp_path / "density.png")).std() > 10


def normal(num, columns, seed):
    return np.random.default_rng(seed).normal(size=[num, columns])


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_pairs_of_columns(tmp_path, figures):
    samples, data = normal(30, 4, 0), normal(20, 4, 1)
    points_figure(tmp_path / "a.png", {"samples": samples}, {"data": data}, columns="abcd", title="four")
    (figure,) = figures
    assert figure.get_suptitle() == "four" and legend(figure) == ["data (20)", "samples (30)"]
    assert len(figure.axes) == 4 + 6
    last = figure.axes[-4:]
    assert [axes.get_xlabel() for axes in last] == ["a", "b", "c", "d"]
    assert [axes.get_ylabel() for axes in last] == ["d", "", "", ""]
    (scatter,) = (part for part in last[1].get_children() if isinstance(part, PathCollection))
    expected = np.concatenate([samples, data])[:, [1, 3]]
    assert sorted(scatter.get_offsets().tolist()) == sorted(expected.tolist())
    colors, counts = np.unique(scatter.get_facecolors(), axis=0, return_counts=True)
    assert len(colors) == 2 and sorted(counts) == [20, 30]
    assert len(last[3].patches) == 2  # histograms


@pytest.mark.parametrize("columns, panels", [(1, 1), (2, 1), (4, 6)])
def test_title_notes_what_is_left_out(tmp_path, figures, monkeypatch, columns, panels):
    monkeypatch.setattr(module, "_MAX_COLUMNS", 3)
    sweep = {f"temperature {t}": t * normal(5001, columns, 0) for t in (0.5, 1.0)}
    points_figure(tmp_path / "a.png", sweep)
    (figure,) = figures
    assert len(figure.axes) == panels and legend(figure) == ["temperature 0.5 (5,001)", "temperature 1.0 (5,001)"]
    title = figure.get_suptitle()
    assert ("columns 1 to 3 of 4" in title) == (columns == 4)
    assert ("the first 5,000 points" in title) == (columns > 1)
    for patch in figure.axes[0].patches if columns == 1 else ():
        (x, y), (x_next, y_next) = patch.get_xy()[:-1].T, patch.get_xy()[1:].T
        assert abs(np.sum(x * y_next - x_next * y)) / 2 == pytest.approx(1, abs=0.02)
