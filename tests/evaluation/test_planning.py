"""Plans reach the requested standard error, or raise an error that names the reachable one."""

import json
import types

import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow
from tests.evaluation.conftest import linear_block
from tf_resflow import bijectors, evaluation
from tf_resflow.evaluation import planning


@pytest.fixture(scope="module")
def model():
    flow = resflow.flows.image_flow((6, 6, 1), num_blocks=(1,), width=8, fc_width=8, num_fc_blocks=1, seed=2)
    return resflow.FlowModel(flow, [6, 6, 1], levels=8)


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).integers(0, 8, [40, 6, 6, 1]).astype(np.uint8)


def test_a_plan_reaches_its_standard_error(model, x, monkeypatch):
    """Uses 20 repetitions of 20 new examples. The standard errors of the ratios are below 5 %."""
    monkeypatch.setattr(planning, "_exact", lambda *_: [])
    plan = evaluation.plan_likelihood(model, x[:8], 0.2)
    assert plan.expected_stderr <= 0.2 and plan.num_samples >= 4 and plan.dequantization_std > 0
    assert {type(log_det).__name__ for log_det in plan.log_det_estimator.values()} == {"AdaptiveRoulette"}
    draw = tf.function(lambda seed: evaluation.estimate_log_prob(model, x[20:], seed, plan=plan), autograph=False)
    estimates = [draw(tf.constant([3, seed])) for seed in range(20)]
    reached = np.var([estimate.log_prob for estimate in estimates], axis=0, ddof=1).mean() ** 0.5
    measured = np.mean([estimate.stderr**2 for estimate in estimates]) ** 0.5
    np.testing.assert_allclose([reached, measured], plan.expected_stderr, rtol=0.4)
    np.testing.assert_allclose(measured, reached, rtol=0.2)
    assert json.loads(json.dumps(plan.as_dict()))["num_samples"] == plan.num_samples


def test_the_noise_of_many_colors_is_measured_at_one_of_them(model, x):
    """Compares 128 pairs of rows with 20 repetitions of 40 examples. 4 standard errors are 25 % of the noise."""
    inputs = bijectors.passes.block_inputs(model.flow, model.prepare(x, [0, 0]))
    name, num_probes = next(iter(inputs)), 9
    block = bijectors.views.blocks_by_name(model.flow)[name]
    draws = [planning._draw([inputs[name]], 128, num_probes, 1, draw) for draw in range(2)]
    std, _ = planning._measured(planning._series(block), draws, num_probes, 0.01)
    estimator = resflow.logdet.AdaptiveRoulette(0.01, per_example=True, chance=0.1, num_probes=num_probes)
    repeat = tf.function(lambda seed: estimator(block.branch, inputs[name], seed=seed)[1], autograph=False)
    values = [repeat(tf.constant([2, seed])).numpy() for seed in range(20)]
    np.testing.assert_allclose(std, np.var(values, axis=0, ddof=1).mean() ** 0.5, rtol=0.25)


@pytest.mark.parametrize("seed", range(2))
def test_plans_in_cells_reach_the_error_of_a_mean_of_probabilities(seed, monkeypatch):
    """Compares 30 estimates of 24 new rows with one estimate from 8,192 points and exact log-determinants."""
    # The columns and the target are random. Sampling error cannot explain a ratio above 1.3 or below 0.5.
    rng = np.random.default_rng(seed)
    size, exact = 1 + seed % 2, resflow.logdet.Exact()
    num, target = rng.integers(2, 5, size), float(rng.uniform(0.1, 0.3))
    step = rng.choice([0.5, 1.0, 1.5], size)
    flow = resflow.flows.vector_flow(size, num_blocks=2, hidden=(8,), seed=seed)
    model = resflow.FlowModel(flow, [size], cells=resflow.models.Cells(-step * (num - 1) / 2, step, num))
    model.set_weights([w + 0.2 * rng.normal(size=w.shape) for w in model.get_weights()])
    resflow.layers.converge_norms(model)
    x = model.sample(48, seed=seed).numpy()
    if seed % 2:
        monkeypatch.setattr(planning, "_exact", lambda *_: [])
    plan = evaluation.plan_likelihood(model, x[:24], target)
    reference = evaluation.LikelihoodPlan(log_det_estimator=exact, num_samples=8192)
    expected = evaluation.estimate_log_prob(model, x[24:], [1, 0], plan=reference).log_prob
    draw = tf.function(lambda seed: evaluation.estimate_log_prob(model, x[24:], seed, plan=plan), autograph=False)
    errors = [draw(tf.constant([3, i])).log_prob - expected for i in range(30)]
    assert 0.5 * target < np.sqrt(np.mean(np.square(errors))) < 1.3 * target


