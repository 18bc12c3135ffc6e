"""Tests that the HTTP server returns the outputs of the loaded model, and rejects invalid requests."""

import http.client
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow
from tests.conftest import ROOT

SERVER = ROOT / "examples" / "http_server" / "server.py"
X = np.random.default_rng(0).integers(17, size=[2, 8, 8, 1]).astype("uint8")
SCALARS = {"num": 2, "seed": 7, "temperature": 0.8}


@pytest.fixture(scope="module")
def path(image_model, tmp_path_factory):
    """An exported model that accepts at most 3 examples."""
    options = {"max_batch": 3, "signatures": ["serving_default", "sample", "encode"]}
    options |= {"log_det_estimator": resflow.logdet.RussianRoulette(2), "num_samples": 2}
    return resflow.serving.export(image_model, tmp_path_factory.mktemp("model"), held_out=[X], **options)


@pytest.fixture(scope="module")
def port(path):
    """The port of a server in a separate process."""
    command = [sys.executable, str(SERVER), str(path), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        yield int(process.stdout.readline().split()[-1])
        process.terminate()


@pytest.fixture
def ask(port):
    """Sends a request, and returns the status and the content of the response."""

    def ask(body, path="/v1/models/flow:predict", method="POST"):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request(method, path, body if isinstance(body, bytes) else json.dumps(body).encode())
        answer = connection.getresponse()
        content = json.loads(answer.read())
        connection.close()
        return answer.status, content

    return ask


@pytest.mark.parametrize("name, inputs", [("serving_default", {"x": X}), ("sample", SCALARS), ("encode", {"x": X})])
def test_answers(path, ask, name, inputs):
    types = {"x": tf.uint8, "num": tf.int32, "seed": tf.int64, "temperature": tf.float32}
    tensors = {key: tf.constant(value, types[key]) for key, value in inputs.items()}
    expected = tf.saved_model.load(str(path)).signatures[name](**tensors)
    lists = {key: np.asarray(value).tolist() for key, value in inputs.items()}
    named = {} if name == "serving_default" else {"signature_name": name}
    status, content = ask({**named, "inputs": lists})
    assert status == 200 and content["outputs"].keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(content["outputs"][key], value, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_request_of_the_readme(path, port, tmp_path, process):
    """The curl command and the Python code in the README return the same outputs."""
    shutil.copytree(path, tmp_path / "1")
    text = (path / "README.md").read_text()
    python, curl = (re.search(rf"```{kind}\n(.*?)```", text, re.DOTALL)[1] for kind in ("python", "sh"))
    options = {"cwd": tmp_path / "1", "check": True}
    local = eval(process("-c", python, **options).stdout)
    served = json.loads(process("-c", curl.replace("8501", str(port)), program="sh", **options).stdout)["outputs"]
    assert local.keys() == served.keys() == {"log_prob", "log_prob_stderr", "bits_per_dim", "p_value"}
    for name, value in local.items():
        np.testing.assert_allclose(served[name], value, rtol=1e-5)


def test_metadata_and_unknown_paths(path, ask):
    assert ask(b"", "/v1/models/flow/metadata", "GET") == (200, json.loads((path / "signatures.json").read_text()))
    assert ask(b"", "/", "GET")[0] == ask({}, "/other")[0] == ask(b"")[0] == 404


@pytest.mark.parametrize(
    "body, message",
    [
        ({"inputs": {"x": (X + 17).tolist()}}, "x must lie in 0, ..., 16"),
        ({"inputs": {"x": (X + 300.0).tolist()}}, "x has values that do not fit uint8"),
        ({"inputs": {"x": X[:, :7].tolist()}}, "x has the shape [2, 7, 8, 1]; expected [-1, 8, 8, 1]"),
        ({"inputs": {"y": X.tolist()}}, "The inputs of serving_default must be an object with the keys x"),
        ({"signature_name": "sample", "inputs": {**SCALARS, "seed": 2**63}}, "seed has values that do not fit"),
        ({"signature_name": "forge", "inputs": {}}, "'forge': choose one of serving_default"),
        ({"inputs": {"x": X.tolist()}, "more": 1}, "more"),
        (b"{", "Expecting"),
    ],
)
def test_bad_requests(ask, body, message):
    status, content = ask(body)
    assert status == 400 and message in content["error"] and "Graph execution" not in content["error"], content
