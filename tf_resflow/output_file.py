"""Files that are written as a whole, or not at all."""

import contextlib
import os
import pathlib

__all__ = ["check_output_path", "whole_file"]


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
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(f"Cannot write {path}: {error.strerror or error}. Make room, or make it writable.") from None
    finally:
        temporary.unlink(missing_ok=True)
