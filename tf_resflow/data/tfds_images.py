"""Images from TensorFlow Datasets."""

__all__ = ["load_tfds_images"]

import os
import pathlib
import textwrap

import numpy as np

from tf_resflow.data.dataset import Dataset
from tf_resflow.data.tfds_reader import TFDSReader
from tf_resflow.extras import extra

_MEMORY = 2 * 2**30  # bytes up to which a data set is held in memory


def load_tfds_images(
    name: str,
    data_dir: str | None = None,
    *,
    levels: int = 256,
    split_train: str = "train",
    split_test: str = "test",
    split_validation: str | None = None,
    download: bool = False,
    flip: bool = False,
    crop_padding: int = 0,
    image_size: int | None = None,
    validation_fraction: float = 0.1,
) -> Dataset:
    """Loads the images of a TensorFlow data set as uint8, with their labels if it has some.

    A split of a data set of up to 2 GB is decoded when it is first needed, and kept in memory: a training epoch
    then costs a gather. A larger data set is streamed from its files. For fewer levels the low bits are dropped: v
    becomes floor(v levels / 256), as in the 5-bit experiments (`levels=32`).

    Args:
      name: name in TensorFlow Datasets, `"mnist"` or `"name/config:version"`.
      data_dir: directory of prepared data sets; None or "" for TFDS's default.
      levels: values of a pixel, a power of two in 2, ..., 256.
      split_train: TFDS split that becomes "train", such as `"train[:55000]"`.
      split_test: TFDS split that becomes "test".
      split_validation: TFDS split that becomes "validation"; by default TFDS's own, if it has one that is not part
        of the other two, and else the last part of `split_train`.
      download: whether to download and prepare a missing data set.
      flip: whether the train stream mirrors images at random.
      crop_padding: pixels by which the train stream pads images, by reflection, before it crops them to their size
        at random; 0 for none.
      image_size: height and width of the examples; larger images are shrunk by averaging. It is required if the
        data set leaves the size open (downsampled_imagenet). None: as they are.
      validation_fraction: fraction of `split_train` that is held back for validation if there is no such split; 0
        for none.

    Returns:
      A `Dataset` of event shape `(height, width, channels)`.

    Raises:
      ValueError: if the data set or a split is missing, splits overlap, the images are not uint8 or not of one
        size, or levels is not a power of two in 2, ..., 256.
    """
    if levels not in [2**bits for bits in range(1, 9)]:
        raise ValueError(f"levels must be a power of two in 2, ..., 256, but is {levels}.")
    builder = _prepared_builder(name, data_dir or None, download)
    reader = TFDSReader(builder, levels, image_size or None)
    if (
        not split_validation
        and "validation" in builder.info.splits
        and "validation" not in split_train + split_test
    ):
        split_validation = "validation"
    if not split_validation:
        split_train, split_validation = reader.split_off(split_train, validation_fraction)
    splits = {"train": split_train, "validation": split_validation, "test": split_test}
    splits = {ours: theirs for ours, theirs in splits.items() if theirs}
    sizes = {ours: reader.num_examples(theirs) for ours, theirs in splits.items()}
    reader.check_disjoint(splits)
    is_streamed = sum(sizes.values()) * np.prod(reader.event_shape) > _MEMORY
    if is_streamed:
        reader.check_streamable()
    return Dataset(
        name,
        reader.event_shape,
        levels,
        sizes,
        read=None if is_streamed else lambda split: reader.read(splits[split]),
        stream=(lambda split, *options: reader.stream(splits[split], *options)) if is_streamed else None,
        decode=reader.decode if is_streamed else None,
        num_classes=reader.num_classes,
        flip=flip,
        crop_padding=crop_padding,
    )


def _prepared_builder(name, data_dir, download):
    with extra("data"):
        import tensorflow_datasets as tfds

    directory = pathlib.Path(os.path.expanduser(data_dir or tfds.core.constants.DATA_DIR))
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        raise ValueError(
            f"TensorFlow Datasets has no data set {name!r}, and neither has "
            f"{directory}. Check the name, or set data_dir to the directory that holds it. For a folder of "
            "images set data.name = 'images' and data.path."
        ) from None
    except (AssertionError, ValueError) as error:  # an unknown version or configuration
        raise ValueError(f"TensorFlow Datasets does not accept {name!r}: {error}") from None
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
    """The message about a missing data set that TFDS does not download."""
    text = textwrap.indent(textwrap.dedent(builder.MANUAL_DOWNLOAD_INSTRUCTIONS).strip(), "    ")
    return (
        f"The data set {name!r} is missing: there is no {builder.data_dir}, and TensorFlow Datasets "
        "does not download it. Get its files yourself, following its instructions:\n"
        f"{text}\n"
        "put them into a directory FILES, and prepare the data set with\n"
        f"    tfds build {name} --data_dir={directory} --manual_dir=FILES"
    )
