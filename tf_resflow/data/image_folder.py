"""Reads a folder of image files with PIL."""

__all__ = ["ImageFolder", "fitted", "subfolders"]

import concurrent.futures
import contextlib
import os
import pathlib
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from tf_resflow import progress
from tf_resflow.extras import extra

with extra("data"):
    from PIL import Image, ImageOps

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_SILENT = (".db", ".ini")  # what Windows puts into folders of images
_GRAY = ("1", "L", "LA", "La")  # PIL's modes
_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_ORIENTATION = 0x0112  # of a photograph; from 5 on it lies on its side
# What PIL raises for files that are damaged, or not images.
_UNREADABLE = (
    *(OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, KeyError, OverflowError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)


class Header(NamedTuple):
    """The properties of an image that are known before it is decoded.

    Attributes:
      size: width and height of the image as displayed.
      mode: PIL's mode.
      has_alpha: whether it may have transparency.
      frames: number of images in the file.
      is_deep: whether a channel has more than 8 bits.
    """

    size: tuple[int, int]
    mode: str
    has_alpha: bool
    frames: int
    is_deep: bool


class ImageFolder:
    """The image files of a folder and of the folders in it.

    Hidden files and other kinds of files are skipped.

    Args:
      path: `pathlib.Path` of the folder.

    Attributes:
      path: the folder.
      files: paths of the images, sorted by folder and name.
      headers: `Header` of each image.
      classes: class of each image, the name of its folder in `path`; None if there are no such folders.

    Raises:
      ValueError: if there is no image, a file is damaged or animated, or has more than 8 bits per channel, or there
        are images both in folders and beside them, or in some folders only.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.files = _list_files(path)
        self.classes = _classes(path, self.files)
        self.headers = list(_mapped(_read_header, self.files, "looking at images"))
        for file, header in zip(self.files, self.headers, strict=True):
            if header.frames > 1:
                raise ValueError(f"{file} holds {header.frames} images, as an animation: give a file for each.")
            if header.is_deep:
                raise ValueError(f"{file} has more than 8 bits a channel. Convert it to 8 bits.")

    @property
    def is_gray(self) -> bool:
        """Whether all images are gray."""
        return all(header.mode in _GRAY for header in self.headers)

    def shape(self, image_size: int | None, is_gray: bool) -> tuple[int, int, int, int]:
        """The shape of the result of `read`."""
        width, height = (image_size, image_size) if image_size else self.headers[0].size
        return len(self.files), height, width, 1 if is_gray else 3

    def warn_of_changes(self, is_gray: bool) -> None:
        """Logs a warning if `read` converts gray images to color, or drops transparency."""
        pairs = list(zip(self.files, self.headers, strict=True))
        gray = [file for file, header in pairs if header.mode in _GRAY]
        transparent = [file for file, header in pairs if header.has_alpha]
        if gray and not is_gray:
            logging.warning("%d gray images are made color, such as %s.", len(gray), gray[0])
        if transparent:
            logging.warning("%d images lose their transparency, such as %s.", len(transparent), transparent[0])

    def read(self, image_size: int | None = None, is_gray: bool = False) -> np.ndarray:
        """Decodes the images to uint8 `[num, height, width, channels]`.

        Args:
          image_size: see `fitted`; None for images of one size.
          is_gray: whether the result has one channel instead of three.
        """

        def decode(file):
            with _readable(file), Image.open(file) as image:
                image = image if image.format == "PNG" else ImageOps.exif_transpose(image)
                if image.mode == "P":  # its colors may be transparent
                    image = image.convert("RGBA")
                pixels = np.asarray(image.convert("L" if is_gray else "RGB"))
            return fitted(np.atleast_3d(pixels), image_size)

        images = np.empty(self.shape(image_size, is_gray), np.uint8)
        for image, pixels in zip(images, _mapped(decode, self.files, "reading images"), strict=True):
            image[:] = pixels
        return images


def fitted(image: np.ndarray, size: int | None) -> np.ndarray:
    """The square in the center of an image `[height, width, channels]`, shrunk: each pixel is a rounded mean."""
    if not size:
        return image
    height, width, _ = image.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    return np.round(tf.image.resize(square, [size, size], "area")).astype(np.uint8)


def subfolders(folder: pathlib.Path) -> list[pathlib.Path]:
    """The folders in a folder that are not hidden, sorted by name."""
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and not _is_hidden(entry.name))
    return [folder / name for name in names]


def _is_hidden(name):
    return name.startswith(".") or name == "__MACOSX"


def _list_files(folder):
    files: list[pathlib.Path] = []
    others: list[pathlib.Path] = []
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        for path in (pathlib.Path(place, name) for name in names if not _is_hidden(name)):
            suffix = path.suffix.lower()
            (files if suffix in _SUFFIXES else [] if suffix in _SILENT else others).append(path)
    if not files:
        beside = f", but it holds {min(others).name} and the like" if others else ""
        raise ValueError(f"{folder} holds no image: expected files that end in {', '.join(_SUFFIXES)}{beside}.")
    if others:
        logging.warning("%s: %d files, such as %s, are not images: skipped.", folder, len(others), min(others))
    return sorted(files, key=lambda file: file.relative_to(folder).parts)


def _classes(folder, files):
    names = [file.relative_to(folder).parts for file in files]
    flat = [parts[0] for parts in names if len(parts) == 1]
    if len(flat) == len(files):
        return None
    classes = sorted({parts[0] for parts in names if len(parts) > 1})
    if flat:
        raise ValueError(
            f"{folder} has images, such as {flat[0]}, beside folders with images, such as {classes[0]}, which "
            "would be classes. Put all images into folders, or none."
        )
    for place in subfolders(folder):
        if place.name not in classes:
            raise ValueError(f"{place} holds no image, but the folders beside it do. Fill it, or remove it.")
    return np.array([parts[0] for parts in names])


def _read_header(file):
    with _readable(file), Image.open(file) as image:
        has_exif = image.format != "PNG"  # for PNG, PIL would decode the image first
        on_its_side = has_exif and image.getexif().get(_ORIENTATION, 1) >= 5
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # MPO: a photograph and its preview
        has_raw_mode = image.format in ("PNG", "TIFF") and image.tile
        is_deep = image.mode in _DEEP or (has_raw_mode and ";16" in str(image.tile[0][3]))
        size = image.size[::-1] if on_its_side else image.size
        has_alpha = image.mode in _ALPHA or "transparency" in image.info
        return Header(size, image.mode, has_alpha, frames, bool(is_deep))


@contextlib.contextmanager
def _readable(file: pathlib.Path) -> Iterator[None]:
    """Names the file in an error of PIL."""
    try:
        yield
    except _UNREADABLE as error:
        reason = (
            "not an image file, or damaged"
            if "cannot identify image" in str(error)
            else f"{type(error).__name__}: {error}"
        )
        raise ValueError(f"{file} cannot be read as an image ({reason}). Restore it, or remove it.") from None


def _mapped(function: Callable, files: Sequence[pathlib.Path], name: str) -> Iterator[Any]:
    """Yields the results of a function of each file, in order, with a progress bar."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        try:
            yield from progress.track(pool.map(function, files), name, len(files))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
