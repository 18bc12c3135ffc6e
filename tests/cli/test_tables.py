"""Runs the commands in this process, on a run on a table."""

import io
import json

import numpy as np
import pandas
import pytest

import tf_resflow as resflow
from tf_resflow._internal import console
from tf_resflow.cli import evaluate, sample, score
from tf_resflow.tables import runs
from tf_resflow.tables.runs.config import default_config


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    rooms = rng.integers(1, 6, 150)
    columns = {"id": [f"{i:03}" for i in range(150)], "price": (100 * rooms + rng.normal(0, 20, 150)).round(2)}
    columns |= {"rooms": rooms, "kind": np.where(rng.uniform(size=150) < 0.3, "house", "flat")}
    columns["garden"] = rng.uniform(size=150) < 0.5
    columns["sold"] = pandas.Timestamp("2025-01-01") + pandas.to_timedelta(rng.integers(0, 60, 150), unit="D")
    columns["state"] = rng.choice(["poor", "good"], 150)
    return pandas.DataFrame(columns)


def train(table, path, **fields):
    table.to_csv(path, index=False)
    config = default_config()
    config.data.update(path=str(path), exclude_columns="id", **fields)
    config.density.update(num_blocks=1, hidden=(8,), max_steps=40, num_members=2)
    runs.train(config, path.parent / "run", progress=False)
    return path.parent / "run"


@pytest.fixture(scope="module")
def workdir(table, tmp_path_factory):
    return train(table, tmp_path_factory.mktemp("table") / "homes.csv")


@pytest.fixture(scope="module")
def given(table, tmp_path_factory):
    return train(table, tmp_path_factory.mktemp("given") / "homes.csv", condition_columns="state")


@pytest.fixture
def scored(run_command, tmp_path):
    """Returns a function that scores a table and returns the lines of the output."""

    def scored(workdir, table, *arguments):
        table.to_csv(tmp_path / "new.csv", index=False)
        run_command(score, workdir, tmp_path / "scores.csv", f"--input={tmp_path / 'new.csv'}", *arguments)
        return pandas.read_csv(tmp_path / "scores.csv", dtype=str, keep_default_na=False)

    return scored


def test_each_row_is_scored(workdir, table, scored, capsys):
    """Rows with unknown or unreadable values have a reason. The values of other rows do not change a score."""
    run = resflow.load(workdir)
    new = table[:6].astype(object)
    for row, (column, value) in enumerate([("kind", "castle"), ("price", ""), ("rooms", 2.5), ("sold", "soon")], 1):
        new.loc[row, column] = value
    found = scored(workdir, new[[*new][::-1]], "--id_columns=id", "--top=1", "--explain=1")
    assert list(found) == ["example", "id", "log_prob", "p_value", "column", "nats", "reason"]
    assert list(found["id"]) == ["000", "001", "002", "003", "004", "005"]
    assert list(found["reason"]) == [
        "",
        "column 'kind': 'castle' is not a known level",
        "column 'price': the value is missing",
        "column 'rooms': '2.5' is not a whole number",
        "column 'sold': 'soon' is not a date",
        "",
    ]
    expected = run.density.score_samples(table.loc[[0, 5], list(run.density.kinds_)])
    np.testing.assert_allclose(found["log_prob"].iloc[[0, 5]].astype(float), expected, rtol=1e-12)
    assert list(found["log_prob"][1:5]) == ["-inf", "", "-inf", ""]
    assert list(found["p_value"][[2, 4]]) == ["", ""] and float(found["p_value"][1]) > 0
    assert list(found["column"][[1, 3]]) == ["kind", "rooms"] and list(found["column"][[2, 4]]) == ["", ""]
    explained = run.density.explain(table.loc[[0], list(run.density.kinds_)])
    assert float(found["nats"][0]) == pytest.approx(explained.max(axis=1)[0])
    said = capsys.readouterr().out.splitlines()
    least = f"{run.density.least_p_value:.2g}, with {len(run.density.held_out_[0])} held-out examples"
    assert any(f"have a p-value of at most {least}" in line for line in said)
    assert said[-2].startswith("2 of 6 have no score, such as line 4, column 'price': the value is missing")
    assert said[-1].startswith("2 of 6 have the score -inf, such as line 3, column 'kind': 'castle' is not a")


def test_unusual_tables(workdir, table, scored, capsys, tmp_path, run_command):
    """An input without rows has no scores, nor has one in which a column is missing in each row."""
    assert list(scored(workdir, table[:0])) == ["example", "log_prob", "p_value", "reason"]
    found = scored(workdir, table[:3].assign(kind=np.nan, color="red"))
    assert set(found["reason"]) == {"column 'kind': the value is missing"} and set(found["log_prob"]) == {""}
    assert "ignored the columns 'id', 'color', which the fit does not have" in capsys.readouterr().out
    table[:2].to_csv(tmp_path / "a.csv", index=False, sep=";", decimal=",")
    options = '--read_options={"sep": ";", "decimal": ","}'
    run_command(score, workdir, tmp_path / "b.csv", f"--input={tmp_path / 'a.csv'}", options)
    assert list(pandas.read_csv(tmp_path / "b.csv", dtype=str)["log_prob"]) == list(
        scored(workdir, table[:2])["log_prob"]
    )


