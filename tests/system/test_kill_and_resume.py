"""Kills a training run at random moments, resumes it, and compares its final state with an uninterrupted run.

    python -m tests.system.test_kill_and_resume --trials=20

A trial starts bin/train.py in a new workdir and kills it with SIGKILL at a random moment. It repeats this with the
same command, and lets the last process finish. The kills alternate: one happens a random time after the checkpoint
of a random step, and therefore during the training steps, and the next at any time after the start. The last and
best checkpoints and the held-out scores must equal those of an uninterrupted run, bit for bit.
"""

import argparse
import contextlib
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

import numpy as np
import tensorflow as tf

from tests.conftest import ROOT
from tests.system.conftest import TOY

STEPS = 60
CHECKPOINT_EVERY = 5
FIELDS = {"checkpoint_every": CHECKPOINT_EVERY, "log_every": 5, "eval_every": 20, "keep_best": True, "patience": 3}
FIELDS["steps"] = STEPS
FLAGS = ["--deterministic", *TOY, *(f"--config.train.{name}={value}" for name, value in FIELDS.items())]


def start(workdir):
    command = [sys.executable, ROOT / "bin" / "train.py", *FLAGS, f"--workdir={workdir}"]
    output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}, **output)


def steps_saved(workdir):
    return max((int(path.stem[5:]) for path in (workdir / "checkpoints").glob("ckpt-*.index")), default=0)


def kill(workdir, step, seconds):
    """Trains, and kills the process some time after a checkpoint. Returns whether steps were running."""
    process = start(workdir)
    while process.poll() is None and steps_saved(workdir) < step:
        time.sleep(0.005)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    process.kill()
    process.wait()
    return 0 < steps_saved(workdir) < STEPS


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


def main(trials, kills, seed=0):
    """Runs the trials. Raises an AssertionError if a trial differs, or if no kill happened during the steps."""
    between, begun = 0, time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        reference = pathlib.Path(folder) / "uninterrupted"
        assert start(reference).wait() == 0
        duration, expected = time.monotonic() - begun, state(reference)
        for trial in range(trials):
            workdir, rng = pathlib.Path(folder) / str(trial), random.Random(f"{seed} {trial}")
            for index in range(kills):
                if index % 2:
                    between += kill(workdir, 0, rng.uniform(0.0, duration))
                else:
                    step = rng.randrange(steps_saved(workdir), STEPS - 2 * CHECKPOINT_EVERY)
                    between += kill(workdir, step, rng.uniform(0.0, 0.1))
            assert start(workdir).wait() == 0
            assert_same(expected, state(workdir))
            print(f"trial {trial + 1} of {trials}: identical; kills during the steps so far: {between}", flush=True)
    assert between


def test_a_killed_run_ends_as_an_uninterrupted_one():
    main(trials=1, kills=1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--kills", type=int, default=2, help="number of kills in each trial")
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
