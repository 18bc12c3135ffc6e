"""A density of noisy vectors for all noise levels."""

import weakref

import numpy as np
import pytest

import tf_resflow as resflow
from tf_resflow.models.noise_conditioned import NoiseConditionedDensity, Rows, shared_density

SMALL = {"num_blocks": 1, "hidden": (8,)}


def rows(seed, num=60, size=2, given=1):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=[num, size])
    widths = np.tile([0.0, 0.3], [num, 1])
    return Rows(values + 0.5 * values[:, ::-1], widths, rng.normal(size=[num, given]))


def train(density, seed, steps=40):
    return density.train(rows(seed), rows(seed + 1, 20), whiten=bool(seed % 2), seed=seed, steps=steps)[0]


def on_grid(density, weights, given, noise):
    """Returns grid points in a square, and the probabilities of the cells around them."""
    line = np.linspace(-8.0, 8.0, 161)
    grid = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
    points = Rows(grid, np.zeros_like(grid), np.full([len(grid), 1], given))
    return grid, np.exp(density.log_prob(weights, points, [noise])[0]) * (line[1] - line[0]) ** 2


@pytest.fixture(scope="module")
def shared():
    return NoiseConditionedDensity(2, 1, **SMALL)


def test_fits_that_share_graphs_are_independent(shared):
    """Other trainings and scores in between do not change a training or its scores."""
    alone = train(NoiseConditionedDensity(2, 1, **SMALL), 4)
    first = train(shared, 4)
    scores = shared.log_prob(first, rows(9), [0.1])
    other = train(shared, 7, steps=60)
    assert np.abs(shared.log_prob(other, rows(9), [0.1]) - scores).max() > 0.01
    for weights in (first, train(shared, 4)):
        for value, expected in zip(weights, alone, strict=True):
            np.testing.assert_array_equal(value, expected)
    np.testing.assert_array_equal(shared.log_prob(first, rows(9), [0.1]), scores)


@pytest.mark.parametrize("is_exact", [True, False])
def test_scores_do_not_depend_on_other_rows(is_exact, shared, monkeypatch):
    """Scores a row at different positions among other rows, with exact and estimated log-determinants."""
    if not is_exact:
        monkeypatch.setitem(resflow.logdet.estimators._LARGEST_EXACT, "scores", 1)
    density, x = shared if is_exact else NoiseConditionedDensity(2, 1, **SMALL), rows(9, num=600)
    weights, places = train(density, 4), np.array([5, 599, 256, 7, 7, 255])
    scores, again = (density.log_prob(weights, each, [0.5, 0.2]) for each in (x, x.take(places)))
    np.testing.assert_allclose(again, scores[:, places], rtol=0 if is_exact else 1e-5)
    np.testing.assert_allclose(density.log_prob(weights, x, [0.2]), scores[1:], rtol=0 if is_exact else 1e-5)
    assert np.abs(scores[0] - scores[1]).max() > 0.01


def test_densities_integrate_to_one_and_agree_with_samples(shared):
    """Compares moments of 4,000 draws with a grid, within 4.5 standard errors, with and without whitening."""
    for seed in (4, 7):
        weights = train(shared, seed)
        for noise in (0.03, 1.0):
            assert on_grid(shared, weights, 0.5, noise)[1].sum() == pytest.approx(1.0, abs=2e-3)
    grid, probabilities = on_grid(shared, weights, -1.0, 0.3)
    draws = shared.sample(weights, np.full([4000, 1], -1.0), 0.3, seed=0)
    for function in (lambda x: x, lambda x: x**2):
        expected, found = probabilities @ function(grid) / probabilities.sum(), function(draws)
        assert np.all(np.abs(found.mean(axis=0) - expected) < 4.5 * found.std(axis=0) / np.sqrt(4000))


def test_densities_that_are_no_longer_shared_are_freed():
    """Of seven densities of different sizes, at most five exist: four shared ones, and one that is freed next."""
    shared = [weakref.ref(shared_density(size, 0, 1, (4,))) for size in range(1, 8)]
    assert shared[-1]() is not None and sum(density() is not None for density in shared) <= 5


def test_missing_values_are_standard_normal(shared):
    """If the first coordinate is always missing, its density is close to standard normal."""
    x = rows(4)
    x.values[:, 0] = np.nan
    x = x._replace(widths=np.zeros_like(x.values))
    weights, _ = shared.train(x, x, whiten=False, seed=4, steps=200)
    grid, probabilities = on_grid(shared, weights, 0.0, 0.1)
    first = grid[:, 0]
    assert probabilities.sum() == pytest.approx(1.0, abs=0.05)
    assert probabilities @ first == pytest.approx(0.0, abs=0.25)
    assert probabilities @ first**2 == pytest.approx(1.0, abs=0.3)


def test_a_row_is_drawn_in_proportion_to_its_weight():
    """The density of a cluster falls if its rows have weight 0."""
    density, x = NoiseConditionedDensity(1, 0, **SMALL), np.repeat([[-1.0], [1.0]], 50, axis=0)
    nothing = np.zeros([100, 0])
    ends, held_out = Rows(x[[0, 50]], np.zeros([2, 1]), nothing[:2]), Rows(x[50:], 0 * x[50:], nothing[50:])
    scores = []
    for weights in (None, np.repeat([0.0, 1.0], 50)):
        fit, _ = density.train(Rows(x, 0 * x, nothing, weights), held_out, whiten=False, seed=0, steps=100)
        scores.append(density.log_prob(fit, ends, [0.3])[0])
    even, one = scores
    assert one[1] - one[0] > even[1] - even[0] + 1
