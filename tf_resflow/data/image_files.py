"""The user's images, from a folder of image files or from a .npy or .npz file."""

__all__ = ["load_image_files"]

import os
import pathlib
from typing import NamedTuple

import numpy as np
from absl import logging

from tf_resflow.data.dataset import Dataset
from tf_resflow.data.image_folder import ImageFolder, fitted, subfolders
from tf_resflow.data.numpy_files import read_array
from tf_resflow.data.splits import check_different, draw_splits, field

_SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
_SPLITS |= dict.fromkeys(["validation", "valid", "val"], "validation")  # folder names in lower case
_MEMORY = 2 * 2**30  # largest size of a split in bytes


class _Images(NamedTuple):
    """The images of a split, uint8 `[num, height, width, channels]`, and the labels: names or integers, or None."""

    images: np.ndarray
    labels: np.ndarray | None

    def take(self, numbers):
        return _Images(self.images[numbers], None if self.labels is None else self.labels[numbers])


def load_image_files(
    path: str | os.PathLike,
    path_test: str | os.PathLike | None = None,
    path_validation: str | os.PathLike | None = None,
    *,
    key: str | None = None,
    levels: int = 256,
    image_size: int | None = None,
    flip: bool = False,
    crop_padding: int = 0,
    test_fraction: float = 0.1,
    validation_fraction: float = 0.1,
    split_seed: int = 0,
) -> Dataset:
    """Loads your own images as uint8.

    A folder holds PNG, JPEG, WebP, BMP, GIF or TIFF files of 8 bits. Its subfolders, if any, are the classes, in
    alphabetical order. A subfolder `train`, however, is the train split, and `test` and `validation` (or `val`)
    beside it are the other splits. Hidden files and other kinds of files are skipped. The examples are gray if all
    images are, else all are color. Transparency is dropped.

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
      flip: whether the train stream mirrors images at random.
      crop_padding: pixels by which the train stream pads images, by reflection, before it crops them to their size
        at random.
      test_fraction: fraction of the images for testing, if there is no such split.
      validation_fraction: fraction of the images for validation, likewise; 0 for no such split.
      split_seed: seed of the permutation.

    Returns:
      A `Dataset` of event shape `(height, width, channels)`, with the classes if there are at least two.

    Raises:
      ValueError: if there are no images, a file is damaged or has more than 8 bits, the images differ in size, are
        smaller than `image_size` or exceed 2 GB, or the splits are invalid.
    """
    if not path:
        raise ValueError(
            "No images were given: set path (--config.data.path=DIR) to a folder of image files, or to a .npy or "
            ".npz file."
        )
    if levels not in [2**bits for bits in range(1, 9)]:
        raise ValueError(f"levels must be a power of two in 2, ..., 256, but is {levels}.")
    places = _places(path, path_test, path_validation)
    folders = {split: ImageFolder(place) for split, place in places.items() if place.is_dir()}
    _check_sizes(folders.values(), image_size)
    is_gray = all(folder.is_gray for folder in folders.values())
    parts = {s: _read_numpy(place, key, image_size) for s, place in places.items() if s not in folders}
    fractions = {"test": test_fraction, "validation": validation_fraction}
    num = len(folders["train"].files if "train" in folders else parts["train"].images)
    # Before the folders are read, which may be slow.
    drawn = draw_splits(num, fractions, split_seed, path, given=places)
    parts |= {split: _read_folder(folder, image_size, is_gray) for split, folder in folders.items()}
    check_different({split: part.images for split, part in parts.items()})
    if len(drawn) > 1:
        parts |= {split: parts["train"].take(numbers) for split, numbers in drawn.items()}
    splits = {split: part.images for split, part in parts.items()}
    labels, num_classes = _numbered(path, {split: part.labels for split, part in parts.items()})
    if levels < 256:
        splits = {split: _fewer_levels(path, images, levels) for split, images in splits.items()}
    return Dataset.from_arrays(
        os.path.basename(os.path.abspath(os.path.expanduser(path))),
        splits,
        levels,
        labels=labels,
        num_classes=num_classes,
        flip=flip,
        crop_padding=crop_padding,
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
    return places | (_split_folders(root, places) if root.is_dir() else {})


def _split_folders(root, places):
    """The folders in a folder that are splits, if any; the splits in `places` have another folder."""
    folders = subfolders(root)
    splits = [(_SPLITS.get(folder.name.lower()), folder) for folder in folders]
    found = {split: folder for split, folder in splits if split}
    if not found:
        return {}
    twice = len(found) < len(splits) or any(split in places for split in found if split != "train")
    if "train" not in found or twice:
        raise ValueError(
            f"{root} has the folders {', '.join(folder.name for folder in folders)}. Expected train, and perhaps "
            "test and validation, with images or classes in them, and no other; or classes alone, of other names. "
            f"Or set path, path_test and path_validation, such as path={root / folders[0].name}."
        )
    if missing := [split for split in ("test", "validation") if split not in found | places]:
        logging.warning("%s has no %s split: drawn from %s.", root, " and no ".join(missing), found["train"])
    return found


def _check_sizes(folders, image_size):
    """Raises ValueError unless all images are of one size, or can be shrunk to `image_size`."""
    sizes = [(header.size, file) for f in folders for header, file in zip(f.headers, f.files, strict=True)]
    if image_size:
        small = [named for named in sizes if min(named[0]) < image_size]
        if small:
            raise ValueError(
                f"{len(small)} of {len(sizes)} images are smaller than image_size = {image_size}, such as "
                f"{_sized(small[0])}. Lower image_size, or remove them."
            )
        return
    firsts: dict[tuple[int, int], tuple] = {}
    for named in sizes:
        firsts.setdefault(named[0], named)
    if len(firsts) > 1:
        one, other, *_ = firsts.values()
        raise ValueError(
            f"The images are of {len(firsts)} sizes, such as {_sized(one)} and {_sized(other)}. Set image_size "
            f"(--config.data.image_size=N, N up to {min(map(min, firsts))}): the square in the center of each "
            "image is then shrunk to N x N."
        )


def _sized(named):
    (width, height), file = named
    return f"{file} ({width} x {height})"


def _read_folder(folder, image_size, is_gray):
    _check_memory(folder.path, folder.shape(image_size, is_gray))
    folder.warn_of_changes(is_gray)
    return _Images(folder.read(image_size, is_gray), folder.classes)


def _check_memory(path, shape):
    size = np.prod(shape, dtype=np.float64)
    if size > _MEMORY:
        raise ValueError(
            f"{path}: {shape[0]:,} images of {shape[1]} x {shape[2]} x {shape[3]} are {size / 2**30:.1f} GB, and "
            f"{_MEMORY / 2**30:.0f} GB can be held in memory. Give fewer, or a smaller image_size; or store them "
            "by tfds.dataset_builders.store_as_tfds_dataset, as a data set that is streamed."
        )


def _read_numpy(path, key, image_size):
    """The images, and labels, of a .npy or .npz file."""
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
        first = len(shape) == 4 and shape[1] in (1, 3)
        hint = " Save images.transpose(0, 2, 3, 1)." if first else ""
        raise ValueError(
            f"{path}: expected images [num, height, width, channels] of 1 or 3 channels, or [num, height, width], "
            f"but the shape is {shape}.{hint}"
        )
    if image_size and min(shape[1:3]) < image_size:
        raise ValueError(f"{path}: the images are {shape[1]} x {shape[2]}, smaller than image_size = {image_size}.")
    _check_memory(path, (len(images), *((image_size, image_size) if image_size else shape[1:3]), images.shape[3]))
    if image_size and shape[1:3] != [image_size, image_size]:
        images = np.stack([fitted(image, image_size) for image in images])
    return _Images(np.asarray(images), _checked_labels(path, aside.get("labels"), len(images)))


def _checked_labels(path, labels, num):
    if labels is None:
        return None
    labels = labels.reshape(-1) if labels.shape == (num, 1) else labels
    if labels.shape != (num,) or labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= num:
        raise ValueError(
            f"{path}: expected as labels {num} integers 0, 1, ..., one for each image and all below {num}, but "
            f"found {labels.dtype} of the shape {list(labels.shape)}."
        )
    return labels


def _numbered(path, labels):
    """The labels of all splits as integers, and the number of classes; None twice if there are no two classes."""
    bare = [split for split, values in labels.items() if values is None]
    if bare:
        if len(bare) < len(labels):
            logging.warning(
                "%s: the %s split has no labels, so the labels of the others are left out.", path, bare[0]
            )
        return None, None
    if len({values.dtype.kind == "U" for values in labels.values()}) > 1:
        raise ValueError(f"{path}: the classes are folders in one split, and numbers in another.")
    classes = sorted({name for values in labels.values() for name in np.unique(values).tolist()})
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
