"""Progress bars raise an interrupt again if a library swallows it."""

import contextlib
import signal

import pytest

from tf_resflow import progress


def moved_bar():
    with progress.bar("items", 3) as bar:
        for item in range(3):
            yield item
            bar.update()


@pytest.mark.parametrize("items", [lambda: progress.track(range(3), "items"), moved_bar])
def test_an_interrupt_that_was_swallowed_is_repeated_at_the_next_item(items):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    done = []
    with pytest.raises(KeyboardInterrupt), progress.repeated_interrupts():
        for item in items():
            done.append(item)
            with contextlib.suppress(BaseException):  # like the bare `except`s in TFP
                signal.raise_signal(signal.SIGINT)
    assert done == [0] and list(items()) == [0, 1, 2]
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


def test_an_error_after_an_interrupt_is_the_interrupt():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt) as stop, progress.repeated_interrupts():
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            raise SystemError("bad argument to internal function")
    finally:
        signal.signal(signal.SIGINT, before)
    assert stop.value.args == (signal.SIGINT,)
