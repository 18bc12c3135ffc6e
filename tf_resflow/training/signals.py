"""Signals that let a step end before they stop a run."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

__all__ = ["Noted", "signals_noted"]


class Noted:
    """The number of the first signal, if one has come."""

    signum: int | None = None


@contextlib.contextmanager
def signals_noted() -> Iterator[Noted]:
    """Notes the first SIGINT or SIGTERM, which lets the step end; a second one has its usual effect.

    A SIGINT that is ignored, as a shell has it for what it starts in the background of a script, stays ignored.
    """
    noted = Noted()
    previous: dict[signal.Signals, Any] = {}

    def restore():
        for signum, handler in previous.items():
            signal.signal(signum, handler)

    def note(signum, _):
        noted.signum = signum
        restore()

    if threading.current_thread() is threading.main_thread():
        is_ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        noted_signals = [signal.SIGTERM] if is_ignored else [signal.SIGINT, signal.SIGTERM]
        previous = {signum: signal.signal(signum, note) for signum in noted_signals}
    try:
        yield noted
    finally:
        restore()
