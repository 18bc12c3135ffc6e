"""Tests of the files of an export."""

import functools
import json
import re
import shutil
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

import tf_resflow as resflow


@pytest.fixture(scope="module")
def described(export_dir):
    return json.loads((export_dir / "1" / "signatures.json").read_text())


def operations(path):
    """Returns the operations in the functions of a SavedModel."""
    graph = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes()).meta_graphs[0].graph_def
    return [node for function in graph.library.function for node in function.node_def]


def warmup_requests(path):
    requests = tf.data.TFRecordDataset(str(path / "assets.extra" / "tf_serving_warmup_requests"))
    return [PredictionLog.FromString(record).predict_log.request for record in requests.as_numpy_iterator()]


def test_the_graph_has_neither_python_nor_xla(export_dir):
    nodes = operations(export_dir / "1")
    assert len(nodes) > 1000
    assert not {node.op for node in nodes} & {"PyFunc", "EagerPyFunc", "PyFuncStateless", "XlaLaunch"}
    assert not any(node.attr["_XlaMustCompile"].b for node in nodes)


def test_warmup_requests_are_answered(export_dir, loaded):
    answered = []
    for request in warmup_requests(export_dir / "1"):
        inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()}
        result = loaded.signatures[request.model_spec.signature_name](**inputs)
        answered.append((request.model_spec.signature_name, next(iter(result.values())).shape[0]))
    names = ["serving_default", "encode", "decode", "classify"]  # signatures without scalar inputs
    assert sorted(answered) == sorted((name, size) for name in names for size in (1, 8))


def test_readme(export_dir, described, loaded, call, monkeypatch, capsys):
    """The code in README.md prints an answer and writes a request, and the request gets the same answer."""
    folder = export_dir / "1"
    text = (folder / "README.md").read_text()
    assert "| `serving_default` | input | `x` | uint8 | batch x 8 x 8 x 1 | `serving_default_x:0` |" in text
    assert text.count("| `") == 3 * sum(len(s["inputs"] | s["outputs"]) for s in described["signatures"].values())
    assert resflow.__version__ in text and described["signatures"]["sample"]["description"] in text
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(folder)
    exec(code, {})
    answer, request = eval(capsys.readouterr().out), json.loads((folder / "request.json").read_text())
    (folder / "request.json").unlink()
    expected = call(loaded, "serving_default", x=np.array(request["inputs"]["x"], np.uint8))
    assert answer == {name: value.tolist() for name, value in expected.items()}


def test_the_description_for_programs(loaded, described):
    """Inputs can be built from signatures.json, and outputs have the described dtypes and shapes."""

    def tensors(specs, rows):
        shapes = {key: [rows if n == -1 else n for n in of["shape"]] for key, of in specs.items()}
        return {key: tf.ones(shapes[key], of["dtype"]) for key, of in specs.items()}

    assert sorted(described["signatures"]) == sorted(loaded.signatures)
    for name, signature in described["signatures"].items():
        outputs = loaded.signatures[name](**tensors(signature["inputs"], 3))
        expected = tensors(signature["outputs"], 1 if name == "sample" else 3)
        assert outputs.keys() == expected.keys(), name
        for key, value in expected.items():
            assert (outputs[key].dtype, outputs[key].shape) == (value.dtype, value.shape), (name, key)
    estimator = {"type": "RussianRoulette", "probes": "rademacher", "num_probes": 1}
    estimator |= {"num_exact_terms": 6, "distribution": {"type": "Geometric", "p": 0.5}, "per_example": False}
    log_prob = {"estimator": estimator, "seed": 0, "num_samples": 4, "stderr": 0.5, "dequantization": "uniform"}
    assert {key: value for key, value in described.items() if key != "signatures"} == {
        "default": "serving_default",
        "levels": 17,
        "inverse_atol": 1 / 32 / 17,
        "max_samples": 1024,
        "max_temperature": 100.0,
        "log_prob": log_prob,
    }


def test_chosen_signatures(image_model, images, loaded, call, tmp_path):
    """`encode` is the default, without the classifier and the power series."""
    path = resflow.serving.export(image_model, tmp_path, signatures=["encode", "sample"], max_batch=7)
    described = json.loads((path / "signatures.json").read_text())
    assert list(described["signatures"]) == ["serving_default", "encode", "sample"]
    assert described["signatures"]["serving_default"]["description"].startswith("The same as encode")
    assert described["default"] == "encode" and described["max_batch"] == 7 and "log_prob" not in described
    served = tf.saved_model.load(str(path))
    assert sorted(served.signatures) == ["encode", "sample", "serving_default"]
    expected = call(loaded, "encode", x=images)["z"]
    for name in ("serving_default", "encode"):
        np.testing.assert_allclose(call(served, name, x=images)["z"], expected, rtol=1e-6)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"at most 7 examples \(max_batch.*\[8 8 8 1\]"):
        call(served, "encode", x=np.zeros([8, 8, 8, 1], np.uint8))
    ops = [node.op for node in operations(path)]
    assert ops.count("StatelessWhile") == 1 and "While" not in ops, "only the loop of the block's inverse"
    saved = tf.train.list_variables(str(path / "variables" / "variables"))
    num_saved = sum(np.prod(shape) for name, shape in saved if "weights" in name)
    assert 0 < num_saved <= sum(np.prod(weight.shape) for weight in image_model.flow.variables)
    assert {request.inputs["x"].tensor_shape.dim[0].size for request in warmup_requests(path)} == {1, 7}


