"""The image files in folders."""

import os
import pathlib
from collections.abc import Mapping

from absl import logging

from tf_resflow.plurals import shortened

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def find_images(places: Mapping[str, pathlib.Path]) -> dict[str, list[pathlib.Path]]:
    """The image files of the folder of each split, sorted by folder and name. Links to folders are not followed.

    If the folder of a split is within that of another split, its files are left out there.

    Raises:
      ValueError: if a split has no image of its own.
    """
    files: dict[str, list[pathlib.Path]] = dict.fromkeys(places, [])
    known: set[str] = set()
    repeated: list[pathlib.Path] = []
    for split in sorted(places, key=lambda split: -len(places[split].resolve().parts)):
        path = places[split]
        own: list[pathlib.Path] = []
        images, others = _walk(path)
        if others:
            logging.warning("%s: %d files, such as %s, are not images: skipped.", path, len(others), min(others))
        for file in images:
            real = os.path.realpath(file)
            (repeated if real in known else own).append(file)
            known.add(real)
        if not own:
            raise ValueError(
                f"{path} holds no image that is not one of another split: expected files that end in "
                f"{', '.join(_SUFFIXES)}."
            )
        files[split] = [path / name for name in sorted(file.relative_to(path) for file in own)]
    if repeated:
        names = shortened(sorted(repeated))
        logging.warning("Files that are read already, by another path, are left out: %s.", names)
    return files


def subfolders(folder: pathlib.Path) -> list[pathlib.Path]:
    """The folders in a folder that are neither hidden nor links, sorted by name."""
    paths = (path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    return sorted(path for path in paths if not _is_hidden(path.name))


def _walk(path):
    """The images below a folder, sorted, and the other files."""
    images: list[pathlib.Path] = []
    others: list[pathlib.Path] = []
    for place, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        for file in (pathlib.Path(place, name) for name in names if not _is_hidden(name)):
            (images if file.suffix.lower() in _SUFFIXES else others).append(file)
    return sorted(images), others


def _is_hidden(name):
    return name.startswith(".") or name == "__MACOSX"
