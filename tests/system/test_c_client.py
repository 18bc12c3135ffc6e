"""Tests that the C client agrees with TensorFlow in Python, and reports invalid inputs."""

import shutil
import sys

import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow
from tests.conftest import ROOT

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the client's Makefile is for Linux"),
    pytest.mark.skipif(not (shutil.which("make") and shutil.which("cc")), reason="no make, or no C compiler"),
]


@pytest.fixture(scope="module")
def client(tmp_path_factory, process):
    folder = tmp_path_factory.mktemp("client")
    for name in ("client.c", "Makefile"):
        shutil.copy(ROOT / "examples" / "c_client" / name, folder)
    process(f"PYTHON={sys.executable}", "CC=cc", "CFLAGS=-O2 -Werror", program="make", cwd=folder, check=True)

    def run(path, data=b"", arguments=("-",)):
        return process(path, *arguments, program=folder / "client", input=data, text=False)

    return run


def check_answer(result, path, x, **inputs):
    assert result.returncode == 0, result.stderr
    lines = [line.split("\t") for line in result.stdout.decode().splitlines()]
    index, log_prob, stderr = zip(*lines, strict=True)
    expected = tf.saved_model.load(str(path)).signatures["serving_default"]
    expected = expected(x=tf.constant(x), **{name: tf.constant(value) for name, value in inputs.items()})
    assert index == tuple(str(i) for i in range(len(x)))
    np.testing.assert_allclose(np.array(log_prob, float), expected["log_prob"], rtol=1e-4)
    np.testing.assert_allclose(np.array(stderr, float), expected["log_prob_stderr"], rtol=1e-2, atol=1e-4)


def check_error(result, message, returncode=1):
    assert result.returncode == returncode and result.stdout == b""
    assert message in result.stderr.decode()


def test_images(client, export_dir, images, tmp_path):
    """Reads images from standard input, and from a file that is larger than the buffer."""
    path = export_dir / "1"
    check_answer(client(path, images.tobytes()), path, images)
    x = np.resize(images, [1500, 8, 8, 1])
    x.tofile(tmp_path / "x.bin")
    check_answer(client(path, arguments=[tmp_path / "x.bin"]), path, x)


def test_vectors(client, exported_float32, exported_vectors):
    for path, dtype in ((exported_float32, "float32"), (exported_vectors, "float64")):
        x = np.random.default_rng(1).normal(size=[5, 3]).astype(dtype)
        check_answer(client(path, x.tobytes()), path, x)
        x[3, 1] = np.nan
        lines = client(path, x.tobytes()).stdout.decode().splitlines()
        assert [line.endswith("nan\tnan") for line in lines] == [False, False, False, True, False]


def test_a_conditional_model(client, tmp_path):
    """The condition is in a file of its own. A client that gives none gets the model's error."""
    flow = resflow.flows.vector_flow(2, num_blocks=1, hidden=(8,), condition_size=3)
    model = resflow.FlowModel(flow, [2], condition_shape=[3])
    path = resflow.serving.export(model, tmp_path / "model")
    x, condition = (
        np.random.default_rng(1).normal(size=[5, 5]).astype("float32")[:, [0, 1]],
        np.ones([1, 3], "float32"),
    )
    condition.tofile(tmp_path / "condition.bin")
    result = client(path, x.tobytes(), ["-", tmp_path / "condition.bin"])
    check_answer(result, path, x, condition=condition)
    check_error(client(path, x.tobytes()), "condition")


def test_wrong_input(client, export_dir, images, tmp_path):
    x, path = images[:2].copy(), export_dir / "1"
    x[1, 0, 0, 0] = 17
    message = "- has 127 bytes; expected a multiple of 64: an example has 64 values of size 1"
    check_error(client(path, x.tobytes()), "x must lie in 0, ..., 16,")
    check_error(client(path, x.tobytes()[:-1]), message)
    check_error(client(path), "x must have at least one example")
    check_error(client(path, arguments=[tmp_path / "no.bin"]), "no.bin: No such file")
    check_error(client(path, arguments=[]), "usage:", 2)
    check_error(client(tmp_path), "client: loading the model failed: Could not find SavedModel")


@pytest.mark.parametrize("signature, missing", [("other", "serving_default"), ("serving_default", "log_prob")])
def test_another_model(signature, missing, client, tmp_path):
    module = tf.Module()
    module.f = tf.function(lambda x: {"y": x}, input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    tf.saved_model.save(module, str(tmp_path), signatures={signature: module.f})
    check_error(client(tmp_path), f'the model has no "{missing}"')
