"""Probabilities of vectors with discrete coordinates."""

import itertools
import math
import warnings

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

import tf_resflow as resflow
from tf_resflow.evaluation import LogLikelihood
from tf_resflow.evaluation.log_prob_samples import LogProbSamples
from tf_resflow.models import Cells

CELLS = Cells(first=[0.0, -1.0, 0.0], step=[1.0, 0.5, 0.0], num=[3, 4, 0])
EXACT = resflow.logdet.Exact()
IN_CELL, IN_TAIL = (np.polynomial.legendre.leggauss(num) for num in (8, 24))


def model_of(cells, seed=0):
    """Builds a flow with weights far from the identity."""
    size = len(cells.step)
    flow = resflow.flows.vector_flow(size, num_blocks=1, hidden=(8,), seed=seed, log_det_estimator=EXACT)
    model = resflow.FlowModel(flow, [size], cells=cells, evaluation_log_det_estimator=EXACT)
    rng = np.random.default_rng(seed)
    model.set_weights([w + 0.3 * rng.normal(size=w.shape) for w in model.get_weights()])
    resflow.layers.converge_norms(model)
    return model


@pytest.fixture(scope="module")
def model():
    return model_of(CELLS)


def nodes_and_weights(value, place, cells):
    """Returns Gaussian quadrature nodes in the cell of a value, and at t / (1 - t) cells in its tails."""
    first, step, num = (part[place] for part in cells[:3])
    if not step:
        return np.array([value]), np.ones(1)
    widths = np.full(int(num), step)
    for _, atom, width, _ in cells.atoms[cells.atoms[:, 0] == place]:
        widths[round((atom - first) / step)] = width
    index = round((value - first) / step)
    width, low = widths[index], first - step / 2 + widths[:index].sum()
    nodes, weights = [low + width * (0.5 + 0.5 * IN_CELL[0])], [0.5 * width * IN_CELL[1]]
    t = 0.5 + 0.5 * IN_TAIL[0]
    for end, edge, side in ((0, low, -1), (num - 1, low + width, 1)):
        if index == end:
            nodes.append(edge + side * width * t / (1 - t))
            weights.append(0.5 * width * IN_TAIL[1] / (1 - t) ** 2)
    return np.concatenate(nodes), np.concatenate(weights)


def integral(model, x, cells):
    """Integrates the density over the cells of vectors, including the tails of the first and last cells."""
    found = []
    for row in x:
        found_in = (nodes_and_weights(value, place, cells) for place, value in enumerate(row))
        nodes, weights = zip(*found_in, strict=True)
        z = np.array([*itertools.product(*nodes)], np.float32)
        density = model.distribution.log_prob(z, bijector_kwargs={"seed": tf.constant([0, 0])})
        found.append(np.exp(density, dtype=np.float64) @ np.prod([*itertools.product(*weights)], axis=1))
    return np.array(found)


def random_case(seed):
    """Returns a model of one or two columns with 1 to 4 values, its cells, and all possible rows.

    Some values are atoms, whose cells are wider.
    """
    rng = np.random.default_rng(seed)
    size = 1 + seed % 2
    num, step = rng.integers(2, 5, size), rng.choice([0.5, 1.0, 2.0], size)
    num[rng.random(size) < 0.15] = 1
    values = [s * (np.arange(n) - (n - 1) / 2) for s, n in zip(step, num, strict=True)]
    atoms = [
        (i, x, s * rng.uniform(1.5, 3.0), 0) for i, s in enumerate(step) for x in values[i] if rng.random() < 0.3
    ]
    cells = Cells(-step * (num - 1) / 2, step, num, np.reshape(atoms, [-1, 4]))
    return model_of(cells, seed), cells, np.array([*itertools.product(*values)], np.float32)


