import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow
from tf_resflow.evaluation import LikelihoodPlan

BENCHMARK = pathlib.Path(__file__).parents[2] / "benchmarks" / "time_serving.py"


def run(*arguments):
    return subprocess.run([sys.executable, BENCHMARK, *arguments], capture_output=True, text=True)


def test_table(call, tmp_path):
    flow = resflow.flows.image_flow((8, 8, 1), num_blocks=(1,), width=4, kernels=(3, 1), num_fc_blocks=0)
    model = resflow.FlowModel(flow, (8, 8, 1), levels=17)
    model.initialize(np.random.default_rng(0).integers(17, size=[32, 8, 8, 1]).astype("uint8"))
    log_det = resflow.logdet.PowerSeries(2)
    path = resflow.serving.export(model, tmp_path, plan=LikelihoodPlan(log_det=log_det, num_samples=2))
    output = tmp_path / "times.json"
    chosen = "--signatures=serving_default,decode"
    done = run(f"--model_dir={path}", chosen, "--sizes=256,1", "--repeats=2", f"--output={output}")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[2:-1]]
    assert [row[:2] for row in rows] == [
        [name, size] for name in ("serving_default", "decode") for size in ("1", "256")
    ]
    assert [len(row) for row in rows] == [7, 7, 6, 6]  # decode has no standard error
    results = json.loads(output.read_text())
    few, many = (results["serving_default"][size] for size in ("1", "256"))
    assert len(many["seconds"]) == 2 and 0 <= few["peak_bytes"] < many["peak_bytes"] and results["megabytes"] > 0
    served = tf.saved_model.load(str(path)).signatures
    x = served["sample"](num=tf.constant(1), seed=tf.constant(0, tf.int64), temperature=tf.constant(1.0))["x"]
    expected = served["serving_default"](x=x)
    assert few["log_prob_stderr"] == pytest.approx(float(expected["log_prob_stderr"][0]), rel=1e-3)
    refused = call("benchmarks/time_serving.py", f"--model_dir={path}", "--sizes=2000")
    assert "sample takes at most 1024 examples" in refused.output
    refused = call("benchmarks/time_serving.py", f"--model_dir={path}", "--signatures=classify")
    assert "has no signature classify, but serving_default" in refused.output


@pytest.mark.parametrize(
    "flag, message", [("--sizes=0", "integers >= 1"), ("--sizes=1", "is not a version of a model")]
)
def test_wrong_flags(call, tmp_path, flag, message):
    done = call("benchmarks/time_serving.py", f"--model_dir={tmp_path}", flag)
    assert done.code and message in done.output
