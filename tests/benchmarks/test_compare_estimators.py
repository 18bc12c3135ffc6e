"""The comparison of estimators without the published code, which is not available to the tests."""

import json

import pytest

import tf_resflow as resflow
from tf_resflow.training.checkpoints import Checkpoints

BENCHMARK = "benchmarks/compare_estimators.py"
NOW = "adaptive roulette, colored probes"


def untrained_run(path):
    """The workdir of a small flow on digits that has not taken a step."""
    config = resflow.training.default_config()
    config.data.name = "digits"
    config.model.update({"num_blocks": (1,), "width": 4, "num_fc_blocks": 0})
    config.train.ema_momentum = 0.0
    dataset = resflow.data.load(config.data)
    model = resflow.models.build_model(config, dataset)
    model.initialize(next(iter(dataset.eval_batches("train", 64, 64))))
    files = resflow.training.Workdir(path)
    files.prepare(config)
    files.write_data(resflow.models.DataInfo("digits", dataset.event_shape, dataset.levels, None, None))
    files.write_config(config)
    optimizer = resflow.training.make_optimizer(config.train, model.trainable_variables)
    Checkpoints(files.checkpoints, model, optimizer, seed=0, keep=1).save(1)


def test_errors_and_times(call, tmp_path):
    workdir, output = tmp_path / "run", tmp_path / "estimators.json"
    untrained_run(workdir)
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
