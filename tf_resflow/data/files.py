"""Reads files with errors that name the file."""

import contextlib
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

_TABLES = (".csv", ".parquet", ".xlsx", ".npy", ".npz")
_COMPRESSIONS = (".gz", ".bz2", ".zip", ".xz", ".zst")  # of .csv files, which pandas detects


def table_suffix(path: pathlib.Path) -> str:
    """Returns the suffix of a table in lower case, such as ".csv", also for a compressed "homes.csv.gz"."""
    suffix = path.suffix.lower()
    if suffix in _COMPRESSIONS and pathlib.Path(path.stem).suffix.lower() == ".csv":
        return ".csv"
    return suffix


def check_table(path: pathlib.Path) -> None:
    """Raises ValueError unless the path is an existing file, or Parquet folder, with the suffix of a table."""
    suffix = table_suffix(path)
    if suffix not in _TABLES or (path.is_dir() and suffix != ".parquet"):
        raise ValueError(
            f"{path}: expected a file that ends in {', '.join(_TABLES)}, or in .csv followed by "
            f"{', '.join(_COMPRESSIONS)}, or a folder that ends in .parquet."
        )
    if not path.exists():
        raise ValueError(f"{path}: there is no such file (looked for {path.absolute()}).")


@contextlib.contextmanager
def explain_read_errors(path: object, kind: str, advice: str = "Restore it or use another file.") -> Iterator[None]:
    """Converts errors from reading a file into a ValueError that names the file."""
    try:
        yield
    except ImportError:
        raise
    except Exception as error:  # a damaged file can cause any error
        reason = f"{type(error).__name__}: {error}".rstrip(" .\n")
        raise ValueError(f"{path} cannot be read as {kind} ({reason}). {advice}".rstrip()) from error


def read_array(
    path: pathlib.Path, key: str | None = None, aside: Sequence[str] = ()
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Reads the array of an .npy file, as a view of the file, or an array of an .npz file.

    The key is optional if the .npz file has only one array apart from those in `aside`. The second result is a dict
    of the arrays in `aside` that the file contains.
    """
    with explain_read_errors(path, "an array of numbers"):
        arrays = np.load(path, mmap_mode="r", allow_pickle=False)
    if isinstance(arrays, np.ndarray):
        return arrays, {}
    with arrays:
        names = [name for name in arrays.files if name not in aside]
        if not key and len(names) == 1:
            key = names[0]
        if key not in arrays.files:
            asked = f"no array {key!r}" if key else f"{len(names)} arrays"
            raise ValueError(f"{path} has {asked}. Set key to one of {names}.")
        with explain_read_errors(path, "an array of numbers"):
            return arrays[key], {name: arrays[name] for name in aside if name in arrays.files}
