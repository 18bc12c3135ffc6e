"""The comparison of estimators without the published code, which is not available to the tests."""

import json

import pytest

import tf_resflow as resflow

BENCHMARK = "benchmarks/compare_estimators.py"
NOW = "adaptive roulette, colored probes"


def test_errors_and_times(call, tmp_path, run_without_work):
    """Of a small flow on digits that has not taken a step."""
    workdir, output = tmp_path / "run", tmp_path / "estimators.json"
    config = resflow.training.default_config()
    config.data.name = "digits"
    config.model.update(
        {"num_blocks": (1,), "width": 4, "num_fc_blocks": 0, "kernels": (3, 1), "norms": (2.0,) * 3}
    )
    config.train.update({"steps": 1, "ema_momentum": 0.0})
    run_without_work(config, workdir)
    options = ["--num_examples=8", "--repeats=8", "--probes=1,25", "--stderrs=0.2"]
    done = call(BENCHMARK, f"--workdir={workdir}", f"--output={output}", *options)
    assert done.code == 0, done.output
    rows = {(row["method"], row["probes"]): row for row in json.loads(output.read_text())}
    exact, one, many = (rows[key] for key in [("exact", 64), (NOW, 1), (NOW, 25)])
    assert exact["error"] == 0 < many["error"] < one["error"] / 10
    assert abs(many["mean"] - exact["mean"]) < 1e-2 and min(row["seconds"] for row in rows.values()) > 0
    assert rows["planned for a standard error", "0.2"]["error"] < 0.5
    assert (tmp_path / "estimators.png").stat().st_size > 5000


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--output=no/estimators.json"], "Error: the directory of --output=no/estimators.json does not exist"),
        (["--output=estimators.json", "--probes=0"], "integers >= 1"),
    ],
)
def test_wrong_flags(call, tmp_path, flags, message):
    done = call(BENCHMARK, f"--workdir={tmp_path}", *flags)
    assert done.code and message in done.output
