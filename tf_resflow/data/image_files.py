"""Loads images from a folder of image files, or from a .npy or .npz file."""

import collections
import concurrent.futures
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from tf_resflow._internal import console
from tf_resflow._internal.extras import extra
from tf_resflow._internal.messages import counted, shortened
from tf_resflow.data.dataset import Dataset, check_power_of_two
from tf_resflow.data.files import explain_read_errors, read_array
from tf_resflow.data.splits import draw_splits

with extra("data"):
    from PIL import ExifTags, Image, ImageOps

_SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
_SPLITS |= dict.fromkeys(["validation", "valid", "val"], "validation")  # folder names in lower case
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_MEMORY = 2 * 2**30  # maximum size of a split in bytes


class _Image(NamedTuple):
    """An image file, the properties in its header, and its pixels once they are read."""

    file: pathlib.Path
    split: str
    label: str  # the class, which is the name of a folder, or ""
    size: tuple[int, int] = (0, 0)  # width and height, as displayed
    is_gray: bool = False
    is_transparent: bool = False
    pixels: Any = None


class _Split(NamedTuple):
    """The images of a split, their labels if any, and their files if they come from a folder."""

    pixels: np.ndarray
    labels: np.ndarray | None
    files: np.ndarray | None

    def subset(self, indices):
        """Returns the images with the given indices."""
        labels = None if self.labels is None else self.labels[indices]
        files = None if self.files is None else self.files[indices]
        return _Split(self.pixels[indices], labels, files)


