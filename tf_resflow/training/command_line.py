"""How the binaries start: flags, quiet libraries, and errors that fit a screen."""

import contextlib
import difflib
import os
import pathlib
import re
import sys
import tempfile
import traceback

from absl import app, flags, logging
from ml_collections import config_dict

from tf_resflow.training.config import default_config, flat_keys, nearest_key

__all__ = ["run"]

_PACKAGE = pathlib.Path(__file__).parents[1]
_USER_ERRORS = (ValueError, ArithmeticError, OSError)
_HELP_FLAGS = {f"{dashes}{name}" for dashes in ("-", "--") for name in ("help", "helpshort", "helpfull", "helpxml")}
_CONFIG_FIELD = re.compile(r"--?(?:no)?config\.([^=\[]+)")
_DEPRECATED = "`FeatureConnector.dtype` is deprecated"  # what TFDS calls by itself
# What TensorFlow's C++ code logs at its start: the processor's features, and that there is no GPU.
_NOISE = re.compile(
    rb"I\d{4} |\d{4}-\d\d-\d\d .*: I |WARNING: All log messages before absl|To enable the following instructions"
    rb"|.*cuInit: .*(UNKNOWN ERROR \(303\)|NO_DEVICE)"
)


def run(main, check=None):
    """Runs a binary: parses the flags, calls `check()`, loads TensorFlow, calls `main()`, and exits.

    An error that this package raises about what the user gave (or about what the data did) is
    printed without a traceback, and the exit code is 1. A flag `--config.KEY=...` whose key is
    unknown is answered with the nearest key, and an error in the config file with its line. All
    other errors keep their traceback. Ctrl-C is one line, and the exit code 130.

    A config file may import the others in its folder, as `from FOLDER import NAME`.

    Args:
      main: function of no argument; what it returns is the exit code.
      check: function of no argument that raises what can be refused before TensorFlow is loaded.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    app.run(lambda _: _guarded(main, check), flags_parser=_parse_flags)


def _guarded(main, check=None):
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    logging.get_absl_logger().addFilter(lambda record: _DEPRECATED not in str(record.msg))
    try:
        if check:
            check()
        _load_tensorflow()
        return main()
    except _USER_ERRORS as error:
        if not _is_raised_here(error):
            raise
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        print("\nInterrupted. What is written is whole; what was not finished was not written.", file=sys.stderr)
        return 130


def _is_raised_here(error):
    """Whether a `raise` statement of this package raised it, and not what its line called."""
    innermost = traceback.extract_tb(error.__traceback__)[-1]
    inside = _PACKAGE in pathlib.Path(innermost.filename).resolve().parents
    return inside and (innermost.line or "").startswith("raise")


def _load_tensorflow():
    """Loads TensorFlow and looks for devices, without its lines about what the machine has."""
    if "tensorflow" in sys.modules:
        return
    with _stderr_without(_NOISE):
        import tensorflow as tf

        tf.config.list_physical_devices()


@contextlib.contextmanager
def _stderr_without(pattern):
    """Within it, what C++ code writes to the standard error stream is kept, and then written but for some lines."""
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
    path = _value_of("config", argv) if "config" in flags.FLAGS else None
    if path is not None and not _HELP_FLAGS & set(argv):
        sys.path.insert(0, str(pathlib.Path(path.partition(":")[0]).absolute().parent.parent))
        _check_keys(_read_config_file(path), argv)
    try:
        remaining = app.parse_flags_with_usage(argv)
    except SystemExit as stop:
        sys.exit(0 if _HELP_FLAGS & set(argv) else stop.code)  # absl has 1 for both
    if len(remaining) > 1:
        sys.exit(f"Error: unexpected arguments {remaining[1:]}; flags begin with --.")
    return remaining


def _read_config_file(value):
    """The config of a file, or of `FILE:ARGUMENT`; one line where the file has an error."""
    path = pathlib.Path(value.partition(":")[0])
    if not path.is_file():
        sys.exit(f"Error: cannot read the config file {str(path)!r}. {_nearest_file(path)}")
    try:
        config = flags.FLAGS["config"].parser.parse(value)
    except Exception as error:  # of any kind, since it is the file's code that runs
        sys.exit(f"Error: {_located(_cause(error), path)}")
    if not isinstance(config, config_dict.ConfigDict):
        sys.exit(
            f"Error: get_config() of {path} returns {config!r:.40}; it must return an ml_collections.ConfigDict, "
            "such as tf_resflow.training.default_config() with other values."
        )
    return config


def _cause(error):
    """The error of the file itself, which ml_collections repeats with its traceback as the text of another one."""
    is_repeated = str(error).startswith("Error whilst parsing config file")
    return error.__context__ if is_repeated and error.__context__ else error


def _located(error, path):
    """What went wrong in a config file, with the file and the line."""
    message = str(error).splitlines()[0] if str(error) else "no message"
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {error.msg}."
    if isinstance(error, AttributeError) and "get_config" in message and "has no attribute" in message:
        return f"{path} has no function get_config, which returns the config."
    if isinstance(error, TypeError) and message.startswith("get_config()"):
        takes = "needs one" if "missing" in message else "takes another number of them"
        return f"{path}: {message}. An argument is given as --config={path}:ARGUMENT; this file {takes}."
    folder = path.absolute().parent
    frames = [(pathlib.Path(file), line) for file, line, *_ in traceback.extract_tb(error.__traceback__)]
    frames = [(file, line) for file, line in frames if file.absolute().parent == folder]
    where = f"{frames[-1][0]}, line {frames[-1][1]}" if frames else str(path)
    if isinstance(error, ValueError):
        return f"{where}: {message}"
    if isinstance(error, AttributeError) and (key := re.search('Key "(.*?)" does not exist', message)):
        return f"{where}: a config has no key {key[1]!r}. Did you mean {nearest_key(default_config(), key[1])!r}?"
    return f"{where}: {type(error).__name__}: {message[:300]}"


def _nearest_file(path):
    for folder in (path.parent, pathlib.Path("configs")):
        if near := difflib.get_close_matches(path.stem, [file.stem for file in folder.glob("*.py")], n=1):
            return f"Did you mean --config={folder / near[0]}.py?"
    return "Give an existing one, such as --config=configs/digits.py."


def _check_keys(config, argv):
    for argument in argv[1:]:
        match = _CONFIG_FIELD.match(argument)
        if match and match[1] not in flat_keys(config):
            key, nearest = match[1], nearest_key(config, match[1])
            section = nearest.rpartition(".")[0]
            siblings = [k for k in flat_keys(config) if k.rpartition(".")[0] == section]
            sys.exit(
                f"Error: the config has no key {key!r}. Did you mean {nearest!r}?\n"
                f"Keys of {section or 'the top level'}: {', '.join(siblings)}"
            )


def _value_of(flag, argv):
    for index, argument in enumerate(argv):
        match = re.match(rf"--?{flag}(?:=(.*))?$", argument)
        if match:
            return next(iter(argv[index + 1 :]), None) if match[1] is None else match[1]
    return None
