"""The directory of the versions of a model."""

import os
import pathlib
import tempfile

from tf_resflow.writing import unwritable_told

__all__ = ["free_version", "writable"]


def writable(directory: str | os.PathLike[str]) -> pathlib.Path:
    """The directory, which is made if need be; raises OSError if it cannot be written."""
    path = pathlib.Path(directory).expanduser()
    with unwritable_told(path):
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    return path


def free_version(parent: pathlib.Path, version: int | None) -> int:
    """The version, by default one more than the largest; raises ValueError if it exists."""
    there = [int(path.name) for path in parent.iterdir() if path.name.isdecimal()]
    if version is None:
        return max(there, default=0) + 1
    if version < 1:
        raise ValueError(f"version is at least 1; got {version}.")
    if version in there:
        raise ValueError(
            f"{parent} has a version {version}, and a version is never overwritten. The next free one is "
            f"{max(there) + 1}."
        )
    return version
