"""Tests that the Apache Beam example returns the scores of the loaded model. `make system` installs Beam."""

import csv
import os
import pathlib
import sys

import numpy as np
import pandas
import pyarrow as pa
import pytest
import tensorflow as tf
from pyarrow import parquet

from tests.conftest import ROOT
from tf_resflow.tables import FlowDensity
from tf_resflow.tables.export import export_density

SCRIPT = ROOT / "examples" / "beam" / "score.py"
PYTHON = pathlib.Path(sys.prefix) / "beam" / "bin" / "python"
X, AGE = np.random.default_rng(0).normal(size=[50, 2]), np.random.default_rng(1).normal(size=50)
COLOR = np.random.default_rng(2).choice(["blue", "red"], size=50)

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="Apache Beam is not installed: make system installs it")


@pytest.fixture(scope="module")
def density():
    """A density of two numbers and a category, given a number."""
    table = pandas.DataFrame(X, columns=["height", "length, cm"]).assign(age=AGE, color=COLOR)
    options = {"num_blocks": 1, "hidden": (8,), "max_steps": 40, "num_members": 1, "random_state": 0}
    return FlowDensity(condition_columns=["age"], **options).fit(table)


@pytest.fixture(scope="module")
def path(density, tmp_path_factory):
    """The exported density, for batches of up to 8 rows."""
    return export_density(density, tmp_path_factory.mktemp("model"), max_batch=8)


@pytest.fixture(scope="module")
def expected(density, path):
    score = tf.saved_model.load(str(path)).signatures["serving_default"]
    levels = list(density.encoder_.columns[2].levels)
    inputs = {"x": np.column_stack([X, list(map(levels.index, COLOR))]), "condition": AGE[:, np.newaxis]}
    answers = [score(**{name: tf.constant(x[i : i + 5]) for name, x in inputs.items()}) for i in range(0, 50, 5)]
    return {name: np.concatenate([answer[name] for answer in answers]) for name in ("log_prob", "p_value")}


@pytest.fixture
def score(path, process, tmp_path):
    """Scores the files that match a pattern. Returns the printed text and the written files."""

    def score(pattern):
        options = [f"--model={path}", f"--input={tmp_path / pattern}", f"--output={tmp_path / 'scores/of'}"]
        done = process(SCRIPT, *options, "--runner=FnApiRunner", program=PYTHON, check=True)
        return done.stdout, sorted((tmp_path / "scores").iterdir())

    return score


def check(rows, expected):
    assert sorted(int(row["id"]) for row in rows) == [*range(50)]
    for row in rows:
        for name, values in expected.items():
            np.testing.assert_allclose(float(row[name]), values[int(row["id"])], rtol=1e-5, atol=1e-5)


def test_csv(score, expected, tmp_path):
    """Reads two files. Invalid rows have empty scores, and a row with an unknown level has the score -inf."""
    header = ["age", "id", "note", "color", "height", "length, cm"]
    rows = [[AGE[i], i, 'a "note", of two words', COLOR[i], *X[i]] for i in range(50)]
    bad = [["", -1, "", "red", 1, 2], ["x", -1, "", "red", 1, 2], ["inf", -1, "", "red", 1, 2]]
    bad += [[1, -1, "", "", 1, 2], [1, -1, "", "red", 1], [1, -1, "", "red", 1, 2, 3]]
    unknown = [1, -2, "", "green", 1, 2]
    for name, part in (("a.csv", [*rows[:20], *bad, unknown]), ("b.csv", rows[20:])):
        with (tmp_path / name).open("w", newline="") as file:
            csv.writer(file).writerows([header, *part])
    said, files = score("*.csv")
    assert "6 rows are not valid" in said
    found = []
    for file in files:
        with file.open(newline="") as lines:
            reader = csv.DictReader(lines)
            found += reader
        assert reader.fieldnames == [*header, "log_prob", "p_value", "reason", "valid"]
    check([row for row in found if int(row["id"]) >= 0], expected)
    assert {row["note"] for row in found if int(row["id"]) >= 0} == {'a "note", of two words'}
    answers = [tuple(row[name] for name in ("log_prob", "valid", "reason")) for row in found if row["id"] == "-1"]
    assert answers == [("", "False", "1")] * 6
    assert [(row["log_prob"], row["valid"], row["reason"]) for row in found if row["id"] == "-2"] == [
        ("-inf", "True", "2")
    ]


def test_parquet(score, expected, tmp_path):
    columns = {"height": X[:, 0], "age": [*AGE[:-1], None], "color": COLOR, "length, cm": X[:, 1]}
    parquet.write_table(pa.table(columns | {"id": np.arange(50)}), tmp_path / "a.parquet", row_group_size=20)
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
levels = [" a", "7", 7.0, "0.5", True, "true", "b", " ", None, float("nan")]
days = ["2024-03-01", datetime.date(2024, 3, 1), "2024-03-01T18:00", "soon"]
print([score.to_number(value, level) for value in levels])
print([float(score.to_number(value, day)) for value in days])
print([score.to_number(value, {"kind": "number"}) for value in ["1.5", "", None, "x"]])
"""


def test_levels_and_dates_are_numbers(process):
    done = process("-c", NUMBERS, program=PYTHON, environment={**os.environ, "PYTHONPATH": str(SCRIPT.parent)})
    expected = ["[0, 1, 1, 2, 3, 3, -1, nan, nan, nan]", "[2.0, 2.0, 2.75, inf]", "[1.5, nan, nan, inf]"]
    assert done.stdout.splitlines() == expected
