"""Tests exports that are compiled by XLA, or converted to TFLite without TensorFlow operations."""

import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow


@pytest.fixture(scope="module")
def models(export_dir, exported_float32, float32_model, images, tmp_path_factory):
    """The path, the loaded model and input values of each model. The graphs of vectors have no loop."""
    vectors = np.random.default_rng(1).normal(size=[3, 3]).astype("float32")
    options = {"num_samples": 2, "signatures": ["serving_default"], "max_batch": 1000}
    options["log_det_estimator"] = resflow.logdet.AdaptiveRoulette(num_probes=2)
    noisy, found = resflow.serving.export(float32_model, tmp_path_factory.mktemp("noisy"), **options), {}
    for name, path in {"images": export_dir / "1", "vectors": exported_float32, "noisy": noisy}.items():
        loaded = tf.saved_model.load(str(path))
        values = {"x": images[:3] if name == "images" else vectors, "seed": np.int64(5)}
        if "encode" in loaded.signatures:
            values["z"] = loaded.signatures["encode"](x=tf.constant(values["x"]))["z"].numpy()
        found[name] = path, loaded, values
    return found


def inputs_and_answer(loaded, name, values):
    function = loaded.signatures[name]
    wanted = function.structured_input_signature[1]
    inputs = {key: tf.constant(value) for key, value in values.items() if key in wanted}
    return inputs, function(**inputs)


def check(found, expected):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-5, atol=1e-5, err_msg=key)


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
@pytest.mark.parametrize(
    "model, name", [("images", "decode"), ("vectors", "serving_default"), ("noisy", "serving_default")]
)
def test_tflite(models, model, name):
    path, loaded, values = models[model]
    converter = tf.lite.TFLiteConverter.from_saved_model(str(path), signature_keys=[name])
    run = tf.lite.Interpreter(model_content=converter.convert()).get_signature_runner(name)
    for size in (3, 1):
        rows = {key: value[:size] for key, value in values.items() if key in "xz"}
        inputs, expected = inputs_and_answer(loaded, name, rows)
        check(run(**{key: value.numpy() for key, value in inputs.items()}), expected)


@pytest.mark.parametrize("model, name", [("images", "decode"), ("vectors", "log_prob_seeded")])
def test_xla(models, model, name):
    _, loaded, values = models[model]
    inputs, expected = inputs_and_answer(loaded, name, values)
    check(tf.function(loaded.signatures[name], autograph=False, jit_compile=True)(**inputs), expected)


def test_xla_samples(models):
    """XLA draws different samples, but their latents are standard normal within 4.5 standard errors."""
    signatures = models["vectors"][1].signatures
    scalars = {"num": tf.constant(1000), "seed": tf.constant(5, tf.int64), "temperature": tf.constant(1.0)}
    drawn = tf.function(signatures["sample"], autograph=False, jit_compile=True)(**scalars)
    assert np.all(drawn["converged"])
    z = signatures["encode"](x=drawn["x"])["z"].numpy()
    assert abs(z.mean()) < 4.5 / 3000**0.5 and abs((z**2).mean() - 1) < 4.5 * (2 / 3000) ** 0.5
