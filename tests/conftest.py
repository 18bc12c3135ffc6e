"""Two logical CPUs, so that tests can run on a MirroredStrategy of two replicas; a patient garbage collector."""

import gc
import pathlib
import runpy
import sys
from typing import NamedTuple

import pytest
import tensorflow as tf
from absl import flags, logging

import tf_resflow  # noqa: F401

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

# Tracing makes many objects that stay: the collector need not search what was imported each time, nor so often.
gc.collect()
gc.freeze()
gc.set_threshold(50_000, 20, 20)


ROOT = pathlib.Path(__file__).parents[1]


class Done(NamedTuple):
    """How a binary ended."""

    code: int
    output: str


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs a script in this process, to its exit, which saves the start of another. Its flags go with it."""

    def call(path, *arguments):
        known, verbosity = set(flags.FLAGS), logging.get_verbosity()
        monkeypatch.syspath_prepend((ROOT / path).parent)
        monkeypatch.setattr(sys, "argv", [path, *map(str, arguments)])
        try:
            with pytest.raises(SystemExit) as end:
                runpy.run_path(str(ROOT / path), run_name="__main__")
        finally:
            flags.FLAGS.remove_flag_values(set(flags.FLAGS) - known)
            flags.FLAGS.unparse_flags()
            logging.set_verbosity(verbosity)
        written = capsys.readouterr()
        said = end.value.code if isinstance(end.value.code, str) else ""
        return Done(1 if said else end.value.code or 0, written.out + written.err + said)

    return call


@pytest.fixture(scope="session")
def two_replicas():
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