def test_the_export_of_a_run(make_config, run_without_work, tmp_path, monkeypatch, caplog):
    """The scores have p-values and the requested standard error. Without the data, there are no p-values."""
    run_without_work(make_config(train__steps=1), tmp_path / "run")
    options = {"stderr": 0.1, "log_det_estimator": "adaptive_roulette", "signatures": ["serving_default"]}
    path = resflow.training.export_run(tmp_path / "run", tmp_path / "served", **options)
    described = json.loads((path / "signatures.json").read_text())
    assert described["log_prob"]["num_held_out"] == 50 and 0 < described["log_prob"]["stderr"] < 0.15
    assert "p_value" in described["signatures"]["serving_default"]["outputs"]
    assert "trained on 8gaussians for 1 steps with adamw" in (path / "README.md").read_text()
    monkeypatch.setattr("tf_resflow.data.load", _gone)
    options = {"num_samples": 2, "signatures": ["serving_default"]}
    path = resflow.training.export_run(tmp_path / "run", tmp_path / "served", **options)
    described = json.loads((path / "signatures.json").read_text())
    assert "no p-values, because the held-out data cannot be loaded: gone" in caplog.text
    assert "p_value" not in described["signatures"]["serving_default"]["outputs"]


def _gone(config):
    raise ValueError("gone")


@pytest.fixture
def copy(exported_vectors, monkeypatch):
    """Copies the SavedModel of the vector model to a path. Exports use this copy instead of writing a model."""
    kept_out = shutil.ignore_patterns("assets.extra", "*.md")
    copy = functools.partial(shutil.copytree, exported_vectors, ignore=kept_out)
    monkeypatch.setattr(tf.saved_model, "save", lambda module, path, **_: copy(path))
    return copy


@pytest.mark.usefixtures("copy")
def test_versions(export_vectors, tmp_path):
    assert export_vectors(tmp_path / "new" / "dir").name == "1"
    for name in ("12", "notes", "\u00b2"):
        (tmp_path / "v" / name).mkdir(parents=True)
    assert export_vectors(tmp_path / "v").name == "13"
    with pytest.raises(ValueError, match=r"has version 12.*next free version is 14"):
        export_vectors(tmp_path / "v", version=12)
    assert sorted(path.name for path in (tmp_path / "v").iterdir()) == ["12", "13", "notes", "\u00b2"]
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Cannot write .*file.dir"):
        export_vectors(tmp_path / "file" / "dir")


def test_export_of_keras(vector_model, tmp_path, call, refused, capsys):
    """`model.export` writes to the path itself, and replaces only the files of an earlier export."""
    path, options = tmp_path / "a" / "served", {"signatures": ["encode"]}
    assert vector_model.export(path, **options) is None and "signatures.json" in capsys.readouterr().out
    (path / "notes").write_text("mine")
    (kernel, *_) = vector_model.trainable_weights
    before, x = kernel.numpy(), np.zeros([2, 3])
    first = call(tf.saved_model.load(str(path)), "encode", x=x)["z"]
    kernel.assign(before + 0.1)
    vector_model.export(str(path), "tf_saved_model", verbose=False, **options)
    assert capsys.readouterr().out == ""
    second = call(tf.saved_model.load(str(path)), "encode", x=x)["z"]
    np.testing.assert_allclose(second, vector_model.encode(x))
    assert np.all(np.abs(second - first) > 1e-6)
    kernel.assign(before)
    assert (path / "notes").read_text() == "mine" and not (path / "1").exists()
    assert [entry.name for entry in path.parent.iterdir()] == ["served"]
    refused("format is 'onnx', but FlowModel.export writes only", vector_model.export, path, format="onnx")
    for wrong in ({"version": 2}, {"input_signature": [x]}):
        refused("numbered versions with tf_resflow.serving.export", vector_model.export, path, **wrong)
    refused("a has files, but no SavedModel", vector_model.export, tmp_path / "a")
    refused("notes has files, but no SavedModel", vector_model.export, path / "notes")


@pytest.mark.usefixtures("copy")
def test_without_the_package_of_the_requests(export_vectors, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "tensorflow_serving.apis.prediction_log_pb2", None)
    path = export_vectors(tmp_path)
    assert (path / "saved_model.pb").exists() and not (path / "assets.extra").exists()
    (record,) = caplog.records
    assert 'pip install "tf-resflow[serving]"' in record.getMessage()
