"""How the binaries start: flags, and errors that fit a screen."""

import pathlib
import re
import sys
import traceback

from absl import app, flags, logging
from ml_collections import config_dict

from tf_resflow.training.config import flat_keys, nearest_key

__all__ = ["run"]

_PACKAGE = pathlib.Path(__file__).parents[1]
_USER_ERRORS = (ValueError, ArithmeticError, OSError)


def run(main):
    """Runs a binary: parses the flags, calls `main()`, and exits.

    An error that this package raises about what the user gave (or about what the data did) is
    printed without a traceback, and the exit code is 1. A flag `--config.KEY=...` whose key is
    unknown is answered with the nearest key. All other errors keep their traceback.

    A config file may import the others in its folder, as `from FOLDER import NAME`.

    Args:
      main: function of no argument; what it returns is the exit code.
    """
    app.run(lambda _: _guarded(main), flags_parser=_parse_flags)


def _guarded(main):
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    try:
        return main()
    except _USER_ERRORS as error:
        if not _is_raised_here(error):
            raise
        sys.exit(f"Error: {error}")


def _is_raised_here(error):
    """Whether a `raise` statement of this package raised it, and not what its line called."""
    innermost = traceback.extract_tb(error.__traceback__)[-1]
    inside = _PACKAGE in pathlib.Path(innermost.filename).resolve().parents
    return inside and (innermost.line or "").startswith("raise")


def _parse_flags(argv):
    if path := _value_of("config", argv):
        sys.path.insert(0, str(pathlib.Path(path.partition(":")[0]).absolute().parent.parent))
    try:
        remaining = app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError):
        _explain_unknown_key(argv)
        raise
    except OSError as error:
        sys.exit(f"Error: {error}")
    if len(remaining) > 1:
        sys.exit(f"Error: unexpected arguments {remaining[1:]}; flags begin with --.")
    if "config" in flags.FLAGS and not isinstance(flags.FLAGS.config, config_dict.ConfigDict):
        path = _value_of("config", argv)
        sys.exit(
            f"Error: cannot read the config file {path!r}. Give an existing one, such as "
            "--config=configs/digits.py."
        )
    return remaining


def _explain_unknown_key(argv):
    config = flags.FLAGS["config"].parser.parse(_value_of("config", argv))
    for argument in argv[1:]:
        match = re.match(r"--?(?:no)?config\.([^=\[]+)", argument)
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
            return match[1] or next(iter(argv[index + 1 :]), None)
    return None
