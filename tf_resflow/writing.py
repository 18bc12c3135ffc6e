"""Writes whole files and folders, to a disk that may be full, in a process that may be killed."""

import contextlib
import math
import os
import pathlib
import re
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from typing import Any

__all__ = ["check_output_path", "finite_or_none", "scratch", "unwritable_told", "whole_file"]

_PREFIX = ".writing-"


def finite_or_none(value: Any) -> Any:
    """The value, or a dict of values, with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: finite_or_none(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_output_path(path: str | os.PathLike, suffixes: Collection[str]) -> None:
    """Checks that a file can be written, before any long work.

    Args:
      path: file to write.
      suffixes: allowed suffixes, such as `[".png", ".npy"]`, in upper or lower case.

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
def unwritable_told(path: str | os.PathLike) -> Iterator[None]:
    """Names the path in an error of Python or TensorFlow about writing.

    Raises:
      OSError: with the path and the reason, unless the error already has them.
    """
    try:
        yield
    except Exception as error:
        reason = _reason(error)
        if reason is None:
            raise
        raise OSError(f"Cannot write {path}: {reason}. Make room, or make it writable.") from None


def _reason(error):
    """Why a file could not be written; None for other errors."""
    if isinstance(error, OSError):
        return error.strerror  # None if the error names the path already
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None or not isinstance(error, tensorflow.errors.OpError):
        return None
    line = re.sub(r"\s*\[Op:\w+\]", "", error.message.splitlines()[0])
    return line.rpartition("; ")[2].rstrip(".")  # "NODE FILE; reason"


@contextlib.contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields the path of a temporary file to write, which replaces `path` at the end.

    After any error an existing file is unchanged, and nothing is left of the new one.

    Args:
      path: file to write.

    Raises:
      OSError: when the file cannot be written.
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
def scratch(parent: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a new folder in a directory, removed at the end.

    A file that is written there and renamed appears in one piece. This process locks the folder, and the system
    frees the lock however the process ends. Unlocked folders were left by killed processes: they are removed first.

    Args:
      parent: the directory.
    """
    with contextlib.ExitStack() as stack:
        with _held(parent, wait=True) as alone:  # no other process looks before the new folder is locked
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
    """Locks a directory; yields whether it is locked, which it never is on systems without such locks."""
    with contextlib.ExitStack() as stack:
        held = False
        with contextlib.suppress(OSError, ImportError):
            import fcntl  # of POSIX systems

            descriptor = os.open(directory, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = True
        yield held
