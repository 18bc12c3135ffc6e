"""Progress on terminals and in logs, and signals that stop a process."""

import contextlib
import signal
import subprocess
import sys

import pytest

from tf_resflow import console


def test_an_interrupt_that_was_swallowed_is_repeated_at_the_next_item():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    done, items = [], lambda: console.track(range(3), "items")
    with pytest.raises(KeyboardInterrupt), console.interrupts("Interrupted."):
        for item in items():
            done.append(item)
            with contextlib.suppress(BaseException):  # like the bare `except`s in TFP
                signal.raise_signal(signal.SIGINT)
    assert done == [0] and list(items()) == [0, 1, 2]
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


def test_an_error_after_an_interrupt_is_the_interrupt():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt) as stop, console.interrupts("Interrupted."):
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            raise SystemError("bad argument to internal function")
    finally:
        signal.signal(signal.SIGINT, before)
    assert stop.value.args == (signal.SIGINT,)


WITHOUT_REACTION = """
import ctypes, os, signal, threading
from tf_resflow import console

mutex, library = ctypes.create_string_buffer(128), ctypes.CDLL(None)
with console.interrupts("Interrupted."):
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)  # waits forever, so Python cannot run a signal handler
"""


def test_a_process_that_does_not_react_to_a_signal_ends():
    done = subprocess.run([sys.executable, "-c", WITHOUT_REACTION], capture_output=True, text=True, timeout=60)
    assert done.returncode == 128 + signal.SIGTERM and done.stderr == "\nInterrupted.\n"


@pytest.mark.parametrize(
    "seconds, shown", [(1, []), (20, ["2 of 4, 20.00s/it, 00:40", "4 of 4, 20.00s/it, 00:00"])]
)
def test_progress_without_a_terminal_is_lines_of_the_log(seconds, shown, caplog, monkeypatch):
    """A line is logged after 30 seconds or more. Nothing is logged if progress is hidden."""
    now = [0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    for is_shown in (False, True):
        with console.shown(is_shown):
            for _ in console.track(range(4), "score"):
                now[0] += seconds
            with console.stage("data"):
                pass
    assert caplog.messages == [*(f"score: {line} left" for line in shown), "data ..."]
