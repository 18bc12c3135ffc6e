"""Runs resflow-score in this process, on a run of a table."""

import csv
import io

import numpy as np
import pandas
import pytest

import tf_resflow as resflow
from tf_resflow import console
from tf_resflow.cli import sample as sample_command
from tf_resflow.cli import score as score_command

COLUMNS = ("height", "length, cm", "age")


def _write(path, rows, columns=COLUMNS):
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=";").writerows([columns, *rows.tolist()])
    return path


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).normal([1.7, 50.0, 30.0], [0.1, 20.0, 10.0], size=[60, 3]).astype("float32")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, rows, make_config, run_without_work):
    folder = tmp_path_factory.mktemp("table")
    fields = {"data__name": "tabular", "data__path": str(_write(folder / "people.csv", rows)), "train__steps": 1}
    fields["data__read_options__sep"] = ";"
    run_without_work(make_config(**fields, data__columns='"length, cm", height'), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def loaded(workdir):
    return resflow.load(workdir)


@pytest.fixture
def run(workdir, loaded, run_command, monkeypatch):
    """Returns a function that runs a command and returns the lines of the table that it writes."""
    monkeypatch.setattr(resflow, "load", lambda workdir: loaded)

    def run(command, output, *arguments):
        run_command(command, workdir, output, *arguments)
        with output.open(newline="") as file:
            return list(csv.reader(file))

    return run


def test_scores_of_new_rows(run, loaded, rows, tmp_path):
    """The columns are in another order, next to a text column. The last row is far from all data."""
    new = np.concatenate([rows[:4], [[1.7, 5000.0, 30.0]]])
    table = np.insert(new[:, [2, 0, 1]].astype(object), 3, "text", axis=1)
    _write(tmp_path / "new.csv", table, ("age", "height", "length, cm", "name"))
    header, *lines = run(score_command, tmp_path / "scores.csv", f"--input={tmp_path / 'new.csv'}")
    assert header == ["example", "log_prob", "stderr", "p_value", "reason"]
    number, log_prob, stderr, p_value = np.array([line[:4] for line in lines], float).T
    np.testing.assert_array_equal(number, [1, 2, 3, 4, 5])
    exact = loaded.model.log_prob(new[:, [1, 0]].astype("f4"), log_det_estimator=resflow.logdet.Exact())
    np.testing.assert_allclose(log_prob, exact, rtol=1e-4)
    np.testing.assert_array_equal(stderr, np.zeros(5))
    np.testing.assert_allclose(p_value[4], 1 / 7, rtol=1e-6)  # the smallest one among 6 held-out rows
    assert np.all((p_value > 0) & (p_value <= 1))


def test_each_row_is_scored(run, rows, tmp_path, capsys):
    """Invalid rows have a reason instead of a score. A huge number has the lowest score. ID columns are copied."""
    _write(tmp_path / "alone.csv", rows[:5])
    (alone, *_), scores = run(score_command, tmp_path / "a.csv", f"--input={tmp_path / 'alone.csv'}")[1:], {}
    table = rows[:5].astype(object)
    table[1, 0], table[2, 1], table[3, 0], table[4, 1] = "", "tall", 1e300, "inf"
    _write(tmp_path / "new.csv", table)
    arguments = [f"--input={tmp_path / 'new.csv'}", "--id_columns=age,height", "--top=1"]
    capsys.readouterr()
    header, *lines = run(score_command, tmp_path / "scores.csv", *arguments)
    assert header == ["example", "age", "height", "log_prob", "stderr", "p_value", "reason"]
    scores = {name: [line[place] for line in lines] for place, name in enumerate(header)}
    assert scores["reason"] == [
        "",
        "column 'height': the value is missing",
        "column 'length, cm': 'tall' is not a number",
        "",
        "column 'length, cm': 'inf' is infinite",
    ]
    assert scores["log_prob"][0] == alone[1] and [bool(score) for score in scores["log_prob"]] == [1, 0, 0, 1, 0]
    assert float(scores["log_prob"][3]) < -1e20 and float(scores["p_value"][3]) == pytest.approx(1 / 7)
    assert [float(age) for age in scores["age"]] == pytest.approx(rows[:5, 2].tolist())
    told = capsys.readouterr().out.splitlines()
    assert told[0].split()[:3] == ["example", "age", "height"] and told[1].split()[0] == "4"
    assert told[2].startswith("2 examples; 50.0% have the smallest p-value, 0.14 with 6 held-out examples: ")
    assert len(told) == 4
    assert told[3] == "3 of 5 have no score, such as row 2, column 'height': the value is missing."
    _write(tmp_path / "scored.csv", rows[:5, [0, 1, 2, 2]], (*COLUMNS, "p_value"))
    _write(tmp_path / "none.csv", table[1:3])
    for refused, message in (
        ([*arguments, "--strict"], "new.csv, row 2, column 'height': the value is missing. 3 of 5 rows have"),
        ([arguments[0], "--id_columns=agee"], "no column 'agee'; did you mean 'age'"),
        ([f"--input={tmp_path / 'scored.csv'}", "--id_columns=p_value"], "has a column 'p_value' of its own"),
        (["--id_columns=age"], "needs a table as --input"),
        ([f"--input={tmp_path / 'none.csv'}"], "no row has a score. Row 1, column 'height': the value is missing"),
    ):
        with pytest.raises(ValueError, match=message):
            run(score_command, tmp_path / "b.csv", *refused)
    assert not (tmp_path / "b.csv").exists()


def test_pipes_and_parquet(run, run_command, workdir, rows, tmp_path, monkeypatch, capfdbinary, caplog):
    """The table is the only text in standard output."""
    path, options = _write(tmp_path / "new.csv", rows[:3]), {"rtol": 1e-6, "check_dtype": False}
    for name in ("a.parquet", "a.csv"):
        run_command(score_command, workdir, tmp_path / name, f"--input={path}")
    capfdbinary.readouterr()
    monkeypatch.setattr("sys.stdin", path.open())
    with console.shown():
        run_command(score_command, workdir, "-", "--input=-", "--top=1")
    printed = capfdbinary.readouterr()
    assert printed.out == (tmp_path / "a.csv").read_bytes() and "3 examples; " in caplog.text
    stored, expected = pandas.read_parquet(tmp_path / "a.parquet"), pandas.read_csv(tmp_path / "a.csv")
    assert [*stored] == [*expected]
    pandas.testing.assert_frame_equal(stored.drop(columns="reason"), expected.drop(columns="reason"), **options)
    run_command(sample_command, workdir, tmp_path / "b.parquet", "--num=5")
    capfdbinary.readouterr()
    run_command(sample_command, workdir, "-", "--num=5")
    samples = pandas.read_csv(io.BytesIO(capfdbinary.readouterr().out))
    pandas.testing.assert_frame_equal(pandas.read_parquet(tmp_path / "b.parquet"), samples, **options)


def test_scores_of_the_held_out_rows(run, tmp_path):
    """The p-values form a uniform grid, because the 6 rows have no ties."""
    _, *lines = run(score_command, tmp_path / "scores.csv")
    p_value = np.array(lines, float)[:, 3]
    np.testing.assert_allclose(np.sort(p_value), (np.arange(6) + 2) / 7, rtol=1e-6)


def test_scores_without_the_data_have_no_p_values(run, rows, tmp_path, said, capsys):
    np.save(tmp_path / "new.npy", rows[:3, :2])
    arguments = [f"--input={tmp_path / 'new.npy'}", f"--data_path={tmp_path / 'gone.csv'}"]
    header, *lines = run(score_command, tmp_path / "scores.csv", *arguments)
    assert header == ["example", "log_prob", "stderr", "reason"] and len(lines) == 3
    assert len(said) == 1 and "no p-values" in said[0] and "gone.csv" in said[0]
    assert "3 examples; without p-values: " in capsys.readouterr().out


def test_samples_have_the_names_of_the_columns(run, loaded, tmp_path):
    names, *lines = run(sample_command, tmp_path / "a.csv", "--num=5", "--seed=3")
    assert names == ["length, cm", "height"]
    samples = loaded.model.sample(64, seed=3)[:5]
    np.testing.assert_allclose(np.array(lines, float), samples, rtol=1e-5)
    header, *lines = run(sample_command, tmp_path / "t.csv", "--num=3", "--temperature=0.5,1")
    assert header == ["temperature", *names] and [line[0] for line in lines] == ["0.5"] * 3 + ["1"] * 3
