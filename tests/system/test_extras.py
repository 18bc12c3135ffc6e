"""Tests that the core works without the extras, and that errors name a missing extra or a wrong Keras backend."""

import importlib

import tf_resflow

CORE_ALONE = """
import sys

EXTRAS = ("PIL einops importlib_resources jinja2 matplotlib ml_collections narwhals openpyxl pandas polars pyarrow "
          "sklearn tensorboard tensorflow_datasets tensorflow_serving torch tqdm").split()


class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in EXTRAS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, NotInstalled())

import numpy as np

import tf_resflow as resflow
from tf_resflow.cli import convert, evaluate, export, sample, score, train

for package in (resflow.layers, resflow.logdet, resflow.solvers, resflow.bijectors, resflow.flows):
    for name in package.__all__:
        getattr(package, name)
model = resflow.FlowModel(resflow.flows.vector_flow(2, num_blocks=1, hidden=(4,)), event_shape=[2])
x = np.random.default_rng(0).normal(size=[8, 2]).astype("float32")
model.initialize(x)
model.compile(optimizer="adam")
model.fit(x, batch_size=4, verbose=0)
assert model.sample(3, seed=0).shape == (3, 2)
resflow.bijectors.certified_bounds(model.flow)

for name, call in {
    "data": lambda: resflow.data.load_digits(),
    "sklearn": lambda: resflow.tables.FlowDensity(),
    "plots": lambda: resflow.evaluation.Calibration([[0.0, 1.0]], [0.5, 0.6]).figure("a.png"),
    "training": lambda: resflow.training.default_config(),
}.items():
    try:
        call()
        raise SystemExit(f"{name}: no error")
    except ImportError as error:
        assert f'pip install "tf-resflow[{name}]"' in str(error), error
sys.argv = ["resflow-train", "--config=digits", "--workdir=none"]
train.run()
"""


def test_the_core_alone(process):
    done = process("-c", CORE_ALONE)
    message = 'Error: The package ml_collections is not installed. Run pip install "tf-resflow[training]"'
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith(message), done.stderr[-3000:]


def test_another_keras_backend(monkeypatch, refused):
    monkeypatch.setattr("keras.config.backend", lambda: "torch")
    refused("backend is 'torch'.*keras.json", importlib.reload, tf_resflow.layers, error=ImportError)
