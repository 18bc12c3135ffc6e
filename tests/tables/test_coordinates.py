"""`Coordinates` and `Category`: densities of vectors are densities of rows."""

import itertools

import numpy as np
import pandas
import pytest
import tensorflow as tf
from scipy import special, stats

from tests.tables.test_encoder import COLUMNS, GIVEN, KINDS, restored, vectors_of
from tf_resflow.tables import TableEncoder
from tf_resflow.tables.category import Category

pytestmark = pytest.mark.quick
LINES = [name for name in KINDS if KINDS[name] != "category"]


def cells_of(vectors):
    """Returns the edges of the cells of values. The end cells are infinite."""
    lower = np.where(vectors.ends[..., 0], -np.inf, vectors.values)
    return lower, np.where(vectors.ends[..., 1], np.inf, vectors.values + vectors.widths)


def masses_of(vectors):
    """Returns the standard normal probabilities of cells."""
    lower, upper = cells_of(vectors)
    return stats.norm.cdf(upper) - stats.norm.cdf(lower)


@pytest.mark.parametrize("name", LINES)
def test_a_density_of_vectors_is_a_density_of_rows(name):
    """A normal density of vectors sums to 1 over all cells of a column, plus the integral over other numbers."""
    table = pandas.DataFrame({"x": COLUMNS[name][1](300, np.random.default_rng(1))})
    encoder = TableEncoder(table, kinds={"x": KINDS[name]} if name in GIVEN else None)
    if has_tails := name in ("large whole number", "gain"):
        first = 0 if name == "gain" else -1000  # the cell of 0, the smallest gain, includes all values below
        values = pandas.DataFrame({"x": np.arange(first, 100_000)})  # a part, because the cells continue
    else:
        grid = np.linspace(-30.0, 30.0, 200_001) if encoder.columns[0].is_discrete else None
        grid = np.sinh(np.linspace(-4.5, 4.5, 16_001)) if grid is None else grid
        values = encoder.decode(grid[:, np.newaxis]).drop_duplicates()
    vectors, numbers = vectors_of(encoder, values), encoder.numbers(values).values[:, 0]
    is_cell = vectors.widths[:, 0] > 0
    if isinstance(KINDS[name], set) and not has_tails:
        assert set(values["x"][is_cell]) == KINDS[name]
    else:
        assert is_cell.all() or not is_cell.any()
    np.testing.assert_allclose(vectors.log_scale[is_cell], np.log(vectors.widths[is_cell, 0]))
    assert not vectors.ends[~is_cell].any()
    total = masses_of(vectors)[is_cell].sum()
    density = np.exp(stats.norm.logpdf(vectors.values[:, 0]) + vectors.log_scale)[~is_cell]
    total += np.trapezoid(density, numbers[~is_cell])
    if has_tails:  # neighboring cells have the same edges
        lower, upper = cells_of(vectors)
        assert total == pytest.approx(stats.norm.cdf(upper.max()) - stats.norm.cdf(lower.min()), rel=1e-6)
    else:
        assert total == pytest.approx(1.0, abs=1e-9 if is_cell.all() else 2e-3)


@pytest.mark.parametrize("num", [1, 2, 3, 12])
def test_categories(num):
    """Levels have the probabilities of `Category`, with rare and absent levels. Draws have their frequencies.

    Compares 100,000 draws from the noise of each level and from a normal density, within 4.5 standard errors.
    """
    rng = np.random.default_rng(num)
    shares = rng.dirichlet(np.ones(num))
    numbers = rng.choice(num, 300, p=shares).astype(float)
    own = Category.fit(0, num, np.where(numbers == num - 1, 0, np.where(numbers == 1, np.nan, numbers)))
    assert own.shares.sum() == pytest.approx(1.0) and own.shares.min() > 0 and own.points.shape == (num, own.size)

    def log_joint(z):
        parts = [stats.norm.logpdf(z, point, own.deviation).sum(axis=-1) for point in own.points]
        return np.log(own.shares) + np.stack(parts, axis=-1)

    pairs = [*itertools.combinations(range(num), 2)] or [(0, 0)]
    nearest, other = min(pairs, key=lambda pair: np.linalg.norm(np.diff(own.points[[*pair]], axis=0)))
    toward = own.points[other] - own.points[nearest] + (num == 1)
    center = own.points[nearest] + 1.5 * own.deviation * toward / np.linalg.norm(toward)
    few = center + 2 * own.deviation * rng.normal(size=[40, own.size])
    np.testing.assert_allclose(own.log_density(few), special.logsumexp(log_joint(few), axis=1), rtol=1e-9)
    u = (np.arange(10_000) + 0.5) / 10_000
    for z, shares in zip(few, special.softmax(log_joint(few), axis=1), strict=True):
        drawn = own.level(np.tile(z, [len(u), 1]), u).numpy().astype(int)
        np.testing.assert_allclose(np.bincount(drawn, minlength=num) / len(u), shares, atol=2e-4)
    noise = rng.normal(size=[100_000, own.size])
    points, log_shares = own.points_of(tf.range(num, dtype=tf.float64))
    means, errors = [], []
    for point, log_share in zip(points.numpy(), log_shares.numpy(), strict=True):
        z = point + own.deviation * noise
        log_p = stats.norm.logpdf(z, center, own.deviation).sum(axis=-1)
        weights = np.exp(log_share + log_p - own.log_density(z))
        means.append(weights.mean())
        errors.append(weights.std() / np.sqrt(len(z)))
    assert abs(sum(means) - 1) < 4.5 * sum(errors) + 1e-9  # the levels share the noise
    drawn = own.level(center + own.deviation * rng.normal(size=noise.shape), rng.uniform(size=len(noise))).numpy()
    frequencies = np.bincount(drawn.astype(int), minlength=num) / len(noise)
    assert num == 1 or 0.01 < frequencies[nearest] < 0.999
    tolerance = 4.5 * np.hypot(errors, np.sqrt(frequencies * (1 - frequencies) / len(noise))) + 1e-9
    is_likely = frequencies > 0.01  # the weights of other levels have long tails
    assert np.all((np.abs(frequencies - means) < tolerance) | ~is_likely) and frequencies[is_likely].sum() > 0.9
    assert np.isneginf(own.points_of(tf.constant([np.inf], tf.float64))[1])


