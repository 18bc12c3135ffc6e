"""A flow that models noisy vectors at all noise levels."""

import weakref

import numpy as np
import pytest

import tf_resflow as resflow
from tf_resflow.tables.coordinates import Vectors
from tf_resflow.tables.noise_conditioned import NoiseConditionedFlow, is_significant, noise_code, shared_flow

SMALL = {"num_blocks": 1, "hidden": (8,)}


def rows_of(values, condition, widths=0.0, is_blank=False):
    """Returns the `Vectors` of rows."""
    widths, is_blank = (np.zeros(values.shape) + part for part in (widths, is_blank))
    nothing, ends = np.zeros(len(values)), np.zeros([*values.shape, 2], bool)
    return Vectors(values, widths, ends, is_blank > 0, nothing, nothing, condition)


def random_rows(seed, num=60):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=[num, 2])
    return rows_of(values + 0.5 * values[:, ::-1], rng.normal(size=[num, 1]), widths=[0.0, 0.3])


def train(flow, seed, steps=40):
    rows, held_out, options = random_rows(seed), random_rows(seed + 1, 20), {"seed": seed, "steps": steps}
    return flow.train(rows, held_out, np.ones(60), np.ones(20), whiten=bool(seed % 2), **options)[0]


def scores(flow, weights, rows, noise):
    """Returns the log-densities of vectors at a noise level."""
    code = np.full([len(rows.lower), 1], noise_code(noise))
    return flow.log_prob(weights, np.hstack([rows.lower, code, rows.condition]))


def on_grid(flow, weights, given, noise):
    """Returns grid points in a square, and the probabilities of the cells around them."""
    line = np.linspace(-8.0, 8.0, 161)
    grid = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
    points = rows_of(grid, np.full([len(grid), 1], given))
    return grid, np.exp(scores(flow, weights, points, noise)) * (line[1] - line[0]) ** 2


@pytest.fixture(scope="module")
def shared():
    return NoiseConditionedFlow(2, 1, **SMALL)


@pytest.mark.parametrize("is_exact", [True, False])
def test_scores_do_not_depend_on_other_rows(is_exact, shared, monkeypatch):
    """Scores a row at different positions among other rows, with exact and estimated log-determinants."""
    if not is_exact:
        monkeypatch.setitem(resflow.logdet.estimators._LARGEST_EXACT, "scores", 1)
    flow, rows = shared if is_exact else NoiseConditionedFlow(2, 1, **SMALL), random_rows(9, num=600)
    weights, places = train(flow, 4), np.array([5, 599, 256, 7, 7, 255])
    chosen = Vectors(*(part[places] for part in rows))
    whole, some = (scores(flow, weights, each, 0.2) for each in (rows, chosen))
    np.testing.assert_allclose(some, whole[places], rtol=0 if is_exact else 1e-5)
    assert np.abs(scores(flow, weights, rows, 0.5) - whole).max() > 0.01


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


def test_flows_that_are_no_longer_shared_are_freed():
    """Of seven flows of different sizes, at most five exist: four shared ones, and one that is freed next."""
    shared = [weakref.ref(shared_flow(size, 0, 1, (4,))) for size in range(1, 8)]
    assert shared[-1]() is not None and sum(flow() is not None for flow in shared) <= 5


def test_a_far_row_decides_nothing():
    """The other 99 gains have mean 0.1 and deviation 0.2, so their mean is five standard errors."""
    gains = 0.1 + 0.2 * np.random.default_rng(0).normal(size=100)
    gains[3] = -1000.0
    assert is_significant(gains, np.ones(100)) and not is_significant(-gains, np.ones(100))
    assert is_significant(gains, np.where(np.arange(100) == 3, 0.0, 1.0))  # the far row has weight 0
    assert not is_significant(gains - 0.1, np.ones(100))
