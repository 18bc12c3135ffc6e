"""Startup code that the commands share: flags, and short error messages with exit codes."""

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from absl import app, flags, logging

from tf_resflow._internal import console
from tf_resflow._internal.writing import STANDARD_STREAM, remove_temporary_folders
from tf_resflow.flows.names import ESTIMATORS
from tf_resflow.version import __version__

_INTERRUPTED = "Interrupted. Every output file is either complete or was not written."
# Exit codes.
_FAILED = 1
_REFUSED = 2


def command(
    description: str,
    define_flags: Callable[[], None],
    main: Callable[[], int | None],
    check: Callable[[], None],
    required: Sequence[str] = ("workdir",),
) -> Callable[[], None]:
    """Returns a function that parses the flags, calls `check()` and `main()`, and exits.

    Errors that this package raises about user input or data are printed without a traceback. The exit code is 2 if
    `check()` refuses the arguments, so that another try would fail, too; 1 after an error in the work, or if files
    cannot be written or are in use; and 130 or 143 after Ctrl-C or SIGTERM.

    Args:
      description: The text of `--help`.
      define_flags: Function that defines the flags.
      main: Function that does the work and returns the exit code.
      check: Function that raises the errors that can be detected without TensorFlow.
      required: The flags that must have a value.
    """

    def run():
        if sys.argv[1:] in (["--version"], ["-version"]):  # resflow-export has a flag --version with a value
            print(f"tf_resflow {__version__}")
            sys.exit(0)
        try:
            with console.handle_interrupts(_INTERRUPTED):
                _run(description, define_flags, main, check, required)
        except KeyboardInterrupt as stop:
            signum = stop.args[0] if stop.args else signal.SIGINT
        # The exception kept the frames of the progress bars alive. Now the bars have cleared their lines.
        print(f"\n{_INTERRUPTED}", file=sys.stderr)
        sys.stdout.flush()
        remove_temporary_folders()
        os._exit(128 + signum)  # TensorFlow takes seconds for a regular exit

    return run


def _run(description, define_flags, main, check, required):
    sys.modules["__main__"].__doc__ = f"{description}\nUse --version alone to print the version."  # for --help
    before = set(flags.FLAGS)
    with _short_errors(_REFUSED):
        define_flags()
    flags.DEFINE_bool("quiet", False, "Show no progress, only warnings and the result.")
    for name in set(flags.FLAGS) - before:
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])  # --help lists only these

    def checked_main(_):
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)
        with _short_errors(_REFUSED), console.log_lines(), console.show_progress(not flags.FLAGS.quiet):
            check()
            _start_tensorflow()
            with _short_errors(_FAILED):
                return main()

    app.run(checked_main, flags_parser=lambda argv: _parse_flags(argv, required))


def _start_tensorflow():
    """Imports TensorFlow, which takes seconds, so that errors in the flags are reported at once.

    Grappler is turned off on a CPU, because it doubles the time of a first step and makes no step faster there.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # shows only errors of TensorFlow's libraries
    with console.hold_back_stderr(flags.FLAGS.quiet):
        import tensorflow as tf

        has_gpu = bool(tf.config.list_physical_devices("GPU"))
    if not has_gpu:
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


def enable_grappler() -> None:
    """Turns Grappler on again, so that the numbers of a table equal those of the same calls in Python."""
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


def print_line(text: str) -> None:
    """Prints a line about the result, or logs it if standard output has the result."""
    (console.LOGGER.info if flags.FLAGS.output == STANDARD_STREAM else print)(text)


def define_workdir() -> None:
    """Defines --workdir, the directory or file of a trained run."""
    flags.DEFINE_string("workdir", None, "Directory of a run, .keras or .zip file of one, or pretrained:NAME.")


def define_data_flags() -> None:
    """Defines --data_dir and --data_path, which locate data that have moved since training."""
    flags.DEFINE_string("data_dir", None, "TFDS folder of the data, if it has moved since training.")
    flags.DEFINE_string("data_path", None, "File or folder of the data, if it has moved since training.")


def define_read_options() -> None:
    """Defines --read_options, the format of the table in --input."""
    flags.DEFINE_string(
        "read_options", "{}", """Arguments of pandas.read_csv for --input, such as '{"sep": ";"}'."""
    )


def define_estimator_flags(stderr: str) -> None:
    """Defines --log_det_estimator, --num_probes and --stderr. `stderr` names the score in the help of --stderr."""
    flags.DEFINE_enum(
        "log_det_estimator",
        None,
        ESTIMATORS,
        "Estimator of the log-determinants. Default: exact for small events, else the one in the run's config.",
    )
    flags.DEFINE_integer("num_probes", None, "Number of probes per estimate of a log-determinant.", 1)
    flags.DEFINE_float(
        "stderr",
        None,
        f"Target standard error of {stderr}. Doubles the number of estimates until it is reached.",
        lower_bound=1e-9,
    )


def workdir() -> Any:
    """Returns the files of the trained run in --workdir."""
    from tf_resflow.tables.runs.workdir import TableWorkdir  # imported here because it needs an extra
    from tf_resflow.training.workdir import open_workdir

    return TableWorkdir(flags.FLAGS.workdir) if is_table() else open_workdir(flags.FLAGS.workdir)


def is_table() -> bool:
    """Whether the run in --workdir is on a table."""
    from tf_resflow.tables.runs.workdir import is_table_run  # imported here because it needs an extra

    return is_table_run(flags.FLAGS.workdir)


def refuse_flags(names: Iterable[str], what: str = "a run on a table") -> None:
    """Raises ValueError for the first given flag that does not apply to the run."""
    for name in names:
        if flags.FLAGS[name].present:
            raise ValueError(f"--{name} does not apply to {what}. Leave it out.")


def check_run() -> None:
    """Raises ValueError if there is no trained run in --workdir."""
    files = workdir()
    files.read_config()
    files.check_trained()


def data_paths() -> dict[str, str | None]:
    """Returns the paths of data that have moved since training."""
    return {"data_dir": flags.FLAGS.data_dir, "data_path": flags.FLAGS.data_path}


def _parse_flags(argv, required):
    try:
        remaining = flags.FLAGS(["--help" if argument == "-h" else argument for argument in argv])
    except flags.Error as error:
        _refuse(f"{error}\nUse --help to list the flags.")
    except SystemExit:  # absl exits with code 1 after --help
        sys.exit(0)
    except BrokenPipeError:  # the reader of the help, such as `head`, has ended
        os._exit(0)
    if len(remaining) > 1:
        _refuse(f"unexpected arguments {remaining[1:]}. Only flags are accepted, which begin with --.")
    missing = [f"--{name}" for name in required if flags.FLAGS[name].value is None]
    if missing:
        _refuse(f"{' and '.join(missing)} must be given.\nUse --help to list the flags.")
    return remaining


def _refuse(message, code=_REFUSED):
    print(f"Error: {message}", file=sys.stderr)
    sys.exit(code)


@contextlib.contextmanager
def _short_errors(code):
    """Exits with the message of an error that code of this package raises. Other errors keep their traceback."""
    try:
        yield
    except (ValueError, ArithmeticError, OSError, ImportError) as error:
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        if not frames[-1].f_globals["__name__"].startswith("tf_resflow."):
            raise
        _refuse(error, _FAILED if isinstance(error, OSError) else code)
