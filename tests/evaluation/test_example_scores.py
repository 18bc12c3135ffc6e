import numpy as np
import pytest
import tensorflow as tf

from tf_resflow import FlowModel, flows, logdet
from tf_resflow.evaluation import ExampleScores, quantiles


@pytest.fixture(scope="module")
def model():
    return FlowModel(flows.vector_flow(3, num_blocks=2, hidden=(8,), coefficient=0.9), event_shape=[3])


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=[7, 3]).astype("float32")


def test_estimates_agree_with_the_exact_log_likelihood_within_their_errors(model, x):
    """7 examples with 400 estimates each: 5 standard errors, which are measured to 4 %."""
    exact = ExampleScores(model, logdet.Exact())([x[:4], x[4:]], seed=0)
    np.testing.assert_allclose(exact["log_prob"], model.log_prob(x, log_det=logdet.Exact()), rtol=1e-5)
    np.testing.assert_array_equal(exact["stderr"], np.zeros(7))
    noisy = ExampleScores(model, logdet.RussianRoulette(per_example=True), num_samples=400)([x], seed=1)
    assert np.all(noisy["stderr"] > 0) and np.all(noisy["stderr"] < 0.2)
    assert np.all(np.abs(noisy["log_prob"] - exact["log_prob"]) < 5 * noisy["stderr"])


def test_one_estimate_has_no_error(model):
    with pytest.raises(ValueError, match="num_samples is at least 2"):
        ExampleScores(model, num_samples=1)


def test_quantiles_are_fractions_of_the_reference():
    reference = tf.constant([3.0, 1.0, 2.0, 2.0])
    scores = [-np.inf, 0.5, 1.0, 1.5, 2.0, 4.0]
    np.testing.assert_array_equal(quantiles(scores, reference), [0, 0, 0.125, 0.25, 0.5, 1])
    assert np.isnan(quantiles([np.nan], reference)).all()
    for wrong in ([], [1.0, np.nan], [[1.0]]):
        with pytest.raises(ValueError, match="reference must be scores"):
            quantiles([1.0], wrong)