@pytest.mark.parametrize("seed", range(4))
def test_means_over_draws_are_probabilities(seed):
    """The mean of p / q over draws in cells is the mass of p, with up to six end cells. Draws decode.

    p is standard normal in the cells and where values are missing, and m of `Category` at its levels. Compares 16
    means over 256 points with cumulative distribution functions, within 5 standard errors.
    """
    rng = np.random.default_rng(seed)
    names = rng.permutation(["whole number", "whole float", "grid", "ordered", "capped", "rain", "hundreds", "day"])
    names = [*names[: rng.integers(2, 7)], *rng.permutation(["text", "boolean", "number"])[:seed]]
    table = pandas.DataFrame({name: COLUMNS[name][1](200, rng) for name in names})
    table = table.mask(rng.uniform(size=table.shape) < 0.1)
    encoder = restored(TableEncoder(table, kinds={name: GIVEN[name] for name in names if name in GIVEN}))
    table = table[:20]
    numbers, own = encoder.numbers(table).values, encoder.own
    rows = own.vectors(tf.constant(numbers))
    lines = own.is_line.sum()
    parts = type(rows)(*(np.asarray(part) for part in rows))
    p = np.where(parts.widths > 0, masses_of(parts), stats.norm.pdf(parts.values))
    p = np.where(parts.is_missing, 1.0, p / np.where(parts.widths > 0, parts.widths, 1.0))
    expected = p[:, :lines].prod(axis=1)
    means = []
    for sample in range(16):
        points = stats.qmc.Sobol(own.size + 1, rng=sample).random(256)
        tiled = tf.nest.map_structure(lambda x: tf.repeat(x, 256, axis=0), rows)  # noqa: B023
        z, log_q = (part.numpy() for part in own.spread(tiled, np.tile(points, [len(table), 1])))
        is_blank = tiled.is_missing.numpy()
        log_density = np.where(is_blank[:, :lines], 0, stats.norm.logpdf(z[:, :lines])).sum(axis=1)
        log_density += np.where(is_blank, stats.norm.logpdf(z), 0).sum(axis=1)
        start = lines
        for category in own.categories:
            own_log_density = category.log_density(z[:, start : start + category.size]).numpy()
            log_density += np.where(is_blank[:, start], 0, own_log_density)
            start += category.size
        means.append(np.exp(log_density - log_q).reshape(-1, 256).mean(axis=1))
        decoded = own.numbers(z, np.full([len(z), len(names)], 0.5)).numpy()
        is_kept = np.isfinite(np.repeat(numbers, 256, axis=0)) & own.is_line
        np.testing.assert_allclose(decoded[is_kept], np.repeat(numbers, 256, axis=0)[is_kept], atol=1e-6)
    means = np.array(means)
    error = 5 * means.std(axis=0, ddof=1) / 4 + 1e-6
    assert np.all(np.abs(means.mean(axis=0) - expected) < error + 1e-3 * expected)
    assert np.all(error < 0.1 * expected + 1e-5)


def test_powers_go_on_linearly_beyond_the_fit():
    """Far from the data, equal steps stay equal, and values decode."""
    x = 10.0 - np.random.default_rng(0).gamma(1.2, size=500)
    encoder = TableEncoder(pandas.DataFrame({"x": x}))
    far = pandas.DataFrame({"x": [-1e4, -2e4, -3e4, 1e4, 2e4, 3e4]})
    values = vectors_of(encoder, far).values[:, 0]
    np.testing.assert_allclose(np.diff(values)[[0, 3]], np.diff(values)[[1, 4]], rtol=1e-9)
    assert abs(np.diff(values)[3]) > 2 * abs(np.diff(values)[0])  # the slopes at the two ends differ
    np.testing.assert_allclose(encoder.decode(values[:, np.newaxis])["x"], far["x"], rtol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_skewed_numbers_become_more_normal(seed):
    """A normal column is not transformed. A log-normal one is, and far draws decode to values near the data."""
    rng = np.random.default_rng(seed)
    sigma = rng.uniform(0.8, 3.0)
    skewed = pandas.DataFrame({"x": np.exp(sigma * rng.normal(size=500))})
    encoder = TableEncoder(skewed)
    moments = [stats.skew(x) for x in (skewed["x"], vectors_of(encoder, skewed).values[:, 0])]
    assert moments[0] > 2 and abs(moments[1]) < 0.6 * moments[0]
    far = encoder.decode(np.array([[-5.0], [5.0]]))["x"]
    assert -20 * skewed["x"].max() < far[0] < far[1] < 20 * skewed["x"].max()
    normal = pandas.DataFrame({"x": rng.normal(size=500)})
    expected = (normal["x"] - normal["x"].mean()) / normal["x"].std(ddof=0)
    np.testing.assert_allclose(vectors_of(TableEncoder(normal), normal).values[:, 0], expected, rtol=1e-9)
