"""Tests two worker processes on this machine that train together."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow
from tests.conftest import ROOT
from tf_resflow.training import loop


@pytest.fixture
def start_both():
    """Starts a command on two workers, and kills workers that still run at the end."""
    started = []

    def start(*command):
        with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
            addresses = [f"127.0.0.1:{server.getsockname()[1]}" for server in (one, two)]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        for index in range(2):
            cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "TF_CONFIG": json.dumps(cluster)}
            started.append(subprocess.Popen([sys.executable, *command], env=environment, **options))
        return started[-2:]

    yield start
    for worker in started:
        worker.kill()
        worker.communicate()


@pytest.fixture
def start_workers(tmp_path, make_config, start_both):

    def start(**fields):
        config = make_config(train__steps=200, train__checkpoint_every=20, train__eval_every=40)
        lines = ["from tf_resflow.training import default_config", "def get_config():"]
        lines += ["    config = default_config()", f"    config.update({config.to_dict()!r})", "    return config"]
        (tmp_path / "config.py").write_text("\n".join(lines))
        flags = [f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'run'}", "--strategy=multiworker"]
        flags += [f"--config.train.{name}={value}" for name, value in fields.items()]
        return start_both(ROOT / "bin" / "train.py", *flags)

    return start


def wait_for(path, worker):
    deadline = time.monotonic() + 120
    while not path.exists():
        assert worker.poll() is None, worker.communicate()[1][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_run_goes_on_after_a_worker_was_killed(tmp_path, start_workers, make_config, two_replicas):
    """Kills one worker, restarts both, and stops one with SIGTERM. The weights equal those of two replicas in one
    process, which draw the same numbers. A model that is loaded without replicas has the same score."""
    workdir = tmp_path / "run"
    chief, other = start_workers()
    wait_for(workdir / "checkpoints" / "ckpt-20.index", other)
    other.kill()
    errors = chief.communicate(timeout=120)[1]
    assert chief.returncode == 1
    assert "Error: Another worker has stopped; its own message says why" in errors

    chief, other = start_workers()
    wait_for(workdir / "checkpoints" / "ckpt-60.index", other)
    other.send_signal(signal.SIGTERM)
    outputs = [worker.communicate(timeout=120)[0] for worker in (chief, other)]
    assert [worker.returncode for worker in (chief, other)] == [128 + signal.SIGTERM] * 2
    run = resflow.load(workdir)
    assert outputs[0] == outputs[1] and f"Stopped by SIGTERM after step {run.step}" in outputs[0]
    assert 60 <= run.step < 200

    config = make_config(train__steps=run.step, train__eval_every=200)
    result = loop.train(config, tmp_path / "mirrored", strategy=two_replicas, progress=False)
    mirrored = resflow.load(tmp_path / "mirrored").model  # without replicas
    x = resflow.data.load(config.data).array("test")
    loss = mirrored.example_losses(x, seed=0)[mirrored.objective].numpy()
    assert abs(loss.mean() - result["nats"]) < 4 * loss.std() / np.sqrt(len(loss))
    for ours, expected in zip(run.model.weights, mirrored.weights, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-4)
    assert len(list((workdir / "checkpoints").glob("*.index"))) == 3
    steps = [line["step"] for line in resflow.training.read_metrics(workdir) if line["split"] == "validation"]
    assert steps == list(range(40, run.step + 1, 40))


def test_workers_end_together_when_no_better_score_comes(tmp_path, start_workers):
    """With a tiny learning rate, no score improves. Both workers score the best checkpoint of the first worker."""
    workers = start_workers(learning_rate=1e-30, eval_every=10, keep_best=True, patience=1)
    outputs = [worker.communicate(timeout=120) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], [errors[-3000:] for _, errors in outputs]
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["ended_by_patience"] == 1 and result["last_step"] - result["step"] == 10
    run = resflow.load(tmp_path / "run")
    assert run.is_best and run.step == result["step"] and result["last_step"] < 200


def test_each_worker_decodes_its_share_and_has_the_config_of_the_others(start_both, tmp_path):
    """In an epoch of 8 batches of 8, each worker decodes 32 examples: half of each batch, in the usual order."""
    batches, decoded = [], []
    for worker in start_both(ROOT / "tests" / "system" / "one_of_two_workers.py", tmp_path / "run"):
        output, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors[-3000:]
        taken, numbers, error = json.loads(output.splitlines()[-1])
        batches.append(taken)
        decoded.append(numbers)
        assert error == "The configs of the workers differ. Use the same on all."
    order = tf.random.experimental.stateless_shuffle(tf.range(64), tf.constant([3, 0], tf.int64))
    np.testing.assert_array_equal(np.concatenate(batches, axis=1), tf.reshape(order, [8, 8]))
    assert [sorted(numbers) for numbers in decoded] == [sorted(np.ravel(taken)) for taken in batches]


def test_workers_that_diverge(tmp_path, start_workers):
    """The gradient overflows on both workers. Neither waits for the other, and at least one reports the reason."""
    workers = start_workers(learning_rate=1e30, global_clipnorm=0, warmup_steps=0)
    errors = [worker.communicate(timeout=120)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [1, 1]
    reported = ["is NaN or infinite at step " in text for text in errors]
    assert any(reported), [text[-600:] for text in errors]
    assert all(one or "Another worker has stopped" in text for one, text in zip(reported, errors, strict=True))
    assert not list((tmp_path / "run" / "checkpoints").glob("*.index"))
