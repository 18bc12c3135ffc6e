"""The lowered step: its text takes the arguments, and returns what is expected, in their order."""

import re

import numpy as np
import pytest
import tensorflow as tf
from absl import flags

import tf_resflow as resflow

TYPES = {"f32": "float32", "i32": "int32", "i64": "int64"}


def types(text):
    """The shape and the dtype of each tensor<2x3xf32> in a text."""
    found = [found.split("x") for found in re.findall(r"tensor<([^>]*)>", text)]
    return [(tuple(map(int, sizes)), TYPES[kind]) for *sizes, kind in found]


@pytest.fixture
def lower(monkeypatch, request):
    monkeypatch.syspath_prepend(request.config.rootpath / "benchmarks")
    known = set(flags.FLAGS)
    yield __import__("lower_step").lower
    flags.FLAGS.remove_flag_values(set(flags.FLAGS) - known)


def test_arguments_and_results(lower, tmp_path):
    flow = resflow.flows.vector_flow(2, 1, (4,), log_det=resflow.logdet.Exact())
    model = resflow.FlowModel(flow, [2])
    model.compile(optimizer="sgd")
    lower(model, tf.random.stateless_normal([8, 2], [0, 0]), tmp_path)
    text = (tmp_path / "step.mlir").read_text()
    arguments, results = re.search(r"func.func @main\((.*?)\) -> \((.*?)\) \{", text).groups()
    with np.load(tmp_path / "arguments.npz") as file:
        arrays = dict(file)
    places = arrays.pop("variables")
    before = list(arrays.values())
    assert types(arguments) == [(a.shape, a.dtype.name) for a in before]
    with np.load(tmp_path / "expected.npz") as file:
        after = list(file.values())
    assert types(results) == [(a.shape, a.dtype.name) for a in after]
    assert len(places) == len(model.weights + model.optimizer.variables)
    moved = [np.any(before[place] != value) for place, value in zip(places, after[1:], strict=True)]
    assert sum(moved) > len(moved) / 2
    assert np.isfinite(after[0])
