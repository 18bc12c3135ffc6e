"""The times until a score without the published code, which is not available to the tests."""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
BENCHMARK = "benchmarks/time_to_score.py"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--config=factored"], "Unknown config 'factored'"),
        (["--config=celebahq64_5bit"], "Error: config.model.factor_out is not the default"),
        (["--output=no/times.json"], "the folder"),
    ],
)
def test_what_cannot_be_compared(call, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = call(BENCHMARK, "--output=times.json", *arguments)
    assert done.code == 1 and message in done.output


def test_the_table_and_the_figure_of_what_was_trained(call, tmp_path):
    output, picture = tmp_path / "times.json", tmp_path / "times.png"
    scores = {"here, same settings": [5.0, 4.0, 3.0], "here, best_small": [4.5, 3.5, 3.2]}
    rows = [
        {"config": "digits", "seed": 0, "side": side, "threads": 1, "num_examples": 500}
        | {"step": 300 * i, "seconds": 20.0 * i, "bits_per_dim": score}
        for side, values in scores.items()
        for i, score in enumerate(values, start=1)
    ]
    output.write_text(json.dumps(rows))
    flags = ["--config=digits", "--seeds=1", "--steps=300,600,900", f"--output={output}"]
    done = call(BENCHMARK, *flags, "--threads=1", f"--figure={picture}")
    assert done.code == 0, done.output
    assert "| here, same settings, 300 steps | 1 | 5.000 | 20 s (1.0 x) | 20 s (1.0 x) |" in done.output
    assert "| here, same settings, 600 steps | 1 | 4.000 | 40 s (1.0 x) | 40 s (1.0 x) |" in done.output
    assert "| here, same settings, 900 steps | 1 | 3.000 | 60 s (1.0 x) | 0 of 1 |" in done.output
    assert picture.stat().st_size > 5000 and json.loads(output.read_text()) == rows
    assert "rows of other --threads" in call(BENCHMARK, *flags, "--threads=3").output


def test_the_time_until_a_score_and_until_all_of_them():
    """That of the first turn after which the score is as good; two sides tell the scores, and go on to the end."""
    code = """
import numpy as np, time_to_score
seconds, scores = np.array([10.0, 20.0, 40.0]), np.array([5.0, 4.0, 4.5])
print([float(time_to_score.time_to(score, seconds, scores)) for score in (6.0, 4.75, 4.0, 3.0)])
a, b, c, d = time_to_score._SIDES
best = {a: 2.0, b: 1.5, c: 1.6, d: 1.4}
print([[side for side in best if time_to_score.has_reached_all(side, best, run)] for run in ({b}, {a}, {c, d})])
print([time_to_score.has_reached_all(d, {c: 1.6, d: 1.4}, run) for run in ({c, d}, {d})])
"""
    command, environment = [sys.executable, "-c", code], {"PYTHONPATH": str(ROOT / "benchmarks")}
    done = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "[10.0, 20.0, 20.0, inf]",
        "[[], [], ['here, best_small']]",
        "[False, True]",
    ]
