"""What an export leaves on disk, and that it needs TensorFlow alone."""

import concurrent.futures
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

import tf_resflow as resflow
from tf_resflow.serving.readme import estimator_text


@pytest.fixture(scope="module")
def saved(export_dir):
    return saved_model_pb2.SavedModel.FromString((export_dir / "1" / "saved_model.pb").read_bytes())


def test_files(export_dir):
    found = {str(path.relative_to(export_dir)) for path in export_dir.rglob("*") if path.is_file()}
    assert found >= {
        "1/saved_model.pb",
        "1/variables/variables.index",
        "1/assets.extra/tf_serving_warmup_requests",
        "1/README.md",
        "1/MODEL_CARD.md",
    }
    assert [path.name for path in export_dir.iterdir()] == ["1"]


def test_signatures_tell_their_shapes(saved):
    signatures = saved.meta_graphs[0].signature_def
    image = [-1, 8, 8, 1]
    expected = {
        ("serving_default", "inputs", "x"): image,
        ("serving_default", "outputs", "log_prob"): [-1],
        ("log_prob_seeded", "inputs", "seed"): [],
        ("sample", "inputs", "num"): [],
        ("sample", "outputs", "x"): image,
        ("sample", "outputs", "converged"): [-1],
        ("encode", "outputs", "z"): [-1, 4, 4, 4],
        ("decode", "inputs", "z"): [-1, 4, 4, 4],
        ("decode", "outputs", "x"): image,
        ("classify", "outputs", "probabilities"): [-1, 3],
        ("classify", "outputs", "label"): [-1],
    }
    for (signature, side, name), shape in expected.items():
        info = getattr(signatures[signature], side)[name]
        assert [dim.size for dim in info.tensor_shape.dim] == shape, (signature, name)


def test_a_loaded_signature_tells_its_shapes(loaded):
    shapes = {
        name: {spec.name: spec.shape.as_list() for spec in function.structured_input_signature[1].values()}
        for name, function in loaded.signatures.items()
    }
    assert shapes["log_prob_seeded"] == {"x": [None, 8, 8, 1], "seed": []}
    assert shapes["sample"] == {"num": [], "seed": [], "temperature": []}
    assert shapes["decode"] == {"z": [None, 4, 4, 4]}


def test_the_graph_has_neither_python_nor_xla(saved):
    functions = saved.meta_graphs[0].graph_def.library.function
    nodes = [node for function in functions for node in function.node_def]
    assert len(nodes) > 1000
    assert not {node.op for node in nodes} & {"PyFunc", "EagerPyFunc", "PyFuncStateless", "XlaLaunch"}
    for node in nodes:
        assert not node.attr["_XlaMustCompile"].b


ALONE = """
import sys
for name in ("tf_resflow", "tensorflow_probability", "keras", "tf_keras", "sklearn", "tensorflow_serving"):
    sys.modules[name] = None  # an import of it fails
import numpy as np
import tensorflow as tf
loaded = tf.saved_model.load(sys.argv[1])
x = np.load(sys.argv[2])
np.save(sys.argv[3], loaded.signatures["serving_default"](x=tf.constant(x))["log_prob"])
"""


def test_it_needs_tensorflow_alone(export_dir, loaded, images, call, tmp_path):
    np.save(tmp_path / "x.npy", images)
    arguments = [str(export_dir / "1"), str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]
    environment = {**os.environ, "PYTHONPATH": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", ALONE, *arguments]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    expected = call(loaded, "serving_default", x=images)["log_prob"]
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, rtol=1e-6)


def test_warmup_requests_are_answered(export_dir, loaded):
    path = export_dir / "1" / "assets.extra" / "tf_serving_warmup_requests"
    answered = []
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        request = PredictionLog.FromString(record).predict_log.request
        inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()}
        result = loaded.signatures[request.model_spec.signature_name](**inputs)
        answered.append((request.model_spec.signature_name, next(iter(result.values())).shape[0]))
    names = ["serving_default", "encode", "decode", "classify"]  # those without scalars
    assert sorted(answered) == sorted((name, size) for name in names for size in (1, 8))


