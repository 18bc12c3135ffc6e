r"""Trains a residual flow. Run the same command again to resume.

resflow-train --config=digits --workdir=runs/digits
resflow-train --config=tabular --workdir=runs/table --config.data.path=FILE.csv

--config is the name of a config of this package, or a file. Set fields with flags such as --config.train.steps=500.
The workdir receives config.json, checkpoints/, metrics.jsonl, events/ (TensorBoard), figures/ and result.json; for
a table config.json, members/, density.npz, figures/ and result.json.

To train on several machines, run the same command on each, with TF_CONFIG in the environment and a workdir that all
machines share. If one machine stops, the others stop too. Then run the command again on all of them.
"""

import os
import pathlib
import sys
from typing import Any

from absl import flags

from tf_resflow import training
from tf_resflow._internal.extras import extra
from tf_resflow._internal.messages import suggest
from tf_resflow._internal.settings import flat_fields
from tf_resflow.cli import command_line

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags."""
    with extra("training"):
        from ml_collections import config_flags

    config_flags.DEFINE_config_file("config", None, "Name or file of the config.")
    FLAGS["config"].parser = ConfigParser()
    flags.DEFINE_string("workdir", None, "Directory of the run.")
    flags.DEFINE_enum(
        "strategy",
        "auto",
        ["auto", "default", "mirrored", "multiworker"],
        "Machines and devices to train on: multiworker uses the workers in TF_CONFIG, mirrored all GPUs of this "
        "machine, default one device. auto is multiworker if there are several workers, else mirrored "
        "if there are several GPUs, else default.",
    )
    flags.DEFINE_bool("deterministic", False, "Make runs bit-exactly repeatable, at some cost in speed.")
    flags.DEFINE_bool("jit", False, "Compile the whole step with XLA. Starts later; steps are often faster.")


class ConfigParser(flags.ArgumentParser):
    """Loads the config that `--config` names, and checks that the fields overridden by other flags exist."""

    def parse(self, argument: str) -> Any:
        """Returns the config of a name or a file, optionally followed by a colon and an argument."""
        from tf_resflow.training.config import base_config, load_config_file

        file, *arguments = argument.split(":", 1)
        if file.endswith(".py"):
            path = pathlib.Path(file)
            if not path.is_file():
                near = suggest(path.name, [file.name for file in path.parent.glob("*.py")])
                raise ValueError(f"there is no file {path}; {near}")
            # The file may import from its folder: from FOLDER import NAME
            sys.path.insert(0, str(path.absolute().parent.parent))
            config = load_config_file(path, *arguments)
        else:
            config = base_config(argument)
        fields = flat_fields(config.to_dict())
        for override in sys.argv[1:]:
            flag, _, field = override.lstrip("-").removeprefix("no").partition("=")[0].partition(".")
            if flag == "config" and field and field.partition("[")[0] not in fields:
                raise ValueError(f"the config has no field {field!r}; {suggest(field, fields)}")
        return config.lock()


def check() -> None:
    """Raises ValueError if the config is invalid, its data are missing, or the workdir belongs to another run."""
    from tf_resflow.data import config as data_config  # imported here because it needs an extra
    from tf_resflow.tables.runs import config as table_config
    from tf_resflow.tables.runs.workdir import TableWorkdir
    from tf_resflow.training.config import validate_config
    from tf_resflow.training.workdir import Workdir

    if _is_table():
        command_line.refuse_flags(["strategy", "jit"], "a config of a table")
        table_config.validate_config(FLAGS.config)
        table_config.check_paths(FLAGS.config.data)
        TableWorkdir(FLAGS.workdir).check_config(FLAGS.config)
    else:
        validate_config(FLAGS.config)
        data_config.check_paths(FLAGS.config.data)
        Workdir(FLAGS.workdir).check_config(FLAGS.config)
    if "TF_CONFIG" not in os.environ:  # another worker may hold the lock
        with Workdir(FLAGS.workdir).locked():
            pass


def _is_table():
    from tf_resflow.tables.runs.config import TASK  # imported here because it needs an extra

    return FLAGS.config.get("task") == TASK


def main() -> int:
    """Trains and prints the result."""
    import tensorflow as tf

    from tf_resflow.training.strategies import STRATEGIES, is_chief

    if FLAGS.deterministic:
        tf.config.experimental.enable_op_determinism()
    if _is_table():
        return _train_table()
    strategy = STRATEGIES[FLAGS.strategy]()
    writes = is_chief(strategy)
    try:
        result = training.train(
            FLAGS.config, FLAGS.workdir, strategy=strategy, jit=FLAGS.jit, progress=writes and not FLAGS.quiet
        )
    except training.Interrupted as stop:
        print(stop)
        return 128 + stop.signum
    if writes:
        print(f"{result['line']} in {FLAGS.workdir}: result.json, figures/, metrics.jsonl")
    return 0


def _train_table():
    from tf_resflow.tables import runs  # imported here because it needs TensorFlow

    command_line.enable_grappler()
    try:
        result = runs.train(FLAGS.config, FLAGS.workdir, progress=not FLAGS.quiet)
    except KeyboardInterrupt:
        print("\nThe trained members are saved. Run the same command again to resume.")
        raise
    print(f"Columns (--config.data.kinds): {result['kinds']}")
    print(f"{result['line']} in {FLAGS.workdir}: density.npz, result.json, figures/")
    return 0


run = command_line.command(__doc__, define_flags, main, check, ["config", "workdir"])
