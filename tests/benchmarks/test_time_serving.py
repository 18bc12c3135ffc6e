import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import tf_resflow as resflow

BENCHMARK = pathlib.Path(__file__).parents[2] / "benchmarks" / "time_serving.py"


def run(*arguments):
    return subprocess.run([sys.executable, BENCHMARK, *arguments], capture_output=True, text=True)


def test_table(call, tmp_path):
    flow = resflow.flows.image_flow((8, 8, 1), num_blocks=(1,), width=4, num_fc_blocks=0)
    model = resflow.FlowModel(flow, (8, 8, 1), levels=17)
    model.initialize(np.random.default_rng(0).integers(17, size=[32, 8, 8, 1]).astype("uint8"))
    log_det = resflow.logdet.PowerSeries(2)
    path = resflow.serving.export(model, tmp_path, log_det=log_det, num_samples=2)
    done = run(f"--model_dir={path}", "--sizes=1,3", "--repeats=2", f"--output={tmp_path / 'times.json'}")
    assert done.returncode == 0, done.stderr
    names = ["serving_default", "log_prob_seeded", "sample", "encode", "decode"]
    rows = [line.split()[:2] for line in done.stdout.splitlines()[2:]]
    assert sorted(rows) == sorted([name, size] for name in names for size in ("1", "3"))
    times = json.loads((tmp_path / "times.json").read_text())
    assert len(times["encode 3"]) == 2 and times["megabytes"] > 0
    refused = call("benchmarks/time_serving.py", f"--model_dir={path}", "--sizes=2000")
    assert "num must lie in 1, ..., 1024" in refused.output


@pytest.mark.parametrize(
    "flag, message", [("--sizes=0", "integers >= 1"), ("--sizes=1", "is not a version of a model")]
)
def test_wrong_flags(call, tmp_path, flag, message):
    done = call("benchmarks/time_serving.py", f"--model_dir={tmp_path}", flag)
    assert done.code and message in done.output
