"""Runs the commands as users run them."""

import json
import re

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.system.conftest import TOY

CONFIG = [*TOY, "--config.train.steps=3"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, process):
    """The workdir of a run, and the completed process that trained it."""
    workdir = tmp_path_factory.mktemp("runs") / "toy"
    return workdir, process("bin/train.py", f"--workdir={workdir}", *CONFIG, check=True)


def test_train_ends_with_its_result_and_a_finished_run_is_done(trained, call):
    workdir, done = trained
    last = done.stdout.splitlines()[-1]
    result = json.loads((workdir / "result.json").read_text())
    assert last.startswith(f"8gaussians: {result['nats']:.3f} ± ")
    for part in (" nats on 100 test examples after 3 steps", "gaussian", "entropy", str(workdir)):
        assert part in last
    assert not re.search(r"\r|\x1b", done.stderr)
    for part in (" INFO: data ...", " INFO: building the graph, which can take", " INFO: figures ..."):
        assert part in done.stderr
    again = call("bin/train.py", *CONFIG, f"--workdir={workdir}")
    assert again.code == 0 and f"Already done: {done.stdout.splitlines()[-1]}" in again.output.splitlines()


def test_evaluate(trained, process):
    """Standard output has only the result, and standard error has nothing."""
    workdir, _ = trained
    done = process("bin/evaluate.py", f"--workdir={workdir}", "--output=-", "--quiet", check=True)
    score, result = json.loads(done.stdout), json.loads((workdir / "result.json").read_text())
    assert score["nats"] == pytest.approx(result["nats"], rel=1e-5)
    assert {"noise", "reconstruction", "lipschitz"} < score.keys() and "fid" not in score
    assert not done.stderr


def test_convert_then_sample(call, tmp_path):
    workdir, samples = tmp_path / "run", tmp_path / "samples.npy"
    checkpoint = ROOT / "tests" / "interop" / "checkpoints" / "mixed_norms.npz"
    done = call("bin/convert_checkpoint.py", f"--checkpoint={checkpoint}", f"--workdir={workdir}")
    assert done.code == 0 and "mnist, step 1, with averaged weights, coefficient " in done.output
    assert call("bin/sample.py", f"--workdir={workdir}", "--num=3", f"--output={samples}").code == 0
    samples = np.load(samples)
    assert samples.shape == (3, 8, 8, 1) and samples.dtype == np.uint8
