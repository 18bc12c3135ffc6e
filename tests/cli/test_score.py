"""Runs resflow-score in this process, on a run with a 2-D density."""

import functools

import numpy as np
import pandas
import pytest

import tf_resflow as resflow
from tf_resflow.cli import score as command


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, make_config, run_without_work):
    path = tmp_path_factory.mktemp("runs") / "plane"
    run_without_work(make_config(train__steps=1), path)
    return path


@pytest.fixture(scope="module")
def loaded(workdir):
    return resflow.load(workdir)


@pytest.fixture
def score(workdir, loaded, run_command, monkeypatch, tmp_path):
    monkeypatch.setattr(resflow, "load", lambda workdir: loaded)
    return functools.partial(run_command, command, workdir, tmp_path / "scores.csv")


def test_scores_of_points(score, loaded, tmp_path, capsys):
    """A point far from all data has the smallest p-value, and a huge one a finite score."""
    points = np.array([[0.5, 1.0], [1.0, -2.0], [900.0, 0.0], [1e300, 0.0]])
    np.savetxt(tmp_path / "new.csv", points, delimiter=",")
    score(f"--input={tmp_path / 'new.csv'}", "--top=1")
    found = pandas.read_csv(tmp_path / "scores.csv")
    assert list(found) == ["example", "log_prob", "stderr", "p_value"] and list(found["example"]) == [1, 2, 3, 4]
    exact = loaded.model.log_prob(points[:3].astype("f4"), log_det_estimator=resflow.logdet.Exact())
    np.testing.assert_allclose(found["log_prob"][:3], exact, rtol=1e-4)
    assert np.isfinite(found["log_prob"][3]) and found["p_value"][2] == pytest.approx(1 / 51)
    said = capsys.readouterr().out.splitlines()
    assert said[1].split()[0] == "4"
    assert said[2].startswith("4 examples; 50.0% have the smallest p-value, 0.02 with 50 held-out examples: ")


def test_held_out_points(score, tmp_path):
    """The p-values form a uniform grid, because the 50 points have no ties."""
    score()
    p_value = pandas.read_csv(tmp_path / "scores.csv")["p_value"]
    np.testing.assert_allclose(np.sort(p_value), (np.arange(50) + 2) / 51, rtol=1e-6)


def test_refused_points(score, tmp_path):
    for name, content, message in (
        ("a.csv", "1.5,2.5,3.5\n", "has the shape .1, 3.. Expected one or more rows with 2 columns"),
        ("b.csv", "1.5,2.5\n3.5,inf\n", "b.csv, line 2: a value is not a finite number"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=message):
            score(f"--input={tmp_path / name}")
    with pytest.raises(ValueError, match="--id_columns does not apply to a run that is not on a table"):
        score("--id_columns=1")
    assert not (tmp_path / "scores.csv").exists()
