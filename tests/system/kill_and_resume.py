r"""Kills a training run at random moments, resumes it, and compares its last state with an uninterrupted run's.

python tests/system/kill_and_resume.py --trials=20

A trial starts bin/train.py in a new workdir, sends it SIGKILL at a random moment, and repeats that with the same
command; the last time it is left alone. Every other kill comes at any time since the start, the others a random
time after a checkpoint of a random step has appeared, and so between the steps. The last and the best
checkpoint and the held-out scores must then equal those of a run that nothing interrupted, bit for bit.
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

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 60
CHECKPOINT_EVERY = 5
FLAGS = [
    "--deterministic",
    "--config=configs/toy2d.py",
    "--config.data.name=8gaussians",
    "--config.data.num_test=100",
    "--config.model.num_blocks=1",
    "--config.model.hidden=(8,)",
    "--config.model.norms=(2.0,2.0,2.0)",
    "--config.model.estimator.eval.num_exact_terms=4",
    "--config.train.warmup_steps=1",
    "--config.train.batch_size=16",
    f"--config.train.checkpoint_every={CHECKPOINT_EVERY}",
    "--config.train.log_every=5",
    "--config.train.eval_every=20",
    "--config.train.keep_best=True",
    "--config.train.patience=3",
    f"--config.train.steps={STEPS}",
]


def start(workdir):
    command = [sys.executable, ROOT / "bin" / "train.py", *FLAGS, f"--workdir={workdir}"]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **output)


def finish(workdir):
    """Trains to the end."""
    code = start(workdir).wait()
    if code:
        raise RuntimeError(f"train.py has ended with the code {code}.")


def steps_saved(workdir):
    """The step of the newest checkpoint; 0 if there is none."""
    return max((int(path.stem[5:]) for path in (workdir / "checkpoints").glob("ckpt-*.index")), default=0)


def kill_at(workdir, moment):
    """Trains until `moment(process)` returns, then kills. Returns whether that was between the steps."""
    process = start(workdir)
    moment(process)
    process.kill()
    process.wait()
    return 0 < steps_saved(workdir) < STEPS


def after_seconds(seconds):
    def moment(process):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)

    return moment


def after_step(workdir, step, seconds):
    def moment(process):
        while process.poll() is None and steps_saved(workdir) < step:
            time.sleep(0.005)
        after_seconds(seconds)(process)

    return moment


def state(workdir):
    """All that the last checkpoint, the best one and the metrics hold, as arrays and dicts."""
    weights, folder = {}, workdir / "checkpoints"
    for path in (folder / f"ckpt-{STEPS}", *(path.with_suffix("") for path in folder.glob("best/*.index"))):
        reader = tf.train.load_checkpoint(str(path))
        keys = [key for key in reader.get_variable_to_shape_map() if "VARIABLE_VALUE" in key]
        keys.remove("save_counter/.ATTRIBUTES/VARIABLE_VALUE")  # the number of saves of the process
        weights |= {f"{path.relative_to(folder)}/{key}": reader.get_tensor(key) for key in keys}
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    metrics = {(line["step"], line["split"]): line for line in lines}
    if len(metrics) != len(lines):
        raise AssertionError("A line of metrics.jsonl is there twice.")
    for line in lines:
        line.pop("steps_per_second", None)
    return weights, metrics


def assert_same(expected, found):
    """Raises AssertionError unless the states are the same, bit for bit."""
    weights, metrics = zip(expected, found, strict=True)
    assert weights[0].keys() == weights[1].keys() and len(weights[0]) > 20
    for key, value in weights[0].items():
        np.testing.assert_array_equal(value, weights[1][key], err_msg=key)
    # A logged mean is over the steps since the last one, and a resumed run has not those before its checkpoint.
    assert metrics[0].keys() == metrics[1].keys()
    for key, line in metrics[0].items():
        if key[1] != "train":
            assert line == metrics[1][key], key


def trial(workdir, kills, duration, rng):
    """One run that is killed some times. Returns how often between the steps."""
    between = 0
    for index in range(kills):
        if index % 2:
            between += kill_at(workdir, after_seconds(rng.uniform(0.0, duration)))
        else:
            step = rng.randrange(steps_saved(workdir), STEPS - 2 * CHECKPOINT_EVERY)
            between += kill_at(workdir, after_step(workdir, step, rng.uniform(0.0, 0.1)))
    finish(workdir)
    return between


def main(trials, kills, seed=0):
    """Runs the trials; raises AssertionError at the first that differs, or if no kill came between the steps."""
    between = 0
    with tempfile.TemporaryDirectory() as folder:
        reference = pathlib.Path(folder) / "uninterrupted"
        begun = time.monotonic()
        finish(reference)
        duration = time.monotonic() - begun
        expected = state(reference)
        for index in range(trials):
            workdir = pathlib.Path(folder) / str(index)
            between += trial(workdir, kills, duration, random.Random(f"{seed} {index}"))
            assert_same(expected, state(workdir))
            print(f"trial {index + 1} of {trials}: the same; kills between the steps so far: {between}", flush=True)
    assert between


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--kills", type=int, default=2, help="of each trial")
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
