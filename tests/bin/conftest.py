import pathlib
import runpy
import sys
from typing import NamedTuple

import pytest
from absl import flags, logging

BIN = pathlib.Path(__file__).parents[2] / "bin"


class Done(NamedTuple):
    """How a binary ended."""

    code: int
    output: str


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs a binary in this process, to its exit, which saves the start of another. Its flags go with it."""

    def call(name, *arguments):
        known, verbosity = set(flags.FLAGS), logging.get_verbosity()
        monkeypatch.syspath_prepend(BIN)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        try:
            with pytest.raises(SystemExit) as end:
                runpy.run_path(str(BIN / f"{name}.py"), run_name="__main__")
        finally:
            flags.FLAGS.remove_flag_values(set(flags.FLAGS) - known)
            flags.FLAGS.unparse_flags()
            logging.set_verbosity(verbosity)
        written = capsys.readouterr()
        said = end.value.code if isinstance(end.value.code, str) else ""
        return Done(1 if said else end.value.code or 0, written.out + written.err + said)

    return call
