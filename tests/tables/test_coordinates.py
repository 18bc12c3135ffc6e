"""`Coordinates`: densities of vectors are densities of rows."""

import numpy as np
import pandas
import pytest
import tensorflow as tf
from scipy import stats

from tests.tables.test_encoder import COLUMNS, GIVEN, KINDS, restored, vectors_of
from tf_resflow.tables import TableEncoder
from tf_resflow.tables.vectors import dequantize

pytestmark = pytest.mark.quick


def cells_of(vectors):
    """Returns the edges of the cells of values. The end cells are infinite."""
    lower = np.where(vectors.ends[..., 0], -np.inf, vectors.lower)
    return lower, np.where(vectors.ends[..., 1], np.inf, vectors.lower + vectors.widths)


def masses_of(vectors):
    """Returns the standard normal probabilities of cells."""
    lower, upper = cells_of(vectors)
    return stats.norm.cdf(upper) - stats.norm.cdf(lower)


@pytest.mark.parametrize("name", KINDS)
def test_a_density_of_vectors_is_a_density_of_rows(name):
    """A normal density of vectors sums to 1 over all cells of a column, plus the integral over other numbers."""
    table = pandas.DataFrame({"x": COLUMNS[name][1](300, np.random.default_rng(1))})
    encoder = TableEncoder(table, kinds={"x": KINDS[name]} if name in GIVEN else None)
    if has_tails := name in ("large whole number", "gain"):
        first = 0 if name == "gain" else -1000  # the cell of 0, the smallest gain, includes all values below
        values = pandas.DataFrame({"x": np.arange(first, 100_000)})  # a part, because the cells continue
    else:
        grid = np.linspace(-30.0, 30.0, 200_001) if encoder.columns[0].cell_width else None
        grid = np.sinh(np.linspace(-4.5, 4.5, 16_001)) if grid is None else grid
        values = encoder.decode(grid[:, np.newaxis]).drop_duplicates()
    vectors, numbers = vectors_of(encoder, values), encoder.numbers(values).array[:, 0]
    is_cell = vectors.widths[:, 0] > 0
    if isinstance(KINDS[name], set) and not has_tails:
        assert set(values["x"][is_cell]) == KINDS[name]
    else:
        assert is_cell.all() or not is_cell.any()
    np.testing.assert_allclose(vectors.log_scale[is_cell], np.log(vectors.widths[is_cell, 0]))
    assert not vectors.ends[~is_cell].any()
    total = masses_of(vectors)[is_cell].sum()
    density = np.exp(stats.norm.logpdf(vectors.lower[:, 0]) + vectors.log_scale)[~is_cell]
    total += np.trapezoid(density, numbers[~is_cell])
    if has_tails:  # neighboring cells have the same edges
        lower, upper = cells_of(vectors)
        assert total == pytest.approx(stats.norm.cdf(upper.max()) - stats.norm.cdf(lower.min()), rel=1e-6)
    else:
        assert total == pytest.approx(1.0, abs=1e-9 if is_cell.all() else 2e-3)


def num_operations(table):
    """Returns the number of operations in a graph that maps numbers to vectors and back."""
    encoder = TableEncoder(table)

    def there_and_back(numbers):
        return encoder.own.to_numbers(encoder.rows(encoder.mark_impossible(numbers)).lower)

    spec = tf.TensorSpec([None, table.shape[1]], tf.float64)
    return len(tf.function(there_and_back).get_concrete_function(spec).graph.get_operations())


def test_more_columns_of_a_kind_need_no_more_operations():
    names = ["number", "rain", "capped", "gain", "whole number", "text", "date", "day"]
    rng = np.random.default_rng(0)
    draw = lambda i: {f"{name} {i}": COLUMNS[name][1](100, rng) for name in names}  # noqa: E731
    once = pandas.DataFrame(draw(0))
    five_times = pandas.DataFrame({name: x for i in range(5) for name, x in draw(i).items()})
    assert num_operations(five_times) == num_operations(once)


@pytest.mark.parametrize("seed", range(4))
def test_means_over_draws_are_probabilities(seed):
    """The mean of p / q over draws in cells is the mass of p, with up to six end cells. Draws decode.

    p is standard normal. Compares 16 means over 256 points with its cells, within 5 standard errors.
    """
    rng = np.random.default_rng(seed)
    names = "whole number,whole float,grid,ordered,capped,rain,hundreds,day,text,number".split(",")
    names = rng.permutation(names)[: rng.integers(2, 8)]
    table = pandas.DataFrame({name: COLUMNS[name][1](200, rng) for name in names})
    table = table.mask(rng.uniform(size=table.shape) < 0.1)
    encoder = restored(TableEncoder(table, kinds={name: GIVEN[name] for name in names if name in GIVEN}))
    numbers, own = encoder.numbers(table[:20]).array, encoder.own
    rows = parts = encoder.encode(numbers)
    p = np.where(parts.widths > 0, masses_of(parts), stats.norm.pdf(parts.lower))
    p = np.where(parts.is_blank, 1.0, p / np.where(parts.widths > 0, parts.widths, 1.0))
    means, repeated = [], np.repeat(numbers, 256, axis=0)
    for sample in range(16):
        points = np.tile(stats.qmc.Sobol(own.size + 1, rng=sample).random(256), [20, 1])
        z, log_q = dequantize(tf.nest.map_structure(lambda x: tf.repeat(x, 256, axis=0), rows), points)
        weights = np.exp(stats.norm.logpdf(z).sum(axis=1) - log_q)
        means.append(weights.reshape(-1, 256).mean(axis=1))
        is_kept, decoded = np.isfinite(repeated), own.to_numbers(z).numpy()
        np.testing.assert_allclose(decoded[is_kept], repeated[is_kept], atol=1e-6)
    expected, error = p.prod(axis=1), 5 * np.std(means, axis=0, ddof=1) / 4
    assert np.all(np.abs(np.mean(means, axis=0) - expected) < error + 1e-3 * expected)
    assert np.all(error < 0.5 * expected) and np.median(error / expected) < 0.05


@pytest.mark.parametrize("seed", range(4))
def test_skewed_numbers_become_more_normal(seed):
    """A normal column is not transformed. A log-normal one is, and far draws decode to values near the data."""
    rng = np.random.default_rng(seed)
    sigma = rng.uniform(0.8, 3.0)
    skewed = pandas.DataFrame({"x": np.exp(sigma * rng.normal(size=500))})
    encoder = TableEncoder(skewed)
    moments = [stats.skew(x) for x in (skewed["x"], vectors_of(encoder, skewed).lower[:, 0])]
    assert moments[0] > 2 and abs(moments[1]) < 0.6 * moments[0]
    far = encoder.decode(np.array([[-5.0], [5.0]]))["x"]
    assert -20 * skewed["x"].max() < far[0] < far[1] < 20 * skewed["x"].max()
    normal = pandas.DataFrame({"x": rng.normal(size=500)})
    expected = (normal["x"] - normal["x"].mean()) / normal["x"].std(ddof=0)
    np.testing.assert_allclose(vectors_of(TableEncoder(normal), normal).lower[:, 0], expected, rtol=1e-9)
