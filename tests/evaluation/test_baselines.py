import numpy as np
import pytest
from scipy import stats

from tf_resflow.evaluation import baselines


def test_uniform():
    assert baselines.uniform_baseline(256) == 8.0
    assert baselines.uniform_baseline(17) == pytest.approx(np.log(17) / np.log(2))


def test_gaussian_of_continuous_data():
    generator = np.random.default_rng(0)
    mixing = generator.normal(size=[5, 5])
    train, test = generator.normal(size=[300, 5]) @ mixing + 7.0, generator.normal(size=[50, 5])
    gaussian = stats.multivariate_normal(train.mean(0), np.cov(train.T, bias=True))
    expected = -gaussian.logpdf(test).mean()
    assert baselines.gaussian_baseline(train, test, chunk=64) == pytest.approx(expected, rel=1e-9)


def test_gaussian_of_integers_is_the_mean_over_the_noise():
    """The closed form against scipy on 400 noisy copies: within 4 standard errors of their mean."""
    generator = np.random.default_rng(1)
    levels, copies = 5, 400
    latent = generator.normal(size=[60, 1]) + generator.normal(size=[60, 6])
    images = np.clip(np.floor(latent + 2.5), 0, levels - 1).astype(np.uint8).reshape(60, 2, 3, 1)
    train, test = images[:40], images[40:]

    def cell_noise(x):
        return (x.reshape(len(x), 6) + generator.uniform(size=[copies, len(x), 6])) / levels

    noisy = cell_noise(train)
    centres = (train.reshape(40, 6) + 0.5) / levels
    covariance = np.cov(centres.T, bias=True) + np.eye(6) / (12 * levels**2)
    error = np.cov(noisy.reshape(-1, 6).T, bias=True) - covariance
    assert np.abs(error).max() < 2e-3
    scores = -stats.multivariate_normal(centres.mean(0), covariance).logpdf(cell_noise(test))
    scores = scores.mean(axis=1) / (6 * np.log(2)) + np.log2(levels)
    result = baselines.gaussian_baseline(train, test, levels)
    assert abs(result - scores.mean()) < 4 * scores.std() / np.sqrt(copies)
    assert scores.std() / np.sqrt(copies) < 5e-3


def test_a_singular_covariance_is_an_error():
    train = np.ones([10, 3])
    with pytest.raises(ValueError, match="singular"):
        baselines.gaussian_baseline(train, train)
