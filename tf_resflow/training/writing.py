"""Writing to a disk that may be full, in a process that may be killed."""

import contextlib
import os
import pathlib
import re
import shutil
import tempfile

import tensorflow as tf

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None

__all__ = ["scratch", "unwritable_told"]


@contextlib.contextmanager
def unwritable_told(path):
    """Says what cannot be written, of an error of Python or of TensorFlow.

    Raises:
      OSError: with the path and the reason; an error that says so already passes.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(_cannot_write(path, error.strerror)) from None
    except tf.errors.OpError as error:
        line = re.sub(r"\s*\[Op:\w+\]", "", error.message.splitlines()[0])
        raise OSError(_cannot_write(path, line.rpartition("; ")[2].rstrip("."))) from None  # "NODE FILE; reason"


def _cannot_write(path, reason):
    return f"Cannot write {path}: {reason}. Make room, or make it writable."


@contextlib.contextmanager
def scratch(parent):
    """A new folder in a directory, removed at the end.

    What is made there and renamed appears in one piece. This process holds a lock on the folder, which the system
    frees however the process ends. Folders that nobody holds were left by processes that were killed: they are
    removed first.

    Args:
      parent: the directory, a `pathlib.Path`.

    Yields:
      The folder, a `pathlib.Path`.
    """
    with contextlib.ExitStack() as stack:
        with _held(parent, wait=True) as alone:  # between a folder that is made and its lock, nobody looks
            if alone:
                _remove_left(parent)
            folder = pathlib.Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
            stack.enter_context(_held(folder))
            stack.callback(shutil.rmtree, folder)
        yield folder


_PREFIX = ".writing-"


def _remove_left(parent):
    for folder in parent.glob(f"{_PREFIX}*"):
        with _held(folder) as free:
            if free:
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _held(directory, wait=False):
    """Holds a directory; yields whether it could be had, which is never where the system lacks such locks."""
    with contextlib.ExitStack() as stack:
        held = False
        with contextlib.suppress(OSError):
            if fcntl:
                descriptor = os.open(directory, os.O_RDONLY)
                stack.callback(os.close, descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
                held = True
        yield held
