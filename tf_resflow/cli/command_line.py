"""Startup code that the commands share: flags, log filters and short error messages."""

import logging as std_logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

from absl import app, flags, logging

from tf_resflow import progress, training
from tf_resflow.extras import extra
from tf_resflow.flows.names import ESTIMATORS
from tf_resflow.progress import repeated_interrupts, shown
from tf_resflow.version import __version__

# Beginnings of TFDS warnings to hide: a deprecation inside TFDS, and a missing data set, which we report ourselves.
_NOISE_OF_TFDS = ("`FeatureConnector.dtype` is deprecated", "Variant folder %s has no")


def command(
    description: str, define_flags: Callable[[], None], main: Callable[[], int | None], check: Callable[[], None]
) -> Callable[[], None]:
    """Returns a function that parses the flags, calls `check()` and `main()`, and exits.

    Errors that this package raises about user input or data, invalid flags, and missing packages of an extra are
    printed without a traceback, with exit code 1. Ctrl-C and SIGTERM print one line, with exit codes 130 and 143.

    Args:
      description: The text of `--help`.
      define_flags: Function that defines the flags.
      main: Function that does the work and returns the exit code.
      check: Function that raises the errors that can be detected without TensorFlow.
    """

    def run():
        if sys.argv[1:] in (["--version"], ["-version"]):  # resflow-export has a flag --version with a value
            print(f"tf_resflow {__version__}")
            sys.exit(0)
        try:
            with repeated_interrupts():
                _run(description, define_flags, main, check)
        except KeyboardInterrupt as stop:
            signum = stop.args[0] if stop.args else signal.SIGINT
        # The exception kept the frames of the progress bars alive. Now the bars have cleared their lines.
        print("\nInterrupted. Every output file is either complete or was not written.", file=sys.stderr)
        sys.exit(128 + signum)

    return run


def _run(description, define_flags, main, check):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    text = f"{description}\nUse --version alone to print the version of tf_resflow."
    sys.modules["__main__"].__doc__ = text  # absl shows it in --help
    before = set(flags.FLAGS)
    try:
        define_flags()
        flags.DEFINE_bool("quiet", False, "Show no progress bars, only warnings and the result.")
        with extra("training"):
            from tqdm.contrib.logging import logging_redirect_tqdm
    except ImportError as error:
        sys.exit(f"Error: {error}")
    for name in set(flags.FLAGS) - before:
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])  # --help lists only these

    def checked_main(_):
        check()
        _skip_graph_optimizations()
        with logging_redirect_tqdm(), shown(not flags.FLAGS.quiet):
            return main()

    app.run(lambda arguments: _guarded(checked_main, arguments), flags_parser=_parse_flags)


def _skip_graph_optimizations():
    """Turns off Grappler, which doubles the time of a first step and makes no step faster on a CPU."""
    import tensorflow as tf  # imported here so that errors in the flags are reported at once

    if not tf.config.list_physical_devices("GPU"):
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


def define_workdir() -> None:
    """Defines --workdir, the directory or file of a trained run."""
    flags.DEFINE_string(
        "workdir", None, "Directory of a run, .keras or .zip file of one, or pretrained:NAME.", required=True
    )


def define_data_flags() -> None:
    """Defines --data_dir and --data_path, which locate data that have moved since training."""
    flags.DEFINE_string("data_dir", None, "TFDS folder of the data, if it has moved since training.")
    flags.DEFINE_string("data_path", None, "File or folder of the data, if it has moved since training.")


def define_estimator_flags(stderr: str) -> None:
    """Defines --log_det_estimator, --num_probes and --stderr. `stderr` names the score in the help of --stderr."""
    flags.DEFINE_enum(
        "log_det_estimator",
        None,
        ESTIMATORS,
        "Estimator of the log-determinants. Default: exact for small events, else the one in the run's config.",
    )
    flags.DEFINE_integer("num_probes", None, "Number of probes per estimate of a log-determinant.", 1)
    flags.DEFINE_float("stderr", None, f"Target standard error of {stderr}. Chooses the estimators that reach it.")

    @flags.multi_flags_validator(
        ["stderr", "log_det_estimator", "num_probes"],
        "--stderr already chooses the estimators: leave out --log_det_estimator and --num_probes",
    )
    def _exclude_each_other(values):
        return values["stderr"] is None or values["log_det_estimator"] is None and values["num_probes"] is None


def workdir() -> Any:
    """Returns the files of the trained run in --workdir."""
    from tf_resflow.training.packed import opened  # imported here because it needs an extra

    return opened(flags.FLAGS.workdir)


def check_run() -> None:
    """Raises ValueError if there is no trained run in --workdir."""
    files = workdir()
    files.read_config()
    files.check_trained()


def check_data() -> None:
    """Raises ValueError if the files of the run's data are missing."""
    workdir().config_of_data(data_dir=flags.FLAGS.data_dir, data_path=flags.FLAGS.data_path)


def load_data() -> Any:
    """Loads the data set of the run."""
    with progress.stage("data"):
        return training.load_data(
            flags.FLAGS.workdir, data_dir=flags.FLAGS.data_dir, data_path=flags.FLAGS.data_path
        )


def _parse_flags(argv):
    try:
        remaining = flags.FLAGS(argv)
    except flags.Error as error:
        sys.exit(f"Error: {error}\nUse --help to list the flags.")
    except SystemExit:  # absl exits with code 1 after --help
        sys.exit(0)
    if len(remaining) > 1:
        sys.exit(f"Error: unexpected arguments {remaining[1:]}. Only flags are accepted, which begin with --.")
    return remaining


def _guarded(main, arguments=None):
    """Calls `main(arguments)`. If code of this package raises an error, exits with its message."""
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    std_logging.root.removeHandler(logging.get_absl_handler())  # tqdm redirects only Python's handlers
    std_logging.basicConfig(format="%(levelname)s: %(message)s")
    logging.get_absl_logger().addFilter(lambda record: not str(record.msg).startswith(_NOISE_OF_TFDS))
    try:
        return main(arguments)
    except (ValueError, ArithmeticError, OSError, ImportError) as error:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if not frame.f_globals["__name__"].startswith("tf_resflow."):
            raise
        sys.exit(f"Error: {error}")