def test_readme_and_model_card(export_dir, saved):
    readme = (export_dir / "1" / "README.md").read_text()
    for name, signature in saved.meta_graphs[0].signature_def.items():
        if name.startswith("__"):
            continue
        assert f"## {name}\n" in readme
        for info in (*signature.inputs.values(), *signature.outputs.values()):
            assert f"`{info.name}`" in readme
    assert "| in | `x` | uint8 | batch x 8 x 8 x 1 |" in readme
    card = (export_dir / "1" / "MODEL_CARD.md").read_text()
    assert "2 residual blocks" in card and resflow.__version__ in card and "proves that each block" in card
    assert "has not evaluated" in card
    for text in (readme, card):
        assert "log-determinants are estimated without bias, by Russian roulette after 6 exact terms" in text


def test_threads_get_the_answers_of_one(loaded, images, call):
    """8 threads, 5 calls each of all signatures, against the answers of one thread."""
    z = call(loaded, "encode", x=images)["z"]
    requests = [
        ("serving_default", {"x": images}),
        ("log_prob_seeded", {"x": images, "seed": 9}),
        ("sample", {"num": 3, "seed": 4, "temperature": 0.7}),
        ("encode", {"x": images}),
        ("decode", {"z": z}),
        ("classify", {"x": images}),
    ] * 5

    def answers(order):
        return {i: call(loaded, name, **values) for i in order for name, values in [requests[i]]}

    alone = answers(range(len(requests)))
    orders = [np.random.default_rng(i).permutation(len(requests)) for i in range(8)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for found in pool.map(answers, orders):
            for i, result in found.items():
                for name, value in result.items():
                    np.testing.assert_allclose(value, alone[i][name], rtol=1e-5, atol=1e-6)


def test_versions(vector_model, tmp_path):
    settings = {"log_det": resflow.logdet.PowerSeries(2, common_probes=True), "num_samples": 2}
    assert resflow.serving.export(vector_model, tmp_path / "new" / "dir", **settings).name == "1"
    (tmp_path / "v" / "12").mkdir(parents=True)
    (tmp_path / "v" / "notes").mkdir()
    assert resflow.serving.export(vector_model, tmp_path / "v", **settings).name == "13"
    with pytest.raises(ValueError, match="has a version 12.*next free one is 14"):
        resflow.serving.export(vector_model, tmp_path / "v", version=12, **settings)
    with pytest.raises(ValueError, match="at least 1"):
        resflow.serving.export(vector_model, tmp_path / "v", version=0, **settings)
    assert sorted(path.name for path in (tmp_path / "v").iterdir()) == ["12", "13", "notes"]


def test_the_card_of_a_block_on_trust(tmp_path):
    branch = keras.Sequential([keras.Input([2]), keras.layers.Dense(2, name="unknown")])
    block = resflow.bijectors.ResidualBlock(branch, lipschitz_constant=0.6, name="trusted")
    model = resflow.FlowModel(resflow.bijectors.Flow([block]), [2])
    path = resflow.serving.export(model, tmp_path, log_det=resflow.logdet.Exact(), num_samples=2)
    card = (path / "MODEL_CARD.md").read_text()
    assert "The Lipschitz constant of trusted's branch is not certified" in card
    assert "'unknown' (Dense)" in card and "0.6000 is taken on trust" in card and "proves that" not in card


def test_a_failure_leaves_nothing(vector_model, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(sys.modules["tf_resflow.serving.export"], "write_warmup", fail)
    with pytest.raises(OSError, match="No space"):
        resflow.serving.export(vector_model, tmp_path, log_det=resflow.logdet.Exact(), num_samples=2)
    assert not list(tmp_path.iterdir())


def test_a_directory_that_cannot_be_made(vector_model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="Cannot make the directory"):
        resflow.serving.export(vector_model, tmp_path / "file" / "dir")


def test_without_the_package_of_the_requests(vector_model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_serving.apis.prediction_log_pb2", None)
    with pytest.raises(ValueError, match="pip install tensorflow-serving-api"):
        resflow.serving.export(vector_model, tmp_path)


@pytest.mark.parametrize(
    "log_det, text",
    [
        (resflow.logdet.Exact(), "exact"),
        (resflow.logdet.PowerSeries(3), "a power series of 3 terms, and so biased"),
        (resflow.logdet.AdaptiveSeries(1e-3), "cut where the rest is certainly below 0.001 nats"),
    ],
)
def test_estimators_in_words(log_det, text):
    assert text in estimator_text(log_det)
