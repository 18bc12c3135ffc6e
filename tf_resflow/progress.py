"""Progress bars of long work, where a caller asks for them."""

import contextlib
import contextvars

from tf_resflow.extras import extra

__all__ = ["bar", "shown", "stage", "track"]

_SHOWN = contextvars.ContextVar("shown", default=False)


@contextlib.contextmanager
def shown(is_shown=True):
    """Within it long work shows its bars on the standard error stream; it does not elsewhere."""
    token = _SHOWN.set(is_shown)
    try:
        yield
    finally:
        _SHOWN.reset(token)


def track(iterable, name, total=None):
    """The iterable, under a bar with a name, the number of items done and the time left.

    Args:
      iterable: of any items.
      name: of the stage of the work.
      total: number of items, where the iterable has no length.

    Returns:
      An iterable of the same items.
    """
    return _tqdm()(iterable, name, total, leave=False) if _SHOWN.get() else iterable


def bar(name, total, initial=0, unit="step"):
    """A bar that its owner moves, a `tqdm.tqdm` that stays on the screen."""
    return _tqdm()(desc=name, total=total, initial=initial, unit=unit, disable=not _SHOWN.get())


@contextlib.contextmanager
def stage(name):
    """A bar for work in one piece: its name, while it lasts."""
    with _tqdm()(desc=name, bar_format="{desc} ...", leave=False) if _SHOWN.get() else contextlib.nullcontext():
        yield


def _tqdm():
    with extra("training"):
        import tqdm
    return tqdm.tqdm
