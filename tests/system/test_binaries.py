"""Runs the commands as users run them."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pandas
import pytest

from tests.conftest import ROOT
from tests.system.conftest import TOY
from tf_resflow.tables import runs
from tf_resflow.tables.runs.config import default_config

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


@pytest.fixture(scope="module")
def table_run(tmp_path_factory):
    """The workdir of a run on a table of 50 rows."""
    path = tmp_path_factory.mktemp("table") / "rows.csv"
    pandas.DataFrame(np.random.default_rng(0).normal(size=[50, 2]), columns=["a", "b"]).to_csv(path, index=False)
    config = default_config()
    config.data.path = str(path)
    config.density.update(num_blocks=1, hidden=(8,), max_steps=20, num_members=1)
    runs.train(config, path.parent / "run", progress=False)
    return path.parent / "run"


def start_endless_sample(workdir, output, temporary, **options):
    """Starts a command that draws samples for hours."""
    command = [sys.executable, "bin/sample.py", f"--workdir={workdir}", f"--output={output}", f"--num={10**9}"]
    environment = {"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ, "TMPDIR": str(temporary)}
    options = {"cwd": ROOT, "env": environment, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([*command, "--quiet"], **options)


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.npy"])
def test_a_stopped_sample_leaves_nothing_behind(trained, table_run, tmp_path, name):
    temporary = tmp_path / "temporary"
    folder = tmp_path / "output"
    temporary.mkdir()
    folder.mkdir()
    (folder / name).write_text("before")
    workdir = trained[0] if name == "a.npy" else table_run
    with start_endless_sample(workdir, folder / name, temporary) as sampling:
        while sampling.poll() is None and not any(
            path.stat().st_size for path in folder.glob(f".writing-*/{name}")
        ):
            time.sleep(0.1)
        sampling.terminate()
        error = sampling.communicate()[1]
    assert sampling.returncode == 128 + signal.SIGTERM, error
    assert [path.name for path in folder.iterdir()] == [name] and (folder / name).read_text() == "before"
    assert not list(temporary.iterdir())


def test_samples_are_printed_until_the_reader_ends(table_run, tmp_path):
    with start_endless_sample(table_run, "-", tmp_path, stdout=subprocess.PIPE) as sampling:
        lines = [sampling.stdout.readline() for _ in range(3)]
        sampling.stdout.close()
        sampling.wait()
        error = sampling.stderr.read()
    assert lines[0] == b"a,b\r\n" and all(line.count(b",") == 1 for line in lines)
    assert sampling.returncode == 0 and not error and not list(tmp_path.iterdir())
