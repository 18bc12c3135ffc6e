"""`default_estimator` decides when log-determinants are exact, and all builders and models use it."""

import json
import pathlib

import numpy as np
import pytest

import tf_resflow as resflow
from tf_resflow.evaluation import LogLikelihood
from tf_resflow.logdet import default_estimator
from tf_resflow.tables.noise_conditioned import NoiseConditionedFlow
from tf_resflow.training.build import build_estimator, build_flow
from tf_resflow.training.config import default_config

LARGEST = resflow.logdet.estimators._LARGEST_EXACT  # by purpose


def estimators_of(flow):
    return [block.log_det_estimator for block in resflow.bijectors.flow.residual_blocks(flow)]


def configured(size):
    config = default_config()
    config.model.update(kind="vector", num_blocks=(1,), hidden=(4,), norms=(2.0,) * 3)
    return build_flow(config.model, [size])


def vector_flow(size):
    return resflow.flows.vector_flow(size, 1, (4,))


def small_model(size):
    return resflow.FlowModel(vector_flow(size), [size])


SMALL, POSTERIOR = {"num_blocks": 1, "width": 4}, {"hidden": (4,), "affine_layers": 0}
MAKERS = {
    "vector_flow": ("training", lambda n: estimators_of(vector_flow(n))),
    "config": ("training", lambda n: estimators_of(configured(n))),
    "FlowDequantizer": ("training", lambda n: estimators_of(resflow.models.FlowDequantizer([n], **SMALL).flow)),
    "posterior": ("inference", lambda n: estimators_of(resflow.vi.flow_surrogate_posterior([n], **POSTERIOR))),
    "FlowModel": ("evaluation", lambda n: [small_model(n).evaluation_log_det_estimator]),
    "build_estimator": ("evaluation", lambda n: [build_estimator(default_config().model, [n], "evaluation")]),
    "a standard error": ("scores", lambda n: [LogLikelihood(small_model(n), stderr=1.0).log_det_estimator]),
    "fits of tables": ("tables", lambda n: estimators_of(NoiseConditionedFlow(n, num_blocks=1).model.flow)),
    "NoiseConditionedFlow": (
        "scores",
        lambda n: [NoiseConditionedFlow(n, num_blocks=1, hidden=(4,)).model.evaluation_log_det_estimator],
    ),
}


@pytest.mark.parametrize("name", MAKERS)
def test_builders_and_models_use_the_default(name):
    """Tests sizes around the crossover. All scores share random numbers, so they do not depend on the batch."""
    purpose, make = MAKERS[name]
    for size in (1, LARGEST[purpose], LARGEST[purpose] + 1):
        expected = default_estimator(size, purpose)
        expected = expected.with_sets(1) if name == "NoiseConditionedFlow" else expected
        assert list(map(repr, make(size))) == [repr(expected)]


@pytest.mark.parametrize("purpose", LARGEST)
def test_small_events_are_exact_and_large_events_unbiased(purpose):
    kinds = [type(default_estimator(size, purpose)).__name__ for size in range(1, 500)]
    num = kinds.count("Exact")
    assert num >= 2 and kinds[:num] == ["Exact"] * num
    assert set(kinds[num:]) == {
        "RussianRoulette" if purpose in ("training", "tables", "inference") else "AdaptiveRoulette"
    }


def test_the_crossovers_match_the_benchmark():
    """In training, Exact is the default where it is cheaper at equal variance of the gradient.

    For other purposes, the ratio of the times of Exact and the estimate is within the docstring's limit."""
    rows = json.loads((pathlib.Path(__file__).parents[2] / "benchmarks/results/exact_crossover.json").read_text())
    for row in rows:
        if row["purpose"] == "training":
            assert (row["size"] > LARGEST["training"]) == (row["ratio"] > 1.1 * row["variance"])
    for purpose, most in (("evaluation", 5.0), ("inference", 2.0)):
        assert f"{most:.0f} times" in default_estimator.__doc__
        ratios = [(row["size"] > LARGEST[purpose], row["ratio"]) for row in rows if row["purpose"] == purpose]
        assert max(ratio for is_larger, ratio in ratios if not is_larger) <= most
        assert max((ratio for is_larger, ratio in ratios if is_larger), default=np.inf) > most
