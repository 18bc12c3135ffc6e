"""Progress bars of long work, if a caller asks for them."""

import contextlib
import contextvars
import signal
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from tf_resflow.extras import LazyPackage

tqdm: Any = LazyPackage("tqdm", "training")

_Item = TypeVar("_Item")
_SHOWN = contextvars.ContextVar("shown", default=False)
_INTERRUPTS: list[signal.Signals] = []  # that have come


@contextlib.contextmanager
def shown(is_shown: bool = True) -> Iterator[None]:
    """A context in which long work shows its bars on the standard error stream; by default there are none."""
    token = _SHOWN.set(is_shown)
    try:
        yield
    finally:
        _SHOWN.reset(token)


@contextlib.contextmanager
def repeated_interrupts() -> Iterator[None]:
    """Inside, SIGINT (Ctrl-C) and SIGTERM raise KeyboardInterrupt, with the signal as its argument.

    The next item of `track` and the next move of a `bar` repeat it, because TFP's bare `except`s swallow some. A
    signal that is ignored or has a handler keeps it.
    """
    defaults: Any = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    ours = [signum for signum, default in defaults.items() if signal.getsignal(signum) is default]
    for signum in ours:
        signal.signal(signum, _interrupt)
    try:
        yield
    except Exception as error:
        if _INTERRUPTS:  # TensorFlow can make a SystemError of it
            raise KeyboardInterrupt(_INTERRUPTS[0]) from error
        raise
    finally:
        for signum in ours:
            signal.signal(signum, defaults[signum])
        _INTERRUPTS.clear()


def _interrupt(signum, frame):
    _INTERRUPTS.append(signal.Signals(signum))
    _repeat_interrupt()


def _repeat_interrupt():
    if _INTERRUPTS:
        raise KeyboardInterrupt(_INTERRUPTS[0])


def track(iterable: Iterable[_Item], name: str, total: int | None = None) -> Iterator[_Item]:
    """Yields the items, with a bar that has the name of the work; `total` if the iterable has no length."""
    for item in tqdm.tqdm(iterable, name, total, leave=False) if _SHOWN.get() else iterable:
        _repeat_interrupt()
        yield item


def bar(name: str, total: int, initial: int = 0) -> Any:
    """A bar that the caller moves, a `tqdm.tqdm` that stays on the screen."""
    moved = tqdm.tqdm(desc=name, total=total, initial=initial, unit="step", disable=not _SHOWN.get())
    update = moved.update

    def checked(num=1):
        _repeat_interrupt()
        return update(num)

    moved.update = checked
    return moved


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Shows the name of work in one piece, while it lasts."""
    with tqdm.tqdm(desc=name, bar_format="{desc} ...", leave=False) if _SHOWN.get() else contextlib.nullcontext():
        yield
