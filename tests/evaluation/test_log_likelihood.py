"""Repeated estimates of log-likelihoods: splitting into parts, and calibrated standard errors."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

import tf_resflow as resflow
from tf_resflow.evaluation import LogLikelihood, estimate_log_prob
from tf_resflow.evaluation.log_likelihood import mean_and_stderr
from tf_resflow.evaluation.log_prob_samples import LogProbSamples, bytes_per_row

ROULETTE = resflow.logdet.AdaptiveRoulette(0.1, num_probes=2, per_example=True)


@pytest.fixture(scope="module")
def model():
    flow = resflow.flows.vector_flow(6, num_blocks=2, hidden=(16,), seed=1)
    return resflow.FlowModel(flow, [6], levels=8)


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).integers(0, 8, [5, 6]).astype(np.uint8)


def make_samples(model, log_det_estimator, num_samples, **options):
    return LogProbSamples(model, num_samples, log_det_estimator=log_det_estimator, **options)


@pytest.mark.parametrize("megabytes", [1e-9, 2e-3, 500])
def test_an_answer_does_not_depend_on_the_batch_or_its_parts(model, x, megabytes):
    """Draws 3 samples of 5 examples: one row at a time, a few rows, and all at once."""
    samples = make_samples(model, ROULETTE, 3, common=True, megabytes=megabytes)
    specs, seed = [tf.TensorSpec([None, 6], tf.uint8), tf.TensorSpec([], tf.int32)], tf.constant(3)
    draw = tf.function(samples, specs, autograph=False)
    together = draw(x, seed)
    assert together.shape == [samples.num_samples, 5] and draw(x[:0], seed).shape[1] == 0
    np.testing.assert_allclose(together[:, 2:3], draw(x[2:3], seed), rtol=1e-5)
    if megabytes > 1e-9:  # eager, with a known number of rows
        np.testing.assert_allclose(together, samples(x, seed), rtol=1e-5)
    assert len(np.unique(together[:, 0])) == samples.num_samples


def test_parts_of_batches_share_no_random_numbers(model, x):
    """Evaluates equal examples one row at a time, in two batches with successive seeds."""
    samples = make_samples(model, ROULETTE, 1, megabytes=1e-9)
    draws = np.concatenate([samples(np.repeat(x[:1], 5, axis=0), [3, index])[0] for index in range(2)])
    assert len(np.unique(draws)) == 10


class Counted(keras.layers.Layer):
    """The identity, which asserts that its input has at most 4 rows."""

    lipschitz_constant = 1.0

    def call(self, x):
        with tf.control_dependencies([tf.debugging.assert_less_equal(tf.shape(x)[0], 4)]):
            return tf.identity(x)


@pytest.mark.parametrize("num_samples", [3, 9])
def test_no_part_has_more_rows_than_fit(num_samples):
    """The memory limit allows 4 rows of the branch."""
    branch = keras.Sequential([keras.Input([2]), Counted(), resflow.layers.LipschitzDense(2, 0.9)])
    block = resflow.bijectors.ResidualBlock(branch, resflow.logdet.PowerSeries(2), name="block")
    model = resflow.FlowModel(resflow.bijectors.Flow([block]), [2])
    megabytes = 4.5 * bytes_per_row(block) / 2**20
    samples = make_samples(model, block.log_det_estimator, num_samples, megabytes=megabytes)
    draw = tf.function(samples, [tf.TensorSpec([None, 2])], autograph=False)
    assert draw(tf.ones([7, 2])).shape == [samples.num_samples, 7]


@pytest.mark.parametrize("common", [False, True])
def test_the_standard_error_is_calibrated(model, x, common):
    """The mean of stderr^2 equals the variance of the mean within 30 %, for 400 repetitions of 5 examples."""
    # 30 % is 4 standard errors if all examples share their noise, and 9 if the noise is independent.
    samples = make_samples(model, ROULETTE, 4, common=common)
    draw = tf.function(lambda x, seed: mean_and_stderr(samples(x, seed)), autograph=False)
    estimates = [draw(x, tf.constant([7, seed])) for seed in range(400)]
    means = np.array([estimate.log_prob for estimate in estimates])
    squares = np.array([estimate.stderr for estimate in estimates]) ** 2
    np.testing.assert_allclose(squares.mean() / means.var(0, ddof=1).mean(), 1.0, atol=0.3)


def test_without_noise_there_is_one_sample_without_an_error():
    model = resflow.FlowModel(resflow.flows.vector_flow(3, num_blocks=1, hidden=(4,)), [3])
    samples = make_samples(model, resflow.logdet.Exact(), 9)
    values = samples(tf.zeros([2, 3]), 1)
    assert samples.num_samples == 1 and values.shape == [1, 2]
    for found, expected in zip(mean_and_stderr(values, samples.is_noisy), (values[0], [0.0, 0.0]), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert np.all(np.isnan(mean_and_stderr(values).stderr))
    draws = np.random.default_rng(0).normal(size=[4, 5])
    np.testing.assert_allclose(mean_and_stderr(tf.constant(draws)).stderr, stats.sem(draws))


def test_the_number_of_estimates_doubles_until_the_standard_error_is_reached(model, x):
    """Estimates the same five examples 200 times. 25 % are 4 standard errors of each side."""
    options = {"stderr": 0.1, "log_det_estimator": ROULETTE}
    num = LogLikelihood(model, **options).required_samples(x, seed=0)
    log_prob, stderr = estimate_log_prob(model, x, seed=0, **options)
    assert num > 8 and 0.1 / np.sqrt(2) / 1.25 < np.sqrt(np.mean(stderr**2)) <= 1.25 * 0.1
    np.testing.assert_array_equal(log_prob, estimate_log_prob(model, x, seed=0, **options).log_prob)
    likelihood = LogLikelihood(model, num_samples=num, log_det_estimator=ROULETTE)
    draw = tf.function(likelihood.estimate, autograph=False)
    means = [draw(x, tf.constant([7, seed])).log_prob for seed in range(200)]
    assert np.sqrt(np.mean(np.var(means, axis=0, ddof=1))) < 1.25 * 0.1
    errors = 4 * np.hypot(np.std(means, axis=0) / np.sqrt(200), stderr)
    np.testing.assert_array_less(np.abs(log_prob - np.mean(means, axis=0)), errors)


def test_standard_errors_that_cannot_be_reached(model, x, refused):
    refused("more than 8,192 would be necessary", LogLikelihood(model, stderr=1e-4).required_samples, x)
    refused("Pass stderr=", LogLikelihood(model).required_samples, x)
    for wrong in (0.0, np.inf, np.nan):
        refused("is not a positive, finite number", LogLikelihood, model, stderr=wrong)
    refused("bound depends on the number of samples", LogLikelihood, model, stderr=0.1, importance_weighted=True)
    refused("Got both num_samples=4 and stderr=1.0", estimate_log_prob, model, x, num_samples=4, stderr=1.0)
    refused("num_samples=0 is too small", estimate_log_prob, model, x, num_samples=0)
    vectors = resflow.FlowModel(resflow.flows.vector_flow(3, num_blocks=1, hidden=(4,)), [3])
    precise = LogLikelihood(vectors, stderr=1e-4)
    assert precise.required_samples(np.zeros([4, 3], "f4")) == 1  # exact
    large = resflow.FlowModel(resflow.flows.vector_flow(20, num_blocks=1, hidden=(4,)), [20])
    assert not np.any(estimate_log_prob(large, np.zeros([4, 20], "f4"), stderr=1e-4).stderr)  # exact by default
    refused("4 of 4 examples is NaN", precise.required_samples, np.full([4, 3], np.nan))


def test_the_noise_of_the_log_determinants(model, x):
    """Four independent probes have half the noise of one, for 8 draws of 300 equal examples."""
    # With 2,100 degrees of freedom each, 4 standard errors of the ratio are less than 15 %.
    images = np.repeat(x[:1], 300, axis=0)
    series = [resflow.logdet.PowerSeries(10, num_probes=num) for num in (1, 4)]
    one, four = (LogLikelihood(model, log_det_estimator=estimator).noise(images, 0) for estimator in series)
    assert one == pytest.approx(2 * four, rel=0.15)
    assert LogLikelihood(model, log_det_estimator=resflow.logdet.Exact()).noise(images, 0) == 0.0


def test_data_sets_reach_a_standard_error(model, x):
    """The first batch determines the number of estimates, and the scores are those of this number."""
    batches = [x, x[:3]]
    target = LogLikelihood(model, stderr=0.1, log_det_estimator=ROULETTE)
    num = target.required_samples(x)
    fixed = LogLikelihood(model, num_samples=num, log_det_estimator=ROULETTE)
    assert num > 8
    assert target.score(iter(batches), seed=1) == fixed.score(batches, seed=1)
    for name, values in target.score_examples(iter(batches), seed=1).items():
        np.testing.assert_array_equal(values, fixed.score_examples(batches, seed=1)[name])


def test_the_estimators_of_training():
    """{} keeps the estimators of the blocks, whose noise differs from that of the evaluation estimator."""
    model = resflow.FlowModel(resflow.flows.vector_flow(20, 2, (8,), act_norm=False), 20)
    x = np.random.default_rng(0).normal(size=[5, 20]).astype("float32")
    blocks = resflow.bijectors.views.blocks_by_name(model.distribution)
    by_block = {name: block.log_det_estimator for name, block in blocks.items()}
    noises = [LogLikelihood(model, log_det_estimator=given).noise(x, 0) for given in ({}, by_block, None)]
    assert noises[0] == noises[1] != noises[2]
