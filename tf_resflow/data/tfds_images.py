"""Loads images from TensorFlow Datasets, as whole splits in memory or as streams."""

import functools
import itertools
import os
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from tf_resflow._internal.extras import LazyPackage
from tf_resflow.data.dataset import Dataset, check_power_of_two
from tf_resflow.data.splits import split_sizes

tfds: Any = LazyPackage("tensorflow_datasets", "data")

_CYCLE = 16  # number of files that a shuffled stream interleaves


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
    memory_limit: int = 2 * 2**30,
) -> Dataset:
    """Loads the images of a TensorFlow data set as uint8, with their labels if there are any.

    The files must have the format tfrecord. A data set of up to 2 GB is kept in memory, encoded. A larger data set
    is streamed from its files. With fewer levels, the low bits are dropped: v becomes floor(v levels / 256), as in
    the 5-bit experiments (`levels=32`).

    Args:
      name: Name in TensorFlow Datasets, `"mnist"` or `"name/config:version"`.
      data_dir: Directory of prepared data sets; None or "" for TFDS's default.
      levels: Number of values of a pixel, a power of two in 2, ..., 256.
      split_train: TFDS split that becomes "train", such as `"train[:55000]"`.
      split_test: TFDS split that becomes "test".
      split_validation: TFDS split that becomes "validation". By default, TFDS's validation split if there is one
        and the other two do not use it, otherwise the last part of `split_train`.
      download: Whether to download and prepare a missing data set.
      flip: See `Dataset`, also for `crop_padding`.
      image_size: Height and width of the examples. Images of a multiple of this size are shrunk by averaging.
        Required if the data set does not specify the size of its images (downsampled_imagenet).
      validation_fraction: Fraction of `split_train` held out if there is no validation split; 0 for none.
      memory_limit: Largest size in bytes, of all decoded images, of a data set that is kept in memory.

    Returns:
      A `Dataset` of event shape `(height, width, channels)`.

    Raises:
      ValueError: If the data set or a split is missing, splits overlap, the images are not uint8 or have no known
        size, or levels is not a power of two in 2, ..., 256.
    """
    check_power_of_two(levels)
    builder = _prepared_builder(name, data_dir or None, download)
    reader = TFDSReader(builder, levels, image_size or None)
    if not split_validation:
        if "validation" in builder.info.splits and "validation" not in split_train + split_test:
            split_validation = "validation"
        else:
            split_train, split_validation = reader.split_off(split_train, validation_fraction)
    splits = {"train": split_train, "validation": split_validation, "test": split_test}
    splits = {ours: theirs for ours, theirs in splits.items() if theirs}
    sizes = {ours: builder.info.splits[theirs].num_examples for ours, theirs in splits.items()}
    reader.check_disjoint(*splits.values())
    fields: dict[str, Any] = {"num_classes": reader.num_classes, "flip": flip, "crop_padding": crop_padding}
    if sum(sizes.values()) * np.prod(reader.event_shape) <= memory_limit:
        fields["read"] = functools.cache(lambda split: reader.read(splits[split]))
    else:
        fields["stream"] = lambda split, *options: reader.stream(splits[split], *options)
    return Dataset(name, reader.event_shape, levels, sizes, decode=reader.decode, **fields)


def _prepared_builder(name, data_dir, download):
    builder = tfds.builder(name, data_dir=data_dir)
    if not builder.is_prepared():
        if not download:
            directory = pathlib.Path(os.path.expanduser(data_dir or tfds.core.constants.DATA_DIR))
            raise ValueError(
                f"The data set {name!r} is missing: there is no {builder.data_dir}.\nPrepare it with\n"
                f"    tfds build {name} --data_dir={directory}\nor run resflow-train with "
                "--config.data.download=True. If it is in another directory, set --config.data.data_dir=DIR for "
                "resflow-train, or --data_dir=DIR for the other commands."
            )
        builder.download_and_prepare()
    if builder.info.file_format != tfds.core.FileFormat.TFRECORD:
        raise ValueError(
            f"The files of {name!r} have the format {builder.info.file_format.value}, but only tfrecord is read. "
            "Prepare them again with tfds build --file_format=tfrecord."
        )
    return builder


