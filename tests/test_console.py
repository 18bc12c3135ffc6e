"""Progress on terminals and in logs, and signals that stop a process."""

import contextlib
import signal
import subprocess
import sys

import pytest

from tf_resflow._internal import console


@pytest.fixture
def handled():
    """Tests that run in the background of a shell ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_error_after_an_interrupt_is_the_interrupt(handled):
    with pytest.raises(KeyboardInterrupt) as stop, console.handle_interrupts("Interrupted."):
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        raise SystemError("bad argument to internal function")
    assert stop.value.args == (signal.SIGINT,)


WITHOUT_REACTION = """
import ctypes, os, pathlib, signal, sys, threading, time
from tf_resflow._internal import console
from tf_resflow._internal.writing import atomic_write

mutex, library = ctypes.create_string_buffer(128), ctypes.CDLL(None)
with console.handle_interrupts("Interrupted."), atomic_write(pathlib.Path(sys.argv[1], "a.csv")) as path:
    path.write_text("half")
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
    {wait}
"""
# The lock waits forever, so Python cannot run a signal handler. TFP has bare `except` clauses.
WAITS = ["library.pthread_mutex_lock(mutex); library.pthread_mutex_lock(mutex)"]
WAITS += ["exec('while True:\\n try: time.sleep(9)\\n except: pass')"]


@pytest.mark.parametrize("wait", WAITS)
def test_a_process_that_does_not_react_to_a_signal_ends(wait, tmp_path):
    """It leaves no temporary files."""
    command = [sys.executable, "-c", WITHOUT_REACTION.format(wait=wait), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 128 + signal.SIGTERM and done.stderr == "\nInterrupted.\n"
    assert not list(tmp_path.iterdir())


DEFERRED = """
import os, signal, time
from tf_resflow._internal import console

with console.handle_interrupts("Interrupted."), console.DeferredSignals() as signals:
    for _ in range(2):  # as `timeout` does
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(3)
    print("saved", signals.received, flush=True)
    with signals.suspended():
        print("never")
"""


def test_a_deferred_signal_acts_later():
    """The watchdog does not end the process while it saves its state."""
    done = subprocess.run([sys.executable, "-c", DEFERRED], capture_output=True, text=True, timeout=60)
    assert done.stdout == "saved 15\n" and done.stderr.rstrip().endswith("KeyboardInterrupt: 15")


def test_another_signal_after_the_grace_period_acts(handled):
    with pytest.raises(KeyboardInterrupt), console.DeferredSignals(grace_seconds=0.0) as signals:
        signal.raise_signal(signal.SIGINT)
        assert signals.received == signal.SIGINT
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    "seconds, shown", [(1, []), (20, ["2 of 4, 20.00s/it, 00:40", "4 of 4, 20.00s/it, 00:00"])]
)
def test_progress_without_a_terminal_is_lines_of_the_log(seconds, shown, caplog, monkeypatch):
    """A line is logged after 30 seconds or more. Nothing is logged if progress is hidden."""
    now = [0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    for is_shown in (False, True):
        with console.show_progress(is_shown):
            for _ in console.track(range(4), "score"):
                now[0] += seconds
            with console.stage("data"):
                pass
    assert caplog.messages == [*(f"score: {line} left" for line in shown), "data ..."]


HELD_BACK = """
import os, sys
from tf_resflow._internal import console

with console.hold_back_stderr({is_held}):
    os.write(2, b"start " * 100_000)
    print("from Python", file=sys.stderr)
    {end}
print("after", file=sys.stderr)
"""


@pytest.mark.parametrize("is_held", [True, False])
@pytest.mark.parametrize("end", ["pass", "raise ValueError('wrong')", "sys.exit(3)", "os.abort()"])
def test_standard_error_is_held_back_unless_the_block_fails(end, is_held):
    program = HELD_BACK.format(end=end, is_held=is_held)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    is_successful = end == "pass"
    assert (done.returncode == 0) == is_successful
    is_shown = not (is_held and is_successful)
    assert done.stderr.startswith("start " * 100_000 + "from Python\n") == is_shown
    assert done.stderr.endswith("after\n") == is_successful
    assert ("ValueError: wrong" in done.stderr) == ("wrong" in end)
    if not is_shown:
        assert done.stderr == "after\n"
