"""The client in C agrees with TensorFlow in Python, and reports invalid inputs."""

import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow
from tf_resflow.evaluation import LikelihoodPlan

SOURCE = pathlib.Path(__file__).parents[2] / "examples" / "c_client"

OPTIONS = {
    "plan": LikelihoodPlan(log_det_estimator=resflow.logdet.Exact(), num_samples=2),
    "signatures": ["serving_default", "encode"],
}

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the client's Makefile is for Linux"),
    pytest.mark.skipif(shutil.which("make") is None, reason="no make"),
    pytest.mark.skipif(shutil.which("cc") is None and shutil.which("gcc") is None, reason="no C compiler"),
]


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """Runs the client on the folder of a model and the values of examples."""
    folder = tmp_path_factory.mktemp("client")
    for name in ("client.c", "Makefile"):
        shutil.copy(SOURCE / name, folder)
    compiler = "cc" if shutil.which("cc") else "gcc"
    arguments = [f"PYTHON={sys.executable}", f"CC={compiler}", "CFLAGS=-O2 -Werror"]
    built = subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr

    def run(path, data=b"", arguments=("-",)):
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
        return subprocess.run(
            [folder / "client", path, *arguments], input=data, capture_output=True, env=environment
        )

    return run


@pytest.fixture(scope="module")
def images_path(tmp_path_factory):
    flow = resflow.flows.image_flow((8, 8, 1), num_blocks=(1,), width=4, kernels=(3, 1), num_fc_blocks=0)
    model = resflow.FlowModel(flow, event_shape=(8, 8, 1), levels=17)
    model.initialize(images(32))
    options = OPTIONS | {"plan": LikelihoodPlan(log_det_estimator=resflow.logdet.RussianRoulette(4), num_samples=2)}
    return resflow.serving.export(model, tmp_path_factory.mktemp("images"), **options)


@pytest.fixture(scope="module", params=["float32", "float64"])
def vectors(tmp_path_factory, request):
    """The folder of a model of vectors, and its type."""
    flow = resflow.flows.vector_flow(2, num_blocks=1, hidden=(4,), dtype=request.param)
    model = resflow.FlowModel(flow, event_shape=[2])
    model.initialize(np.random.default_rng(0).normal(size=[32, 2]).astype(request.param))
    directory = tmp_path_factory.mktemp("vectors")
    return resflow.serving.export(model, directory, **OPTIONS), request.param


def images(count):
    return np.random.default_rng(count).integers(17, size=[count, 8, 8, 1]).astype("uint8")


def check_answer(result, path, x):
    assert result.returncode == 0, result.stderr
    lines = [line.split("\t") for line in result.stdout.decode().splitlines()]
    index, log_prob, stderr = zip(*lines, strict=True)
    expected = tf.saved_model.load(str(path)).signatures["serving_default"](x=tf.constant(x))
    assert index == tuple(str(i) for i in range(len(x)))
    np.testing.assert_allclose(np.array(log_prob, float), expected["log_prob"], rtol=1e-4)
    np.testing.assert_allclose(np.array(stderr, float), expected["log_prob_stderr"], rtol=1e-2, atol=1e-4)


def check_error(result, message, returncode=1):
    assert result.returncode == returncode and result.stdout == b""
    assert message in result.stderr.decode()


def test_images(client, images_path):
    x = images(7)
    check_answer(client(images_path, x.tobytes()), images_path, x)


def test_a_file_that_is_larger_than_the_buffer(client, images_path, tmp_path):
    x = images(1500)
    x.tofile(tmp_path / "x.bin")
    check_answer(client(images_path, arguments=[tmp_path / "x.bin"]), images_path, x)


def test_vectors(client, vectors):
    path, dtype = vectors
    x = np.random.default_rng(1).normal(size=[5, 2]).astype(dtype)
    check_answer(client(path, x.tobytes()), path, x)
    x[3, 1] = np.nan
    check_error(client(path, x.tobytes()), "x must be finite")


def test_wrong_input(client, images_path, tmp_path):
    x = images(2)
    x[1, 0, 0, 0] = 17
    message = "the input has 127 bytes; expected a multiple of 64: an example has 64 values of size 1"
    check_error(client(images_path, x.tobytes()), "x must lie in 0, ..., 16,")
    check_error(client(images_path, x.tobytes()[:-1]), message)
    check_error(client(images_path), "x must have at least one example")
    check_error(client(images_path, arguments=[tmp_path / "no.bin"]), "no.bin: No such file")
    check_error(client(images_path, arguments=[]), "usage:", 2)
    check_error(client(tmp_path), "client: loading the model failed: Could not find SavedModel")


def test_a_model_without_the_signature(client, tmp_path):
    module = tf.Module()
    module.f = tf.function(lambda x: {"y": x}, input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    tf.saved_model.save(module, str(tmp_path / "other"), signatures={"other": module.f})
    check_error(client(tmp_path / "other"), 'the model has no "serving_default"')
    tf.saved_model.save(module, str(tmp_path / "no_log_prob"), signatures=module.f)
    check_error(client(tmp_path / "no_log_prob"), 'the model has no "log_prob"')
