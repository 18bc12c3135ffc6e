"""Compares the answers of a loaded export with the original model, and checks the errors for invalid inputs."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow
from tf_resflow.evaluation.log_prob_samples import LogProbSamples
from tf_resflow.serving.signatures import Signatures, p_values


@pytest.mark.quick
def test_log_prob(loaded, image_model, images, call):
    """log_prob is the mean of 4 estimates, which the test draws one example at a time."""
    roulette, seed = resflow.logdet.RussianRoulette(6), np.int32([5, 0])
    samples = LogProbSamples(image_model.density, 4, log_det_estimator=roulette, common=True)
    draws = np.concatenate([samples(images[i : i + 1], seed) for i in range(3)], 1)
    result = call(loaded, "log_prob_seeded", x=images[:3], seed=5)
    np.testing.assert_allclose(result["log_prob"], draws.mean(0), rtol=1e-5)
    np.testing.assert_allclose(result["log_prob_stderr"], draws.std(0, ddof=1) / 2, rtol=1e-3)
    np.testing.assert_allclose(result["bits_per_dim"], -draws.mean(0) / 64 / math.log(2), rtol=1e-5)


def test_the_default_is_the_seed_of_the_export(loaded, images, call):
    result, again = (call(loaded, "serving_default", x=images) for _ in range(2))
    seeded = call(loaded, "log_prob_seeded", x=images, seed=0)
    other = call(loaded, "log_prob_seeded", x=images, seed=2**40)
    for name in ("log_prob", "log_prob_stderr", "bits_per_dim"):
        np.testing.assert_array_equal(result[name], again[name])
        np.testing.assert_array_equal(result[name], seeded[name])
        assert np.all(result[name] != other[name])


def test_an_answer_does_not_depend_on_its_batch_and_decode_inverts_encode(loaded, image_model, images, call):
    x = np.resize(images, [64, 8, 8, 1])
    results = {name: call(loaded, name, x=x) for name in ("serving_default", "encode", "classify")}
    for signature, result in results.items():
        for name, value in call(loaded, signature, x=x[-1:]).items():
            np.testing.assert_allclose(result[name][-1:], value, rtol=1e-4, atol=1e-5, err_msg=name)
            assert len(result[name]) == 64
    z = results["encode"]["z"]
    expected = image_model.flow.forward((tf.cast(x, tf.float32) + 0.5) / 17)
    np.testing.assert_allclose(z, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(call(loaded, "decode", z=z)["x"], x)


def test_sample(loaded, image_model, call):
    x = call(loaded, "sample", num=5, seed=3, temperature=1.0)["x"]
    assert x.dtype == np.uint8 and x.shape == (5, 8, 8, 1) and x.max() < 17
    np.testing.assert_array_equal(x, image_model.density.sample(5, [3, 0]))
    assert np.any(x != call(loaded, "sample", num=5, seed=4, temperature=1.0)["x"])
    means = call(loaded, "sample", num=2, seed=3, temperature=0.0)["x"]
    np.testing.assert_array_equal(means[0], means[1])


def test_examples_that_have_not_converged(loaded, images, call):
    """Both blocks are y = (1 + s) x. Each of the 5 steps multiplies the error by -s; the input 0 needs no step."""
    assert np.all(call(loaded, "sample", num=5, seed=3, temperature=1.0)["converged"])
    branch = keras.Sequential([keras.Input([3]), resflow.layers.LipschitzDense(3, 0.9)])
    branch.layers[0].kernel.assign(0.4 * np.eye(3))
    solver = resflow.solvers.FixedPoint(max_iterations=5)
    blocks = [resflow.bijectors.ResidualBlock(branch, inverse_solver=solver, name=name) for name in "ab"]
    model = resflow.FlowModel(resflow.bijectors.Flow(blocks), [3])
    result = Signatures(model).functions()["decode"](tf.constant([[0.0] * 3, [1.0] * 3, [0.0] * 3]))
    np.testing.assert_array_equal(result["converged"], [True, False, True])


def test_classify(loaded, image_model, images, call):
    result = call(loaded, "classify", x=images)
    expected = image_model.classify(images)
    np.testing.assert_allclose(result["logits"], expected["logits"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(result["probabilities"].sum(-1), np.ones(7), rtol=1e-5)
    np.testing.assert_array_equal(result["label"], np.argmax(expected["logits"], -1))


def test_continuous_data(loaded_vectors, vector_model, call):
    x = np.random.default_rng(2).normal(size=[5, 3])
    result = call(loaded_vectors, "serving_default", x=x)
    assert sorted(result) == ["log_prob", "log_prob_stderr", "valid"]
    assert result["log_prob"].dtype == np.float64 and result["valid"].all()
    exact = resflow.bijectors.with_log_det_estimator(vector_model.distribution, resflow.logdet.Exact())
    np.testing.assert_allclose(result["log_prob"], exact.log_prob(x), rtol=1e-10)
    np.testing.assert_array_equal(result["log_prob_stderr"], np.zeros(5))
    z = call(loaded_vectors, "encode", x=x)["z"]
    np.testing.assert_allclose(call(loaded_vectors, "decode", z=z)["x"], x, rtol=1e-9)


GOOD = np.zeros([2, 8, 8, 1], np.uint8)


def wrong_requests(z):
    """Yields the signature, the inputs and the error message of invalid requests."""
    for signature in ("serving_default", "encode", "classify"):
        for shape in ([2, 8, 8], [2, 8, 8, 2], [4, 8, 4, 1]):
            yield signature, {"x": np.resize(GOOD, shape)}, "x must have the shape"
        yield signature, {"x": GOOD[:0]}, "x must have at least one example"
        yield signature, {"x": GOOD + np.uint8(17)}, r"x must lie in 0, ..., 16, .*\[17 17\]"
    z[1, 0, 0, 0] = math.nan
    yield "decode", {"z": z}, r"z must not contain NaN or infinity.*\[1 0 1"
    yield "decode", {"z": z[:0]}, "at least one example"
    yield "decode", {"z": z[..., :1]}, "z must have the shape"
    good = {"num": 1, "seed": 0, "temperature": 1.0}
    for name, values in {"num": (0, 1025), "temperature": (-1.0, 101.0, math.nan)}.items():
        for value in values:
            yield "sample", good | {name: value}, f"{name} must lie in"


@pytest.mark.quick
def test_wrong_requests(loaded, images, call):
    for signature, values, message in wrong_requests(call(loaded, "encode", x=images)["z"]):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            call(loaded, signature, **values)


def test_invalid_rows(loaded_vectors, call):
    """A row with NaN or infinity is not valid and has no results. The results of other rows do not change."""
    x = np.random.default_rng(2).normal(size=[4, 3])
    bad = x.copy()
    bad[1, 0], bad[2, 2] = math.nan, math.inf
    for signature in ("serving_default", "encode"):
        answer, expected = (call(loaded_vectors, signature, x=rows) for rows in (bad, x))
        assert answer.pop("valid").tolist() == [True, False, False, True] and expected.pop("valid").all()
        for name, value in answer.items():
            assert np.isnan(value[1:3]).all(), name
            np.testing.assert_allclose(value[[0, 3]], expected[name][[0, 3]], rtol=1e-10)


def test_invalid_conditions():
    flow = resflow.flows.vector_flow(2, num_blocks=1, hidden=(8,), condition_size=1)
    signatures = Signatures(resflow.FlowModel(flow, [2], condition_shape=[1])).functions()
    x = tf.constant([[1.0, 2.0], [math.nan, 0.0], [0.0, 0.0]])
    for condition, valid in (([[math.nan], [0.0], [1.0]], [False, False, True]), ([[math.inf]], [False] * 3)):
        answer = signatures["encode"](x, tf.constant(condition))
        assert answer["valid"].numpy().tolist() == valid
        assert np.isnan(answer["z"]).all(axis=1).tolist() == [not flag for flag in valid]
        with pytest.raises(tf.errors.InvalidArgumentError, match="condition must not contain NaN or infinity"):
            signatures["decode"](tf.zeros([3, 2]), tf.constant(condition))


def test_points_far_from_all_data(loaded_vectors, call):
    """The log-likelihood, about -x^2 / 2, is below the range of float64, so its standard error is NaN."""
    result = call(loaded_vectors, "serving_default", x=np.array([[1e200, 0, 0], [0, 0, 0]]))
    assert result["log_prob"][0] == -math.inf and math.isnan(result["log_prob_stderr"][0])
    assert math.isfinite(result["log_prob"][1]) and result["log_prob_stderr"][1] == 0


def test_p_values():
    """The p-values equal those computed with NumPy, also for ties and NaN."""
    scores = np.float32([-1, 0, 1, 1.5, 4, 9, math.inf, -math.inf, math.nan])
    for num in (1, 4, 13):
        reference = np.sort(np.random.default_rng(num).integers(5, size=num)).astype("float32")
        expected = resflow.evaluation.p_values(scores, reference)
        np.testing.assert_allclose(p_values(tf.constant(scores), reference), expected, rtol=1e-6)


def test_p_values_among_held_out_examples(image_model, images, vector_model):
    """Each held-out example gets its own rank, up to rounding, because all use the same random numbers."""
    options = {"num_samples": 2, "max_batch": 100, "signatures": ["serving_default"]}
    signatures = Signatures(image_model, seed=2, **options)
    signatures.compare_with([images[:4], images[4:]])
    result = signatures.functions()["serving_default"](images)
    ranks = np.argsort(np.argsort(result["log_prob"]))
    np.testing.assert_allclose(result["p_value"], (ranks + 1.5) / 8, atol=0.51 / 8)
    with pytest.raises(ValueError, match="without NaN"):
        Signatures(vector_model).compare_with([np.full([2, 3], math.nan)])


def test_a_classifier_without_a_density(image_model):
    model = resflow.HybridModel(image_model.flow, image_model.classifier, (8, 8, 1), levels=17, density_weight=0.0)
    functions = Signatures(model).functions()
    assert sorted(functions) == ["classify", "serving_default"]
    result = functions["serving_default"](GOOD)
    np.testing.assert_allclose(result["logits"], functions["classify"](GOOD)["logits"])


def test_wrong_settings(vector_model):
    noisy = {"log_det_estimator": resflow.logdet.PowerSeries(2), "num_samples": 1}
    for settings in (noisy, {"signatures": ["encode", "classify"]}, {"signatures": []}):
        with pytest.raises(ValueError, match="num_samples=1 must be|signatures must name"):
            Signatures(vector_model, **settings)