def test_unknown_conditions_give_no_score(given, table, scored):
    new = table[:3].copy()
    new.loc[1, "state"] = "new"
    found = scored(given, new)
    assert found["reason"][1] == "column 'state': 'new' is not a known level" and found["log_prob"][1] == ""
    assert found["log_prob"][0] and found["p_value"][2]


def test_refusals(workdir, given, table, scored, run_command, tmp_path):
    for workdir_, command, argument, message in (
        (workdir, score, "--stderr=0.1", "--stderr does not apply"),
        (workdir, score, "--top=1", "--input must be given"),
        (workdir, score, "--read_options=sep=;", "is not a JSON object"),
        (workdir, sample, "--condition=poor", "needs no --condition"),
        (given, sample, "--num=1", "one value for each of state"),
        (given, sample, "--condition=new", "'new' is not a known level"),
    ):
        with pytest.raises(ValueError, match=message):
            run_command(command, workdir_, tmp_path / "a.csv", argument)
    new = table[:3].assign(price=["1", "2", "much"])
    with pytest.raises(ValueError, match="new.csv, line 4, column 'price': 'much' is not a number. 1 of 3 rows"):
        scored(workdir, new, "--strict")
    with pytest.raises(ValueError, match="no column 'price'"):
        scored(workdir, table.drop(columns="price"))
    assert not (tmp_path / "a.csv").exists()


def test_pipes_and_test_rows(workdir, table, run_command, tmp_path, monkeypatch, capfdbinary, caplog):
    """The table is the only text in standard output."""
    table[:3].to_csv(tmp_path / "new.csv", index=False)
    run_command(score, workdir, tmp_path / "a.csv", f"--input={tmp_path / 'new.csv'}")
    capfdbinary.readouterr()
    monkeypatch.setattr("sys.stdin", (tmp_path / "new.csv").open())
    with console.show_progress():
        run_command(score, workdir, "-", "--input=-", "--top=1")
    assert capfdbinary.readouterr().out == (tmp_path / "a.csv").read_bytes() and "3 examples; " in caplog.text
    run_command(score, workdir, tmp_path / "a.parquet", f"--input={tmp_path / 'new.csv'}")
    assert len(pandas.read_parquet(tmp_path / "a.parquet")) == 3
    run_command(evaluate, workdir, tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == resflow.load(workdir).result
    assert b"nats_stderr" in capfdbinary.readouterr().out


def test_samples_are_rows(workdir, given, table, run_command, tmp_path, capfdbinary):
    run_command(sample, workdir, tmp_path / "a.csv", "--num=50", "--seed=1")
    expected = resflow.load(workdir).density.sample(50, random_state=1)
    assert list(expected) == [*table.columns[1:]] and (expected.dtypes == table.dtypes[1:]).all()
    drawn = pandas.read_csv(tmp_path / "a.csv", parse_dates=["sold"])
    pandas.testing.assert_frame_equal(drawn, expected, check_dtype=False)
    capfdbinary.readouterr()
    run_command(sample, given, "-", "--num=5", "--condition=good")
    assert set(pandas.read_csv(io.BytesIO(capfdbinary.readouterr().out))["state"]) == {"good"}
    for workdir_, arguments in ((workdir, []), (given, ["--condition=poor"])):
        run_command(sample, workdir_, tmp_path / "a.png", "--num=20", *arguments)
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_train_and_export(table, call, tmp_path):
    """A constant column gives a warning. The same command again says that the run is done."""
    table.assign(one=1).to_csv(tmp_path / "homes.csv", index=False, sep=";")
    fields = {"data.path": tmp_path / "homes.csv", "data.columns": "price,kind,one", "density.hidden": "(8,)"}
    fields |= {"density.num_blocks": 1, "density.max_steps": 20, "density.num_members": 1, "density.noise": 0.1}
    arguments = ["--config=tabular", *(f"--config.{field}={value}" for field, value in fields.items())]
    arguments += [f"--workdir={tmp_path / 'run'}", "--quiet"]
    done, again = (call("bin/train.py", *arguments) for _ in range(2))
    assert done.code == again.code == 0 and "These columns are constant: one. Leave them out." in done.output
    assert "Columns (--config.data.kinds): price: number; kind: category; one: whole\nhomes: " in done.output
    assert "\nAlready done: homes: " in again.output
    run = resflow.load(tmp_path / "run")
    assert run.density.noise_ == 0.1 and run.result["line"] in done.output
    done = call("bin/export.py", f"--workdir={tmp_path / 'run'}", f"--export_dir={tmp_path / 'served'}")
    assert done.code == 0 and (tmp_path / "served" / "1" / "saved_model.pb").exists()
