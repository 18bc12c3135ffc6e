"""Reads the images, and labels, of a prepared TensorFlow data set."""

__all__ = ["TFDSReader"]

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tf_resflow.data.splits import split_sizes
from tf_resflow.extras import extra

_SHUFFLE_BYTES = 2**28  # of encoded examples that a stream shuffles at a time
_CYCLE = 16  # files that a shuffled stream reads in turn


class TFDSReader:
    """The uint8 images of a TFDS builder: a split at once, or as a stream.

    Args:
      builder: a prepared `tfds.core.DatasetBuilder`.
      levels: values of a pixel, a power of two: v becomes floor(v levels / 256).
      image_size: height and width, if the builder leaves them open. Images of a multiple of this size are shrunk:
        each pixel becomes the rounded mean of those that it covers. None: as they are.

    Attributes:
      event_shape: `(height, width, channels)`.
      num_classes: number of classes of the labels, None without labels.

    Raises:
      ValueError: if there are no uint8 images, or `image_size` does not fit them.
    """

    def __init__(self, builder: Any, levels: int = 256, image_size: int | None = None) -> None:
        with extra("data"):
            import tensorflow_datasets as tfds

        self._builder = builder
        self._divisor = 256 // levels
        self._image = _feature_key(builder, tfds.features.Image, "image")
        self._label = _feature_key(builder, tfds.features.ClassLabel, "label")
        if self._image is None:
            raise ValueError(
                f"The data set {builder.name!r} has no image; its features are {sorted(builder.info.features)}."
            )
        keys = [key for key in (self._image, self._label) if key]
        self._decoders = tfds.decode.PartialDecoding(dict.fromkeys(keys, True))
        self._features = self._decoders.extract_features(builder.info.features)
        self._read_config = tfds.ReadConfig(try_autocache=False, options=tf.data.Options())
        self._read_config.options.autotune.enabled = False  # see tf_resflow.data.dataset
        self._shape = self._features[self._image].shape
        self.event_shape = self._event_shape(image_size)
        self.num_classes = self._features[self._label].num_classes if self._label else None

    def num_examples(self, split: str) -> int:
        """Returns the number of examples of a split, such as `"train[:90%]"`.

        Raises:
          ValueError: if there are none.
        """
        splits = self._builder.info.splits
        try:
            size = splits[split].num_examples
        except (KeyError, ValueError):
            size = None
        if not size:
            raise ValueError(
                f"The data set {self._builder.name!r} has no examples in a split {split!r}; its splits "
                f"are {sorted(splits)}. Set split_train, split_validation or split_test."
            )
        return size

    def split_off(self, split: str, fraction: float) -> tuple[str, str]:
        """Divides a split, such as `"train[:50000]"`, in two TFDS splits.

        The second part holds a fraction of the examples, the last ones. It is "" if the fraction is 0.

        Raises:
          ValueError: if the fraction is not in [0, 1), or a part is empty.
        """
        with extra("data"):
            import tensorflow_datasets as tfds

        infos = self._builder.info.splits
        num = self.num_examples(split)
        left = split_sizes(num, {"validation": fraction}, f"{self._builder.name} ({split})")["train"]
        if left == num:
            return split, ""
        kept, held_back = [], []
        for piece in tfds.core.ReadInstruction.from_spec(split).to_absolute(infos):
            start, stop = piece.from_ or 0, infos[piece.splitname].num_examples if piece.to is None else piece.to
            middle = min(start + left, stop)
            left -= middle - start
            kept += [f"{piece.splitname}[{start}:{middle}]"] if start < middle else []
            held_back += [f"{piece.splitname}[{middle}:{stop}]"] if middle < stop else []
        return "+".join(kept), "+".join(held_back)

    def check_disjoint(self, splits: Mapping[str, str]) -> None:
        """Raises ValueError if the splits, TFDS names by our names, have an example twice, in one or in two."""
        files: dict[str, list] = {}
        for ours, theirs in splits.items():
            for part in self._builder.info.splits[theirs].file_instructions:
                stop = part.skip + part.take
                for other, first, last in files.setdefault(part.filename, []):
                    if part.skip < last and first < stop:
                        both = f"s {other!r} ({splits[other]}) and {ours!r} ({theirs})"
                        which = f" {ours!r} ({theirs})" if other == ours else both
                        raise ValueError(
                            f"The split{which} of {self._builder.name!r} would count examples twice. Set "
                            "split_train, split_validation and split_test to parts without overlap."
                        )
                files[part.filename].append((ours, part.skip, stop))

    def read(self, split: str) -> np.ndarray | tuple[np.ndarray, ...]:
        """Returns the images of a split, or a pair of its images and labels if it has some."""
        size, rows = self.num_examples(split), 256
        specs = [(self.event_shape, np.uint8), ((), np.int32)]
        arrays = [np.empty((size, *shape), dtype) for shape, dtype in specs]
        examples = self._builder.as_dataset(
            split=split,
            shuffle_files=False,
            decoders=self._decoders,
            read_config=self._read_config,
        )
        batches = examples.map(self._example, tf.data.AUTOTUNE).batch(rows).as_numpy_iterator()
        for start, batch in zip(range(0, size, rows), batches, strict=True):
            for array, values in zip(arrays, batch, strict=False):
                array[start : start + rows] = values
        return arrays[0] if self.num_classes is None else tuple(arrays)

    def stream(self, split: str, seed: tf.Tensor | None = None, skip: int | tf.Tensor = 0) -> tf.data.Dataset:
        """Returns the examples of a split, one after the other, read from its files, and encoded.

        Args:
          split: name in TFDS.
          seed: integer tensor of shape `[2]`, or None for the split's own order. The order is a pure function of
            the seed: the files are read in a random order, several in turn, and their examples are shuffled in
            blocks of 256 MB.
          skip: number of examples to skip at the beginning.

        Returns:
          A `tf.data.Dataset` of strings, which `decode` takes.
        """
        parts = self._builder.info.splits[split].file_instructions
        names = tf.constant([str(part.filename) for part in parts])
        skips, takes = (tf.constant([getattr(part, name) for part in parts], tf.int64) for name in ("skip", "take"))

        def records(i):
            return tf.data.TFRecordDataset(names[i]).skip(skips[i]).take(takes[i])

        if seed is None:
            encoded = tf.data.Dataset.range(len(parts)).flat_map(records)
        else:
            encoded = self._shuffled(records, len(parts), seed)
        return encoded.skip(skip)

    def decode(self, encoded: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """The tuple `(image,)`, or `(image, label)`, of an element of a `stream`."""
        return self._example(self._features.deserialize_example(encoded))

    def check_streamable(self) -> None:
        """Raises ValueError if the data set is not stored as TFRecord files, which `stream` reads."""
        file_format = self._builder.info.file_format
        value = file_format.value if file_format else None
        if value != "tfrecord":
            raise ValueError(
                f"The data set {self._builder.name!r} is too large for the memory, and streams need it as "
                f"tfrecord, but it is stored as {value}. Prepare it again with tfds build --file_format=tfrecord."
            )

    def _shuffled(self, records, num_files, seed):
        fold_in = tf.random.experimental.stateless_fold_in
        shuffle = tf.random.experimental.stateless_shuffle
        order = shuffle(tf.range(num_files, dtype=tf.int64), fold_in(seed, 0))
        infos = self._builder.info.splits.values()
        mean_bytes = sum(s.num_bytes for s in infos) / sum(s.num_examples for s in infos)
        block_size = max(1, int(_SHUFFLE_BYTES / max(mean_bytes, 1)))

        def shuffled(number, block):
            return shuffle(block, fold_in(seed, number + 1))

        files = tf.data.Dataset.from_tensor_slices(order)
        encoded = files.interleave(records, _CYCLE, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return encoded.batch(block_size).enumerate().map(shuffled).prefetch(1).unbatch()

    def _example(self, features):
        image = features[self._image]
        if None in self._shape:
            message = f"Set image_size to the size of the images of {self._builder.name!r}."
            check = tf.debugging.assert_equal(tf.shape(image), self.event_shape, message)
            with tf.control_dependencies([check]):
                image = tf.ensure_shape(tf.identity(image), self.event_shape)
        elif self._shape != self.event_shape:
            image = tf.image.resize(image, self.event_shape[:2], "area")
            image = tf.cast(tf.round(image), tf.uint8)
        image //= tf.constant(self._divisor, tf.uint8)
        if self.num_classes is None:
            return (image,)
        return image, tf.cast(features[self._label], tf.int32)

    def _event_shape(self, image_size):
        name, shape = self._builder.name, self._shape
        dtype = np.dtype(self._features[self._image].np_dtype)
        if dtype != np.uint8 or shape[2] is None:
            raise ValueError(f"The images of {name!r} must be uint8, but are {dtype} of shape {shape}.")
        if image_size:
            if any(side is not None and side % image_size for side in shape[:2]):
                raise ValueError(
                    f"image_size = {image_size} must divide the size of the images of {name!r}, "
                    f"{shape[0]} x {shape[1]}."
                )
            return (image_size, image_size, shape[2])
        if None in shape:
            raise ValueError(
                f"The data set {name!r} leaves the size of its images open ({shape}). If all have one size, set "
                "image_size to it; otherwise choose a data set of one size, such as imagenet_resized/32x32."
            )
        return tuple(shape)


def _feature_key(builder, kind, preferred):
    """The name of a feature of a kind: the preferred one, or the first."""
    keys = [k for k, feature in builder.info.features.items() if isinstance(feature, kind)]
    return preferred if preferred in keys else next(iter(keys), None)
