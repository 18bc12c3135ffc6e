"""The times until a score without the published code, which is not available to the tests."""

import json
import math
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from tf_resflow.training import base_config
from tf_resflow.training.optimizer import learning_rate_schedule

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
    scores = {"published": [5.0, 4.0], "here, recommended": [4.5, 3.5]}
    rows = [
        {"config": "digits", "seed": 0, "side": side, "step": 300 * i, "seconds": 20.0 * i, "bits_per_dim": score}
        for side, values in scores.items()
        for i, score in enumerate(values, start=1)
    ]
    output.write_text(json.dumps(rows))
    done = call(BENCHMARK, "--config=digits", "--seeds=1", f"--output={output}", f"--figure={picture}")
    assert done.code == 0, done.output
    assert "| 300 | 5.000 | 20 s (1.0 x) | 20 s (1.0 x) |" in done.output
    assert "| 600 | 4.000 | 40 s (1.0 x) | 30 s (1.3 x) |" in done.output
    assert picture.stat().st_size > 5000 and json.loads(output.read_text()) == rows


def test_the_time_until_a_score_and_the_published_schedule(tmp_path):
    """Interpolated between two turns; the learning rates are those of this package."""
    train = base_config("best_small:mnist_small").train
    (tmp_path / "train.json").write_text(json.dumps(train.to_dict()))
    code = """
import json, sys, types
import numpy as np
names = "torch", "resflows", "resflows.layers", "resflows.resflow"
sys.modules.update({name: types.ModuleType(name) for name in names})
sys.modules["resflows"].layers = sys.modules["resflows.layers"]
sys.modules["resflows.layers"].base = sys.modules["resflows.layers"].iresblock = None
sys.modules["resflows.resflow"].ResidualFlow = None
import time_to_score, worker_published
train = json.load(open("train.json"))
seconds, scores = np.array([10.0, 20.0, 40.0]), np.array([5.0, 4.0, 4.5])
times = [time_to_score.time_to(score, seconds, scores) for score in (6.0, 4.75, 4.0, 3.0)]
print(json.dumps([times, [worker_published._scheduled(train, i) for i in range(train["steps"])]]))
"""
    command, environment = [sys.executable, "-c", code, "."], {"PYTHONPATH": str(ROOT / "benchmarks")}
    done = subprocess.run(command, cwd=tmp_path, check=True, env=environment, capture_output=True, text=True)
    times, shares = json.loads(done.stdout)
    assert times == [10.0, 12.5, 20.0, math.inf]
    schedule = learning_rate_schedule(train)
    expected = [keras.ops.convert_to_numpy(schedule(i)) for i in range(train.steps)]
    np.testing.assert_allclose(train.learning_rate * np.array(shares), expected, atol=0.011 * train.learning_rate)
