import numpy as np
import pytest
from PIL import Image
from scipy import stats

from tf_resflow.evaluation import density_figure, figures_2d, paths_figure


def test_the_grid_covers_the_density():
    normal = stats.multivariate_normal([1.0, -2.0], [[1.0, 0.3], [0.3, 0.5]])
    limits = [(-5.0, 7.0), (-7.0, 3.0)]
    logs = figures_2d._on_grid(normal.logpdf, limits, resolution=200, batch=999)
    mass = np.exp(logs) * (12 / 200) * (10 / 200)
    np.testing.assert_allclose(mass.sum(), 1.0, rtol=1e-6)
    x = -5 + 12 * (np.arange(200) + 0.5) / 200
    y = -7 + 10 * (np.arange(200) + 0.5) / 200
    np.testing.assert_allclose([mass.sum(0) @ x, mass.sum(1) @ y], [1.0, -2.0], atol=1e-6)


@pytest.mark.parametrize("scale, aspect", [(1.0, 1.0), (500.0, "auto")])
def test_data_density_and_samples_are_on_one_scale(tmp_path, figures, scale, aspect):
    """For a normal distribution whose second column has another unit."""
    normal = stats.multivariate_normal([0, 0], [1, scale**2])
    data, samples = (normal.rvs(num, random_state=num) for num in (20_000, 5000))
    calls = []

    def log_prob(points):
        calls.append(points.dtype)
        return normal.logpdf(points)

    density_figure(tmp_path / "density.png", data, samples, log_prob, resolution=40)
    left, middle, right, bar = figures[0].axes
    assert bar.get_ylabel() == "density (1 / unit²)"
    assert [axes.get_title() for axes in (left, right)] == ["data (20,000)", "samples (5,000)"]
    for axes in (left, middle, right):
        (image,) = axes.get_images()
        assert axes.get_aspect() == aspect and image.norm is left.get_images()[0].norm
        (x, y), values = np.diff([axes.get_xlim(), axes.get_ylim()])[:, 0], image.get_array()
        assert np.sum(values) * x * y / values.size == pytest.approx(1, abs=0.02)
        assert np.max(values) == pytest.approx(1 / (2 * np.pi * scale), rel=0.35)
    assert set(calls) == {np.dtype(np.float32)}
    assert np.asarray(Image.open(tmp_path / "density.png")).std() > 10


def test_paths_are_lines_over_the_log_density(tmp_path, figures):
    paths = np.random.default_rng(0).normal(size=[6, 6, 2])
    for square, lines in ((False, list(paths)), (True, [*paths, *paths.swapaxes(0, 1)])):
        density = {"log_prob": lambda x: -100 * np.sum(x**2, -1), "resolution": 20}
        paths_figure(tmp_path / "p.png", paths, [[9.0, -9.0]], square=square, title="title", **density)
        axes, bar = figures[-1].axes
        assert (axes.get_title(), bar.get_ylabel()) == ("title", "log density (nats)")
        *drawn, marks = axes.get_lines()
        for line, points in zip(drawn, lines, strict=True):
            np.testing.assert_array_equal(line.get_xydata(), points)
        ends = paths[[0, -1]][:, [0, -1]] if square else paths[:, [0, -1]]
        assert sorted(marks.get_xydata().tolist()) == sorted(ends.reshape(-1, 2).tolist())
        low, high = axes.get_images()[0].get_clim()
        assert high - low == pytest.approx(12)
        assert axes.get_xlim()[0] < paths[..., 0].min() and axes.get_xlim()[1] > 9
        assert axes.get_ylim()[0] < -9 and axes.get_ylim()[1] > paths[..., 1].max()
