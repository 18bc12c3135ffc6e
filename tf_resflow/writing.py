"""Writes whole files and folders, to a disk that may be full, in a process that may be killed."""

import contextlib
import errno
import math
import os
import pathlib
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any

if sys.platform != "win32":
    import fcntl

_PREFIX = ".writing-"
_UNFINISHED = re.compile(r"\..*\.\d+\.writing(\.\w+)?|\.writing-.+")  # files and folders on their way
_JUST_MADE = 5  # seconds in which the owner locks what it made


def finite_or_none(value: Any) -> Any:
    """The value, or a dict of values, with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: finite_or_none(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_output_path(path: str | os.PathLike, suffixes: Collection[str]) -> None:
    """Raises ValueError, before any long work, unless a file of one of the suffixes can be written."""
    path = pathlib.Path(path).absolute()
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{path.name!r} should end in {' or '.join(suffixes)}.")
    if path.is_dir() or not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
        raise ValueError(f"{path} cannot be written: give a file in a folder that exists and is writable.")


@contextlib.contextmanager
def unwritable_told(path: str | os.PathLike) -> Iterator[None]:
    """Makes an error of Python or TensorFlow about writing an OSError with the path and the reason."""
    try:
        yield
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) else None  # None if the error names the path already
        tensorflow = sys.modules.get("tensorflow")
        if tensorflow is not None and isinstance(error, tensorflow.errors.OpError):
            line = re.sub(r"\s*\[Op:\w+\]", "", error.message.splitlines()[0])  # "NODE FILE; reason"
            reason = line.rpartition("; ")[2].rstrip(".")
        if reason is None:
            raise
        raise OSError(f"Cannot write {path}: {reason}. Make room, or make it writable.") from None


@contextlib.contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields the path of a temporary file to write, which replaces `path` at the end.

    After any error an existing file is unchanged, and nothing is left of the new one. What killed processes left in
    the folder is removed.
    """
    path = pathlib.Path(path).resolve()
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.writing{path.suffix}")
    try:
        with unwritable_told(path):
            _remove_left(path.parent)
            temporary.touch()
            with _owned(temporary):
                yield temporary
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def scratch(parent: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a new folder in a directory, removed at the end: what is renamed from it appears in one piece."""
    _remove_left(parent)
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=parent) as folder, _owned(folder):
        yield pathlib.Path(folder)


def locked(file: int) -> bool:
    """Whether this process has the lock of an open file or folder, until the file is closed or the process ends."""
    if sys.platform == "win32":
        raise OSError("Windows has no such locks.")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _owned(path):
    """Keeps `_remove_left` of other processes from what this one writes."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            locked(_opened(path, stack))
        yield


def _opened(path, stack):
    """The descriptor of a file or folder, which the stack closes."""
    file = os.open(path, os.O_RDONLY)
    stack.callback(os.close, file)
    return file


def _remove_left(folder):
    """Removes the unfinished files and folders in a folder that no process has or may be about to lock."""
    for path in filter(lambda path: _UNFINISHED.fullmatch(path.name), folder.iterdir()):
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            if time.time() - path.stat().st_mtime >= _JUST_MADE and locked(_opened(path, stack)):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def renamed(folder: pathlib.Path, target: pathlib.Path) -> bool:
    """Renames a folder, unless there are files at the target, such as those of another process."""
    try:
        os.rename(folder, target)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        return False
    return True


def free_version(export_dir: str | os.PathLike[str], version: int | None) -> pathlib.Path:
    """Returns the folder of a new version, by default one more than the largest, and makes its parent folder."""
    parent = pathlib.Path(export_dir).expanduser()
    with unwritable_told(parent):
        parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=parent).close()
    versions = [int(path.name) for path in parent.iterdir() if path.name.isdecimal()]
    free = max(versions, default=0) + 1
    if version in versions:
        raise ValueError(
            f"{parent} has a version {version}, and a version is never overwritten. The next free one is {free}."
        )
    return parent / str(free if version is None else version)
