"""Sets up two logical CPUs for tests of MirroredStrategy, and defines fixtures that several folders use."""

import collections
import contextlib
import gc
import logging as std_logging
import os
import pathlib
import runpy
import sys
from unittest import mock

import keras
import pytest
import tensorflow as tf
from absl import flags, logging

from tf_resflow.data import DENSITIES
from tf_resflow.layers.power_norm import PowerNorm
from tf_resflow.layers.spectral_norm import SpectralNorm
from tf_resflow.training import loop
from tf_resflow.training.config import default_config
from tf_resflow.training.report import Report

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

# Most tests run a graph only once, so optimizing it costs more than it saves. tests/system enables the optimizer.
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})

# Tracing creates many long-lived objects, so collect garbage less often and ignore objects created by imports.
gc.collect()
gc.freeze()
gc.set_threshold(50_000, 20, 20)


ROOT = pathlib.Path(__file__).parents[1]


def pytest_addoption(parser):
    parser.addoption("--random_cases", type=int, default=12, help="Number of random flows.")


@pytest.fixture
def num_cases(request):
    return request.config.getoption("--random_cases")


Done = collections.namedtuple("Done", ["code", "output"])  # result of a binary


@pytest.fixture(scope="session", autouse=True)
def temporary_files(tmp_path_factory):
    """Puts the temporary files of libraries into pytest's folder, which is removed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(tmp_path_factory.mktemp("temporary")))
        yield


@pytest.fixture
def said(monkeypatch):
    """Records the texts of logged warnings."""
    lines = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: lines.append(text % values))
    return lines


@pytest.fixture
def dtype_policy():
    """Returns a context manager that sets Keras's global dtype policy."""

    @contextlib.contextmanager
    def global_policy(name):
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(name)
        try:
            yield
        finally:
            keras.config.set_dtype_policy(before)

    return global_policy


@pytest.fixture
def stored_norms(monkeypatch):
    """Returns a function that makes layers estimate norms at the stored vectors without a check."""

    def keep_vectors():
        for norm in (PowerNorm, SpectralNorm):
            monkeypatch.setattr(norm, "refined", lambda norm, kernel, v: v)

    return keep_vectors


@pytest.fixture
def run_command():
    """Runs a module of `tf_resflow.cli` in this process, and removes its flags."""
    before, was_parsed = set(flags.FLAGS), flags.FLAGS.is_parsed()

    def remove():
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)

    def run(command, workdir, output, *arguments):
        remove()
        command.define_flags()
        flags.FLAGS(["command", f"--workdir={workdir}", f"--output={output}", *arguments])
        command.check()
        command.main()

    grappler = tf.config.optimizer.get_experimental_options()
    yield run
    tf.config.optimizer.set_experimental_options(grappler)  # commands for tables turn it on
    remove()
    if not was_parsed:
        flags.FLAGS.unparse_flags()


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs a script in this process until it exits, and cleans up."""

    def call(path, *arguments):
        known, verbosity, handlers = set(flags.FLAGS), logging.get_verbosity(), std_logging.root.handlers[:]
        monkeypatch.syspath_prepend((ROOT / path).parent)
        monkeypatch.setattr(sys, "argv", [path, *map(str, arguments)])
        try:
            with mock.patch.dict(os.environ), pytest.raises(SystemExit) as end:
                runpy.run_path(str(ROOT / path), run_name="__main__")
        finally:
            flags.FLAGS.remove_flag_values(set(flags.FLAGS) - known)
            flags.FLAGS.unparse_flags()
            logging.set_verbosity(verbosity)
            std_logging.root.handlers[:] = handlers
        written = capsys.readouterr()
        said = end.value.code if isinstance(end.value.code, str) else ""
        return Done(1 if said else end.value.code or 0, written.out + written.err + said)

    return call


@pytest.fixture(scope="session")
def two_replicas():
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@pytest.fixture(scope="session")
def run_without_work():
    """Writes a run to a workdir. Its training steps and evaluations do nothing."""

    def run(config, workdir):
        names = ("nats", "nats_stderr", "bits_per_dim", "bits_per_dim_stderr", "loss")
        scores = dict.fromkeys(names, 0.0) | {"num_examples": 1}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "_compiled_step", lambda *_: lambda batch, seed: {"nats": 0.0})
            patch.setattr(Report, "scores", lambda report, split=None: scores)
            patch.setattr(Report, "figures", lambda report, directory: {})
            loop.train(config, workdir, progress=False)

    return run


def tiny_config(**overrides):
    """Returns the config of a 2-D flow that trains in seconds. `train__steps=5` sets `train.steps`."""
    config = default_config()
    fields = {
        "data.name": "8gaussians",
        "model.kind": "vector",
        "model.num_blocks": (1,),
        "model.hidden": (8,),
        "model.activation": "lipswish",
        "train.steps": 10,
        "train.batch_size": 16,
        "train.warmup_steps": 3,
        "train.log_every": 4,
        "train.eval_every": 10,
        "train.checkpoint_every": 5,
        "eval.batch_size": 30,
        "eval.num_samples": 4,
    }
    fields |= {key.replace("__", "."): value for key, value in overrides.items()}
    if fields["data.name"] in DENSITIES:
        fields.setdefault("data.num_test", 50)
    config.update_from_flattened_dict(fields)
    return config


@pytest.fixture(scope="session")
def make_config():
    return tiny_config


@pytest.fixture(scope="session")
def refused():
    """Checks that a call raises an error with the given message."""

    def refused(message, call, *args, error=ValueError, **kwargs):
        with pytest.raises(error, match=message):
            call(*args, **kwargs)

    return refused
