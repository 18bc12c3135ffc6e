"""Vectors some of whose coordinates are discrete: probabilities of their cells."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow
from tf_resflow.data import Cells
from tf_resflow.evaluation import ExampleScores, HeldOut, LikelihoodPlan

CELLS = Cells(first=[0.0, -1.0, 0.0], step=[1.0, 0.5, 0.0], num=[3, 4, 0])
EXACT = resflow.logdet.Exact()
POINTS = np.polynomial.legendre.leggauss(12)


def model_of(cells, seed=0, **options):
    """A flow whose weights are far from those of the identity."""
    size = len(cells.step)
    flow = resflow.flows.vector_flow(size, num_blocks=1, hidden=(8,), seed=seed, log_det=EXACT, **options)
    given = {"condition_shape": [1]} if options else {}
    model = resflow.FlowModel(flow, [size], cells=cells, evaluation_log_det=EXACT, **given)
    rng = np.random.default_rng(seed)
    model.set_weights([w + 0.3 * rng.normal(size=w.shape) for w in model.get_weights()])
    resflow.layers.converge_norms(model)
    return model


@pytest.fixture(scope="module")
def model():
    return model_of(CELLS)


def centers(cells):
    """All vectors of a table of discrete columns."""
    ranges = [f + s * np.arange(n) for f, s, n in zip(*cells, strict=True)]
    return np.array([*itertools.product(*ranges)], np.float32)


def integral(model, x, cells):
    """The integral of the density over the cells of vectors, by Gauss's points in each discrete coordinate."""
    nodes, weights = POINTS
    step = np.asarray(cells.step)
    offsets = [0.5 * s * nodes if s else np.zeros(1) for s in step]
    shares = [0.5 * s * weights if s else np.ones(1) for s in step]
    points = np.array([*itertools.product(*offsets)])
    volumes = np.prod(np.array([*itertools.product(*shares)]), axis=1)
    z = (x[:, np.newaxis] + points).reshape(-1, len(step)).astype(np.float32)
    density = model.distribution.log_prob(z, bijector_kwargs={"seed": tf.constant([0, 0])})
    return np.exp(np.reshape(density, [len(x), -1])) @ volumes


def test_probabilities_of_all_rows_of_a_discrete_table():
    """They are integrals over the cells, and sum up to what of the density is over the table: at most 1."""
    cells = Cells(*(part[:2] for part in CELLS))
    model, x = model_of(cells, seed=1), centers(cells)
    plan = LikelihoodPlan(log_det=EXACT, num_samples=256)
    log_prob, stderr = resflow.evaluation.estimate_log_prob(model, x, seed=0, plan=plan)
    expected = integral(model, x, cells)
    np.testing.assert_allclose(np.exp(log_prob), expected, atol=5 * np.max(np.exp(log_prob) * stderr))
    assert 0.05 < np.exp(log_prob).sum() < 1.02 and expected.sum() < 1
    even = ExampleScores(model, plan)([x], 0)  # whose points are spread evenly
    np.testing.assert_allclose(np.exp(even["log_prob"]), expected, rtol=0.02)
    bound = np.reshape(model.log_prob(np.tile(x, [64, 1]), 0), [64, -1])  # one draw each: a bound in the mean
    assert np.all(bound.mean(0) < np.log(expected) + 4 * bound.std(0) / 8)


def test_a_density_in_the_other_coordinates(model):
    """Of a row with a real number, in its units."""
    x = np.array([[0, -1, 0.3], [2, 0.5, -1.0], [1, 0, 0.0]], np.float32)
    plan = LikelihoodPlan(log_det=EXACT, num_samples=256)
    score = ExampleScores(model, plan)([x], 0)["log_prob"]
    np.testing.assert_allclose(score, np.log(integral(model, x, CELLS)), atol=0.05)
    assert HeldOut(model, plan)([x], 0).mean == pytest.approx(-score.mean(), abs=0.1)


