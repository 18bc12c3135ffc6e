"""Progress bars of long work, if a caller asks for them."""

import contextlib
import contextvars
import logging
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from tf_resflow.extras import extra

__all__ = ["bar", "repeated_interrupts", "shown", "stage", "track"]

_Item = TypeVar("_Item")
_SHOWN = contextvars.ContextVar("shown", default=False)
_INTERRUPTED = threading.Event()


class _AboveBars(logging.Handler):
    """Messages of another handler, on lines of their own: bars are cleared before them, and drawn again after."""

    def __init__(self, handler: logging.Handler) -> None:
        super().__init__(handler.level)
        self.handler = handler

    def emit(self, record: logging.LogRecord) -> None:
        """Passes the message on."""
        with _tqdm().external_write_mode(file=sys.stderr):
            self.handler.handle(record)


@contextlib.contextmanager
def shown(is_shown: bool = True) -> Iterator[None]:
    """A context in which long work shows its bars on the standard error stream; by default it does not."""
    token, root = _SHOWN.set(is_shown), logging.getLogger()
    try:
        if is_shown:
            root.handlers = [_AboveBars(handler) for handler in root.handlers]
        yield
    finally:
        if is_shown:
            root.handlers = [h.handler if isinstance(h, _AboveBars) else h for h in root.handlers]
        _SHOWN.reset(token)


@contextlib.contextmanager
def repeated_interrupts() -> Iterator[None]:
    """Inside, the next item of `track` and the next move of a `bar` repeat the KeyboardInterrupt of a Ctrl-C.

    TFP swallows one that comes inside of its bare `except`s, as while a graph is traced.
    """
    is_ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_ours:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        if is_ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        _INTERRUPTED.clear()


def _repeat_interrupt():
    if _INTERRUPTED.is_set():
        raise KeyboardInterrupt


def _interrupt(signum, frame):
    _INTERRUPTED.set()
    raise KeyboardInterrupt


def track(iterable: Iterable[_Item], name: str, total: int | None = None) -> Iterator[_Item]:
    """Yields the items with a bar: a name, the number of items done and the time left.

    Args:
      iterable: of any items.
      name: of the stage of the work.
      total: number of items, if the iterable has no length.
    """
    for item in _tqdm()(iterable, name, total, leave=False) if _SHOWN.get() else iterable:
        _repeat_interrupt()
        yield item


def bar(name: str, total: int, initial: int = 0, *, unit: str = "step") -> Any:
    """A bar that the caller moves, a `tqdm.tqdm` that stays on the screen."""
    moved = _tqdm()(desc=name, total=total, initial=initial, unit=unit, disable=not _SHOWN.get())
    update = moved.update

    def checked(num=1):
        _repeat_interrupt()
        return update(num)

    moved.update = checked
    return moved


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Shows the name of work in one piece, while it lasts."""
    with _tqdm()(desc=name, bar_format="{desc} ...", leave=False) if _SHOWN.get() else contextlib.nullcontext():
        yield


def _tqdm():
    with extra("training"):
        import tqdm
    return tqdm.tqdm
