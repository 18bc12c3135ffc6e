"""Reads arrays from .npy and .npz files."""

__all__ = ["read_array"]

import contextlib
import pathlib
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

# What NumPy raises for files that are damaged, or not arrays.
_UNREADABLE = (
    *(ValueError, OSError, EOFError, KeyError, MemoryError, OverflowError, RuntimeError, SyntaxError),
    *(tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)


def read_array(
    path: pathlib.Path, key: str | None = None, aside: Sequence[str] = ()
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Reads the array of an .npy file, as a view of the file, or one of an .npz file.

    Args:
      path: the file.
      key: name of the array in an .npz file; optional if it has only one, apart from `aside`.
      aside: names of further arrays, for the dict that is returned beside the array; the file may lack them.

    Raises:
      ValueError: if the file cannot be read, or has no such array.
    """
    with _readable(path):
        arrays = np.load(path, mmap_mode="r", allow_pickle=False)
    if isinstance(arrays, np.ndarray):
        return arrays, {}
    with arrays:
        names = [name for name in arrays.files if name not in aside]
        if not key and len(names) == 1:
            key = names[0]
        if key not in arrays.files:
            asked = f"no array {key!r}" if key else f"{len(names)} arrays"
            raise ValueError(f"{path} has {asked}: set key to one of {names}.")
        with _readable(path):
            return arrays[key], {name: arrays[name] for name in aside if name in arrays.files}


@contextlib.contextmanager
def _readable(path: pathlib.Path) -> Iterator[None]:
    """Names the file in an error of NumPy."""
    try:
        yield
    except _UNREADABLE as error:
        raise ValueError(f"{path}: not an array of numbers that can be read ({error}).") from None
