"""Images from TensorFlow Datasets."""

__all__ = ["load_images"]

import os
import pathlib
import textwrap

import numpy as np

from tf_resflow.data.dataset import Dataset
from tf_resflow.data.image_reader import ImageReader
from tf_resflow.extras import extra

_MEMORY = 2 * 2**30  # bytes up to which a data set is held in memory


def load_images(
    name,
    data_dir=None,
    levels=256,
    split_train="train",
    split_test="test",
    split_validation=None,
    download=False,
    flip=False,
    crop_padding=0,
    image_size=None,
    validation_fraction=0.1,
):
    """Loads the images of a TensorFlow data set as uint8, with their labels if it has some.

    A data set of up to 2 GB is decoded once, a split when it is first needed, and kept in memory:
    a training epoch then costs a gather. A larger one is streamed from its files. For fewer levels
    the low bits are dropped, v -> floor(v levels / 256), as in the 5-bit experiments (`levels=32`).

    Args:
        name: name in TensorFlow Datasets, `"mnist"` or `"name/config:version"`.
        data_dir: directory that holds prepared data sets; None or "" for TFDS's default.
        levels: values of a pixel, a power of two in 2, ..., 256.
        split_train: TFDS split that is called "train", such as `"train[:55000]"`.
        split_test: TFDS split that is called "test".
        split_validation: TFDS split that is called "validation"; by default TFDS's own, where it
            has one that the other two leave alone, and else the last part of `split_train`.
        download: whether to download and prepare a data set that is missing.
        flip: whether the train stream mirrors images at random.
        crop_padding: pixels by which the train stream pads images, by reflection, before it crops
            them to their size at random; 0 for none.
        image_size: height and width of the examples; larger images are shrunk by averaging. It must
            be given where the data set leaves the size open (downsampled_imagenet). None: as they are.
        validation_fraction: fraction of `split_train` that is held back for validation, where there
            is no such split; 0 for none.

    Returns:
        A `Dataset` of event shape `(height, width, channels)`.

    Raises:
        ValueError: if the data set or a split is missing, a split overlaps itself or another one, it holds no uint8
            image of one size, or levels is not a power of two in 2, ..., 256.
    """
    if levels not in [2**bits for bits in range(1, 9)]:
        raise ValueError(f"levels must be a power of two in 2, ..., 256, but is {levels}.")
    builder = _prepared_builder(name, data_dir or None, download)
    reader = ImageReader(builder, levels, image_size or None)
    names = {"train": split_train, "validation": split_validation, "test": split_test}
    if not split_validation and "validation" in builder.info.splits:
        if "validation" not in split_train + split_test:
            names["validation"] = "validation"
    if not names["validation"]:
        parts = reader.split_off(split_train, validation_fraction)
        names |= dict(zip(("train", "validation"), parts, strict=False))
    splits = {ours: theirs for ours, theirs in names.items() if theirs}
    sizes = {ours: reader.num_examples(theirs) for ours, theirs in splits.items()}
    reader.check_disjoint(splits)
    if sum(sizes.values()) * np.prod(reader.event_shape) <= _MEMORY:
        source = {"read": lambda split: reader.read(splits[split])}
    else:
        reader.check_streamable()
        source = {
            "read": None,
            "stream": lambda split, seed, skip: reader.stream(splits[split], seed, skip),
        }
    augmentation = {"flip": flip, "crop_padding": crop_padding}
    return Dataset(
        name,
        reader.event_shape,
        levels,
        sizes,
        num_classes=reader.num_classes,
        **source,
        **augmentation,
    )


def _prepared_builder(name, data_dir, download):
    with extra("data"):
        import tensorflow_datasets as tfds

    directory = pathlib.Path(os.path.expanduser(data_dir or tfds.core.constants.DATA_DIR))
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        raise ValueError(
            f"TensorFlow Datasets has no data set {name!r}, and there is none of that name in "
            f"{directory}. Check the name, or set data_dir to the directory that holds it. For a folder of "
            "images set data.name = 'images' and data.path."
        ) from None
    except (AssertionError, ValueError) as error:  # An unknown version or configuration.
        raise ValueError(f"TensorFlow Datasets refuses {name!r}: {error}") from None
    if builder.is_prepared():
        return builder
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        raise ValueError(_manual_steps(name, builder, directory))
    if not download:
        raise ValueError(
            f"The data set {name!r} is missing: there is no {builder.data_dir}.\n"
            "Prepare it with\n"
            f"    tfds build {name} --data_dir={directory}\n"
            "or run resflow-train with --config.data.download=True; or name the directory that holds it, by "
            "--config.data.data_dir=DIR for resflow-train and by --data_dir=DIR for the other commands."
        )
    builder.download_and_prepare()
    return builder


def _manual_steps(name, builder, directory):
    """What to do for a data set that TFDS does not download."""
    text = textwrap.indent(textwrap.dedent(builder.MANUAL_DOWNLOAD_INSTRUCTIONS).strip(), "    ")
    return (
        f"The data set {name!r} is missing: there is no {builder.data_dir}, and TensorFlow Datasets "
        "does not download it. Get its files yourself, as it says:\n"
        f"{text}\n"
        "put them into a directory FILES, and prepare it with\n"
        f"    tfds build {name} --data_dir={directory} --manual_dir=FILES"
    )
