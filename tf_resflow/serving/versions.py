"""The directory of the versions of a model, without TensorFlow, which a command loads after checking its flags."""

import os
import pathlib
import tempfile

from tf_resflow.writing import unwritable_told


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
