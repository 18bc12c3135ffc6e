"""A Ctrl-C that a library swallows is not lost."""

import contextlib
import threading

import pytest

from tf_resflow import progress


def test_an_interrupt_that_was_swallowed_is_repeated_at_the_next_item(monkeypatch):
    monkeypatch.setattr(progress, "_INTERRUPTED", threading.Event())
    done = []
    with pytest.raises(KeyboardInterrupt):
        for item in progress.track(range(3), "items"):
            done.append(item)
            with contextlib.suppress(BaseException):  # as TFP's bare excepts
                progress.interrupt(2, None)
    assert done == [0]
