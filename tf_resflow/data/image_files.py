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


class _Image(NamedTuple):
    """A file, its class (the name of a folder, or ""), and what is known of the image before it is decoded."""

    file: pathlib.Path
    label: str
    size: tuple[int, int] = (0, 0)  # width and height, as displayed
    is_gray: bool = False
    is_transparent: bool = False


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
    folders = {split: place for split, place in places.items() if place.is_dir()}
    images = _look_at(folders, skip_unreadable)
    every = [*itertools.chain(*images.values())]
    image_size = image_size or _shrunk_size({image.size for image in every}, max_image_size)
    _check_sizes(every, image_size)
    parts = {
        split: _read_numpy(place, key, image_size, max_image_size)
        for split, place in places.items()
        if split not in folders
    }
    fractions = {"test": test_fraction, "validation": validation_fraction}

    def draw():
        num = len(parts["train"][0] if "train" in parts else images["train"])
        return draw_splits(num, fractions, split_seed, path, given=places)

    draw()  # raises before the folders are read, which may be slow
    parts |= _read(folders, images, image_size, skip_unreadable)
    check_different({split: pixels for split, (pixels, *_) in parts.items()})
    drawn = draw()
    if len(drawn) > 1:
        whole = parts["train"]
        for split, numbers in drawn.items():
            parts[split] = tuple(None if values is None else values[numbers] for values in whole)
    pixels, labels, files = ({split: part[i] for split, part in parts.items()} for i in range(3))
    labels, num_classes = _numbered(path, labels)
    if levels < 256:
        pixels = {split: _fewer_levels(path, array, levels) for split, array in pixels.items()}
    return Dataset.from_arrays(
        os.path.basename(os.path.abspath(os.path.expanduser(path))),
        pixels,
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
    folders = subfolders(root) if root.is_dir() else []
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


def _look_at(folders, skip_unreadable):
    """The `_Image`s of each split whose files can be opened."""
    images, errors = {}, []
    for split, files in find_images(folders).items():
        labels = _classes(folders[split], files, folders)
        images[split] = [_Image(file, label) for file, label in zip(files, labels, strict=True)]
    every = [*itertools.chain(*images.values())]
    headers = dict(zip(every, _mapped(_read_header, every, "looking at images"), strict=True))
    errors = [header for header in headers.values() if isinstance(header, ValueError)]
    if errors and not skip_unreadable:  # with those that cannot be decoded
        opened = [image for image, header in headers.items() if isinstance(header, _Image)]
        errors += [
            result for result in _mapped(_decode, opened, "reading images") if isinstance(result, ValueError)
        ]
    _report(errors, len(every), skip_unreadable)
    for split, own in images.items():
        images[split] = [headers[image] for image in own if isinstance(headers[image], _Image)]
        _check_left(folders[split], own, images[split])
    return images


def _report(errors, num, skip_unreadable):
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


def _check_left(path, images, left):
    """Raises ValueError if no image of a folder is left, or of a class in it."""
    if lost := sorted({image.label for image in images} - {image.label for image in left}):
        raise ValueError(f"{path / lost[0]} holds no image that can be read.")


def _classes(path, files, folders):
    """The class of each image, the name of its folder in `path`; "" if there are no such folders."""
    flat = [file for file in files if file.parent == path]
    if len(flat) == len(files):
        return [""] * len(files)
    classes = [file.relative_to(path).parts[0] for file in files if file.parent != path]
    if flat:
        raise ValueError(
            f"{path} has images, such as {flat[0].name}, beside folders with images, such as {classes[0]}, which "
            "would be classes. Put all images into folders, or none."
        )
    for folder in subfolders(path):
        is_split = any(place.resolve().is_relative_to(folder.resolve()) for place in folders.values())
        if folder.name not in classes and not is_split:
            raise ValueError(f"{folder} holds no image, but the folders beside it do. Fill it, or remove it.")
    return classes


def _read_header(image):
    """An image with what its header tells."""
    file = image.file
    if file.is_symlink() and not file.exists():
        raise ValueError(f"{file} is a link to nothing ({os.readlink(file)}).")
    with readable(file, "an image", ""), Image.open(file) as opened:
        # Of a PNG file PIL would have to decode the image first.
        turn = 1 if opened.format == "PNG" else opened.getexif().get(ExifTags.Base.Orientation, 1)
        size = opened.size[::-1] if turn >= 5 else opened.size  # a photograph on its side
        frames = (
            1 if opened.format == "MPO" else getattr(opened, "n_frames", 1)
        )  # MPO: a photograph and its preview
        raw_mode = str(opened.tile[0][3]) if opened.format in ("PNG", "TIFF") and opened.tile else ""
        is_deep = opened.mode.startswith(("I", "F")) or ";16" in raw_mode
        is_gray, is_transparent = Image.getmodebase(opened.mode) == "L", opened.has_transparency_data
    if frames > 1:
        raise ValueError(f"{file} holds {frames} images, as an animation: give a file for each.")
    if is_deep:
        raise ValueError(f"{file} has more than 8 bits a channel. Convert it to 8 bits.")
    return image._replace(size=size, is_gray=is_gray, is_transparent=is_transparent)


def _decode(image, mode="RGB"):
    """The pixels `[height, width, channels]` of an image, as displayed."""
    with readable(image.file, "an image", ""), Image.open(image.file) as opened:
        turned = opened if opened.format == "PNG" else ImageOps.exif_transpose(opened)
        if turned.mode == "P":  # its colors may be transparent
            turned = turned.convert("RGBA")
        return np.atleast_3d(np.asarray(turned.convert(mode)))


def _mapped(function: Callable, images: Sequence[_Image], name: str) -> Iterator[Any]:
    """Yields the result of a function of each image, or the ValueError that it raises, with a progress bar."""

    def attempt(image):
        try:
            return function(image)
        except ValueError as error:
            return error

    with concurrent.futures.ThreadPoolExecutor() as pool:
        try:
            yield from progress.track(pool.map(attempt, images), name, len(images))
        except BaseException:
            pool.shutdown(cancel_futures=True)  # an interrupt would wait for the other files
            raise


def _check_sizes(images, image_size):
    """Raises ValueError unless all images are of one size, or can be shrunk to `image_size`."""
    if image_size:
        if small := [image for image in images if min(image.size) < image_size]:
            raise ValueError(
                f"{len(small)} of {len(images)} images are smaller than image_size = {image_size}, such as "
                f"{_sized(small[0])}. Lower image_size, or remove them."
            )
        return
    of_sizes = {image.size: image for image in images}
    if len(of_sizes) > 1:
        one, other, *_ = of_sizes.values()
        raise ValueError(
            f"The images are of {len(of_sizes)} sizes, such as {_sized(one)} and {_sized(other)}. Set image_size "
            f"(--config.data.image_size=N, N up to {min(map(min, of_sizes))}): the square in the center of each "
            "image is then shrunk to N x N."
        )


def _shrunk_size(sizes, most):
    """The `image_size` of images larger than `most`, or of several sizes; None if they stay as they are."""
    sides = [side for size in sizes for side in size]
    if not most or not sizes or min(sides) < most or (len(sizes) == 1 and max(sides) == most):
        return None
    logging.warning(_SHRUNK, most, most)
    return most


def _sized(image):
    return f"{image.file} ({image.size[0]} x {image.size[1]})"


def _read(folders, images, image_size, skip_unreadable):
    """The pixels, the classes and the files of each split; warns of gray images made color, and transparency."""
    is_gray = all(image.is_gray for own in images.values() for image in own)
    pixels, errors = {}, {}

    def read(image):
        return _fitted(_decode(image, "L" if is_gray else "RGB"), image_size)

    for split, own in images.items():
        width, height = (image_size, image_size) if image_size else own[0].size
        shape = (len(own), height, width, 1 if is_gray else 3)
        _check_memory(folders[split], shape)
        pixels[split] = np.empty(shape, np.uint8)
        for image, array, result in zip(own, pixels[split], _mapped(read, own, "reading images"), strict=True):
            if isinstance(result, ValueError):
                errors[image] = result
            else:
                array[:] = result
    _report([*errors.values()], sum(map(len, images.values())), skip_unreadable)
    parts, every = {}, []
    for split, own in images.items():
        left = [image for image in own if image not in errors]
        _check_left(folders[split], own, left)
        if len(left) < len(own):
            pixels[split] = pixels[split][[image not in errors for image in own]]
        classes = np.array([image.label for image in left]) if left[0].label else None
        parts[split] = pixels[split], classes, np.array([str(image.file) for image in left], object)
        every += left
    gray = [image.file for image in every if image.is_gray]
    if gray and not is_gray:
        logging.warning("%s made color, such as %s.", counted(len(gray), "gray image"), gray[0])
    if transparent := [image.file for image in every if image.is_transparent]:
        num = counted(len(transparent), "image")
        logging.warning("The transparency of %s is dropped, such as of %s.", num, transparent[0])
    return parts


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