def load_image_files(
    path: str | os.PathLike,
    path_test: str | os.PathLike | None = None,
    path_validation: str | os.PathLike | None = None,
    *,
    key: str | None = None,
    levels: int = 256,
    image_size: int | None = None,
    max_image_size: int | None = None,
    flip: bool = False,
    crop_padding: int = 0,
    test_fraction: float = 0.1,
    validation_fraction: float = 0.1,
    split_seed: int = 0,
    skip_unreadable: bool = False,
) -> Dataset:
    """Loads your own images as uint8.

    A folder contains 8-bit PNG, JPEG, WebP, BMP, GIF or TIFF files. Its subfolders, if any, are the classes, in
    alphabetical order. If one is named `train`, it is the train split instead, and `test` and `validation` (or
    `val`) are the other splits. Other files and links to folders are skipped. The examples are grayscale if all
    images are, otherwise RGB. Transparency is dropped.

    A .npy file contains uint8 images `[num, height, width, channels]` or `[num, height, width]`. An .npz file
    contains such an array and, optionally, an array of labels named "labels".

    Args:
      path: The folder or file.
      path_test: Folder or file of the test split; None or "" to draw it from `path` by a permutation.
      path_validation: Like `path_test`, for the validation split.
      key: Name of the array, if an .npz file contains more than one besides the labels.
      levels: Number of values of a pixel, a power of two in 2, ..., 256. The low bits are dropped.
      image_size: Height and width of the examples. The square in the center of each image is shrunk to this size by
        averaging. If None, the images must have one size, which they keep.
      max_image_size: The `image_size` that applies if none is given and images are larger, or differ in size.
      flip: See `Dataset`, also for `crop_padding`.
      test_fraction: Fraction of the images for testing, if there is no test split.
      validation_fraction: Fraction for validation, if there is no validation split; 0 for none.
      split_seed: Seed of the permutation.
      skip_unreadable: Whether to skip, with a warning, files that are damaged, animated, have more than 8 bits, or
        are smaller than `image_size`.

    Returns:
      A `Dataset` of event shape `(height, width, channels)`, with classes if there are at least two, and with the
      `files` of examples from folders.

    Raises:
      ValueError: If there are no images, files cannot be read or are smaller than `image_size`, the images differ
        in size or exceed 2 GB, or the splits are invalid.
    """
    check_power_of_two(levels)
    paths = _paths_of_splits(path, path_test, path_validation)
    folders = {split: path for split, path in paths.items() if path.is_dir()}
    splits = {
        split: _read_numpy(path, key, image_size, max_image_size)
        for split, path in paths.items()
        if split not in folders
    }
    if folders:
        splits |= _read_folders(folders, image_size, max_image_size, skip_unreadable)
    fractions = {"test": test_fraction, "validation": validation_fraction}
    fractions = {split: fraction for split, fraction in fractions.items() if split not in paths}
    drawn = draw_splits(len(splits["train"].pixels), fractions, split_seed, path)
    if len(drawn) > 1:
        splits |= {split: splits["train"].subset(indices) for split, indices in drawn.items()}
    labels, num_classes = _class_numbers(path, {split: images.labels for split, images in splits.items()})
    pixels = {split: images.pixels for split, images in splits.items()}
    if levels < 256:
        largest = max(array.max() for array in pixels.values())
        if largest < levels:
            raise ValueError(
                f"{path}: the largest value is {largest}, but levels = {levels} keeps the high bits of values up "
                "to 255. Leave levels at its default, or scale the values to 0, ..., 255."
            )
        pixels = {split: array // np.uint8(256 // levels) for split, array in pixels.items()}
    name = os.path.basename(os.path.abspath(os.path.expanduser(path)))
    files = {split: images.files.tolist() for split, images in splits.items() if images.files is not None}
    fields = {"num_classes": num_classes, "flip": flip, "crop_padding": crop_padding, "files": files or None}
    return Dataset.from_arrays(name, pixels, levels, labels=labels, **fields)


def _paths_of_splits(path, path_test, path_validation):
    """Returns the file or folder of each split that is not drawn from another."""
    arguments = {"train": path, "test": path_test, "validation": path_validation}
    paths = {split: pathlib.Path(argument).expanduser() for split, argument in arguments.items() if argument}
    root = paths["train"]
    children = sorted(root.iterdir()) if root.is_dir() else []
    folders = [c for c in children if c.is_dir() and not c.is_symlink() and not _is_hidden(c.name)]
    names = [_SPLITS.get(folder.name.lower()) for folder in folders]
    if not any(names):
        return paths
    given_twice = set(names) & (paths.keys() - {"train"})
    if None in names or "train" not in names or len(set(names)) < len(names) or given_twice:
        raise ValueError(
            f"{root} has the folders {', '.join(folder.name for folder in folders)}. Expected either train and, "
            "optionally, test and validation, with images or classes in them; or only classes, with other names. "
            f"Or set path, path_test and path_validation, such as path={root / folders[0].name}."
        )
    return paths | dict(zip(names, folders, strict=True))


def _find_images(folders):
    """Returns the image files of all splits, without linked folders and nested folders of other splits."""
    images: list[_Image] = []
    known: set[str] = set()
    repeated: list[pathlib.Path] = []
    for split, path in sorted(folders.items(), key=lambda item: -len(item[1].resolve().parts)):
        files: list[pathlib.Path] = []
        for file in _files_with_suffixes(path):
            real = os.path.realpath(file)
            (repeated if real in known else files).append(file)
            known.add(real)
        if not files:
            raise ValueError(f"{path} has no images of its own. Expected files that end in {', '.join(_SUFFIXES)}.")
        labels = ["" if file.parent == path else file.relative_to(path).parts[0] for file in files]
        if "" in labels and any(labels):
            raise ValueError(
                f"{path} has both images and folders with images, such as {max(labels)}, which would be classes. "
                "Put all images into folders, or none."
            )
        images += [_Image(file, split, label) for file, label in zip(files, labels, strict=True)]
    if repeated:
        listed = shortened(sorted(repeated))
        logging.warning("Skipped files that were already read by another path: %s.", listed)
    return images


def _files_with_suffixes(path):
    """Returns the sorted image files below a folder. Warns if there are others."""
    files: list[pathlib.Path] = []
    skipped: list[pathlib.Path] = []
    for folder, inner_folders, names in os.walk(path):
        inner_folders[:] = [name for name in inner_folders if not _is_hidden(name)]
        for name in names:
            if not _is_hidden(name):
                file = pathlib.Path(folder, name)
                (files if file.suffix.lower() in _SUFFIXES else skipped).append(file)
    if skipped:
        num = counted(len(skipped), "file")
        logging.warning("%s: skipped %s without the suffix of an image, such as %s.", path, num, min(skipped))
    return sorted(files)


def _is_hidden(name):
    return name.startswith(".") or name == "__MACOSX"


def _read_header(image):
    file = image.file
    with explain_read_errors(file, "an image", ""), Image.open(file) as opened:
        # For a PNG file, PIL would have to decode the image first.
        turn = 1 if opened.format == "PNG" else opened.getexif().get(ExifTags.Base.Orientation, 1)
        size = opened.size[::-1] if turn >= 5 else opened.size  # rotated by 90 degrees
        is_preview = opened.format == "MPO"  # the second frame is a preview of the first
        frames = 1 if is_preview else getattr(opened, "n_frames", 1)
        raw_mode = str(opened.tile[0][3]) if opened.format in ("PNG", "TIFF") and opened.tile else ""
        is_deep = opened.mode.startswith(("I", "F")) or ";16" in raw_mode
        is_gray = Image.getmodebase(opened.mode) == "L"
        is_transparent = opened.has_transparency_data
    if frames > 1:
        raise ValueError(f"{file} is an animation of {frames} images or pages. Save each as its own file.")
    if is_deep:
        raise ValueError(f"{file} has more than 8 bits per channel. Convert it to 8 bits.")
    return image._replace(size=size, is_gray=is_gray, is_transparent=is_transparent)


def _decode(file, mode):
    """Returns the pixels `[height, width, channels]` of an image as displayed."""
    with explain_read_errors(file, "an image", ""), Image.open(file) as opened:
        turned = opened if opened.format == "PNG" else ImageOps.exif_transpose(opened)
        if turned.mode == "P":  # a palette can contain transparent colors
            turned = turned.convert("RGBA")
        return np.atleast_3d(np.asarray(turned.convert(mode)))


def _attempted(function: Callable, images: Sequence[_Image], name: str) -> tuple[list[_Image], list[ValueError]]:
    """Returns the results of a function for the images, in order, and its ValueErrors. Shows a progress bar."""

    def attempt(image):
        try:
            return function(image)
        except ValueError as error:
            return error

    with concurrent.futures.ThreadPoolExecutor() as pool:
        try:
            results = [*console.track(pool.map(attempt, images), name, len(images))]
        except BaseException:
            pool.shutdown(cancel_futures=True)  # otherwise an interrupt waits for the remaining files
            raise
    errors = [result for result in results if isinstance(result, ValueError)]
    return [result for result in results if isinstance(result, _Image)], errors


def _read_folders(folders, image_size, max_image_size, skip_unreadable):
    """Returns the `_Split` of each folder."""
    all_images = _find_images(folders)
    images, header_errors = _attempted(_read_header, all_images, "looking at images")
    mode, channels = ("L", 1) if all(image.is_gray for image in images) else ("RGB", 3)
    if images:
        files_of_sizes = {image.size: image.file for image in images}
        image_size = _common_size(files_of_sizes, image_size, max_image_size)
        width, height = images[0].size
        for split, num in collections.Counter(image.split for image in images).items():
            _check_memory(folders[split], (num, image_size or height, image_size or width, channels))

    def read(image):
        if image_size and min(image.size) < image_size:
            raise ValueError(f"{_sized(image.file, image.size)} is smaller than image_size = {image_size}.")
        return image._replace(pixels=_center_square(_decode(image.file, mode), image_size))

    images, pixel_errors = _attempted(read, images, "reading images")
    _report_unreadable(header_errors + pixel_errors, len(all_images), skip_unreadable)
    _warn_of_conversions(images, channels)
    splits = {}
    for split, folder in folders.items():
        images_of_split = [image for image in images if image.split == split]
        if not images_of_split:
            raise ValueError(f"{folder} has no image that can be used.")
        splits[split] = _stacked(images_of_split)
    return splits


def _report_unreadable(errors, num_images, are_skipped):
    """Raises an error that lists the images that cannot be used, or warns that they are skipped."""
    if not errors:
        return
    listed = shortened(errors, "\n  ")
    text = f"{len(errors)} of {num_images:,} images cannot be used:\n  {listed}"
    if not are_skipped:
        advice = "Repair or remove them, or skip them with --config.data.skip_unreadable=True."
        raise ValueError(f"{text}\n{advice}")
    logging.warning("%s\nThey are skipped.", text)


def _warn_of_conversions(images, channels):
    """Warns if gray images are converted to color, or transparency is dropped."""
    gray = [image.file for image in images if image.is_gray]
    if gray and channels == 3:
        logging.warning("%s converted to color, such as %s.", counted(len(gray), "gray image"), gray[0])
    transparent = [image.file for image in images if image.is_transparent]
    if transparent:
        num = counted(len(transparent), "image")
        logging.warning("Dropped the transparency of %s, such as %s.", num, transparent[0])


def _stacked(images):
    """Returns the `_Split` of images that have been read."""
    pixels = np.stack([image.pixels for image in images])
    labels = np.array([image.label for image in images]) if images[0].label else None
    files = np.array([str(image.file) for image in images], object)
    return _Split(pixels, labels, files)


def _sized(file, size):
    return "{} ({} x {})".format(file, *size)


def _common_size(sizes, image_size, most):
    """Returns the size to which images are shrunk, or None. `sizes` has an example file of each size."""
    largest = max(map(min, sizes))
    examples = shortened(_sized(file, size) for size, file in sizes.items())
    if not image_size and most and largest >= most and sizes.keys() != {(most, most)}:
        logging.warning("Images are shrunk to %d x %d. Set --config.data.image_size for another size.", most, most)
        image_size = most
    if image_size and largest < image_size:
        raise ValueError(f"All images are smaller than image_size = {image_size}: {examples}. Lower image_size.")
    if not image_size and len(sizes) > 1:
        raise ValueError(
            f"The images have {len(sizes)} different sizes, such as {examples}. To shrink the square in the center "
            f"of each image to N x N, set --config.data.image_size=N, with N up to {min(map(min, sizes))}."
        )
    return image_size


def _center_square(image, size):
    """Crops the center square of an image `[height, width, channels]`, and shrinks it by averaging and rounding."""
    if not size:
        return image
    side = min(image.shape[:2])
    square = tf.image.resize_with_crop_or_pad(image, side, side)
    return np.round(tf.image.resize(square, [size, size], "area")).astype(np.uint8)


def _check_memory(path, shape):
    size = np.prod(shape, dtype=np.float64)
    if size > _MEMORY:
        raise ValueError(
            f"{path}: {shape[0]:,} images of {shape[1]} x {shape[2]} x {shape[3]} need {size / 2**30:.1f} GB of "
            f"memory; the limit is {_MEMORY / 2**30:.0f} GB. Use fewer images or a smaller image_size. Or stream "
            "the images: store them with tfds.dataset_builders.store_as_tfds_dataset."
        )


def _read_numpy(path, key, image_size, max_image_size):
    """Returns the `_Split` of a .npy or .npz file."""
    images, aside = read_array(path, key, aside=("labels",))
    images = images[..., np.newaxis] if images.ndim == 3 else images
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or not images.size:
        raise ValueError(
            f"{path} contains {images.dtype} of shape {list(images.shape)}. Expected uint8 images [num, height, "
            "width, channels] with 1 or 3 channels, or [num, height, width]."
        )
    num, height, width, channels = images.shape
    image_size = _common_size({(width, height): path}, image_size, max_image_size)
    _check_memory(path, (num, image_size or height, image_size or width, channels))
    if image_size:
        images = np.stack([_center_square(image, image_size) for image in images])
    labels = aside["labels"].reshape(-1) if "labels" in aside else None
    if labels is not None and (len(labels) != num or labels.dtype.kind not in "iu"):
        raise ValueError(f"{path} has {len(labels)} labels of type {labels.dtype}. Expected {num} integers.")
    return _Split(np.asarray(images), labels, None)


def _class_numbers(path, labels):
    """Returns the labels of all splits as integers, and the number of classes; (None, None) if it is below 2."""
    kinds = {"" if values is None else values.dtype.kind.replace("u", "i") for values in labels.values()}
    if len(kinds) > 1:
        logging.warning("%s: labels are ignored, because some splits have none, or labels of another type.", path)
    classes = np.array([]) if len(kinds) > 1 or kinds == {""} else np.unique(np.concatenate([*labels.values()]))
    if len(classes) < 2:
        return None, None
    if kinds == {"i"}:
        return labels, int(classes[-1]) + 1
    return {split: np.searchsorted(classes, values) for split, values in labels.items()}, len(classes)
