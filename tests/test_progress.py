"""Progress bars: a Ctrl-C that a library swallows is not lost, and messages have lines of their own."""

import contextlib
import logging
import signal
import sys

import pytest

from tf_resflow import progress


def moved_bar():
    with progress.bar("items", 3) as bar:
        for item in range(3):
            yield item
            bar.update()


def test_a_message_has_its_own_line(capsys, monkeypatch):
    """What a terminal shows of a line is what follows its last carriage return."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [logging.StreamHandler(sys.stderr)])
    with progress.shown(), progress.stage("data"):
        logging.getLogger("absl").warning("Few values.")
    shown = [line.rpartition("\r")[2] for line in capsys.readouterr().err.split("\n")]
    assert "Few values." in shown and not any("Few" in line for line in shown if line != "Few values.")
    assert type(root.handlers[0]) is logging.StreamHandler


@pytest.mark.parametrize("items", [lambda: progress.track(range(3), "items"), moved_bar])
def test_an_interrupt_that_was_swallowed_is_repeated_at_the_next_item(items):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    done = []
    with pytest.raises(KeyboardInterrupt), progress.repeated_interrupts():
        for item in items():
            done.append(item)
            with contextlib.suppress(BaseException):  # as TFP's bare excepts
                signal.raise_signal(signal.SIGINT)
    assert done == [0] and list(items()) == [0, 1, 2]
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler
