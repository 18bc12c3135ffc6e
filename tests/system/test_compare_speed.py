"""The comparison without the published code, which is not available to the tests."""

import importlib
import json
import pathlib
import subprocess
import sys

import pytest

BENCHMARK = pathlib.Path(__file__).parents[2] / "benchmarks" / "compare_speed.py"


def run(*arguments):
    return subprocess.run([sys.executable, BENCHMARK, *arguments], capture_output=True, text=True)


def test_one_case(tmp_path):
    output = tmp_path / "speed.json"
    done = run("--cases=inverse_per_evaluation", "--repeats=2", f"--output={output}")
    assert done.returncode == 0, done.stderr
    seconds = json.loads(output.read_text())["inverse_per_evaluation"]["ours"]["seconds"]
    assert 0 < seconds["min"] <= seconds["median"] <= seconds["max"] < 60
    assert "inverse_per_evaluation" in done.stdout


def test_an_unknown_case(call):
    done = call("benchmarks/compare_speed.py", "--cases=training")
    assert done.code != 0 and "train_step_28x28x1_w64" in done.output


def test_published_code_that_cannot_run(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARK.parent)
    workers = importlib.import_module("workers")
    worker = workers.published_worker(str(tmp_path), sys.executable, threads=1, keep_memory=False)
    with pytest.raises(SystemExit, match="Error: 'prepare inverse_per_evaluation' failed(.|\n)*(resflows|torch)"):
        worker.ask("prepare inverse_per_evaluation")
    worker.close()
