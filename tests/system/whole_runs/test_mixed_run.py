"""Tests a run on a table with numbers, whole numbers, dates, categories and a condition, from file to export."""

import json

import numpy as np
import pandas
import pytest
import tensorflow as tf
from scipy import special

import tf_resflow as resflow
from tests.system.whole_runs.conftest import regression_nats
from tf_resflow import training
from tf_resflow.cli import evaluate as evaluate_command
from tf_resflow.cli import sample as sample_command
from tf_resflow.cli import score as score_command


@pytest.fixture(scope="module")
def table():
    """A table in which the price depends on the number of rooms, and only houses have gardens."""
    rng = np.random.default_rng(0)
    rooms = rng.integers(1, 6, 500)
    kind = rng.choice(["flat", "house"], 500, p=[0.7, 0.3])
    table = pandas.DataFrame(
        {
            "name": [f"home {i}" for i in range(500)],
            "price": (100 * rooms + rng.normal(0, 20, 500)).round(3),
            "rooms": rooms,
            "kind": kind,
            "garden": (kind == "house") & (rng.uniform(size=500) < 0.9),
            "sold": pandas.Timestamp("2025-01-01") + pandas.to_timedelta(rng.integers(0, 60, 500), unit="D"),
            "state": rng.choice(["poor", "fair", "good"], 500),
            "balcony": np.where(rng.uniform(size=500) < 0.6, 0.0, rng.gamma(3.0, 2.0, 500)).round(2),
        }
    )
    table.loc[[5, 9], "price"] = np.nan
    return table


@pytest.fixture(scope="module")
def whole(tmp_path_factory, table, train_table):
    path = tmp_path_factory.mktemp("mixed") / "homes.csv"
    table.to_csv(path, index=False)
    fields = {"data__columns": "price,rooms,kind,garden,sold,balcony,state", "data__missing": "drop"}
    fields |= {"data__condition_columns": "state", "data__kinds": "state: poor < fair < good"}
    return train_table(path, 100, **fields)


def test_the_result_has_one_unit(whole, run_command, tmp_path):
    """The score and the baseline have the same unit. The test computes the baseline from random points in cells."""
    result = whole.result
    assert whole.run.data.sizes == {"train": 398, "validation": 50, "test": 50}
    rng, cells, noisy, log_widths = np.random.default_rng(0), whole.data.codes.cells, [], 0.0
    np.testing.assert_array_equal(cells.step, [0, 1, 1, 1, 1, 0])
    ((place, atom, width, end),) = cells.atoms
    assert (place, atom, end) == (5, 0, -1)
    for split in ("train", "test"):
        x, c = (np.tile(part, [500, 1]) for part in whole.pairs(split))
        z = x + cells.step * rng.uniform(-0.5, 0.5, size=x.shape)
        z[:, 5] = np.where(x[:, 5] == 0, width * rng.uniform(size=len(x)), x[:, 5] + width)
        noisy, log_widths = [*noisy, z, c], np.mean(x[:, 5] == 0) * np.log(width)
    expected = regression_nats(*noisy) - log_widths
    assert result["baselines"]["gaussian"] == pytest.approx(expected, abs=0.03)
    assert result["nats"] < result["baselines"]["gaussian"] + 1
    assert whole.figures() == {"pairs.png"}
    likelihood = training.Evaluation(whole.run, whole.data).likelihood()
    assert likelihood["bound"] == "importance_weighted"
    assert likelihood["nats"] == pytest.approx(result["nats"], abs=1e-4)
    arguments = ["--metrics=importance_weighted", "--iw_samples=64"]
    run_command(evaluate_command, whole.workdir, tmp_path / "result.json", *arguments)
    found = json.loads((tmp_path / "result.json").read_text())["importance_weighted"]
    assert found["nats"] == pytest.approx(result["nats"], abs=0.2)


