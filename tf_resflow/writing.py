"""Writing whole files and folders, to a disk that may be full, in a process that may be killed."""

import contextlib
import os
import pathlib
import re
import shutil
import sys
import tempfile

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None

__all__ = ["check_output_path", "scratch", "unwritable_told", "whole_file"]

_PREFIX = ".writing-"


def check_output_path(path, suffixes):
    """Checks that a file can be written, before any long work.

    Args:
      path: file to write.
      suffixes: those that its name may have, such as `[".png", ".npy"]`; large letters count as small ones.

    Raises:
      ValueError: when it has another suffix, or is a folder, or its folder does not exist or is not writable.
    """
    path = pathlib.Path(path).absolute()
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{path.name!r} should end in {' or '.join(suffixes)}.")
    if not path.parent.is_dir():
        raise ValueError(f"{path} cannot be written: the folder {path.parent} does not exist. Make it first.")
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise ValueError(f"{path} cannot be written: give a file in a folder that is writable.")


@contextlib.contextmanager
def unwritable_told(path):
    """Says what cannot be written, of an error of Python or of TensorFlow.

    Raises:
      OSError: with the path and the reason; an error that says so already passes.
    """
    try:
        yield
    except Exception as error:
        reason = _reason(error)
        if reason is None:
            raise
        raise OSError(f"Cannot write {path}: {reason}. Make room, or make it writable.") from None


def _reason(error):
    """Why a file could not be written; None of what is no such error."""
    if isinstance(error, OSError):
        return error.strerror  # None where it was told before
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None or not isinstance(error, tensorflow.errors.OpError):
        return None
    line = re.sub(r"\s*\[Op:\w+\]", "", error.message.splitlines()[0])
    return line.rpartition("; ")[2].rstrip(".")  # "NODE FILE; reason"


@contextlib.contextmanager
def whole_file(path):
    """Gives the path of a temporary file to write, which takes the place of `path` at the end.

    Whatever goes wrong on the way, a file that was there before is untouched, and nothing is left of the new one.

    Args:
      path: file to write.

    Raises:
      OSError: when the file system does not take it.
    """
    path = pathlib.Path(path).resolve()
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.writing{path.suffix}")
    try:
        with unwritable_told(path):
            yield temporary
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
