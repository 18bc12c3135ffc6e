"""The user's images, from a folder of image files or from a .npy or .npz file."""

__all__ = ["load_image_files"]

import concurrent.futures
import itertools
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from tf_resflow import progress
from tf_resflow.data.dataset import Dataset, check_power_of_two
from tf_resflow.data.files import read_array, readable
from tf_resflow.data.image_folders import find_images, subfolders
from tf_resflow.data.splits import check_different, draw_splits, field
from tf_resflow.extras import extra
from tf_resflow.plurals import counted

with extra("data"):
    from PIL import ExifTags, Image, ImageOps

_SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
_SPLITS |= dict.fromkeys(["validation", "valid", "val"], "validation")  # folder names in lower case
_MOST_NAMED = 50  # files in a message
_SHRUNK = "The images are shrunk to %d x %d. Choose another size by image_size, as in --config.data.image_size=64."
_MEMORY = 2 * 2**30  # largest size of a split in bytes


class _Header(NamedTuple):
    """What is known of an image before it is decoded."""

    size: tuple[int, int]  # width and height, as displayed
    is_gray: bool
    is_transparent: bool


class _Folder(NamedTuple):
    """The images of a folder, sorted by folder and name."""

    path: pathlib.Path
    files: list[pathlib.Path]
    classes: np.ndarray | None  # names of folders; None if there are none
    headers: list[Any]

    def readable(self, results):
        """The folder without the files of which a result is an error, and the other results."""
        good = [not isinstance(result, ValueError) for result in results]
        if all(good):
            return self, results
        files, headers = ([*itertools.compress(values, good)] for values in (self.files, self.headers))
        classes, lost = None, []
        if self.classes is not None:
            classes = self.classes[good]
            lost = sorted(set(self.classes) - set(classes))
        if not files or lost:
            raise ValueError(f"{self.path.joinpath(*lost[:1])} holds no image that can be read.")
        return _Folder(self.path, files, classes, headers), [*itertools.compress(results, good)]


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

    A folder holds PNG, JPEG, WebP, BMP, GIF or TIFF files of 8 bits. Its subfolders, if any, are the classes, in
    alphabetical order. A subfolder `train`, however, is the train split, and `test` and `validation` (or `val`)
    beside it are the other splits. Hidden files and other kinds of files are skipped, and links to folders are not
    followed. The examples are gray if all images are; otherwise all are color. Transparency is dropped.

    A .npy file holds uint8 images `[num, height, width, channels]` or `[num, height, width]`; an .npz file holds
    such an array and, optionally, an array of labels named "labels".

    Splits without a folder or file are drawn from the images of `path`, without replacement, by a permutation of
    fixed seed.

    Args:
      path: the folder or file.
      path_test: folder or file of the test split, or None or "" to draw it from `path`.
      path_validation: folder or file of the validation split, likewise.
      key: name of the array in an .npz file that holds more than one besides the labels.
      levels: values of a pixel, a power of two in 2, ..., 256: the low bits are dropped.
      image_size: height and width of the examples. The square in the center of each image is shrunk to this size;
        each pixel is the mean of the pixels that it covers. None: images of one size, as they are.
      max_image_size: without an `image_size`, that of images that are larger, or of several sizes.
      flip: see `Dataset`.
      crop_padding: see `Dataset`.
      test_fraction: fraction of the images for testing, if there is no such split.
      validation_fraction: fraction of the images for validation, likewise; 0 for no such split.
      split_seed: seed of the permutation.
      skip_unreadable: whether to go on, with a warning, without the files that are damaged, animated, of more than
        8 bits or broken links.

    Returns:
      A `Dataset` of event shape `(height, width, channels)`, with the classes if there are at least two. Its
      `files` name the file of each example of a folder.

    Raises:
      ValueError: if there are no images, files cannot be read (all are named), the images differ in size, are
        smaller than `image_size` or exceed 2 GB, or the splits are invalid.
    """
    if not path:
        raise ValueError(
            "No images were given: set path (--config.data.path=DIR) to a folder of image files, or to a .npy or "
            ".npz file."
        )
    check_power_of_two(levels)
    places = _places(path, path_test, path_validation)
    folders = _look_at({split: place for split, place in places.items() if place.is_dir()}, skip_unreadable)
    sizes = {header.size for folder in folders.values() for header in folder.headers}
    image_size = image_size or _shrunk_size(sizes, max_image_size)
    _check_sizes(folders.values(), image_size)
    is_gray = all(header.is_gray for folder in folders.values() for header in folder.headers)
    parts = {
        split: _read_numpy(place, key, image_size, max_image_size)
        for split, place in places.items()
        if split not in folders
    }
    fractions = {"test": test_fraction, "validation": validation_fraction}

    def draw():
        num = len(folders["train"].files if "train" in folders else parts["train"][0])
        return draw_splits(num, fractions, split_seed, path, given=places)

    draw()  # raises before the folders are read, which may be slow
    pixels, folders = _read(folders, image_size, is_gray, skip_unreadable)
    for split, folder in folders.items():
        parts[split] = pixels[split], folder.classes, np.array([*map(str, folder.files)], object)
    check_different({split: images for split, (images, *_) in parts.items()})
    drawn = draw()
    if len(drawn) > 1:
        of_all = parts["train"]
        for split, numbers in drawn.items():
            parts[split] = tuple(None if values is None else values[numbers] for values in of_all)
    images, labels, files = ({split: part[i] for split, part in parts.items()} for i in range(3))
    labels, num_classes = _numbered(path, labels)
    if levels < 256:
        images = {split: _fewer_levels(path, array, levels) for split, array in images.items()}
    return Dataset.from_arrays(
        os.path.basename(os.path.abspath(os.path.expanduser(path))),
        images,
        levels,
        labels=labels,
        num_classes=num_classes,
        flip=flip,
        crop_padding=crop_padding,
        files={split: names.tolist() for split, names in files.items() if names is not None} or None,
    )


def _places(path, path_test, path_validation):
    """The folder or file of each split that has one."""
    given = {"train": path, "test": path_test, "validation": path_validation}
    places = {split: pathlib.Path(place).expanduser() for split, place in given.items() if place}
    for split, place in places.items():
        if not place.exists():
            raise ValueError(f"{field(split)}: there is no file or folder {place} (looked for {place.absolute()}).")
        if not place.is_dir() and place.suffix.lower() not in (".npy", ".npz"):
            raise ValueError(
                f"{place}: expected a folder of images, or a file of them that ends in .npy or .npz. (A table is "
                "data.name = 'tabular'.)"
            )
    root = places["train"]
    if not root.is_dir():
        return places
    folders = subfolders(root)
    splits = [(_SPLITS.get(folder.name.lower()), folder) for folder in folders]
    found = {split: folder for split, folder in splits if split}
    if not found:
        return places
    is_twice = len(found) < len(splits) or any(split in places for split in found if split != "train")
    if "train" not in found or is_twice:
        raise ValueError(
            f"{root} has the folders {', '.join(folder.name for folder in folders)}. Expected train, and perhaps "
            "test and validation, with images or classes in them, and no other; or classes alone, of other names. "
            f"Or set path, path_test and path_validation, such as path={root / folders[0].name}."
        )
    places |= found
    if missing := [split for split in ("test", "validation") if split not in places]:
        logging.warning("%s has no %s split: drawn from %s.", root, " and no ".join(missing), found["train"])
    return places


def _look_at(places, skip_unreadable):
    """The `_Folder` of each split, of the files that can be opened."""
    folders, errors = {}, []
    for split, files in find_images(places).items():
        headers = [*_mapped(_read_header, files, "looking at images")]
        errors += [header for header in headers if isinstance(header, ValueError)]
        folders[split] = _Folder(places[split], files, _classes(places[split], files, places), headers)
    num = sum(len(folder.files) for folder in folders.values())
    if errors and not skip_unreadable:  # with those that cannot be decoded
        for folder in folders.values():
            opened = itertools.compress(folder.files, [isinstance(header, _Header) for header in folder.headers])
            pixels = _mapped(_decode, [*opened], "reading images")
            errors += [result for result in pixels if isinstance(result, ValueError)]
    _tell(errors, num, skip_unreadable)
    return {split: folder.readable(folder.headers)[0] for split, folder in folders.items()}


def _tell(errors, num, skip_unreadable):
    """Names the files that cannot be read, in a warning if they are to be skipped, else in a ValueError."""
    if not errors:
        return
    lines = [f"  {error}" for error in errors[:_MOST_NAMED]]
    lines += [f"  and {len(errors) - _MOST_NAMED} more"] if len(errors) > _MOST_NAMED else []
    text = "\n".join([f"{len(errors)} of {num:,} images cannot be read:", *lines])
    if not skip_unreadable:
        raise ValueError(
            f"{text}\nMend or remove them, or set skip_unreadable (--config.data.skip_unreadable=True) to go on "
            "without them."
        )
    logging.warning("%s\nThey are skipped.", text)


def _classes(path, files, places):
    """The class of each image, the name of its folder in `path`; None if there are no such folders."""
    flat = [file for file in files if file.parent == path]
    if len(flat) == len(files):
        return None
    classes = [file.relative_to(path).parts[0] for file in files if file.parent != path]
    if flat:
        raise ValueError(
            f"{path} has images, such as {flat[0].name}, beside folders with images, such as {classes[0]}, which "
            "would be classes. Put all images into folders, or none."
        )
    names = set(classes)
    for folder in subfolders(path):
        is_split = any(place.resolve().is_relative_to(folder.resolve()) for place in places.values())
        if folder.name in names or is_split:
            continue
        raise ValueError(f"{folder} holds no image, but the folders beside it do. Fill it, or remove it.")
    return np.array(classes)


def _read_header(file):
    """The `_Header` of an image."""
    if file.is_symlink() and not file.exists():
        raise ValueError(f"{file} is a link to nothing ({os.readlink(file)}).")
    with readable(file, "an image", ""), Image.open(file) as image:
        # Of a PNG file PIL would have to decode the image first.
        turn = 1 if image.format == "PNG" else image.getexif().get(ExifTags.Base.Orientation, 1)
        size = image.size[::-1] if turn >= 5 else image.size  # a photograph on its side
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # MPO: a photograph and its preview
        raw_mode = str(image.tile[0][3]) if image.format in ("PNG", "TIFF") and image.tile else ""
        is_deep = image.mode.startswith(("I", "F")) or ";16" in raw_mode
        header = _Header(size, Image.getmodebase(image.mode) == "L", image.has_transparency_data)
    if frames > 1:
        raise ValueError(f"{file} holds {frames} images, as an animation: give a file for each.")
    if is_deep:
        raise ValueError(f"{file} has more than 8 bits a channel. Convert it to 8 bits.")
    return header


def _decode(file, mode="RGB"):
    """The pixels `[height, width, channels]` of an image, as displayed."""
    with readable(file, "an image", ""), Image.open(file) as image:
        image = image if image.format == "PNG" else ImageOps.exif_transpose(image)
        if image.mode == "P":  # its colors may be transparent
            image = image.convert("RGBA")
        return np.atleast_3d(np.asarray(image.convert(mode)))


def _mapped(function: Callable, files: Sequence[pathlib.Path], name: str) -> Iterator[Any]:
    """Yields the result of a function of each file, or the ValueError that it raises, with a progress bar."""

    def attempt(file):
        try:
            return function(file)
        except ValueError as error:
            return error

    with concurrent.futures.ThreadPoolExecutor() as pool:
        try:
            yield from progress.track(pool.map(attempt, files), name, len(files))
        except BaseException:
            pool.shutdown(cancel_futures=True)  # an interrupt would wait for the other files
            raise


def _check_sizes(folders, image_size):
    """Raises ValueError unless all images are of one size, or can be shrunk to `image_size`."""
    sizes = [
        (header.size, file) for folder in folders for header, file in zip(folder.headers, folder.files, strict=True)
    ]
    if image_size:
        if small := [named for named in sizes if min(named[0]) < image_size]:
            raise ValueError(
                f"{len(small)} of {len(sizes)} images are smaller than image_size = {image_size}, such as "
                f"{_sized(*small[0])}. Lower image_size, or remove them."
            )
        return
    firsts: dict[tuple[int, int], pathlib.Path] = {}
    for size, file in sizes:
        firsts.setdefault(size, file)
    if len(firsts) > 1:
        one, other, *_ = firsts.items()
        raise ValueError(
            f"The images are of {len(firsts)} sizes, such as {_sized(*one)} and {_sized(*other)}. Set image_size "
            f"(--config.data.image_size=N, N up to {min(map(min, firsts))}): the square in the center of each "
            "image is then shrunk to N x N."
        )


def _shrunk_size(sizes, most):
    """The `image_size` of images larger than `most`, or of several sizes; None if they stay as they are."""
    sides = [side for size in sizes for side in size]
    if not most or not sizes or min(sides) < most or (len(sizes) == 1 and max(sides) == most):
        return None
    logging.warning(_SHRUNK, most, most)
    return most


def _sized(size, file):
    return f"{file} ({size[0]} x {size[1]})"


def _read(folders, image_size, is_gray, skip_unreadable):
    """The decoded images of each split, and their folders; warns of gray ones made color, and lost transparency."""
    images, results = {}, {}
    for split, folder in folders.items():
        images[split], results[split] = _read_folder(folder, image_size, is_gray)
    every = [*itertools.chain(*results.values())]
    _tell([result for result in every if isinstance(result, ValueError)], len(every), skip_unreadable)
    headers: dict[pathlib.Path, _Header] = {}
    for split, folder in folders.items():
        folders[split], numbers = folder.readable(results[split])
        if len(numbers) < len(images[split]):
            images[split] = images[split][numbers]
        headers |= dict(zip(folders[split].files, folders[split].headers, strict=True))
    gray = [file for file, header in headers.items() if header.is_gray]
    if gray and not is_gray:
        logging.warning("%s made color, such as %s.", counted(len(gray), "gray image"), gray[0])
    if transparent := [file for file, header in headers.items() if header.is_transparent]:
        num = counted(len(transparent), "image")
        logging.warning("The transparency of %s is dropped, such as of %s.", num, transparent[0])
    return images, folders


def _read_folder(folder, image_size, is_gray):
    """The decoded images, and for each its number, or the error that it has instead."""
    width, height = (image_size, image_size) if image_size else folder.headers[0].size
    shape = (len(folder.files), height, width, 1 if is_gray else 3)
    _check_memory(folder.path, shape)
    images, results = np.empty(shape, np.uint8), [*range(len(folder.files))]

    def read(file):
        return _fitted(_decode(file, "L" if is_gray else "RGB"), image_size)

    for number, pixels in enumerate(_mapped(read, folder.files, "reading images")):
        if isinstance(pixels, ValueError):
            results[number] = pixels
        else:
            images[number] = pixels
    return images, results


def _fitted(image, size):
    """The square in the center of an image `[height, width, channels]`, shrunk: each pixel is a rounded mean."""
    if not size:
        return image
    height, width, _ = image.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    return np.round(tf.image.resize(square, [size, size], "area")).astype(np.uint8)


def _check_memory(path, shape):
    size = np.prod(shape, dtype=np.float64)
    if size > _MEMORY:
        raise ValueError(
            f"{path}: {shape[0]:,} images of {shape[1]} x {shape[2]} x {shape[3]} are {size / 2**30:.1f} GB, and "
            f"{_MEMORY / 2**30:.0f} GB can be held in memory. Give fewer, or a smaller image_size; or store them "
            "by tfds.dataset_builders.store_as_tfds_dataset, as a data set that is streamed."
        )


def _read_numpy(path, key, image_size, max_image_size):
    """The images, labels or None, and None for their files, of a .npy or .npz file."""
    images, aside = read_array(path, key, aside=("labels",))
    shape, kind = list(images.shape), images.dtype
    if kind != np.uint8:
        raise ValueError(
            f"{path}: expected images of the type uint8, with values 0, ..., 255, but the type is {kind}. For "
            "values in [0, 1], save (255 * images).round().astype('uint8')."
        )
    if len(shape) == 3:
        images = images[..., np.newaxis]
    if len(shape) not in (3, 4) or images.shape[3] not in (1, 3) or 0 in shape:
        is_channels_first = len(shape) == 4 and shape[1] in (1, 3)
        raise ValueError(
            f"{path}: expected images [num, height, width, channels] of 1 or 3 channels, or [num, height, width], "
            f"but the shape is {shape}.{' Save images.transpose(0, 2, 3, 1).' if is_channels_first else ''}"
        )
    image_size = image_size or _shrunk_size({(shape[2], shape[1])}, max_image_size)
    if image_size and min(shape[1:3]) < image_size:
        raise ValueError(f"{path}: the images are {shape[1]} x {shape[2]}, smaller than image_size = {image_size}.")
    sides = [image_size, image_size] if image_size else shape[1:3]
    _check_memory(path, (len(images), *sides, images.shape[3]))
    if shape[1:3] != sides:
        images = np.stack([_fitted(image, image_size) for image in images])
    num, labels = len(images), aside.get("labels")
    if labels is not None:
        labels = labels.reshape(-1) if labels.shape == (num, 1) else labels
        if labels.shape != (num,) or labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= num:
            raise ValueError(
                f"{path}: expected as labels {num} integers 0, 1, ..., one for each image and all below {num}, but "
                f"found {labels.dtype} of the shape {list(labels.shape)}."
            )
    return np.asarray(images), labels, None


def _numbered(path, labels):
    """The labels of all splits as integers, and the number of classes; None for both if there is only one class."""
    bare = [split for split, values in labels.items() if values is None]
    if bare:
        if len(bare) < len(labels):
            logging.warning(
                "%s: the %s split has no labels, so the labels of the others are left out.", path, bare[0]
            )
        return None, None
    if len({values.dtype.kind == "U" for values in labels.values()}) > 1:
        raise ValueError(f"{path}: the classes are folders in one split, and numbers in another.")
    classes = np.unique(np.concatenate([*labels.values()])).tolist()
    if len(classes) < 2:
        return None, None
    if isinstance(classes[0], int):
        return labels, classes[-1] + 1
    return {split: np.searchsorted(classes, values) for split, values in labels.items()}, len(classes)


def _fewer_levels(path, images, levels):
    if images.max() < levels:
        raise ValueError(
            f"{path}: no value is above {images.max()}, and levels = {levels} keeps the high bits of values up to "
            "255. Leave levels at 0, or scale the values."
        )
    return images // np.uint8(256 // levels)
