"""What a loaded model answers: against the model that it was exported from, and to wrong input."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow


def expected_draws(model, x, seed, num_samples, log_det):
    """The estimates that log_prob averages, drawn here one example at a time."""
    samples = resflow.models.LogProbSamples(model, log_det, num_samples=num_samples, common=True)
    seed = tf.bitcast(tf.constant(seed, tf.int64), tf.int32)
    return np.concatenate([samples(x[i : i + 1], seed) for i in range(len(x))], 1)


def test_log_prob(loaded, image_model, images, call):
    log_det = resflow.logdet.RussianRoulette(6)
    draws = expected_draws(image_model, images[:3], 5, 4, log_det)
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


def test_seeds_of_64_bits(loaded, images, call):
    values = [call(loaded, "log_prob_seeded", x=images[:1], seed=s)["log_prob"] for s in (1, 1 + 2**32, -1)]
    assert len(np.unique(values)) == 3


@pytest.mark.parametrize("size", [1, 7, 64])
def test_an_answer_does_not_depend_on_its_batch(loaded, image_model, images, size, call):
    x = np.resize(images, [size, 8, 8, 1])
    for signature in ("serving_default", "encode", "classify"):
        result = call(loaded, signature, x=x)
        for name, value in call(loaded, signature, x=x[-1:]).items():
            np.testing.assert_allclose(result[name][-1:], value, rtol=1e-4, atol=1e-5, err_msg=name)
            assert len(result[name]) == size


def test_sample(loaded, image_model, call):
    x = call(loaded, "sample", num=5, seed=3, temperature=1.0)["x"]
    assert x.dtype == np.uint8 and x.shape == (5, 8, 8, 1) and x.max() < 17
    np.testing.assert_array_equal(x, image_model.sample(5, tf.bitcast(tf.constant(3, tf.int64), tf.int32)))
    assert np.any(x != call(loaded, "sample", num=5, seed=4, temperature=1.0)["x"])
    means = call(loaded, "sample", num=2, seed=3, temperature=0.0)["x"]
    np.testing.assert_array_equal(means[0], means[1])


@pytest.mark.parametrize("size", [1, 7, 64])
def test_decode_inverts_encode(loaded, image_model, images, size, call):
    x = np.resize(images, [size, 8, 8, 1])
    z = call(loaded, "encode", x=x)["z"]
    expected = image_model.flow.forward((tf.cast(x, tf.float32) + 0.5) / 17)
    np.testing.assert_allclose(z, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(call(loaded, "decode", z=z)["x"], x)


def test_what_has_not_converged_is_told(loaded, images, call):
    """Both blocks are y = (1 + s) x: of 5 steps, each of which multiplies the error by -s, 0 needs none."""
    assert np.all(call(loaded, "sample", num=5, seed=3, temperature=1.0)["converged"])
    branch = keras.Sequential([keras.Input([3]), resflow.layers.LipschitzDense(3, 0.9)])
    branch.layers[0].kernel.assign(0.4 * np.eye(3))
    solver = resflow.solvers.FixedPoint(max_iterations=5)
    blocks = [resflow.bijectors.ResidualBlock(branch, inverse_solver=solver, name=name) for name in "ab"]
    model = resflow.FlowModel(resflow.bijectors.Flow(blocks), [3])
    result = resflow.serving.Signatures(model).functions()["decode"](tf.constant([[0.0] * 3, [1.0] * 3, [0.0] * 3]))
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
    assert sorted(result) == ["log_prob", "log_prob_stderr"] and result["log_prob"].dtype == np.float64
    exact = resflow.bijectors.with_log_det(vector_model.distribution, resflow.logdet.Exact())
    np.testing.assert_allclose(result["log_prob"], exact.log_prob(x), rtol=1e-10)
    np.testing.assert_array_equal(result["log_prob_stderr"], np.zeros(5))
    z = call(loaded_vectors, "encode", x=x)["z"]
    np.testing.assert_allclose(call(loaded_vectors, "decode", z=z)["x"], x, rtol=1e-9)


GOOD = np.zeros([2, 8, 8, 1], np.uint8)


@pytest.mark.parametrize("signature", ["serving_default", "log_prob_seeded", "encode", "classify"])
@pytest.mark.parametrize(
    "x, message",
    [
        (GOOD[..., 0], None),  # of a wrong shape TensorFlow tells
        (GOOD[:, :7], None),
        (np.resize(GOOD, [2, 16, 16, 1]), None),
        (np.resize(GOOD, [2, 8, 8, 2]), None),
        (np.uint8(3), None),
        (GOOD[:0], r"x must have at least one example.*\[0 8 8 1\]"),
        (GOOD + np.uint8(17), r"x must lie in 0, ..., 16, .*\[17 17\]"),
        (GOOD.astype("float32"), "expected to be a uint8 tensor"),
    ],
)
def test_wrong_images(loaded, signature, x, message, call):
    seed = {"seed": 0} if signature == "log_prob_seeded" else {}
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        call(loaded, signature, x=x, **seed)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"num": 0}, r"num must lie in 1, ..., 1024.*\[0 0\]"),
        ({"num": 1025}, r"num must lie in 1, ..., 1024.*\[1025 1025\]"),
        ({"temperature": -1.0}, r"temperature must lie in 0.0, ..., 100.0"),
        ({"temperature": math.nan}, r"temperature must lie .*nan"),
        ({"temperature": math.inf}, r"temperature must lie .*inf"),
    ],
)
def test_wrong_numbers(loaded, values, message, call):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        call(loaded, "sample", **{"num": 1, "seed": 0, "temperature": 1.0, **values})


@pytest.mark.parametrize("name", ["num", "seed", "temperature"])
def test_scalars_of_another_shape(loaded, images, name, call):
    wrong = {"num": 1, "seed": 0, "temperature": 1.0}
    wrong[name] = [wrong[name]] * 2
    with pytest.raises(tf.errors.InvalidArgumentError):
        call(loaded, "sample", **wrong)
    if name == "seed":
        with pytest.raises(tf.errors.InvalidArgumentError):
            call(loaded, "log_prob_seeded", x=images, seed=[0, 1])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite(loaded, loaded_vectors, images, bad, call):
    z = call(loaded, "encode", x=images)["z"]
    z[1, 0, 0, 0] = bad
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"z must be finite.*\[1\]"):
        call(loaded, "decode", z=z)
    x = np.zeros([2, 3])
    x[0, :2] = bad
    for signature in ("serving_default", "encode"):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"x must be finite.*\[2\]"):
            call(loaded_vectors, signature, x=x)


def test_a_classifier_without_a_density(image_model):
    model = resflow.HybridModel(image_model.flow, image_model.classifier, (8, 8, 1), levels=17, density_weight=0.0)
    functions = resflow.serving.Signatures(model).functions()
    assert sorted(functions) == ["classify", "decode", "encode", "sample", "serving_default"]
    result = functions["serving_default"](GOOD)
    np.testing.assert_allclose(result["logits"], functions["classify"](GOOD)["logits"])


@pytest.mark.parametrize("settings", [{"num_samples": 1}, {"max_samples": 0}, {"max_batch": 0}])
def test_numbers_out_of_range(vector_model, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        resflow.serving.Signatures(vector_model, **settings)


@pytest.mark.parametrize("names, found", [(["encode", "classify"], "got 'classify'"), ([], "none was given")])
def test_unknown_signatures(vector_model, names, found):
    known = "serving_default, log_prob_seeded, sample, encode, decode"
    with pytest.raises(ValueError, match=f"The signatures of this model are {known}; {found}"):
        resflow.serving.Signatures(vector_model, signatures=names)


@pytest.mark.parametrize("signature, name", [("serving_default", "x"), ("encode", "x"), ("decode", "z")])
def test_a_batch_above_the_limit(vector_model, signature, name):
    functions = resflow.serving.Signatures(vector_model, log_det=resflow.logdet.Exact(), max_batch=2).functions()
    functions[signature](tf.zeros([2, 3], tf.float64))
    message = rf"{name} must have at most 2 examples \(max_batch\).*\[3 3\]"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        functions[signature](tf.zeros([3, 3], tf.float64))