def test_noise_is_uniform_in_the_cells(model):
    x = np.tile(np.array([[1.0, 0.5, 0.3]], np.float32), [4000, 1])
    z, log_q = model.data_space.dequantize(x, tf.constant([0, 1]))
    assert float(log_q) == pytest.approx(-np.log(0.5))
    nearly = x + np.array([0.3, -0.2, 0.0], np.float32)  # in the same cells
    np.testing.assert_array_equal(model.data_space.dequantize(nearly, tf.constant([0, 1])).value, z)
    u = (z.numpy() - x)[:, :2] / [1.0, 0.5]
    assert np.all(np.abs(u) <= 0.5) and np.all(z.numpy()[:, 2] == x[:, 2])
    np.testing.assert_allclose(u.mean(0), 0, atol=4 / np.sqrt(12 * 4000))
    np.testing.assert_allclose(u.var(0), 1 / 12, atol=0.01)
    even = model.data_space.dequantize(x, tf.constant([0, 1]), sets=8)[0].numpy()
    assert len(np.unique(even[:, 0])) == 8 and np.all(even[:500] == even[0])


def test_samples_are_in_the_table(model):
    """In the middle of cells, those of the table; the real number is anything."""
    x = model.sample(200, seed=0).numpy()
    assert set(x[:, 0]) <= {0, 1, 2} and set(x[:, 1]) <= {-1, -0.5, 0, 0.5} and len(set(x[:, 2])) == 200
    rows = np.array([[1, 0.5, 0.25], [0, -1, 2.0]], np.float32)
    np.testing.assert_allclose(model.decode(model.encode(rows)), rows, atol=1e-5)


def test_the_score_of_a_row_does_not_depend_on_the_others(model):
    x = np.random.default_rng(0).uniform(size=[40, 3]).astype(np.float32) * 2
    scores = ExampleScores(model)
    whole = scores([x[:32], x[32:]], 0)["log_prob"]
    turned = scores([x[::-1][:32], x[::-1][32:]], 0)["log_prob"]
    np.testing.assert_allclose(turned[::-1], whole, rtol=1e-5)


def test_all_ways_agree(model, tmp_path):
    """Eager, a graph, and a SavedModel, whose inputs stay floats."""
    x = tf.constant([[0, -1, 0.3], [2, 0.5, -1.0]])
    eager = model.log_prob(x, 3)
    np.testing.assert_allclose(tf.function(model.log_prob)(x, 3), eager, rtol=1e-5)
    path = resflow.serving.export(model, tmp_path)
    served = tf.saved_model.load(str(path)).signatures
    scores = served["serving_default"](x=x)
    expected = np.log(integral(model, x.numpy(), CELLS))
    assert np.all(np.abs(scores["log_prob"] - expected) < 4 * scores["log_prob_stderr"] + 0.01)
    np.testing.assert_allclose(served["serving_default"](x=x[1:])["log_prob"][0], scores["log_prob"][1], rtol=1e-5)
    drawn = served["sample"](num=tf.constant(9), seed=tf.constant(0, tf.int64), temperature=tf.constant(1.0))["x"]
    assert set(drawn[:, 0].numpy()) <= {0, 1, 2}


def test_a_condition_stands_beside_the_cells():
    model = model_of(CELLS, condition_size=1)
    x, c = np.array([[0, -1, 0.3]] * 2, np.float32), np.array([[0.0], [3.0]], np.float32)
    score = ExampleScores(model)([(x, c)], 0)["log_prob"]
    assert abs(score[0] - score[1]) > 1e-3


def test_cells_of_another_model_are_refused(model, tmp_path):
    model.save_weights(tmp_path / "a.weights.h5")
    other = model_of(CELLS._replace(step=[1.0, 1.0, 0.0]))
    with pytest.raises(ValueError, match="cells is"):
        other.load_weights(tmp_path / "a.weights.h5")


def test_wrong_cells(refused):
    flow = resflow.flows.vector_flow(3, num_blocks=1, hidden=(8,))
    make = lambda cells, **more: resflow.FlowModel(flow, [3], cells=cells, **more)  # noqa: E731
    refused(r"three arrays of shape \(3,\)", make, Cells([0], [1], [2]))
    refused("at least 0, and where a step is not 0", make, CELLS._replace(num=[3, 0, 0]))
    refused("vectors without levels", make, CELLS, levels=4)
