"""Progress, logs and signals of the commands and of training.

Progress is shown as bars on a terminal or in a notebook, and otherwise as lines of the logger `tf_resflow`, one
every 30 seconds. It is shown if the level of this logger is INFO, which `show_progress` sets.
"""

import contextlib
import logging
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from absl import logging as absl_logging

from tf_resflow._internal.extras import LazyPackage
from tf_resflow._internal.writing import remove_temporary_folders

tqdm: Any = LazyPackage("tqdm", "training")
redirection: Any = LazyPackage("tqdm.contrib.logging", "training")

LOGGER = logging.getLogger("tf_resflow")

_Item = TypeVar("_Item")
_SECONDS_BETWEEN_LINES = 30.0
_LINE = "{desc}: {n_fmt} of {total_fmt}{postfix}, {rate_fmt}, {remaining} left"
_GRACE_SECONDS = 1.0  # from a signal to the end of a process that does not react
_PENDING: list[signal.Signals] = []  # signals received and not yet obeyed

# Beginnings of TFDS warnings to hide: a deprecation inside TFDS, and a missing data set, which we report ourselves.
_NOISE_OF_TFDS = ("`FeatureConnector.dtype` is deprecated", "Variant folder %s has no")


@contextlib.contextmanager
def show_progress(is_shown: bool = True) -> Iterator[None]:
    """Context manager that shows progress or hides it. By default it is hidden."""
    before = LOGGER.level
    LOGGER.setLevel(logging.INFO if is_shown else logging.WARNING)
    try:
        yield
    finally:
        LOGGER.setLevel(before)


def _is_shown():
    return LOGGER.level == logging.INFO  # the level of the root logger does not matter


def _has_screen():
    return (sys.stderr is not None and sys.stderr.isatty()) or "ipykernel" in sys.modules


class _LogFile:
    """A file for tqdm that writes each bar as a line of the log."""

    def write(self, text: str) -> None:
        """Logs the text without the characters that move the cursor."""
        line = re.sub(r"\x1b\[A|[\r\n]", "", text).strip()
        if line and LOGGER.hasHandlers():
            LOGGER.info("%s", line)
        elif line:  # in a script without logging
            print(line, file=sys.stderr)

    def flush(self) -> None:
        """Does nothing, because the log has no buffer."""


def progress_bar(is_shown: bool | None = None, **options: Any) -> Any:
    """Returns a `tqdm.tqdm` bar. By default, the level of the logger decides whether it is shown."""
    is_shown = _is_shown() if is_shown is None else is_shown
    if is_shown and not _has_screen():
        seconds = {"mininterval": _SECONDS_BETWEEN_LINES, "delay": _SECONDS_BETWEEN_LINES, "miniters": 1}
        options |= {"file": _LogFile(), "bar_format": _LINE, **seconds}
    return tqdm.tqdm(disable=not is_shown, **options)


