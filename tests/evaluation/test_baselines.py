import itertools

import numpy as np
import pytest
from scipy import stats

from tf_resflow.evaluation import gaussian_baseline, gaussians


def test_gaussian_of_continuous_data(monkeypatch):
    monkeypatch.setattr(gaussians, "_CHUNK", 64)
    generator = np.random.default_rng(0)
    mixing = generator.normal(size=[5, 5])
    train, test = generator.normal(size=[300, 5]) @ mixing + 7.0, generator.normal(size=[50, 5])
    gaussian = stats.multivariate_normal(train.mean(0), np.cov(train.T, bias=True))
    expected = -gaussian.logpdf(test).mean()
    assert gaussian_baseline(train, test) == pytest.approx(expected, rel=1e-9)


def test_gaussian_of_integers_is_the_mean_over_the_noise():
    """Compares images of 6 pixels with 2-point Gaussian quadrature in the cells of the unit cube."""
    images = np.random.default_rng(1).integers(5, size=[60, 2, 3, 1]).astype(np.uint8)
    centers = (images.reshape(60, 6) + 0.5) / 5
    nodes = [np.array(signs) / 5 / np.sqrt(12) for signs in itertools.product([-1, 1], repeat=6)]
    covariance = np.cov(centers[:40].T, bias=True) + np.eye(6) / (12 * 5**2)
    gaussian = stats.multivariate_normal(centers[:40].mean(0), covariance)
    expected = -np.mean([gaussian.logpdf(centers[40:] + node) for node in nodes]) / (6 * np.log(2)) + np.log2(5)
    assert gaussian_baseline(images[:40], images[40:], 5) == pytest.approx(expected, rel=1e-9)


A, B = np.random.default_rng(2).normal(1e4, 1.0, size=[2, 300]) * [[1.0], [1e3]]
DEPENDENT = np.stack([A, B, A + B], axis=1)


@pytest.mark.parametrize("train", [np.ones([10, 3]), DEPENDENT.astype("f"), DEPENDENT])
def test_a_covariance_that_is_singular_up_to_rounding_is_an_error(refused, train):
    refused("singular.*Remove", gaussian_baseline, train, train)


@pytest.mark.parametrize("dtype, noise", [(np.float32, 1e-4), (np.float64, 1e-6)])
def test_nearly_dependent_columns_have_a_density(dtype, noise):
    """The columns a, b and a + b + e have the density of (a, b, e), which is well conditioned after scaling e."""
    generator = np.random.default_rng(4)
    a, b, e = generator.normal(size=[3, 200]) * [[1.0], [1.0], [noise]]
    train = np.stack([a, b, a + b + e], axis=1).astype(dtype)
    rotated = train.astype(np.float64)
    rotated[:, 2] = (rotated[:, 2] - rotated[:, 0] - rotated[:, 1]) / noise
    gaussian = stats.multivariate_normal(rotated.mean(0), np.cov(rotated.T, bias=True))
    expected = np.log(noise) - gaussian.logpdf(rotated).mean()
    assert gaussian_baseline(train, train) == pytest.approx(expected, abs=1e-3)
