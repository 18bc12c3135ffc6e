"""Runs the commands in this process, on a run on a table."""

import io
import json

import numpy as np
import pandas
import pytest
from pyarrow import parquet

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
    assert list(found) == ["example", "id", "log_prob", "p_value", "outlier", "column", "nats", "reason"]
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
    flags = run.density.predict(table.loc[[0, 5], list(run.density.kinds_)]) == -1
    assert list(found["outlier"]) == [str(flags[0]), "True", "", "True", "", str(flags[1])]
    assert list(found["column"][[1, 3]]) == ["kind", "rooms"] and list(found["column"][[2, 4]]) == ["", ""]
    explained = run.density.explain(table.loc[[0], list(run.density.kinds_)])
    assert float(found["nats"][0]) == pytest.approx(explained.max(axis=1)[0])
    said = capsys.readouterr().out.splitlines()
    least = f"{run.density.least_p_value:.2g}, with {len(run.density.held_out_[0])} held-out examples"
    assert any(f"have a p-value of at most {least}" in line for line in said)
    low, high = run.density.flagged_interval_
    share = f"{(2 + flags.sum()) / 4:.1%} are outliers, with scores below the threshold for contamination=0.01"
    assert said[-3] == f"{share}; between {low:.1%} and {high:.1%} of rows like those of the fit would be."
    assert said[-2].startswith("2 of 6 have no score, such as line 4, column 'price': the value is missing")
    assert said[-1].startswith("2 of 6 have the score -inf, such as line 3, column 'kind': 'castle' is not a")


def test_a_run_without_outliers(table, scored, capsys, tmp_path):
    """If many rows of the fit have a level of their own, an unknown level is no outlier, and a line says so."""
    levels = np.where(np.arange(len(table)) % 3, "house", np.arange(len(table)).astype(str))
    workdir = train(table.assign(kind=levels), tmp_path / "homes.csv", kinds="kind: category")
    found = scored(workdir, table[:3].assign(kind="castle"))
    assert list(found["outlier"]) == ["False"] * 3 and list(found["log_prob"]) == ["-inf"] * 3
    assert (
        "No row can be an outlier, because at least contamination=0.01 of the held-out" in capsys.readouterr().out
    )


def test_unusual_tables(workdir, table, scored, capsys, tmp_path, run_command):
    """A line says that an input has no rows. Other formats are read, and other columns are ignored."""
    for arguments in ([], ["--top=3", "--explain=1", "--strict"]):
        found = scored(workdir, table[:0], *arguments)
        assert found.empty and list(found)[:3] == ["example", "log_prob", "p_value"] and list(found)[-1] == "reason"
        assert capsys.readouterr().out.splitlines()[-1] == (
            f"{tmp_path / 'new.csv'} has no rows, so the output has none: {tmp_path / 'scores.csv'}"
        )
    scored(workdir, table[:3].assign(color="red"))
    assert "ignored the columns 'id', 'color', which the fit does not have" in capsys.readouterr().out
    table[:2].to_csv(tmp_path / "a.csv", index=False, sep=";", decimal=",")
    options = '--read_options={"sep": ";", "decimal": ","}'
    run_command(score, workdir, tmp_path / "b.csv", f"--input={tmp_path / 'a.csv'}", options)
    assert list(pandas.read_csv(tmp_path / "b.csv", dtype=str)["log_prob"]) == list(
        scored(workdir, table[:2])["log_prob"]
    )


# Changes to all rows of a file after which none has a score, and the fault.
UNSCORED = {
    "an empty column": (lambda rows: rows.assign(kind=""), "column 'kind': 5 of 5 values are missing"),
    "other dates": (
        lambda rows: rows.assign(sold="13.01.2025"),
        "'sold': 5 of 5 values are not a date, such as",
    ),
    "units": (
        lambda rows: rows.assign(price="$ 100"),
        r"'price': 5 of 5 values are not a number, such as '\$ 100'",
    ),
    "two faults": (
        lambda rows: rows.assign(
            price=["1", "", "1", "?", "?"], sold=["soon", "2025-01-02"] * 2 + [""], kind="fort"
        ),
        "'price': 2 of 5 values are not a number, such as '\\?'; column 'sold': 2 of 5 values are not a date, such "
        "as 'soon'; column 'price': 1 of 5 values is missing; column 'sold': 1 of 5 values is missing. The column",
    ),
}


@pytest.mark.parametrize("case", UNSCORED)
def test_a_file_without_scores_is_an_error(workdir, table, scored, case, tmp_path, said):
    """The error names the columns and the faults with their counts. The output is written, with the reasons."""
    change, fault = UNSCORED[case]
    with pytest.raises(ValueError, match=f"none of the 5 rows can be scored: .*{fault}"):
        scored(workdir, change(table[:5]), "--top=2", "--explain=1")
    found = pandas.read_csv(tmp_path / "scores.csv", dtype=str, keep_default_na=False)
    assert list(found["log_prob"]) == [""] * 5 and found["reason"].str.startswith("column '").all()
    assert not found["reason"].str.contains("fort").any() and not said


