"""Tests that the Apache Beam example returns the scores of the loaded model. `make system` installs Beam."""

import csv
import os
import pathlib
import sys

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from pyarrow import parquet

import tf_resflow as resflow
from tests.conftest import ROOT
from tf_resflow.data.data_info import DataInfo
from tf_resflow.training.runs import Run

SCRIPT = ROOT / "examples" / "beam" / "score.py"
PYTHON = pathlib.Path(sys.prefix) / "beam" / "bin" / "python"
X, C = np.random.default_rng(0).normal(size=[50, 2]), np.random.default_rng(1).normal(size=[50, 1])

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="Apache Beam is not installed: make system installs it")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """An exported density of two columns given a third column, for batches of up to 8 rows."""
    flow = resflow.flows.vector_flow(2, num_blocks=1, hidden=(8,), condition_size=1)
    model = resflow.FlowModel(flow, [2], condition_shape=[1])
    x, c = X.astype("float32"), C.astype("float32")
    model.initialize(x, condition=c)
    names = {"columns": ("height", "length, cm"), "condition_columns": ("age",)}
    moments = {"mean": x.mean(0), "std": x.std(0), "condition_mean": c.mean(0), "condition_std": c.std(0)}
    config = resflow.training.default_config()
    config.data.update(name="tabular", path="people.csv")
    run = Run(model, config, 5, pathlib.Path("run"), DataInfo("people", (2,), None, **moments, **names))
    folder, exact = tmp_path_factory.mktemp("model"), resflow.logdet.Exact()
    options = {"log_det_estimator": exact, "held_out": [(x[::-1], c)], "max_batch": 8}
    return resflow.serving.export(model, folder, run=run, **options)


@pytest.fixture(scope="module")
def expected(path):
    score = tf.saved_model.load(str(path)).signatures["serving_default"]
    inputs = {"x": tf.constant(X, tf.float32), "condition": tf.constant(C, tf.float32)}
    answers = [score(**{name: value[i : i + 5] for name, value in inputs.items()}) for i in range(0, 50, 5)]
    return {name: np.concatenate([answer[name] for answer in answers]) for name in ("log_prob", "p_value")}


@pytest.fixture
def score(path, process, tmp_path):
    """Scores the files that match a pattern. Returns the printed text and the written files."""

    def score(pattern):
        options = [f"--model={path}", f"--input={tmp_path / pattern}", f"--output={tmp_path / 'scores/of'}"]
        done = process(SCRIPT, *options, "--runner=FnApiRunner", program=PYTHON, check=True)
        return done.stdout, sorted((tmp_path / "scores").iterdir())

    return score


BAD = [("-1", "False", "1")] * 5


def check(rows, expected):
    assert sorted(int(row["id"]) for row in rows) == [*range(50)]
    for row in rows:
        for name, values in expected.items():
            np.testing.assert_allclose(float(row[name]), values[int(row["id"])], rtol=1e-5, atol=1e-5)


def test_csv(score, expected, tmp_path):
    """Reads two files. Invalid rows have empty scores."""
    header = ["age", "id", "note", "height", "length, cm"]
    rows = [[*C[i], i, 'a "note", of two words', *X[i]] for i in range(50)]
    bad = [["", -1, "", 1, 2], ["x", -1, "", 1, 2], [1e300, -1, "", 1, 2], [1, -1], [1, -1, "", 1, 2, 3]]
    for name, part in (("a.csv", rows[:20] + bad), ("b.csv", rows[20:])):
        with (tmp_path / name).open("w", newline="") as file:
            csv.writer(file).writerows([header, *part])
    said, files = score("*.csv")
    assert "5 rows are not valid" in said
    found = []
    for file in files:
        with file.open(newline="") as lines:
            reader = csv.DictReader(lines)
            found += reader
        assert reader.fieldnames == [*header, "log_prob", "log_prob_stderr", "p_value", "reason", "valid"]
    whole = [row for row in found if row["log_prob"]]
    check(whole, expected)
    assert {row["note"] for row in whole} == {'a "note", of two words'}
    assert [(row["id"], row["valid"], row["reason"]) for row in found if not row["log_prob"]] == BAD


def test_parquet(score, expected, tmp_path):
    columns = {"height": X[:, 0], "age": [*C[:-1, 0], None], "length, cm": X[:, 1], "id": np.arange(50)}
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=20)
    said, (file,) = score("a.parquet")
    assert "1 rows are not valid" in said
    rows = sorted(parquet.read_table(file).to_pylist(), key=lambda row: row["id"])
    assert rows[-1]["log_prob"] is None and rows[-1]["reason"] == 1 and not rows[-1]["valid"]
    rows[-1] |= {name: values[-1] for name, values in expected.items()}
    check(rows, expected)


NUMBERS = """
import datetime, score

level = {"kind": "category", "levels": ["a", 7, 0.5, True]}
day = {"kind": "date", "start": "2024-02-28T00:00:00.000000", "num": 9}
values = [" a", "7", 7.0, "0.5", True, "True", "b"], ["2024-03-01", datetime.date(2024, 3, 1), "2024-03-01T18:00"]
print([score.to_number(value, level) for value in values[0]])
print([float(score.to_number(value, day)) for value in [*values[1], "soon"]])
print([score.to_number(value, {"kind": "number"}) for value in ["1.5", "", None]])
"""


def test_levels_and_dates_are_numbers(process):
    done = process("-c", NUMBERS, program=PYTHON, environment={**os.environ, "PYTHONPATH": str(SCRIPT.parent)})
    expected = ["[0, 1, 1, 2, 3, 3, nan]", "[2.0, 2.0, 2.75, nan]", "[1.5, nan, nan]"]
    assert done.stdout.splitlines() == expected
