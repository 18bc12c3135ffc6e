r"""Kills a training run at random moments, resumes it, and compares its last state with an uninterrupted run's.

python tests/bin/kill_and_resume.py --trials=20

A trial starts bin/train.py in a new workdir, sends it SIGKILL after a random time, and repeats that with the same
command; the last time it is left alone. The last checkpoint and the held-out scores must then equal those of a run
that nothing interrupted, bit for bit.
"""

import argparse
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

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 150
FLAGS = [
    "--deterministic",
    "--config=configs/toy2d.py",
    "--config.data.name=8gaussians",
    "--config.data.num_test=100",
    "--config.model.num_blocks=2",
    "--config.model.hidden=(8,)",
    "--config.model.norms=(2.0,2.0,2.0)",
    "--config.model.estimator.eval.num_exact_terms=4",
    "--config.train.warmup_steps=1",
    "--config.train.batch_size=16",
    "--config.train.checkpoint_every=7",
    "--config.train.log_every=5",
    "--config.train.eval_every=50",
    f"--config.train.steps={STEPS}",
]


def run(workdir, seconds=None):
    """Trains; with a number of seconds the run is killed when they are over. Returns whether it came to its end."""
    command = [sys.executable, ROOT / "bin" / "train.py", *FLAGS, f"--workdir={workdir}"]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        _, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return False
    if process.returncode:
        raise RuntimeError(errors)
    return True


def state(workdir):
    """All that the last checkpoint and the metrics hold, as arrays and dicts."""
    reader = tf.train.load_checkpoint(str(workdir / "checkpoints" / f"ckpt-{STEPS}"))
    keys = [key for key in reader.get_variable_to_shape_map() if "VARIABLE_VALUE" in key]
    keys.remove("save_counter/.ATTRIBUTES/VARIABLE_VALUE")  # the number of saves of the process
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    metrics = {(line["step"], line["split"]): line for line in lines}
    if len(metrics) != len(lines):
        raise AssertionError("A line of metrics.jsonl is there twice.")
    for line in lines:
        line.pop("steps_per_second", None)
    return {key: reader.get_tensor(key) for key in keys}, metrics


def assert_same(expected, found):
    """Raises AssertionError unless the states are the same, bit for bit."""
    weights, metrics = zip(expected, found, strict=True)
    assert weights[0].keys() == weights[1].keys() and len(weights[0]) > 10
    for key, value in weights[0].items():
        np.testing.assert_array_equal(value, weights[1][key], err_msg=key)
    # A logged mean is over the steps since the last one, and a resumed run has not those before its checkpoint.
    assert metrics[0].keys() == metrics[1].keys()
    for key, line in metrics[0].items():
        if key[1] != "train":
            assert line == metrics[1][key], key


def trial(workdir, kills, duration, rng):
    """One run that is killed some times."""
    for _ in range(kills):
        if run(workdir, rng.uniform(0.0, duration)):
            break
    run(workdir)


def main(trials, kills, seed=0):
    """Runs the trials; raises AssertionError at the first that differs."""
    with tempfile.TemporaryDirectory() as folder:
        reference = pathlib.Path(folder) / "uninterrupted"
        start = time.monotonic()
        run(reference)
        duration = time.monotonic() - start
        expected = state(reference)
        for index in range(trials):
            workdir = pathlib.Path(folder) / str(index)
            trial(workdir, kills, duration, random.Random(f"{seed} {index}"))
            assert_same(expected, state(workdir))
            print(f"trial {index + 1} of {trials}: the same", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--kills", type=int, default=2, help="of each trial")
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
