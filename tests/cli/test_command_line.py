import logging
import signal
import sys

import pytest

from tf_resflow._internal import console
from tf_resflow.cli import command_line
from tf_resflow.training.config import default_config, validate_config
from tf_resflow.version import __version__

pytestmark = pytest.mark.quick


def invalid_config():
    config = default_config()
    config.train.steps = 0
    validate_config(config)


def test_errors_of_ours_are_messages_and_others_keep_their_traceback(capsys):
    """The TypeError of `default_config(1)` is raised in our code, but it is a bug and keeps its traceback."""
    with pytest.raises(SystemExit) as end, command_line._short_errors(3):
        invalid_config()
    assert end.value.code == 3 and "Error: config.train.steps is 0" in capsys.readouterr().err
    for fault in (lambda: int("x"), lambda: [].index(3), lambda: {}["key"], lambda: default_config(1)):
        with pytest.raises((ValueError, KeyError, TypeError)), command_line._short_errors(3):
            fault()


def test_warnings_of_tfds_about_a_missing_data_set_are_left_out(caplog):
    with console.log_lines():
        for message in ("Variant folder %s has no %s", "%s is of %s"):
            logging.getLogger("absl").warning(message, "mnist", "info")
    assert caplog.messages == ["mnist is of info"]


@pytest.mark.parametrize("signum, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_one_line(signum, code, monkeypatch, capsys):
    """The previous signal handlers are restored."""
    monkeypatch.setattr("sys.argv", ["command"])
    monkeypatch.setattr("os._exit", sys.exit)
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    try:
        with pytest.raises(SystemExit) as end:
            command_line.command("", lambda: signal.raise_signal(signum), None, None)()
    finally:
        found = {number: signal.signal(number, handler) for number, handler in before.items()}
    assert end.value.code == code and found == usual
    assert capsys.readouterr().err == "\nInterrupted. Every output file is either complete or was not written.\n"


def test_version(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["command", "--version"])
    with pytest.raises(SystemExit) as end:
        command_line.command("", None, None, None)()
    assert not end.value.code and capsys.readouterr().out == f"tf_resflow {__version__}\n"