def track(iterable: Iterable[_Item], name: str, total: int | None = None) -> Iterator[_Item]:
    """Yields the items and shows a bar with the given name. Pass `total` if the iterable has no length."""
    yield from progress_bar(iterable=iterable, desc=name, total=total, leave=False) if _is_shown() else iterable


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Context manager that shows the name of a task while it runs, without counting steps."""
    is_bar = _is_shown() and _has_screen()
    if _is_shown() and not is_bar:
        LOGGER.info("%s ...", name)
    with tqdm.tqdm(desc=name, bar_format="{desc} ...", leave=False) if is_bar else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def log_lines() -> Iterator[None]:
    """Context manager in which all warnings go to the standard error stream, above the bars."""
    logging.root.removeHandler(absl_logging.get_absl_handler())  # tqdm redirects only Python's handlers
    clock = "" if _has_screen() else "%(asctime)s "
    logging.basicConfig(format=f"{clock}%(levelname)s: %(message)s")
    absl_logging.get_absl_logger().addFilter(lambda record: not str(record.msg).startswith(_NOISE_OF_TFDS))
    with redirection.logging_redirect_tqdm():
        yield


@contextlib.contextmanager
def hold_back_stderr(is_held: bool = True) -> Iterator[None]:
    """Context manager that shows what is written to standard error only if an error or an abort ends it.

    A separate process holds the text back. It shows the text when this process ends unexpectedly. Unlike replacing
    `sys.stderr`, this includes the lines that C++ libraries write.

    Args:
      is_held: Whether to hold back anything.
    """
    if not is_held or sys.stderr is None:
        yield
        return
    program = "import sys; text = sys.stdin.buffer.read(); sys.stderr.buffer.write(text)"
    command = [sys.executable, "-S", "-c", program]  # -S: without site-packages, so that it starts at once
    # Ctrl-C does not interrupt a process in a session of its own.
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as holder:
        pipe: Any = holder.stdin
        sys.stderr.flush()
        stderr = os.dup(2)
        os.dup2(pipe.fileno(), 2)
        try:
            yield
            holder.kill()
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)


@contextlib.contextmanager
def handle_interrupts(message: str) -> Iterator[None]:
    """Context manager in which SIGINT (Ctrl-C) and SIGTERM raise KeyboardInterrupt with the signal as its argument.

    If the process still runs a second later, because a graph is being compiled or a bare `except` clause in TFP
    swallowed the exception, it removes temporary folders, prints the message and exits.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)
    previous = _catch(_interrupt)
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(read, message), daemon=True).start()
    try:
        yield
    except Exception as error:
        if _PENDING:  # TensorFlow can turn the interrupt into a SystemError
            raise KeyboardInterrupt(_PENDING[0]) from error
        raise
    finally:
        signal.set_wakeup_fd(before)
        os.close(write)  # ends the thread
        _restore(previous)
        _PENDING.clear()


def _catch(handler):
    """Installs a handler and returns the previous ones. Ignored signals stay ignored, as in `run &`."""
    signals = [s for s in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(s) != signal.SIG_IGN]
    return {signum: signal.signal(signum, handler) for signum in signals}


def _restore(handlers):
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


def _watch(read, message):
    """Ends the process if it does not react to a signal. Python's handlers do not run during a long call in C++."""
    with open(read, "rb", buffering=0) as pipe:
        while received := pipe.read(1):
            if signal.getsignal(received[0]) is not _interrupt:
                continue
            end = time.monotonic() + _GRACE_SECONDS
            while select.select([pipe], [], [], max(0.0, end - time.monotonic()))[0]:
                if not pipe.read(1):  # the command has ended; otherwise, the byte is another signal
                    return
            remove_temporary_folders()
            os.write(2, f"\n{message}\n".encode())
            os._exit(128 + received[0])


def _interrupt(signum, frame):
    if not _PENDING:  # `timeout` sends a signal twice, and a second exception would disturb the cleanup
        _PENDING.append(signal.Signals(signum))
        raise KeyboardInterrupt(_PENDING[0])


class DeferredSignals:
    """Context manager in which SIGINT and SIGTERM do nothing but set `received`.

    Another signal more than `grace_seconds` later has its previous effect.
    """

    def __init__(self, grace_seconds: float = _GRACE_SECONDS) -> None:
        self.received = 0
        self._time = 0.0
        self._grace_seconds = grace_seconds
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "DeferredSignals":
        if threading.current_thread() is threading.main_thread():
            self._previous = _catch(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        _restore(self._previous)
        self._previous = {}

    def _note(self, signum, _):
        if not self.received:
            self.received = signum
            self._time = time.monotonic()
        elif time.monotonic() - self._time > self._grace_seconds:
            self.__exit__()
            signal.raise_signal(signum)

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """Context manager in which signals have their previous effect, also one that was received before."""
        is_active = bool(self._previous)
        self.__exit__()
        if self.received:
            signal.raise_signal(self.received)
        try:
            yield
        finally:
            if is_active:
                self.__enter__()
