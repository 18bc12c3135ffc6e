"""The directory of the versions of a model, without TensorFlow: a command checks its flags before it loads that."""

import os
import pathlib
import tempfile

from tf_resflow.writing import unwritable_told

__all__ = ["free_version"]


def free_version(export_dir: str | os.PathLike[str], version: int | None) -> pathlib.Path:
    """Returns the folder of a new version, by default one more than the largest, and makes the folder it is in.

    Raises:
      ValueError: if the version exists or is not positive.
      OSError: if the directory cannot be written.
    """
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
    if version is not None and version < 1:
        raise ValueError(f"version must be at least 1; got {version}.")
    return parent / str(free if version is None else version)
