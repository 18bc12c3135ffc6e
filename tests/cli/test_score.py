"""Runs resflow-score in this process, on a run with a 2-D density."""

import functools

import numpy as np
import pandas
import pytest

from tf_resflow.cli import score as command


@pytest.fixture
def score(run_on_plane, tmp_path):
    return functools.partial(run_on_plane, command, tmp_path / "scores.csv")


def test_held_out_points(score, tmp_path, capsys):
    """The p-values form a uniform grid, because the 50 points have no ties."""
    score("--top=1")
    found = pandas.read_csv(tmp_path / "scores.csv")
    assert list(found) == ["example", "log_prob", "stderr", "p_value"] and list(found["example"]) == [*range(1, 51)]
    np.testing.assert_allclose(np.sort(found["p_value"]), (np.arange(50) + 2) / 51, rtol=1e-6)
    said = capsys.readouterr().out.splitlines()
    assert int(said[1].split()[0]) == 1 + found["log_prob"].argmin()
    assert said[2].startswith("50 examples; 0.0% have a p-value of at most 0.02, with 50 held-out examples: ")


def test_flags_that_do_not_apply(score, tmp_path):
    for flag in ("--id_columns=1", "--input=a.csv"):
        with pytest.raises(ValueError, match=f"{flag.split('=')[0]} does not apply to a run"):
            score(flag)
    assert not (tmp_path / "scores.csv").exists()
