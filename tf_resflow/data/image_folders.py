"""The image files in folders: each once, whatever links lead to it."""

__all__ = ["find_images", "subfolders"]

import os
import pathlib
from collections.abc import Mapping

from absl import logging

from tf_resflow.data.splits import field

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_MOST_NAMED = 10  # files in a message


def find_images(places: Mapping[str, pathlib.Path]) -> dict[str, list[pathlib.Path]]:
    """The image files of the folder of each split, sorted by folder and name, each file once.

    A file that is found several times counts by its own name rather than by a link; and, if the folder of a split
    is within that of another, for the inner one.

    Raises:
      ValueError: if a split has no image, or none that is not one of another split.
    """
    found, repeated = [], []
    for split in sorted(places, key=lambda split: -len(places[split].resolve().parts)):
        path = places[split]
        images, others, links = _walk(path)
        if not images:
            beside = f", but it holds {min(others).name} and the like" if others else ""
            raise ValueError(f"{path} holds no image: expected files that end in {', '.join(_SUFFIXES)}{beside}.")
        if others:
            logging.warning("%s: %d files, such as %s, are not images: skipped.", path, len(others), min(others))
        found += [(is_link, split, file) for is_link, file in images]
        repeated += links
    files: dict[str, list[pathlib.Path]] = {split: [] for split in places}
    known = set()
    for _, split, file in sorted(found, key=lambda image: image[0]):
        real = os.path.realpath(file)
        (repeated if real in known else files[split]).append(file)
        known.add(real)
    if repeated:
        some = ", ".join(map(str, sorted(repeated)[:_MOST_NAMED]))
        more = f" and {len(repeated) - _MOST_NAMED} more" if len(repeated) > _MOST_NAMED else ""
        logging.warning("Files and folders that are read already, by another path, are left out: %s%s.", some, more)
    for split, path in places.items():
        if not files[split]:
            raise ValueError(
                f"{field(split)}: the images of {path} are examples of another split, too, and would be counted "
                f"twice: choose other data, or leave {field(split)} empty."
            )
        files[split] = [path / name for name in sorted(file.relative_to(path) for file in files[split])]
    return files


def subfolders(folder: pathlib.Path) -> list[pathlib.Path]:
    """The folders in a folder that are not hidden and do not lead back, sorted by name."""
    above = {folder.resolve(), *folder.resolve().parents}
    paths = sorted(path for path in folder.iterdir() if path.is_dir() and not _is_hidden(path.name))
    return [path for path in paths if path.resolve() not in above]


def _walk(path):
    """The images below a folder, each with whether a link leads to it; the other files; folders that are known.

    A folder is entered once, and by a link only if no other way leads to it.
    """
    images, others, repeated = [], [], []
    seen = {str(parent) for parent in path.resolve().parents}
    entrances = [str(path)]
    for entrance in entrances:  # which grow
        for place, folders, names in os.walk(entrance):
            real = os.path.realpath(place)
            if real in seen:
                repeated.append(pathlib.Path(place))
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not _is_hidden(name))
            entrances += [link for name in folders if os.path.islink(link := os.path.join(place, name))]
            for file in (pathlib.Path(place, name) for name in names if not _is_hidden(name)):
                if file.suffix.lower() in _SUFFIXES:
                    images.append((entrance != entrances[0] or file.is_symlink(), file))
                else:
                    others.append(file)
    return images, others, repeated


def _is_hidden(name):
    return name.startswith(".") or name == "__MACOSX"
