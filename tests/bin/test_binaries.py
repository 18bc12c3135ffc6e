import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = [
    "--config=toy2d",
    "--config.data.name=8gaussians",
    "--config.data.num_test=100",
    "--config.model.num_blocks=2",
    "--config.model.hidden=(8,)",
    "--config.model.norms=(2.0,2.0,2.0)",
    "--config.model.estimator.eval.num_exact_terms=4",
    "--config.train.steps=3",
    "--config.train.warmup_steps=1",
    "--config.train.batch_size=16",
]


def command(binary, *arguments):
    return [sys.executable, ROOT / "bin" / f"{binary}.py", *map(str, arguments)]


def run(binary, *arguments, code=0):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run(command(binary, *arguments), cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stderr[-3000:]
    return done


def run_in_error(binary, *arguments):
    """The error's text: one screen at most, and no traceback."""
    done = run(binary, *arguments, code=1)
    lines = done.stderr.splitlines()
    error = "\n".join(lines[[line.startswith("Error") for line in lines].index(True) :])
    assert "Traceback" not in done.stderr
    assert len(error) < 1500
    return error


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "toy"
    return workdir, run("train", f"--workdir={workdir}", *CONFIG)


def test_train_ends_with_its_result(trained):
    workdir, done = trained
    last = done.stdout.splitlines()[-1]
    result = json.loads((workdir / "result.json").read_text())
    assert last.startswith(f"8gaussians: {result['nats']:.3f} ± ")
    for part in (" nats on 100 test examples after 3 steps", "gaussian", "entropy", str(workdir)):
        assert part in last
    bars = re.split(r"[\r\n]", done.stderr)
    for stage in ("training", "score on validation", "score on test", "noise of the estimator", "Lipschitz bounds"):
        assert any(line.startswith(stage) for line in bars), stage
    assert not re.search("I0000|oneDNN|cuda|absl::InitializeLog", done.stderr)


def test_a_finished_run_is_done(trained):
    workdir, done = trained
    again = run("train", *CONFIG, f"--workdir={workdir}").stdout.splitlines()[-1]
    assert again == f"Already done: {done.stdout.splitlines()[-1]}"


def test_evaluate(trained, tmp_path):
    workdir, _ = trained
    output = tmp_path / "score.json"
    done = run("evaluate", f"--workdir={workdir}", f"--output={output}")
    score, result = (
        json.loads(output.read_text()),
        json.loads((workdir / "result.json").read_text()),
    )
    assert score["nats"] == pytest.approx(result["nats"], rel=1e-5)
    assert f"{score['nats']:.4f}" in done.stdout
    assert {"noise", "reconstruction", "lipschitz"} < score.keys() and "fid" not in score
    assert all(len(line) < 120 for line in done.stdout.splitlines())


def test_fid_of_vectors_is_refused_before_a_download(trained, call):
    done = call("bin/evaluate.py", f"--workdir={trained[0]}", "--metrics=fid")
    assert done.code == 1 and "FID is for images; '8gaussians' are vectors." in done.output
    assert "Downloading" not in done.output


def test_plot_runs(trained, tmp_path):
    done = run("plot_runs", f"--workdirs={trained[0]},{trained[0]}", f"--output={tmp_path / 'curves.png'}")
    assert done.stdout == f"nats of {trained[0].name}: {tmp_path / 'curves.png'}\n"
    assert (tmp_path / "curves.png").stat().st_size > 5000


def test_export(trained, tmp_path):
    arguments = [f"--workdir={trained[0]}", f"--export_dir={tmp_path}", "--num_samples=30", "--log_det=adaptive"]
    arguments += ["--max_batch=4", "--signatures=serving_default,sample"]
    done = run("export", *arguments)
    assert done.stdout.startswith(f"{tmp_path / '1'}: ")
    served = tf.saved_model.load(str(tmp_path / "1"))
    x = served.signatures["sample"](
        num=tf.constant(4), seed=tf.constant(0, tf.int64), temperature=tf.constant(1.0)
    )["x"]
    assert x.shape == (4, 2) and sorted(served.signatures) == ["sample", "serving_default"]
    with pytest.raises(tf.errors.InvalidArgumentError, match="at most 4 examples"):
        served.signatures["serving_default"](x=tf.zeros([5, 2]))
    result = served.signatures["serving_default"](x=x)
    exact = resflow.load(trained[0]).model.log_prob(x, evaluation=True)
    assert np.all(np.abs(result["log_prob"] - exact) < 6 * result["log_prob_stderr"] + 0.01)
    card = (tmp_path / "1" / "MODEL_CARD.md").read_text()
    result = json.loads((trained[0] / "result.json").read_text())
    assert f"Nats: {result['nats']:.4f}" in card and "After 3 steps, on 100 examples of the test split" in card
    assert "has a version 1" in run_in_error("export", *arguments, "--version=1")


def test_sigterm_saves(tmp_path):
    """The signal is sent as soon as a step has been logged."""
    arguments = [f"--workdir={tmp_path}", *CONFIG, "--config.train.log_every=1"]
    with subprocess.Popen(
        command("train", *arguments, "--config.train.steps=1000000"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        metrics = tmp_path / "metrics.jsonl"
        while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM, stderr[-3000:]
    assert b"SIGTERM" in stdout and b"resume" in stdout
    (saved,) = (path.stem for path in (tmp_path / "checkpoints").glob("*.index"))
    assert saved.encode() in stdout


def test_a_config_imports_its_neighbor_and_takes_an_argument(tmp_path):
    """A wrong value, to stop before training."""
    folder = tmp_path / "experiments"
    folder.mkdir()
    (folder / "base.py").write_text("from tf_resflow.training import default_config as get_config\n")
    lines = ["from experiments import base", "def get_config(rate):", "    config = base.get_config()"]
    lines += ["    config.train.learning_rate = float(rate)", "    return config"]
    (folder / "derived.py").write_text("\n".join(lines))
    error = run_in_error("train", f"--config={folder}/derived.py:-5", f"--workdir={tmp_path}/run")
    assert "config.train.learning_rate is -5.0; it must be above 0" in error


def test_an_unwritable_workdir(call):
    done = call("bin/train.py", *CONFIG, "--workdir=/dev/null/run")
    assert done.code == 1 and "Cannot write to the workdir /dev/null/run" in done.output


INTERRUPTED = {
    "evaluate": ["--metrics=likelihood", "--batch_size=1", "--output={tmp}/scores.json"],
    "sample": ["--num=100000000", "--output={tmp}/samples.npy"],
    "export": ["--export_dir={tmp}", "--log_det=adaptive"],
}


@pytest.mark.parametrize("binary", INTERRUPTED)
def test_an_interrupt_is_one_line_and_leaves_nothing_half_written(binary, trained, tmp_path):
    """The signal comes as soon as the work has begun: its bar is shown, or its temporary folder is there."""
    arguments = [argument.format(tmp=tmp_path) for argument in INTERRUPTED[binary]]
    log = tmp_path.parent / f"{tmp_path.name}.log"
    with (
        log.open("wb") as stderr,
        subprocess.Popen(
            command(binary, f"--workdir={trained[0]}", *arguments),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        ) as process,
    ):
        while process.poll() is None and not (b"0/1" in log.read_bytes() or list(tmp_path.glob(".writing-*"))):
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=300)
    last = log.read_text().splitlines()[-1]
    assert process.returncode == 130, log.read_text()[-3000:]
    assert last.startswith("Interrupted.") and "Traceback" not in log.read_text()
    assert not list(tmp_path.iterdir())