@pytest.mark.parametrize("seed", range(4))
def test_probabilities_are_integrals_that_sum_to_one_and_agree_with_samples(seed):
    """Averages estimates over 32 copies of each row, and compares them with integrals and 20,000 samples."""
    model, cells, x = random_case(seed)
    expected = integral(model, x, cells)
    assert expected.sum() == pytest.approx(1, abs=2e-3)
    few, many = ({"log_det_estimator": EXACT, "num_samples": num} for num in (32, 1024))
    for log_prob, stderr in (
        resflow.evaluation.estimate_log_prob(model, np.tile(x, [32, 1]), 0, **few),
        [LogLikelihood(model, **many).score_examples([x], 0)[name] for name in ("log_prob", "stderr")],
    ):
        p, error = (np.reshape(v, [-1, len(x)]) for v in (np.exp(log_prob), np.exp(log_prob) * stderr))
        p, error = p.mean(0), np.sqrt(np.mean(error**2, 0) / len(p))
        assert np.all(np.abs(p - expected) < 6 * error + 2e-3)
        assert abs(p.sum() - 1) < 6 * np.sqrt(np.sum(error**2)) + 2e-3
    drawn = model.sample(20_000, seed=1).numpy()
    frequency = np.mean(np.all(np.abs(drawn[:, np.newaxis] - x) < 0.1, axis=-1), axis=0)
    assert np.all(np.abs(frequency - expected) < 4.5 * np.sqrt(expected * (1 - expected) / len(drawn)) + 1e-3)
    bound = np.reshape(model.log_prob(np.tile(x, [64, 1]), 0), [64, -1])  # one draw each, as in training
    assert np.all(bound.mean(0) < np.log(expected) + 4 * bound.std(0) / 8)


@pytest.mark.parametrize("seed, common", [(0, True), (3, False)])
def test_the_standard_error_covers_the_integral(seed, common):
    """Checks the coverage of 95 % intervals of Student's t and the mean squared error in 300 repetitions."""
    model, cells, x = random_case(seed)
    samples = LogProbSamples(model, 256, log_det_estimator=EXACT, common=common)
    draw = tf.function(lambda seed: samples.mean(samples(x, seed)), autograph=False)
    log_prob, stderr = (np.array(v) for v in zip(*(draw(tf.constant([7, i])) for i in range(300)), strict=True))
    deviations = log_prob - np.log(integral(model, x, cells))
    covered = np.mean(np.abs(deviations) < stats.t.ppf(0.975, 7) * stderr)
    assert 0.95 - 4.5 * math.sqrt(0.95 * 0.05 / 300) < covered < 0.99
    assert np.sqrt(np.mean(stderr**2) / np.mean(deviations**2)) == pytest.approx(1, abs=0.2)


def test_atoms_have_a_probability_and_other_values_a_density():
    """The probabilities of two atoms and the integral of the density sum to 1, and agree with 20,000 samples."""
    atoms = np.array([[0, 0.0, 0.7, -1], [0, 1.3, 0.4, 0]])
    model = model_of(Cells([0.0], [0.0], [0], atoms))
    x = np.concatenate([atoms[:, 1:2], np.linspace(1e-5, 30.0, 4001)[:, np.newaxis]]).astype(np.float32)
    scores = LogLikelihood(model, log_det_estimator=EXACT, num_samples=1024).score_examples([x], 0)
    probabilities, density = np.split(np.exp(scores["log_prob"]), [2])
    assert np.all(scores["stderr"][:2] > 0)
    total = probabilities.sum() + np.trapezoid(density, x[2:, 0])
    assert total == pytest.approx(1, abs=6 * float(np.sum(probabilities * scores["stderr"][:2])) + 5e-3)
    drawn = model.sample(20_000, seed=1).numpy()
    assert drawn.min() == 0
    for atom, probability in zip(atoms[:, 1].astype(np.float32), probabilities.tolist(), strict=True):
        stderr = np.sqrt(probability * (1 - probability) / len(drawn))
        assert np.mean(drawn == atom) == pytest.approx(probability, abs=4.5 * stderr + 2e-3)
    np.testing.assert_allclose(model.decode(model.encode(x)), x, atol=1e-4)
    comparable = model.data_space.comparable(tf.zeros(3), x[:3])
    np.testing.assert_allclose(comparable, [-np.log(0.7), -np.log(0.4), 0], rtol=1e-6)


