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


def test_groups_of_points(tmp_path, figures):
    groups = {f"t = {t}": t * np.random.default_rng(t).normal(size=[num, 2]) for t, num in ((1, 30), (2, 5001))}
    points_figure(tmp_path / "a.png", groups, title="plane")
    (figure,) = figures
    (axes,) = figure.axes
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["t = 1 (30)", "t = 2 (5,001)"]
    assert figure.get_suptitle() == "plane" and (axes.get_xlabel(), axes.get_ylabel()) == ("x", "y")
    (scatter,) = (part for part in axes.get_children() if isinstance(part, PathCollection))
    expected = np.concatenate([groups["t = 1"], groups["t = 2"][:5000]])
    assert sorted(scatter.get_offsets().tolist()) == sorted(expected.tolist())
    colors, counts = np.unique(scatter.get_facecolors(), axis=0, return_counts=True)
    assert len(colors) == 2 and sorted(counts) == [30, 5000]
