"""Writes complete files and folders, or nothing if the disk is full or the process is killed."""

import contextlib
import json
import math
import os
import pathlib
import re
import shutil
import sys
import tempfile
import time
import weakref
from collections.abc import Collection, Iterator, Mapping
from typing import Any

STANDARD_STREAM = "-"
"""The path that commands read from standard input or write to standard output."""

_PREFIX = ".writing-"
_LONGEST = 7 * 24 * 3600  # seconds; a folder of unfinished files that is older was left by a killed process
_temporary_folders: weakref.WeakSet[tempfile.TemporaryDirectory[str]] = weakref.WeakSet()


def finite_or_none(value: Any) -> Any:
    """Replaces NaN and infinity, which JSON cannot represent, with None in a value or a dict of values."""
    if isinstance(value, Mapping):
        return {key: finite_or_none(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: pathlib.Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON file atomically: a reader sees either the old file or the new one."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def check_output_path(path: str | os.PathLike, suffixes: Collection[str]) -> None:
    """Raises a ValueError, before any long work, if the suffix is not allowed or the file cannot be written."""
    if os.fspath(path) == STANDARD_STREAM and {".csv", ".json"} & set(suffixes):
        return
    path = pathlib.Path(path).absolute()
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{path.name!r} should end in {' or '.join(suffixes)}.")
    if path.is_dir() or not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
        raise ValueError(f"{path} cannot be written. Choose a file in a folder that exists and is writable.")


@contextlib.contextmanager
def explain_write_errors(path: str | os.PathLike) -> Iterator[None]:
    """Context manager that turns write errors of Python and TensorFlow into an OSError with path and reason."""
    try:
        yield
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) else None  # None if the message names the path
        tensorflow = sys.modules.get("tensorflow")
        if tensorflow is not None and isinstance(error, tensorflow.errors.OpError):
            line = re.sub(r"\s*\[Op:\w+\]", "", error.message.splitlines()[0])  # "NODE FILE; reason"
            reason = line.rpartition("; ")[2].rstrip(".")
        if reason is None:
            raise
        raise OSError(f"Cannot write {path}: {reason}. Free up disk space or make the path writable.") from None


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields the path of a temporary file to write, which replaces `path` at the end.

    After an error, an existing file is unchanged. If the path is "-", the content goes to standard output.
    """
    if os.fspath(path) == STANDARD_STREAM:
        with new_temporary_folder() as folder:
            temporary = pathlib.Path(folder, "output")
            yield temporary
            with standard_output() as output, temporary.open("rb") as file:
                shutil.copyfileobj(file, output)
        return
    path = pathlib.Path(path).resolve()
    with explain_write_errors(path), temporary_folder(path.parent) as folder:
        temporary = folder / path.name
        yield temporary
        os.replace(temporary, path)


@contextlib.contextmanager
def standard_output() -> Iterator[Any]:
    """Yields standard output as a binary file. The block ends early if the reader, such as `head`, has ended."""
    with explain_write_errors("standard output"):
        try:
            yield sys.stdout.buffer
            sys.stdout.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the exit writes nothing
            if not isinstance(error, BrokenPipeError):
                raise


def new_temporary_folder(**options: Any) -> tempfile.TemporaryDirectory[str]:
    """Returns a `tempfile.TemporaryDirectory` that `remove_temporary_folders` knows."""
    folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True, **options)
    _temporary_folders.add(folder)
    return folder


def remove_temporary_folders() -> None:
    """Removes all temporary folders, before a process exits at once and leaves its blocks unfinished."""
    for folder in list(_temporary_folders):
        folder.cleanup()


@contextlib.contextmanager
def temporary_folder(parent: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a new folder in `parent` and removes it at the end. Renaming a result out of it is atomic.

    Folders that killed processes left in `parent` are removed after a week.
    """
    for left in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _LONGEST:
                shutil.rmtree(left)
    with new_temporary_folder(prefix=_PREFIX, dir=parent) as folder:
        yield pathlib.Path(folder)


def new_version_folder(export_dir: str | os.PathLike[str], version: int | None) -> pathlib.Path:
    """Returns the folder for a new version, by default the largest one plus 1, and creates its parent folder."""
    parent = pathlib.Path(export_dir).expanduser()
    with explain_write_errors(parent):
        parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=parent).close()
    versions = [int(path.name) for path in parent.iterdir() if path.name.isdecimal()]
    free = max(versions, default=0) + 1
    if version in versions:
        raise ValueError(
            f"{parent} already has version {version}, which is never overwritten. The next free version is {free}."
        )
    return parent / str(free if version is None else version)
