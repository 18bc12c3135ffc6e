"""How the commands start: flags, quiet libraries, and errors that fit a screen."""

import contextlib
import logging as std_logging
import os
import pathlib
import re
import sys
import tempfile
import traceback
from collections.abc import Callable

from absl import app, flags, logging

from tf_resflow.progress import repeated_interrupts

__all__ = ["check_stderr", "run"]

_PACKAGE = pathlib.Path(__file__).parents[1]
_USER_ERRORS = (ValueError, ArithmeticError, OSError, ImportError)
_HELP_FLAGS = {f"{dashes}{name}" for dashes in ("-", "--") for name in ("help", "helpshort", "helpfull", "helpxml")}
# What TFDS logs about itself, and about a data set that is missing, which is an error of ours.
_NOISE_OF_TFDS = ("`FeatureConnector.dtype` is deprecated", "Variant folder %s has no")
# What absl says about a flag, and what is printed instead.
_FLAG_ERRORS = {
    r"flag --\S+=None: Flag (--\S+) must have a value other than None": r"\1 is missing",
    r"Unknown command line flag '(\S+)'": r"there is no flag --\1",
    r"Did you mean: (\S+)": r"Did you mean --\1",
    r" \?$": "?",
    r"invalid literal for int\(\) with base 10: .*": "it must be an integer",
    r"could not convert string to float: .*": "it must be a number",
    r"value should be one of <(.*)>": r"it must be one of \1",
    r"^flags? --": "--",
}
# TensorFlow's C++ code logs this at its start: the processor's features, and that there is no GPU.
_NOISE = re.compile(
    rb"I\d{4} |\d{4}-\d\d-\d\d .*: I |WARNING: All log messages before absl|To enable the following instructions"
    rb"|.*cuInit: .*(UNKNOWN ERROR \(303\)|NO_DEVICE)"
)


def run(
    description: str,
    define_flags: Callable[[], None],
    main: Callable[[], int | None],
    check: Callable[[], None] = lambda: None,
) -> None:
    """Runs a command: parses the flags, calls `check()`, loads TensorFlow, calls `main()`, and exits.

    Errors that this package raises about the user's input or the data are printed without a traceback, and the exit
    code is 1; so is a missing package of an extra. An unknown key in `--config.KEY=...` raises an error that
    suggests the nearest key, and an error in the config file names its line. All other errors keep their traceback.
    Ctrl-C prints one line, and the exit code is 130.

    `--config` is the name of a config of this package, or a file. A config file may import the others in its
    folder, as `from FOLDER import NAME`.

    Args:
      description: the text of `--help`.
      define_flags: function without arguments that defines the flags.
      main: function without arguments; it returns the exit code.
      check: function without arguments that raises errors which do not need TensorFlow.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.modules["__main__"].__doc__ = description  # which absl shows
    before = set(flags.FLAGS)
    try:
        define_flags()
    except ImportError as error:
        sys.exit(f"Error: {error}")
    for name in set(flags.FLAGS) - before:
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])  # the only ones in --help
    with repeated_interrupts():
        app.run(lambda _: _guarded(main, check), flags_parser=_parse_flags)


def check_stderr(alternatives: list[str]) -> None:
    """Raises ValueError if --stderr is not positive, or given beside flags that it replaces."""
    stderr = flags.FLAGS.stderr
    if stderr is None:
        return
    if not 0 < stderr < float("inf"):
        raise ValueError(f"--stderr must be positive and finite; got {stderr}.")
    if given := [f"--{name}" for name in alternatives if flags.FLAGS[name].present]:
        raise ValueError(f"--stderr chooses the estimators: leave out {' and '.join(given)}.")


def _guarded(main, check=lambda: None):
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
        logging.get_absl_handler().setFormatter(_Formatter())
    logging.get_absl_logger().addFilter(_is_worth_telling)
    try:
        check()
        _load_tensorflow()
        return main()
    except _USER_ERRORS as error:
        if not _is_raised_here(error):
            raise
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        pass
    # The exception is gone, and with it the frames that held progress bars, which clear their line at the end.
    print("\nInterrupted. Files are complete or were not written.", file=sys.stderr)
    return 130


def _is_raised_here(error: Exception) -> bool:
    """Whether a `raise` statement of this package raised it, and not a function that the line called."""
    innermost = traceback.extract_tb(error.__traceback__)[-1]
    inside = _PACKAGE in pathlib.Path(innermost.filename).resolve().parents
    return inside and (innermost.line or "").startswith("raise")


def _is_worth_telling(record):
    return not any(noise in str(record.msg) for noise in _NOISE_OF_TFDS)


class _Formatter(std_logging.Formatter):
    """Messages without the time, the process and the line of code."""

    def format(self, record: std_logging.LogRecord) -> str:
        """`Warning: ...`."""
        return f"{record.levelname.capitalize()}: {super().format(record)}"


def _load_tensorflow():
    """Loads TensorFlow and looks for devices, without its messages about the machine."""
    if "tensorflow" in sys.modules:
        return
    with _stderr_without(_NOISE):
        import tensorflow as tf

        tf.config.list_physical_devices()


@contextlib.contextmanager
def _stderr_without(pattern):
    """Delays the standard error stream, that of C++ code too, and writes it without the lines of a pattern."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            file.seek(0)
            for line in file:
                if not pattern.match(line):
                    os.write(2, line)


def _parse_flags(argv):
    if "config" in flags.FLAGS and not _HELP_FLAGS & set(argv):
        from tf_resflow.cli import config_file

        argv = config_file.checked(argv)
    try:
        remaining = flags.FLAGS(argv)
    except flags.Error as error:
        sys.exit(f"Error: {_plain(str(error))} The flags are listed by --help.")
    except SystemExit as stop:
        sys.exit(0 if _HELP_FLAGS & set(argv) else stop.code)  # absl has 1 for both
    if len(remaining) > 1:
        sys.exit(f"Error: unexpected arguments {remaining[1:]}; flags begin with --.")
    return remaining


def _plain(message):
    """An error about flags in plain words; absl has a line for each flag."""
    lines = message.strip().splitlines()
    for pattern, text in _FLAG_ERRORS.items():
        lines = [re.sub(pattern, text, line.rstrip(".")) for line in lines]
    return " ".join(line if line.endswith("?") else f"{line}." for line in lines)
