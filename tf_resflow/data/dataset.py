"""Data sets: named splits of examples, and reproducible batches of them."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_resflow.data.data_info import DataInfo

_ROWS = 1024  # batch size of passes over a whole split


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset(DataInfo):
    """Examples of one event shape, split into "train", "test" and, optionally, "validation".

    Images are uint8 with the integer values 0, ..., levels - 1; vectors are float32 and `levels` is None.
    `from_arrays` makes a data set from arrays. Other data sets set `read`, which returns a whole split; `stream`
    and `decode`, which yield the examples one by one; or `draw`, which generates the train examples.

    ```python
    import numpy as np
    import tf_resflow as resflow
    dataset = resflow.data.Dataset.from_arrays("demo", {"train": np.zeros([100, 2], "float32")})
    batches = dataset.train_batches(batch_size=32, seed=0)
    print(next(iter(batches)).shape)
    # (32, 2)
    ```

    Attributes:
      name: Name of the data set.
      event_shape: Shape of one example, `(height, width, channels)` or `(size,)`.
      levels: Number of values of integer data; None for continuous data.
      sizes: Number of examples of each finite split, by name.
      read: `read(split)` returns all examples of a split, or a pair of these and their int32 labels. It is called
        for each pass over the data, so a slow function should be cached.
      draw: `draw(num, seed) -> [num, *event_shape]` generates train data; the seed is a sequence of integers.
      stream: `stream(split, seed, skip) -> tf.data.Dataset` of encoded examples, without the first `skip` examples.
        Their order is a pure function of the seed, an int64 tensor of shape `[2]`. With the seed None, it is the
        order of the split.
      decode: Maps an element of the stream, or of the tensor that `read` returns, to a tuple `(example,)`, or
        `(example, label)` with `num_classes`. It is called only for the examples that are needed.
      flip: Whether the train stream mirrors each image left to right with probability 1/2.
      crop_padding: Number of pixels of reflection padding on each side in the train stream. Each padded image is
        cropped to its original size at a uniform position.
      num_classes: Number of classes, with the labels 0, ..., num_classes - 1; None for data without labels.
      mean: Mean of the train split per coordinate (per channel for images), if known.
      std: Standard deviation of the train split, like `mean`, if known.
      entropy: Differential entropy of the data distribution in nats, if known.
      files: Paths of the examples of each split that is a folder of images.
    """

    sizes: Mapping[str, int] = dataclasses.field()  # required, unlike in `DataInfo`
    _: dataclasses.KW_ONLY
    read: Callable[[str], Any] | None = None
    draw: Callable[[int, tuple[int, ...]], np.ndarray] | None = None
    stream: Callable[..., tf.data.Dataset] | None = None
    decode: Callable[..., Any] | None = None
    flip: bool = False
    crop_padding: int = 0
    entropy: float | None = None
    files: Mapping[str, Sequence[str]] | None = None

    def __post_init__(self):
        largest = min(self.event_shape[:2]) - 1 if len(self.event_shape) == 3 else 0
        if (self.flip and len(self.event_shape) != 3) or not 0 <= self.crop_padding <= largest:
            raise ValueError(
                f"flip = {self.flip} and crop_padding = {self.crop_padding} are invalid for examples of shape "
                f"{self.event_shape}. Both need images, and crop_padding must be less than their height and width."
            )

    @classmethod
    def from_arrays(
        cls,
        name: str,
        splits: Mapping[str, np.ndarray],
        levels: int | None = None,
        *,
        labels: Mapping[str, np.ndarray] | None = None,
        **fields: Any,
    ) -> "Dataset":
        """Makes a data set from arrays.

        Args:
          name: Name of the data set.
          splits: Dict of split name to array `[num, *event_shape]`.
          levels: Number of values of integer data, at most 256; None for continuous data.
          labels: Dict of split name to integers `[num]`. Requires `num_classes`.
          **fields: Other attributes.

        Raises:
          ValueError: If a value is not in 0, ..., levels - 1, or not finite, or event shapes differ.
        """
        if levels is not None and not 2 <= levels <= 256:
            raise ValueError(f"levels = {levels} must be in 2, ..., 256.")
        arrays = {split: _checked(f"{name} ({split})", array, levels) for split, array in splits.items()}
        shapes = {split: array.shape[1:] for split, array in arrays.items()}
        if len(set(shapes.values())) != 1:
            raise ValueError(f"The splits of {name!r} have different event shapes: {shapes}. Use the same for all.")
        sizes = {split: len(array) for split, array in arrays.items()}
        with tf.device("CPU"):
            examples: dict[str, Any] = {split: tf.constant(array) for split, array in arrays.items()}
            for split, array in (labels or {}).items():
                values = _checked(f"{name} ({split}, labels)", array, fields["num_classes"], sizes[split])
                examples[split] = examples[split], tf.constant(values, tf.int32)
        return cls(name, next(iter(shapes.values())), levels, sizes, read=examples.__getitem__, **fields)

    @tf.autograph.experimental.do_not_convert
    def train_batches(
        self,
        batch_size: int,
        seed: int,
        start_step: int = 0,
        *,
        labels: bool = False,
        share: tuple[int, int] = (0, 1),
    ) -> tf.data.Dataset:
        """Returns an endless stream of train batches. Each batch is a pure function of the seed and the step.

        A finite split is reshuffled in each epoch, and its incomplete last batch is dropped.

        Args:
          batch_size: Number of examples in a batch.
          seed: Integer.
          start_step: Step of the first batch.
          labels: Whether to also return the labels. This does not change the examples.
          share: `(index, num)`, to return only part `index` of `num` equal parts of each batch.

        Returns:
          A `tf.data.Dataset` of tensors `[batch_size / num, *event_shape]`. With `labels`, each is paired with
          int32 labels `[batch_size / num]`.

        Raises:
          ValueError: If batch_size exceeds the train split or is not a multiple of num, or there are no labels.
        """
        self._check_labels(labels)
        if batch_size % share[1]:
            raise ValueError(f"batch_size = {batch_size} must be a multiple of the number of shares, {share[1]}.")
        if self.draw is not None:
            return _finish(self._drawn_batches(self.draw, batch_size, seed, start_step, share))
        size = self._size("train")
        steps = size // batch_size
        if not steps:
            raise ValueError(
                f"batch_size {batch_size} exceeds the {size} train examples: set --config.train.batch_size={size}."
            )
        first_epoch, first_step = divmod(start_step, steps)
        decoded = self._decoder("train")

        def epoch_batches(epoch):
            step = tf.where(epoch == first_epoch, tf.constant(first_step, tf.int64), 0)
            if self.stream is None:
                order = tf.random.experimental.stateless_shuffle(tf.range(size), tf.stack([seed, epoch]))
                order = tf.reshape(order[: steps * batch_size], [steps, batch_size])
                encoded = tf.data.Dataset.from_tensor_slices(order).skip(step)
            else:
                encoded = self.stream("train", tf.stack([seed, epoch]), step * batch_size)
                encoded = encoded.batch(batch_size, drop_remainder=True)
            return tf.data.Dataset.zip((tf.data.Dataset.range(epoch * steps + step, (epoch + 1) * steps), encoded))

        def batch(step, encoded):
            x, *rest = decoded(_part(encoded, share))
            return _chosen((self._augmented(x, tf.stack([seed, step]), share), *rest), labels)

        batches = tf.data.Dataset.counter(first_epoch).flat_map(epoch_batches)
        return _finish(batches.map(batch, num_parallel_calls=tf.data.AUTOTUNE))

    @tf.autograph.experimental.do_not_convert
    def eval_batches(
        self, split: str, batch_size: int, limit: int | None = None, *, labels: bool = False
    ) -> tf.data.Dataset:
        """Returns the batches of a split in its own order; the last batch may be smaller.

        Args:
          split: Name of the split.
          batch_size: Number of examples in a batch.
          limit: Return only the first `limit` examples.
          labels: Whether to also return the labels.

        Returns:
          A `tf.data.Dataset` of tensors or pairs, as in `train_batches`.
        """
        self._check_labels(labels)
        size = self._size(split)
        size = size if limit is None else min(size, limit)
        encoded = tf.data.Dataset.range(size) if self.stream is None else self.stream(split, None, 0).take(size)
        decoded = self._decoder(split)
        batches = encoded.batch(batch_size).map(decoded, num_parallel_calls=tf.data.AUTOTUNE)
        return _finish(batches.map(lambda *examples: _chosen(examples, labels)))

    def array(self, split: str, limit: int | None = None) -> np.ndarray:
        """Returns the examples of a finite split, or its first `limit` examples, as a NumPy array."""
        return np.concatenate(list(self.eval_batches(split, _ROWS, limit).as_numpy_iterator()))

    def with_channel_statistics(self) -> "Dataset":
        """Returns a copy with the `mean` and `std` of each channel of the dequantized train images."""
        num = 0
        total = np.zeros([])
        total_of_squares = np.zeros([])
        for batch in self.eval_batches("train", _ROWS).as_numpy_iterator():
            values = batch.reshape(-1, batch.shape[-1]).astype(np.float64)
            num += len(values)
            total = total + values.sum(0)
            total_of_squares = total_of_squares + (values**2).sum(0)
        mean = total / num
        variance = total_of_squares / num - mean**2
        if self.levels is not None:
            mean = (mean + 0.5) / self.levels
            variance = (variance + 1 / 12) / self.levels**2
        return dataclasses.replace(self, mean=mean, std=np.sqrt(variance))

    def _check_labels(self, labels):
        if labels and self.num_classes is None:
            raise ValueError(f"The data set {self.name!r} has no labels. Use one with labels, or set labels=False.")

    def _size(self, split):
        if split not in self.sizes:
            raise ValueError(f"{self.name!r} has no finite split {split!r}. Choose one of {sorted(self.sizes)}.")
        return self.sizes[split]

    @property
    def _dtype(self):
        return tf.float32 if self.levels is None else tf.uint8

    def _decoder(self, split):
        """Returns a function from a batch of a stream, or of indices of examples in memory, to a tuple."""
        signature: tuple[tf.TensorSpec, ...] = (tf.TensorSpec(self.event_shape, self._dtype),)
        if self.num_classes is not None:
            signature += (tf.TensorSpec([], tf.int32),)
        arrays = []
        if self.read is not None:
            with tf.device("CPU"):
                arrays = [tf.convert_to_tensor(array) for array in tf.nest.flatten(self.read(split))]

        def decoded(batch):
            examples = tuple(tf.gather(array, batch) for array in arrays) or (batch,)
            return tf.map_fn(self.decode, *examples, fn_output_signature=signature) if self.decode else examples

        return decoded

    def _drawn_batches(self, draw, batch_size, seed, start_step, share):
        def draw_step(step):
            return _part(draw(batch_size, (seed, int(step))), share).astype(self._dtype.as_numpy_dtype)

        def batch(step):
            x = tf.numpy_function(draw_step, [step], self._dtype, stateful=False)
            return tf.ensure_shape(x, (batch_size // share[1], *self.event_shape))

        return tf.data.Dataset.counter(start_step).map(batch)

    def _augmented(self, x, seed, share):
        if self.crop_padding:
            x = _cropped(x, self.crop_padding, tf.random.experimental.stateless_fold_in(seed, 2), share)
        if self.flip:
            mirror_seed = tf.random.experimental.stateless_fold_in(seed, 1)
            mirror = tf.random.stateless_uniform([share[1] * x.shape[0], 1, 1, 1], mirror_seed) < 0.5
            x = tf.where(_part(mirror, share), x[:, :, ::-1], x)
        return x


def _cropped(images, padding, seed, share):
    """Pads images on all sides by reflection, and crops each to its size at a uniform position."""
    shape = [2, share[1] * images.shape[0], 1]
    shifts = tf.random.stateless_uniform(shape, seed, -padding, padding + 1, dtype=tf.int32)
    for axis, shift in zip((1, 2), tf.unstack(shifts), strict=True):
        last = images.shape[axis] - 1
        index = tf.range(last + 1) + _part(shift, share)
        reflected = last - tf.abs(last - tf.abs(index))
        images = tf.gather(images, reflected, axis=axis, batch_dims=1)
    return images


def _part(whole, share):
    """Returns part `index` of `num` equal, consecutive parts of an array or a tensor of static batch size."""
    index, num = share
    size = whole.shape[0] // num
    return whole[index * size : (index + 1) * size]


def _chosen(examples, labels):
    return tuple(examples) if labels else examples[0]


def _finish(batches):
    options = tf.data.Options()
    options.deterministic = True
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    # With autotuning, the end of an iterator waits for the tuning thread, which sleeps for up to a minute.
    options.autotune.enabled = False
    return batches.with_options(options).prefetch(2)


def _checked(name, array, num_values, num=None):
    """Returns an array as floats, or as integers below `num_values`. Raises ValueError for other values."""
    array = np.asarray(array)
    if not len(array) or len(array) != (num or len(array)):
        raise ValueError(f"{name} has {len(array)} rows; expected {num or 'at least 1'}.")
    if array.dtype == np.uint8 and num_values == 256:
        return array
    if num_values is None:
        array = array.astype(np.float32)
        bad = ~np.isfinite(array)
        expected = "finite in float32"
    else:
        bad = (array < 0) | (array >= num_values) | (array != np.floor(array))
        expected = f"one of the integers 0, ..., {num_values - 1}"
    if bad.any():
        index = [int(i) for i in np.unravel_index(np.argmax(bad), bad.shape)]
        raise ValueError(f"{name}: the value {array[tuple(index)]} at {index} is not {expected}.")
    return array if num_values is None else array.astype(np.uint8 if num_values <= 256 else np.int32)


def check_power_of_two(levels: int) -> None:
    """Raises ValueError unless `levels` is a power of two in 2, ..., 256."""
    if levels not in [2**bits for bits in range(1, 9)]:
        raise ValueError(f"levels = {levels} must be a power of two in 2, ..., 256.")
