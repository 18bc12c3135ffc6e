"""Images from TensorFlow Datasets."""

__all__ = ["load_images"]

import os
import pathlib

import numpy as np
import tensorflow as tf

from tf_resflow.data.dataset import Dataset


def load_images(
    name,
    data_dir=None,
    levels=256,
    split_train="train",
    split_test="test",
    split_validation=None,
    download=False,
    flip=False,
):
    """Loads the images of a TensorFlow data set as uint8.

    A split is decoded once, in parallel, and kept in memory: a training epoch then costs a
    gather. For fewer levels the low bits are dropped, v -> floor(v levels / 256), as in the
    5-bit experiments (`levels=32`).

    Args:
        name: name in TensorFlow Datasets, `"mnist"` or `"name/config:version"`.
        data_dir: directory that holds prepared data sets; None or "" for TFDS's default.
        levels: values of a pixel, a power of two in 2, ..., 256.
        split_train: TFDS split that is called "train", such as `"train[:55000]"`.
        split_test: TFDS split that is called "test".
        split_validation: TFDS split that is called "validation", or None.
        download: whether to download and prepare a data set that is missing.
        flip: whether the train stream mirrors images at random.

    Returns:
        A `Dataset` of event shape `(height, width, channels)`.

    Raises:
        ValueError: if the data set or a split is missing, or holds no uint8 image of fixed
            size, or levels is not a power of two in 2, ..., 256.
    """
    if levels not in [2**bits for bits in range(1, 9)]:
        raise ValueError(f"levels must be a power of two in 2, ..., 256, but is {levels}.")
    builder = _prepared_builder(name, data_dir or None, download)
    key, shape = _image_feature(builder)
    names = {"train": split_train, "validation": split_validation, "test": split_test}
    splits = {ours: theirs for ours, theirs in names.items() if theirs}
    sizes = {ours: _num_examples(builder, theirs) for ours, theirs in splits.items()}

    def read(split):
        return _decode(builder, splits[split], sizes[split], key, shape, 256 // levels)

    return Dataset(name, shape, levels, sizes, read, flip=flip)


def _prepared_builder(name, data_dir, download):
    import tensorflow_datasets as tfds

    directory = pathlib.Path(os.path.expanduser(data_dir or tfds.core.constants.DATA_DIR))
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        raise ValueError(
            f"TensorFlow Datasets has no data set {name!r}, and there is none of that name in "
            f"{directory}. Check the name, or set data_dir to the directory that holds it."
        ) from None
    except (AssertionError, ValueError) as error:  # An unknown version or configuration.
        raise ValueError(f"TensorFlow Datasets refuses {name!r}: {error}") from None
    if builder.is_prepared():
        return builder
    if not download:
        raise ValueError(
            f"The data set {name!r} is missing: there is no {builder.data_dir}.\n"
            "Prepare it with\n"
            f"    tfds build {name} --data_dir={directory}\n"
            "or run the same command again with --config.data.download=True, or set "
            "--config.data.data_dir to the directory that holds it."
        )
    builder.download_and_prepare()
    return builder


def _image_feature(builder):
    import tensorflow_datasets as tfds

    images = {
        key: feature
        for key, feature in builder.info.features.items()
        if isinstance(feature, tfds.features.Image)
    }
    key = "image" if "image" in images else next(iter(images), None)
    if key is None:
        raise ValueError(
            f"The data set {builder.name!r} has no image; its features are "
            f"{sorted(builder.info.features)}."
        )
    shape, dtype = images[key].shape, np.dtype(images[key].np_dtype)
    if None in shape or dtype != np.uint8:
        raise ValueError(
            f"The images of {builder.name!r} must be uint8 of one size, but are {dtype} of shape "
            f"{shape}. Choose a data set of one size, such as imagenet_resized/32x32."
        )
    return key, tuple(shape)


def _num_examples(builder, split):
    try:
        size = builder.info.splits[split].num_examples
    except (KeyError, ValueError):
        size = None
    if not size:
        raise ValueError(
            f"The data set {builder.name!r} has no examples in a split {split!r}; its splits are "
            f"{sorted(builder.info.splits)}. Set split_train, split_validation or split_test."
        )
    return size


def _decode(builder, split, size, key, shape, divisor, batch_size=256):
    examples = builder.as_dataset(split=split, shuffle_files=False)
    images = np.empty((size, *shape), np.uint8)
    batches = examples.map(lambda e: e[key] // tf.constant(divisor, tf.uint8)).batch(batch_size)
    for start, batch in zip(range(0, size, batch_size), batches.as_numpy_iterator(), strict=True):
        images[start : start + batch_size] = batch
    return images