class TFDSReader:
    """Reads the uint8 images of a prepared TFDS builder, whole splits or streams; see `load_tfds_images`."""

    def __init__(
        self, builder: Any, levels: int = 256, image_size: int | None = None, *, shuffled_bytes: float = 2**28
    ) -> None:
        self._builder = builder
        self._shuffled_bytes = shuffled_bytes
        self._divisor = 256 // levels
        self._image = _feature_key(builder, tfds.features.Image, "image")
        self._label = _feature_key(builder, tfds.features.ClassLabel, "label")
        if self._image is None:
            raise ValueError(f"{builder.name!r} has no image feature, only {sorted(builder.info.features)}.")
        keys = [key for key in (self._image, self._label) if key]
        decoding = tfds.decode.PartialDecoding(dict.fromkeys(keys, True))
        self._features = decoding.extract_features(builder.info.features)
        image_feature = self._features[self._image]
        shape = image_feature.shape
        dtype = np.dtype(image_feature.np_dtype)
        if dtype != np.uint8 or shape[2] is None:
            raise ValueError(f"The images of {builder.name!r} must be uint8, but are {dtype} of shape {shape}.")
        is_divided = image_size and all(side is None or side % image_size == 0 for side in shape[:2])
        if not is_divided and (image_size or None in shape):
            raise ValueError(
                f"The images of {builder.name!r} have the shape {shape}. Set image_size to a divisor of their "
                "height and width or, if these are None, to the size that all images have."
            )
        self._shape = shape
        self.event_shape = (image_size, image_size, shape[2]) if image_size else tuple(shape)
        self.num_classes = self._features[self._label].num_classes if self._label else None

    def split_off(self, split: str, fraction: float) -> tuple[str, str]:
        """Splits off the last `fraction` of the examples. The second part is "" if `fraction` is 0."""
        num = self._builder.info.splits[split].num_examples
        left = split_sizes(num, {"validation": fraction}, f"{self._builder.name} ({split})")["train"]
        kept = []
        held_back = []
        for name, start, stop in self._slices(split):
            middle = min(start + left, stop)
            left -= middle - start
            kept += [f"{name}[{start}:{middle}]"] if start < middle else []
            held_back += [f"{name}[{middle}:{stop}]"] if middle < stop else []
        return "+".join(kept), "+".join(held_back)

    def check_disjoint(self, *splits: str) -> None:
        """Raises ValueError if an example occurs twice in some TFDS splits."""
        slices = sorted(itertools.chain.from_iterable(map(self._slices, splits)))
        for (name, _, stop), (following, start, _) in itertools.pairwise(slices):
            if name == following and start < stop:
                raise ValueError(
                    f"Some examples of {self._builder.name!r} occur twice in {', '.join(splits)}. Set split_train, "
                    "split_validation and split_test to parts without overlap."
                )

    def _slices(self, split):
        """Yields the slices of a split: the name of the TFDS split, the first example, and the last example + 1."""
        infos = self._builder.info.splits
        for piece in tfds.core.ReadInstruction.from_spec(split).to_absolute(infos):
            size = infos[piece.splitname].num_examples
            yield piece.splitname, piece.from_ or 0, size if piece.to is None else piece.to

    def read(self, split: str) -> tf.Tensor:
        """Returns the encoded examples of a split."""
        return self.stream(split).batch(self._builder.info.splits[split].num_examples).get_single_element()

    def stream(self, split: str, seed: tf.Tensor | None = None, skip: int | tf.Tensor = 0) -> tf.data.Dataset:
        """Returns the encoded examples of a split, read from one file after the other; see `Dataset.stream`.

        With a seed, files are interleaved in a random order, and the examples are shuffled in blocks of
        `shuffled_bytes` encoded bytes, 256 MB by default.
        """
        files = self._builder.info.splits[split].file_instructions
        names = tf.constant([str(file.filename) for file in files])
        skips = tf.constant([file.skip for file in files], tf.int64)
        takes = tf.constant([file.take for file in files], tf.int64)

        def records(i):
            return tf.data.TFRecordDataset(names[i]).skip(skips[i]).take(takes[i])

        if seed is None:
            return tf.data.Dataset.range(len(files)).flat_map(records).skip(skip)

        fold_in = tf.random.experimental.stateless_fold_in
        shuffle = tf.random.experimental.stateless_shuffle
        order = shuffle(tf.range(len(files), dtype=tf.int64), fold_in(seed, 0))
        infos = self._builder.info.splits.values()
        mean_bytes = sum(s.num_bytes for s in infos) / sum(s.num_examples for s in infos)
        block_size = max(1, int(self._shuffled_bytes / max(mean_bytes, 1)))

        def shuffled(number, block):
            return shuffle(block, fold_in(seed, number + 1))

        encoded = tf.data.Dataset.from_tensor_slices(order).interleave(
            records, _CYCLE, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
        return encoded.batch(block_size).enumerate().map(shuffled).prefetch(1).unbatch().skip(skip)

    def decode(self, encoded: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Returns the tuple `(image,)` or `(image, label)` of an encoded example."""
        features = self._features.deserialize_example(encoded)
        image = features[self._image]
        if None in self._shape:
            image = tf.ensure_shape(image, self.event_shape)
        elif self._shape != self.event_shape:
            image = tf.image.resize(image, self.event_shape[:2], "area")
            image = tf.cast(tf.round(image), tf.uint8)
        if self._divisor > 1:
            image //= tf.constant(self._divisor, tf.uint8)
        if self.num_classes is None:
            return (image,)
        return image, tf.cast(features[self._label], tf.int32)


def _feature_key(builder, kind, preferred):
    """Returns the name of a feature of a kind: the preferred one, otherwise the first, or None."""
    keys = [k for k, feature in builder.info.features.items() if isinstance(feature, kind)]
    return preferred if preferred in keys else next(iter(keys), None)
