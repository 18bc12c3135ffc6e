import numpy as np
from PIL import Image
from scipy import stats

from tf_resflow.evaluation import figures_2d


def test_the_grid_covers_the_density():
    normal = stats.multivariate_normal([1.0, -2.0], [[1.0, 0.3], [0.3, 0.5]])
    extent = [-5.0, 7.0, -7.0, 3.0]
    logs = figures_2d._on_grid(normal.logpdf, extent, resolution=200, batch=999)
    mass = np.exp(logs) * (12 / 200) * (10 / 200)
    np.testing.assert_allclose(mass.sum(), 1.0, rtol=1e-6)
    x = -5 + 12 * (np.arange(200) + 0.5) / 200
    y = -7 + 10 * (np.arange(200) + 0.5) / 200
    np.testing.assert_allclose([mass.sum(0) @ x, mass.sum(1) @ y], [1.0, -2.0], atol=1e-6)


def test_figure_is_written(tmp_path):
    data = np.random.default_rng(0).normal(size=[500, 2])
    calls = []

    def log_prob(points):
        calls.append(points.dtype)
        return -np.sum(points**2, axis=-1)

    figures_2d.density_figure(tmp_path / "density.png", data, data[:100], log_prob, resolution=40)
    pixels = np.asarray(Image.open(tmp_path / "density.png"))
    assert pixels.std() > 10
    assert set(calls) == {np.dtype(np.float32)}
