import numpy as np
import pytest
from scipy import integrate, stats

from tf_resflow.data import DENSITIES, load_density

NUM = 20_000


@pytest.mark.parametrize("name", "8gaussians checkerboard pinwheel rings circles moons 2spirals swissroll".split())
def test_samples_have_the_density_and_its_entropy(name):
    """Runs a chi-square test in 60 x 60 bins, with the density at 16 points per bin."""
    assert len(DENSITIES) == 8
    bins, cells, x = 60, 4, DENSITIES[name].sample(NUM, seed=10)
    side = (np.arange(bins * cells) + 0.5) * 0.05 - 6
    points = np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1).reshape(-1, 2)
    mass = np.exp(DENSITIES[name].log_prob(points)) * 0.05**2
    assert abs(np.sum(mass) - 1) < 1e-3
    expected = NUM * mass.reshape(bins, cells, bins, cells).sum(axis=(1, 3))
    counts = np.histogram2d(*x.T, bins=[np.linspace(-6, 6, bins + 1)] * 2)[0]
    usual = expected >= 5
    expected = np.append(expected[usual], expected[~usual].sum() + 1e-9)
    counts = np.append(counts[usual], counts[~usual].sum())
    chi_square = np.sum((counts - expected) ** 2 / expected)
    assert len(counts) > 30
    assert chi_square < len(counts) + 5 * np.sqrt(2 * len(counts))
    assert x.shape == (NUM, 2) and len(np.unique(x, axis=0)) == NUM
    surprise = -DENSITIES[name].log_prob(x)
    assert abs(np.mean(surprise) - DENSITIES[name].entropy()) <= 4 * np.std(surprise) / np.sqrt(NUM) + 1e-9


def test_pinwheel_is_a_turned_mixture():
    points = np.random.default_rng(2).uniform(-3, 3, size=[300, 2])
    z = (points[:, 0] + 1j * points[:, 1]) / 2
    blade = stats.multivariate_normal([1, 0], [[0.09, 0], [0, 0.01]])
    back = z * np.exp(-1j * (2 * np.pi * np.arange(5)[:, np.newaxis] / 5 + np.exp(np.abs(z)) / 4))
    density = blade.pdf(np.stack([back.real, back.imag], axis=-1)).mean(axis=0) / 4
    np.testing.assert_allclose(DENSITIES["pinwheel"].log_prob(points), np.log(density), rtol=1e-9)


def _moon(u):
    return 2 * np.exp(1j * np.pi * u) - 1 - 0.2j


def _spiral(u):
    return np.pi * np.sqrt(u) * np.exp(-3j * np.pi * np.sqrt(u))


def _circle(radius):
    return lambda u: radius * np.exp(2j * np.pi * u)


CURVES = {  # points as complex numbers, and the standard deviation of the noise
    "8gaussians": ([lambda u, b=b: np.sqrt(8) * np.exp(0.25j * np.pi * b) for b in range(8)], np.sqrt(1 / 8)),
    "rings": ([*map(_circle, (0.75, 1.5, 2.25, 3))], 0.08),
    "circles": ([*map(_circle, (1.5, 3))], 0.24),
    "moons": ([_moon, lambda u: 0.6j - _moon(u)], 0.2),
    "2spirals": ([_spiral, lambda u: -_spiral(u)], 0.1),
    "swissroll": ([lambda u: 0.3 * np.pi * (1 + 2 * u) * np.exp(1.5j * np.pi * (1 + 2 * u))], 0.2),
}


@pytest.mark.parametrize("name", CURVES)
def test_curves_agree_with_adaptive_quadrature(name):
    curves, std = CURVES[name]

    def density(point):
        def integrand(u, curve):
            square = np.abs(curve(u) - complex(*point)) ** 2
            return np.exp(-square / (2 * std**2)) / (2 * np.pi * std**2)

        ends = np.linspace(0, 1, 41)
        pieces = [(*piece, (curve,)) for curve in curves for piece in zip(ends, ends[1:], strict=False)]
        return sum(integrate.quad(integrand, *piece, epsabs=1e-13)[0] for piece in pieces) / len(curves)

    points = DENSITIES[name].sample(8, seed=13)
    expected = np.log([density(point) for point in points])
    np.testing.assert_allclose(DENSITIES[name].log_prob(points), expected, atol=1e-6)


def test_load_density():
    dataset = load_density("moons", num_test=50, num_validation=20)
    assert dataset.sizes == {"test": 50, "validation": 20}
    assert dataset.entropy == DENSITIES["moons"].entropy()
    first = next(iter(dataset.train_batches(20, seed=0)))
    draws = [first.numpy(), dataset.array("test")[:20], dataset.array("validation")]
    assert len(np.unique(np.concatenate(draws), axis=0)) == 60
    np.testing.assert_array_equal(load_density("moons", 50).array("test"), dataset.array("test"))