def test_the_exit_code_of_a_file_without_scores(workdir, table, call, tmp_path):
    table[:3].assign(sold="soon").to_csv(tmp_path / "new.csv", index=False)
    arguments = [f"--workdir={workdir}", f"--input={tmp_path / 'new.csv'}", f"--output={tmp_path / 'a.csv'}"]
    done = call("bin/score.py", *arguments, "--quiet")
    assert (
        done.code == 1 and "Error: " in done.output and "column 'sold': 3 of 3 values are not a date" in done.output
    )
    assert list(pandas.read_csv(tmp_path / "a.csv")["reason"]) == ["column 'sold': 'soon' is not a date"] * 3
    table[:0].to_csv(tmp_path / "new.csv", index=False)
    done = call("bin/score.py", *arguments)
    assert done.code == 0 and "new.csv has no rows" in done.output and len(pandas.read_csv(tmp_path / "a.csv")) == 0


def test_a_fault_of_more_than_half_of_the_rows_is_a_warning(workdir, table, scored, said):
    new = table[:6].assign(kind=["castle"] * 3 + ["flat"] * 3, price=["1", "2", "3", "?", "??", "$"])
    scored(workdir, new)
    assert not said
    new.loc[3, "kind"], new.loc[2, "price"] = "tent", ""
    scored(workdir, new)
    assert len(said) == 1
    assert said[0].startswith("/") and "new.csv, column 'kind': 4 of 6 values are not a known level" in said[0]


def test_unknown_conditions_give_no_score(given, table, scored):
    new = table[:3].astype({"rooms": float})
    new.loc[1, "state"] = "new"
    new.loc[1, "rooms"] = 2.5  # alone, it would have the score minus infinity
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
    with pytest.raises(ValueError, match="no column 'price'; did you mean 'net_price'"):
        scored(workdir, table.rename(columns={"price": "net_price"}))
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


def test_reports(workdir, given, table, run_command, tmp_path, monkeypatch, caplog):
    """A report has the test rows and the new rows. If the data have moved, it has only the new rows."""
    new = table[:40].astype(object)
    new.loc[0, "sold"] = "01.02.2025"
    new.to_csv(tmp_path / "new.csv", index=False, sep=";")
    flags = [f"--report={tmp_path / 'a.html'}", f"--input={tmp_path / 'new.csv'}", '--read_options={"sep": ";"}']
    for workdir_ in (workdir, given):
        run_command(evaluate, workdir_, tmp_path / "a.json", *flags)
        page = (tmp_path / "a.html").read_text()
        assert "Report on homes.csv" in page and "<strong>40</strong> new rows" in page
        assert "AUC of samples against test rows" in page
        assert "1 of 40 values is not a date" in page and page.count("<article") == 6
    run_command(evaluate, workdir, tmp_path / "a.json", flags[0])
    assert "<strong>15</strong> test rows, compared with 135 rows of the fit" in (tmp_path / "a.html").read_text()
    moved = workdir.parent / "moved.csv"
    (workdir.parent / "homes.csv").rename(moved)
    try:
        run_command(evaluate, workdir, tmp_path / "a.json", *flags)
        assert "The report has no test rows: " in caplog.text
        assert "test rows" not in (tmp_path / "a.html").read_text()
        with pytest.raises(ValueError, match="homes.csv"):
            run_command(evaluate, workdir, tmp_path / "a.json", flags[0])
    finally:
        moved.rename(workdir.parent / "homes.csv")


def test_a_report_without_test_rows(table, run_command, tmp_path):
    workdir = train(table, tmp_path / "homes.csv", test_fraction=0.0)
    run_command(evaluate, workdir, "-", f"--report={tmp_path / 'a.html'}")
    assert "<strong>150</strong> rows used in the fit" in (tmp_path / "a.html").read_text()


def test_refused_reports(workdir, plane, run_command, tmp_path):
    with pytest.raises(ValueError, match="--report does not apply to a run that is not on a table"):
        run_command(evaluate, plane[0], tmp_path / "a.json", f"--report={tmp_path / 'a.html'}")
    for message, *flags in (
        ("needs --report", "--input=new.csv"),
        ("should end in .html", "--report=a.pdf"),
        ("cannot be written", f"--report={tmp_path / 'none' / 'a.html'}"),
        ("none.csv", f"--report={tmp_path / 'a.html'}", "--input=none.csv"),
        ("not a JSON object", f"--report={tmp_path / 'a.html'}", "--read_options=;"),
    ):
        with pytest.raises(ValueError, match=message):
            run_command(evaluate, workdir, tmp_path / "a.json", *flags)
    assert list(tmp_path.iterdir()) == []


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


def test_many_samples_are_written_in_parts(given, run_command, tmp_path):
    """They are those of Python, whatever the format."""
    for name in ("a.csv", "a.parquet"):
        run_command(sample, given, tmp_path / name, "--num=50000", "--seed=1", "--condition=good")
    expected = resflow.load(given).density.sample(random_state=1, condition=[["good"]] * 50_000)
    pandas.testing.assert_frame_equal(
        pandas.read_csv(tmp_path / "a.csv", parse_dates=["sold"]), expected, check_dtype=False
    )
    pandas.testing.assert_frame_equal(pandas.read_parquet(tmp_path / "a.parquet"), expected, check_dtype=False)
    assert parquet.ParquetFile(tmp_path / "a.parquet").num_row_groups == 3


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