def vector_model(levels=None):
    model = resflow.FlowModel(resflow.flows.vector_flow(3, num_blocks=1, hidden=(4,)), [3], levels=levels)
    generator = np.random.default_rng(1)
    return model, generator.integers(levels, size=[8, 3]) if levels else np.float32(generator.normal(size=[4, 3]))


def test_a_number_of_samples_leaves_the_noise_of_the_dequantization():
    plan = evaluation.plan_likelihood(*vector_model(levels=3), 0.05, num_samples=2)
    assert plan.num_samples == 2 and plan.log_det_stderr <= 0.05 < plan.expected_stderr


def test_exact_log_determinants_of_continuous_data_need_one_sample(refused):
    model, x = vector_model()
    refused("x contains values that are NaN", evaluation.plan_likelihood, model, np.full_like(x, np.nan), 1e-4)
    plan = evaluation.plan_likelihood(model, x, 1e-4)
    log_prob, stderr = evaluation.estimate_log_prob(model, x, plan=plan)
    np.testing.assert_allclose(log_prob, model.log_prob(x, log_det_estimator=resflow.logdet.Exact()), rtol=1e-5)
    np.testing.assert_array_equal(stderr, np.zeros(4))


def test_the_block_that_gains_most_a_second_is_the_first_to_cost_more():
    """One block loses 4 nats^2 for 4 s, the other 0.19 for 1 s. A variance of 1.5 is allowed."""
    choices = {"one": [(2.0, 1.0), (0.0, 5.0)], "other": [(1.0, 1.0), (0.9, 2.0)]}
    choices = {name: [types.SimpleNamespace(std=std, seconds=s) for std, s in of] for name, of in choices.items()}
    chosen = planning._cheapest(choices, 1.5)
    assert (chosen["one"].seconds, chosen["other"].seconds) == (5.0, 1.0)
    assert planning._cheapest(choices, 0.5) is None


def test_what_cannot_be_reached(refused, monkeypatch):
    model, x = vector_model(levels=3)
    monkeypatch.setattr(planning, "_NUMBERS", [4, 5])
    refused("out of reach: 5 samples reach about", evaluation.plan_likelihood, model, x, 1e-3)
    refused("below the rounding error of float32, about", evaluation.plan_likelihood, model, x, 1e-7)
    for wrong in (0.0, -1.0, np.inf, np.nan):
        refused("is not a positive, finite number of nats", evaluation.plan_likelihood, model, x, wrong)
    refused("num_samples=0 is too small", evaluation.LikelihoodPlan, num_samples=0)
    refused("neither of stderr= and plan=", evaluation.estimate_log_prob, model, x)


def test_a_slowly_decaying_series_is_a_warning():
    """Uses a linear branch with spectral radius 0.95."""
    block = linear_block([[0.0, 3.0], [3.0, 0.0]], coefficient=0.95, name="slow")
    model = resflow.FlowModel(resflow.bijectors.Flow([block]), [2])
    with pytest.warns(UserWarning, match="series of slow shrinks only by a factor of 0.95 per term"):
        evaluation.plan_likelihood(model, tf.zeros([2, 2]), 0.1)