def test_draws_have_their_density():
    """The mean of 1 / q over the draws in a box is its volume: in cells, in one tail, and in two tails."""
    cells = Cells(*np.array([[0.0, 0.0, 0.0, 0.0], [1.0, 0.5, 2.0, 0.0], [3, 2, 1, 0]]))
    space = resflow.FlowModel(resflow.flows.vector_flow(4, 1, (8,)), [4], cells=cells).data_space
    x = np.zeros([1000 * 256, 4], np.float32) + np.float32([1.0, 0.5, 0.0, 0.3])
    z, log_q = space.dequantize(x, tf.constant([0, 1]), point_sets=(8, 32))
    z = z.numpy()
    assert np.all(z[:, 3] == x[:, 3]) and np.all(np.abs(z[:, 0] - 1) <= 0.5) and np.all(z[:, 1] >= 0.25)
    boxes = [([0.6, 0.3, -0.9], [1.4, 0.7, 0.8]), ([0.5, 0.8, -1], [1.5, 1.2, 1]), ([0.5, 0.8, 1.2], [1.2, 1, 2])]
    for low, high in boxes:
        weights = np.where(np.all((z[:, :3] > low) & (z[:, :3] < high), axis=1), np.exp(-log_q), 0)
        stderr = float(weights.std()) / math.sqrt(len(z))
        assert weights.mean() == pytest.approx(np.prod(np.subtract(high, low)), abs=5 * stderr)


def test_exponentiated_noise_of_log_determinants_warns(model):
    roulette = resflow.logdet.AdaptiveRoulette(0.1)
    images = resflow.FlowModel(model.flow, [3], levels=4)

    def weigh(**options):
        return LogLikelihood(images, importance_weighted=True, **options).num_samples

    for build in (lambda **options: LogProbSamples(model, **options), weigh):
        with pytest.warns(UserWarning, match="too large by up to half the variance"):
            build(log_det_estimator=roulette)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            build(log_det_estimator=EXACT)


def test_noise_is_uniform_in_the_cells(model):
    """This includes the cells of values outside the range."""
    x = np.tile(np.array([[-4, 0.5, 0.3]], np.float32), [64, 1])
    z, log_q = model.data_space.dequantize(x, tf.constant([0, 1]), point_sets=(8, 8))
    assert np.all(np.abs(z[:, 0] + 4) <= 0.5) and np.all(np.isfinite(log_q))
    x = np.tile(np.array([[1.0, 0.5, 0.3]], np.float32), [4000, 1])
    z, log_q = model.data_space.dequantize(x, tf.constant([0, 1]))
    np.testing.assert_allclose(log_q, -np.log(0.5))
    u = (z.numpy() - x)[:, :2] / [1.0, 0.5]
    assert np.all(np.abs(u) <= 0.5) and np.all(z.numpy()[:, 2] == x[:, 2])
    np.testing.assert_allclose(u.mean(0), 0, atol=4 / np.sqrt(12 * 4000))
    np.testing.assert_allclose(u.var(0), 1 / 12, atol=0.01)


def test_the_score_of_a_row_does_not_depend_on_the_others(model):
    x = np.random.default_rng(0).uniform(size=[40, 3]).astype(np.float32) * 2
    scores = LogLikelihood(model).score_examples
    whole = scores([x[:32], x[32:]], 0)["log_prob"]
    turned = scores([x[::-1][:32], x[::-1][32:]], 0)["log_prob"]
    np.testing.assert_allclose(turned[::-1], whole, rtol=1e-5)


def test_the_served_probabilities(model, tmp_path):
    x = tf.constant([[0, -1, 0.3], [2, 0.5, -1.0]])
    path = resflow.serving.export(model, tmp_path, log_det_estimator=EXACT, num_samples=256)
    served = tf.saved_model.load(str(path)).signatures
    scores, alone = (served["serving_default"](x=rows) for rows in (x, x[1:]))
    expected = np.log(integral(model, x.numpy(), CELLS))
    assert np.all(np.abs(scores["log_prob"] - expected) < 6 * scores["log_prob_stderr"] + 0.01)
    np.testing.assert_allclose(alone["log_prob"][0], scores["log_prob"][1], rtol=1e-5)
    drawn = served["sample"](num=tf.constant(9), seed=tf.constant(0, tf.int64), temperature=tf.constant(1.0))["x"]
    assert set(drawn[:, 0].numpy()) <= {0, 1, 2}


def test_wrong_cells(refused):
    flow = resflow.flows.vector_flow(3, num_blocks=1, hidden=(8,))
    for cells, levels in ((Cells([0], [1], [2]), None), (CELLS._replace(num=[3, 0, 0]), None), (CELLS, 4)):
        refused("Cells need vectors without levels", resflow.FlowModel, flow, [3], cells=cells, levels=levels)
