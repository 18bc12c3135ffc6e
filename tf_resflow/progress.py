"""Progress bars for long work, shown only if the caller asks for them."""

import contextlib
import contextvars
import signal
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from tf_resflow.extras import LazyPackage

tqdm: Any = LazyPackage("tqdm", "training")

_Item = TypeVar("_Item")
_SHOWN = contextvars.ContextVar("shown", default=False)
_INTERRUPTS: list[signal.Signals] = []  # received so far


@contextlib.contextmanager
def shown(is_shown: bool = True) -> Iterator[None]:
    """Context manager that turns progress bars on the standard error stream on or off. By default they are off."""
    token = _SHOWN.set(is_shown)
    try:
        yield
    finally:
        _SHOWN.reset(token)


@contextlib.contextmanager
def repeated_interrupts() -> Iterator[None]:
    """Context manager in which SIGINT (Ctrl-C) and SIGTERM raise KeyboardInterrupt with the signal as its argument.

    `track` and `bar` raise it again at their next step, because bare `except` clauses in TFP may swallow it. A
    signal that is ignored or already has a handler keeps that behavior.
    """
    defaults: Any = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    ours = [signum for signum, default in defaults.items() if signal.getsignal(signum) is default]
    for signum in ours:
        signal.signal(signum, _interrupt)
    try:
        yield
    except Exception as error:
        if _INTERRUPTS:  # TensorFlow can turn the interrupt into a SystemError
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
    """Yields the items and shows a bar with the given name. Pass `total` if the iterable has no length."""
    for item in tqdm.tqdm(iterable, name, total, leave=False) if _SHOWN.get() else iterable:
        _repeat_interrupt()
        yield item


def bar(name: str, total: int, initial: int = 0) -> Any:
    """Returns a `tqdm.tqdm` bar that the caller updates and that stays on the screen."""
    moved = tqdm.tqdm(desc=name, total=total, initial=initial, unit="step", disable=not _SHOWN.get())
    update = moved.update

    def checked(num=1):
        _repeat_interrupt()
        return update(num)

    moved.update = checked
    return moved


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Context manager that shows the name of a task while it runs, without counting steps."""
    with tqdm.tqdm(desc=name, bar_format="{desc} ...", leave=False) if _SHOWN.get() else contextlib.nullcontext():
        yield
