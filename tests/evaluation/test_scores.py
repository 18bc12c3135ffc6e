"""Scores of data sets and of single examples."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import integrate, stats

import tf_resflow as resflow
from tests.evaluation.conftest import linear_block
from tf_resflow.evaluation import LogLikelihood, p_values, scores

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("replicas, size", [(1, 4), (2, 4), (2, 23)])
def test_partial_batches_count_once(two_replicas, replicas, size):
    x = np.random.default_rng(0).normal(size=[23, 3]).astype(np.float32)
    batches, strategy = [x[i : i + size] for i in range(0, 23, size)], two_replicas if replicas == 2 else None
    model = resflow.FlowModel(resflow.bijectors.Flow([resflow.bijectors.ActNorm([3])]), [3])
    likelihood = LogLikelihood(model, strategy=strategy)
    score = likelihood.score(batches, seed=0)
    losses = -stats.norm.logpdf(x.astype(np.float64)).sum(axis=-1)
    assert score.mean == pytest.approx(losses.mean(), rel=1e-6)
    assert score.stderr == pytest.approx(losses.std(ddof=1) / np.sqrt(23), rel=1e-6)
    assert score.num_examples == 23 and likelihood.score(batches, seed=1) == score


def test_nests_in_and_out(two_replicas):
    """Returns each of 10 rows in batches of 4, 4 and 2 once, in order, with the seed of its batch."""
    x, labels, traces = np.arange(30.0).reshape(10, 3).astype("float32"), np.arange(10), []

    def function(batch, seed):
        x, labels = batch
        traces.append(x.shape)
        return {"sum": tf.reduce_sum(x, -1), "seeds": tf.tile(seed[None], [x.shape[0], 1])}, labels

    batches = [(x[i : i + 4], labels[i : i + 4]) for i in (0, 4, 8)]
    values, again = scores.PerExample(function, two_replicas)(batches, seed=7)
    np.testing.assert_array_equal(values["sum"], x.sum(-1))
    np.testing.assert_array_equal(values["seeds"], [[7, i // 4] for i in range(10)])
    np.testing.assert_array_equal(again, labels)
    assert traces == [(2, 3)] * 2  # one trace per replica, because the smaller batch is padded


def test_the_first_batch_must_be_the_largest(refused):
    """An empty first batch is skipped."""
    double = scores.PerExample(lambda batch, seed: 2 * batch)
    ones = np.ones([3, 2])
    np.testing.assert_array_equal(double([ones[:0], ones, ones[:2]], seed=0), 2 * np.ones([5, 2]))
    refused("Batch 1 has 3 examples, but the first batch has at most 2", double, [ones[:2], ones], seed=0)


LEVELS, SCALES, SHIFTS = 3, np.array([9.0, -4.2]), np.array([-2.0, 1.0])


@pytest.fixture(scope="module")
def affine_model():
    """Maps x to SCALES x + SHIFTS with a normal base: two independent coordinates of integer data."""
    scale = tfp.bijectors.Scale(np.float32(SCALES / [1.5, 0.7]))
    flow = resflow.bijectors.Flow([scale, linear_block(np.diag([0.5, -0.3]), SHIFTS)])
    return resflow.FlowModel(flow, [2], levels=LEVELS, evaluation_log_det_estimator=resflow.logdet.Exact())


def in_bits(log_probability):
    return -log_probability / (2 * np.log(2))


def test_bound_of_one_sample_and_its_limit(affine_model):
    """Compares with the expected bound by quadrature, and with the cell's probability from the normal CDF."""
    # Repeats one example 4,000 times. The bias with 1,000 samples is var(weight) / (2,000 mean^2) nats.
    v, normal = np.array([1, 2], np.uint8), stats.norm(-SHIFTS / SCALES, 1 / np.abs(SCALES))
    exact = in_bits(np.log(normal.cdf((v + 1) / LEVELS) - normal.cdf(v / LEVELS)).sum())
    usual = integrate.quad_vec(lambda u: normal.logpdf((v + u) / LEVELS) - np.log(LEVELS), 0, 1)[0]
    usual = in_bits(usual.sum())
    batches = [np.repeat(v[None], 4000, axis=0)]
    once = LogLikelihood(affine_model).score(batches, seed=0)
    assert once.mean == pytest.approx(usual, abs=4 * once.stderr)
    plain = affine_model.example_losses(batches[0], [0, 0])[affine_model.objective]
    assert once.mean == pytest.approx(np.mean(plain), rel=1e-6)
    many = LogLikelihood(affine_model, num_samples=1000, importance_weighted=True)
    many = many.score([batches[0][:400]], seed=0)
    assert many.mean == pytest.approx(exact, abs=4 * many.stderr + 2e-3)
    assert usual - exact > 0.2 and once.stderr < 0.03 and many.stderr < 0.003


def test_exponentiated_noise_of_log_determinants_warns(affine_model):
    roulette, message = resflow.logdet.AdaptiveRoulette(0.1), "too large by up to half the variance"
    bound = LogLikelihood(affine_model, importance_weighted=True, log_det_estimator=roulette)
    with pytest.warns(UserWarning, match=message):
        bound.score([np.zeros([1, 2], "uint8")], seed=0)


def test_p_values_are_ranks_among_the_reference():
    reference, scores = tf.constant([3.0, 1.0, 2.0, 2.0]), [-np.inf, 0.5, 1.0, 1.5, 2.0, 4.0]
    np.testing.assert_allclose(p_values(scores, reference), [0.2, 0.2, 0.4, 0.4, 0.8, 1])
    assert np.isnan(p_values([np.nan], reference)).all()
    repeated = np.repeat(reference, [1, 3, 2, 2])
    found = p_values(scores, reference, [1, 3, 2, 2])
    np.testing.assert_allclose(5 * found - 1, 4 * (9 * p_values(scores, repeated) - 1) / 8)


def test_scores_of_a_classifier_by_hand():
    """Logits of two classes with the probabilities 3/4, 1/2 (a tie counts as class 0) and 9/10."""
    logits = np.log([[3.0, 1.0], [1.0, 1.0], [1.0, 9.0]])
    found = scores.classification_scores(logits, [0, 1, 1])
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["accuracy_stderr"] == pytest.approx(np.sqrt(2 / 9 / 3))
    assert found["cross_entropy"] == pytest.approx(-np.mean(np.log([0.75, 0.5, 0.9])))
    # Each of three bins has one example: |1 - 0.75|, |0 - 0.5|, |1 - 0.9|.
    assert found["calibration_error"] == pytest.approx((0.25 + 0.5 + 0.1) / 3)
    assert found["num_examples"] == 3
    large = scores.classification_scores(np.array([[2000.0, 0.0], [2000.0, 0.0]], np.float32), [0, 1])
    assert large["cross_entropy"] == pytest.approx(1000.0) and large["accuracy"] == 0.5


def test_what_does_not_fit_is_refused(refused, affine_model):
    refused("stream of batches is empty", LogLikelihood(affine_model).score, [], seed=0)
    refused("not dequantized", LogLikelihood, resflow.FlowModel(affine_model.flow, [2]), importance_weighted=True)
    for wrong in ([], [1, np.nan]):
        refused("must be an array of scores", p_values, [1.0], wrong)
