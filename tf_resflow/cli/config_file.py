"""The flag `--config`: the name of a config of this package, or a file, and errors in it."""

import difflib
import pathlib
import re
import sys
import traceback
from collections.abc import Sequence

from absl import flags

from tf_resflow.config_fields import ConfigDict
from tf_resflow.training.config import default_config, flat_keys, nearest_key

__all__ = ["FOLDER", "checked"]

_PACKAGE = pathlib.Path(__file__).parents[1]
_INSTALLED = _PACKAGE / "experiments" / "configs"
FOLDER = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent / "configs"  # the latter in a checkout
_FIELD = re.compile(r"--?(?:no)?config\.([^=\[]+)")


def checked(argv: Sequence[str]) -> Sequence[str]:
    """Reads the config and checks its overrides, and exits with one line if something is wrong.

    Args:
      argv: the command line.

    Returns:
      The command line with the file instead of a name: `--config=digits` becomes `FOLDER / "digits.py"`, and
      `--config=hybrid:mnist` becomes that file with an argument.
    """
    found = _find(argv)
    if found is None:
        return argv
    index, before, value = found
    name, colon, argument = value.partition(":")
    path = FOLDER / f"{name}.py" if re.fullmatch(r"\w+", name) else pathlib.Path(name)
    if not path.is_file():
        what = f"read the config file {name!r}" if path == pathlib.Path(name) else f"find a config {name!r}"
        sys.exit(f"Error: cannot {what}. {_nearest(path)}")
    sys.path.insert(0, str(path.absolute().parent.parent))
    _check_keys(_read(path, f"{path}{colon}{argument}"), argv)
    return [*argv[:index], f"{before}{path}{colon}{argument}", *argv[index + 1 :]]


def _find(argv):
    """The index of the argument with the value of the flag, the text before the value, and the value."""
    for index, argument in enumerate(argv):
        if match := re.match("(--?config=)(.*)", argument):
            return index, *match.groups()
        if argument in ("-config", "--config") and index + 1 < len(argv):
            return index + 1, "", argv[index + 1]
    return None


def _read(path, value):
    """The config of a file, or of `FILE:ARGUMENT`."""
    try:
        config = flags.FLAGS["config"].parser.parse(value)
    except Exception as error:  # the code of the file may raise any
        sys.exit(f"Error: {_located(_cause(error), path)}")
    if not isinstance(config, ConfigDict):
        sys.exit(
            f"Error: get_config() of {path} returns {config!r:.40}; it must return an ml_collections.ConfigDict, "
            "such as tf_resflow.training.default_config() with other values."
        )
    return config


def _cause(error):
    """The error of the file itself, which ml_collections quotes with its traceback in the text of another error."""
    is_repeated = str(error).startswith("Error whilst parsing config file")
    return error.__context__ if is_repeated and error.__context__ else error


def _located(error, path):
    """The message about an error in a config file, with the file and the line."""
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


def _nearest(path):
    for folder in (path.parent, FOLDER):
        if near := difflib.get_close_matches(path.stem, [file.stem for file in folder.glob("*.py")], n=1):
            return f"Did you mean --config={near[0] if folder == FOLDER else folder / f'{near[0]}.py'}?"
    return f"Give a file, or one of {', '.join(sorted(file.stem for file in FOLDER.glob('*.py')))}."


def _check_keys(config, argv):
    for argument in argv[1:]:
        match = _FIELD.match(argument)
        if match and match[1] not in flat_keys(config):
            key, nearest = match[1], nearest_key(config, match[1])
            section = nearest.rpartition(".")[0]
            siblings = [k for k in flat_keys(config) if k.rpartition(".")[0] == section]
            sys.exit(
                f"Error: the config has no key {key!r}. Did you mean {nearest!r}?\n"
                f"Keys of {section or 'the top level'}: {', '.join(siblings)}"
            )