def test_scores(whole, table, run_command, tmp_path):
    """The probability of a cell is the probability of its points. Rows with unknown values have a reason."""
    new = table.iloc[20:28].astype(object)
    changes = [("kind", "castle"), ("state", "new"), ("sold", "yesterday"), ("price", 1e300), ("rooms", 2.5)]
    for row, (column, value) in enumerate([*changes, ("sold", "2025-01-05T12:00")], start=1):
        new.iloc[row, new.columns.get_loc(column)] = value
    new.to_csv(tmp_path / "new.csv", index=False)
    arguments = [f"--input={tmp_path / 'new.csv'}", "--id_columns=name", "--stderr=0.05"]
    run_command(score_command, whole.workdir, tmp_path / "scores.csv", *arguments)
    lines = pandas.read_csv(tmp_path / "scores.csv", dtype=str, keep_default_na=False)
    assert list(lines) == ["example", "name", "log_prob", "stderr", "p_value", "reason"]
    assert list(lines["name"]) == [f"home {i}" for i in range(20, 28)]
    assert list(lines["reason"]) == [
        "",
        "column 'kind': 'castle' is not a known level",
        "column 'state': 'new' is not a known level",
        "column 'sold': 'yesterday' is not a date",
        "",
        "column 'rooms': '2.5' is not a whole number",
        "column 'sold': '2025-01-05T12:00' is not a whole day",
        "",
    ]
    scores = list(lines["log_prob"])
    assert scores[1] == scores[5] == scores[6] == "-inf" and scores[2:4] == ["", ""] and float(scores[4]) < -1e20
    row = table.iloc[20]
    codes = whole.run.data.codes, whole.run.data.condition_codes
    x, c = (each.encode(table[20:21]).values for each in codes)
    assert x[0, 1] == row["rooms"] and x[0, 4] == (row["sold"] - table["sold"].min()).days
    u = np.random.default_rng(0).uniform(-0.5, 0.5, size=[4096, 6])
    ((*_, width, _),) = codes[0].cells.atoms
    assert row["balcony"] > 0
    z = tf.constant(x + u * [0, 1, 1, 1, 1, 0] + [0, 0, 0, 0, 0, width], tf.float32)
    arguments = whole.model.condition.arguments(c.astype("f4"), 4096)
    density = resflow.bijectors.with_log_det_estimator(whole.model.distribution, resflow.logdet.Exact())
    exact = special.logsumexp(density.log_prob(z, bijector_kwargs={"seed": [0, 0], **arguments})) - np.log(4096)
    assert float(scores[0]) == pytest.approx(exact, abs=0.4)


def test_samples_are_rows(whole, table, run_command, tmp_path):
    """Samples have the types and the order of the columns. A level is a valid condition."""
    arguments = ["--num=200", "--condition=good", "--temperature=0.7,1"]
    run_command(sample_command, whole.workdir, tmp_path / "a.csv", *arguments)
    drawn = pandas.read_csv(tmp_path / "a.csv", parse_dates=["sold"])
    assert list(drawn) == ["temperature", "price", "rooms", "kind", "garden", "sold", "balcony"]
    assert 0.2 < (drawn["balcony"] == 0).mean() < 0.8 and drawn["balcony"].min() == 0
    np.testing.assert_array_equal(drawn["balcony"], drawn["balcony"].round(2))
    assert (drawn["temperature"].value_counts() == 200).all()
    assert drawn["rooms"].isin(range(1, 6)).all() and set(drawn["kind"]) == {"flat", "house"}
    assert drawn["garden"].dtype == bool and drawn["rooms"].dtype == int
    assert drawn["sold"].between(table["sold"].min(), table["sold"].max()).all()
    assert np.corrcoef(drawn["price"], drawn["rooms"])[0, 1] > 0.6
    run_command(sample_command, whole.workdir, tmp_path / "a.png", "--num=100", "--condition=poor")
    with pytest.raises(ValueError, match="column 'state': 'new' is not a known level"):
        run_command(sample_command, whole.workdir, tmp_path / "b.csv", "--condition=new")


def test_an_export_tells_the_codes(whole, table, tmp_path):
    _, served, described, readme = whole.export(tmp_path)
    assert [column["name"] for column in described["codes"]["x"]] == [*table.columns[1:6], "balcony"]
    assert "`balcony`: a probability at 0, a density elsewhere" in readme
    assert "`sold`: days since 2025-01-01" in readme and "`rooms`: 1 to 5 in steps of 1" in readme
    assert "`state`: the number of the level: 0 poor, 1 fair, 2 good" in readme
    x, c = tf.constant([[300.0, 3, 0, 0, 30, 0], [300.0, 3, 0, 0, 30, 5]]), tf.constant([[2.0], [2.0]])
    expected = resflow.evaluation.LogLikelihood(whole.model).score_examples([(x, c)], 0)["log_prob"]
    answer = served["serving_default"](x=x, condition=c)
    assert np.all(abs(answer["log_prob"] - expected) < 6 * answer["log_prob_stderr"])
    drawn = served["sample"](
        num=tf.constant(99), seed=tf.constant(0, tf.int64), temperature=tf.constant(1.0), condition=c[:1]
    )
    assert 0.3 < np.mean(drawn["x"][:, 5] == 0) < 0.9 and np.min(drawn["x"][:, 5]) == 0
