"""Kills a training run with SIGKILL, resumes it, and compares its final state with an uninterrupted run.

The last and best checkpoints and the held-out scores must be equal, bit for bit.
"""

import contextlib
import json
import os
import subprocess
import sys
import time

import numpy as np
import tensorflow as tf

from tests.conftest import ROOT
from tests.system.conftest import TOY

STEPS = 60
FIELDS = {"checkpoint_every": 5, "log_every": 5, "eval_every": 20, "keep_best": True, "patience": 3}
FIELDS["steps"] = STEPS
FLAGS = ["--deterministic", *TOY, *(f"--config.train.{name}={value}" for name, value in FIELDS.items())]


def start(workdir):
    command = [sys.executable, ROOT / "bin" / "train.py", *FLAGS, f"--workdir={workdir}"]
    output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}, **output)


def steps_saved(workdir):
    return max((int(path.stem[5:]) for path in (workdir / "checkpoints").glob("ckpt-*.index")), default=0)


def state(workdir):
    """Returns the content of the last and best checkpoints and of the metrics as arrays and dicts."""
    weights, folder = {}, workdir / "checkpoints"
    for path in (folder / f"ckpt-{STEPS}", *(path.with_suffix("") for path in folder.glob("best/*.index"))):
        reader = tf.train.load_checkpoint(str(path))
        keys = [key for key in reader.get_variable_to_shape_map() if "VARIABLE_VALUE" in key]
        keys.remove("save_counter/.ATTRIBUTES/VARIABLE_VALUE")  # counts the saves of this process only
        weights |= {f"{path.relative_to(folder)}/{key}": reader.get_tensor(key) for key in keys}
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("steps_per_second", None)
    metrics = {(line["step"], line["split"]): line for line in lines}
    assert len(metrics) == len(lines), "metrics.jsonl has the same line twice."
    return weights, metrics


def assert_same(expected, found):
    """Raises AssertionError unless the states are the same, bit for bit."""
    weights, metrics = zip(expected, found, strict=True)
    assert weights[0].keys() == weights[1].keys() and len(weights[0]) > 20
    for key, value in weights[0].items():
        np.testing.assert_array_equal(value, weights[1][key], err_msg=key)
    # A logged mean covers the steps since the previous log. A resumed run lacks the steps before its checkpoint.
    assert metrics[0].keys() == metrics[1].keys()
    for key, line in metrics[0].items():
        assert key[1] == "train" or line == metrics[1][key], key


def test_a_killed_run_ends_as_an_uninterrupted_one(tmp_path):
    """The kill happens soon after a checkpoint, and therefore during the training steps."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = start(killed)
    while process.poll() is None and steps_saved(killed) < 25:
        time.sleep(0.005)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(0.05)
    process.kill()
    process.wait()
    assert 25 <= steps_saved(killed) < STEPS
    for workdir in (whole, killed):
        assert start(workdir).wait() == 0
    assert_same(state(whole), state(killed))
