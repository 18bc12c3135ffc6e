"""A data set: named splits of examples, served as reproducible batches."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_resflow.data.column_codes import ColumnCodes

_ROWS = 1024  # examples that `Dataset.array` takes at a time


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Examples of one event shape, split into "train", "test" and perhaps "validation".

    Images are uint8 with the integer values 0, ..., levels - 1; vectors are float32 and `levels` is None.
    `from_arrays` makes a data set of arrays. Otherwise `read` returns a whole split when it is first needed, or
    `stream` returns the examples one after the other, or `draw` generates the train examples of every step.

    ```python
    import numpy as np
    import tf_resflow as resflow
    dataset = resflow.data.Dataset.from_arrays("demo", {"train": np.zeros([100, 2], "float32")})
    batches = dataset.train_batches(batch_size=32, seed=0)
    print(next(iter(batches)).shape)
    # (32, 2)
    ```

    Attributes:
      name: name of the data set.
      event_shape: shape of one example, `(height, width, channels)` or `(size,)`.
      levels: number of values that an integer example can take, None for continuous data.
      sizes: number of examples of each finite split, by name.
      read: function of a split's name that returns all its examples: an array, or a pair of arrays, examples and
        labels or conditions.
      draw: `draw(num, seed) -> [num, *event_shape]` for generated train data; the seed is a sequence of integers.
      stream: `stream(split, seed, skip) -> tf.data.Dataset` of tuples `(example,)`, or `(example, label)` with
        `num_classes`, without the first `skip` examples. Their order is a pure function of the seed, an int64
        tensor of shape `[2]`, or the split's own if the seed is None.
      decode: function that turns an encoded element of the stream into such a tuple. It is called only for the
        examples that are needed.
      flip: whether the train stream mirrors each image left to right with probability 1/2.
      crop_padding: pixels by which the train stream pads each image on all sides, by reflection, before it crops
        the image to its size at a uniform position.
      num_classes: number of classes: labels are 0, ..., num_classes - 1; None for data without labels.
      condition_mean: mean of the train split's conditions, which are real vectors; None without conditions.
      condition_std: standard deviation of the train split's conditions.
      mean: mean of the train split per coordinate, or per channel of images, if known.
      std: standard deviation of the train split, likewise.
      entropy: differential entropy of the data distribution in nats, if known.
      columns: names of the coordinates of vectors, if known.
      condition_columns: names of the coordinates of conditions, if known.
      files: paths of the examples of each split that is a folder of images.
      codes: the `ColumnCodes` of a table; None for other data.
      condition_codes: the `ColumnCodes` of the conditions.
    """

    name: str
    event_shape: tuple[int, ...]
    levels: int | None
    sizes: Mapping[str, int]
    _: dataclasses.KW_ONLY
    read: Callable[[str], Any] | None = None
    draw: Callable[[int, tuple[int, ...]], np.ndarray] | None = None
    stream: Callable[..., tf.data.Dataset] | None = None
    decode: Callable[..., Any] | None = None
    flip: bool = False
    crop_padding: int = 0
    num_classes: int | None = None
    condition_mean: np.ndarray | None = None
    condition_std: np.ndarray | None = None
    mean: np.ndarray | None = None
    std: np.ndarray | None = None
    entropy: float | None = None
    columns: tuple[str, ...] | None = None
    condition_columns: tuple[str, ...] | None = None
    files: Mapping[str, Sequence[str]] | None = None
    codes: ColumnCodes | None = None
    condition_codes: ColumnCodes | None = None
    _tensors: dict[str, tuple[tf.Tensor, ...]] = dataclasses.field(default_factory=dict, init=False, repr=False)

    def __post_init__(self):
        largest = min(self.event_shape[:2]) - 1 if len(self.event_shape) == 3 else 0
        if (self.flip and len(self.event_shape) != 3) or not 0 <= self.crop_padding <= largest:
            raise ValueError(
                f"flip = {self.flip} and crop_padding = {self.crop_padding} do not suit examples of the shape "
                f"{self.event_shape}: only images are flipped, or padded by less than their sides."
            )

    @classmethod
    def from_arrays(
        cls,
        name: str,
        splits: Mapping[str, np.ndarray],
        levels: int | None = None,
        *,
        labels: Mapping[str, np.ndarray] | None = None,
        conditions: Mapping[str, np.ndarray] | None = None,
        **fields: Any,
    ) -> "Dataset":
        """Makes a data set of arrays.

        Args:
          name: name of the data set.
          splits: dict of split name to array `[num, *event_shape]`.
          levels: number of values of integer data, at most 256; None for continuous data.
          labels: dict of split name to integers `[num]`, together with `num_classes`.
          conditions: dict of split name to real numbers `[num, size]`, together with `condition_mean` and
            `condition_std`, instead of labels.
          **fields: other attributes.

        Raises:
          ValueError: if a value is not in 0, ..., levels - 1, or is NaN or infinite, or the splits differ in their
            event shape.
        """
        if levels is not None and not 2 <= levels <= 256:
            raise ValueError(f"levels must be in 2, ..., 256, but is {levels}.")
        arrays = {split: _checked(f"{name} ({split})", array, levels) for split, array in splits.items()}
        shapes = {split: array.shape[1:] for split, array in arrays.items()}
        if len(set(shapes.values())) != 1:
            raise ValueError(f"The splits of {name!r} differ in their event shapes: {shapes}. Make them alike.")
        parts: dict[str, Any] = dict(arrays)
        beside, num_values = (conditions, None) if labels is None else (labels, fields["num_classes"])
        if beside is not None:
            for split, array in arrays.items():
                values = _checked(f"{name} ({split}, labels or conditions)", beside[split], num_values, len(array))
                parts[split] = array, values
        sizes = {split: len(array) for split, array in arrays.items()}
        return cls(name, next(iter(shapes.values())), levels, sizes, read=parts.__getitem__, **fields)

    def train_batches(
        self,
        batch_size: int,
        seed: int,
        start_step: int = 0,
        *,
        labels: bool = False,
        share: tuple[int, int] = (0, 1),
    ) -> tf.data.Dataset:
        """Returns the endless train stream; its batch is a pure function of (seed, step).

        A finite split is shuffled anew in each epoch, and its last incomplete batch is dropped.

        Args:
          batch_size: examples in a batch.
          seed: integer.
          start_step: step whose batch comes first.
          labels: whether to return the labels or conditions, too. This does not change the examples.
          share: `(index, num)`: return only part `index` of `num` equal parts of each batch.

        Returns:
          A `tf.data.Dataset` of tensors `[batch_size / num, *event_shape]`; with labels, of pairs of them and int32
          `[batch_size / num]`, or float32 conditions `[batch_size / num, size]`.

        Raises:
          ValueError: if batch_size is larger than the train split, or there are no labels.
        """
        self._check_labels(labels)
        if batch_size % share[1]:
            raise ValueError(f"batch_size = {batch_size} must be a multiple of the {share[1]} shares.")
        if self.draw is not None:
            return _finish(self._drawn_batches(self.draw, batch_size, seed, start_step, share))
        size = self._size("train")
        steps = size // batch_size
        if not steps:
            raise ValueError(
                f"batch_size {batch_size} exceeds the {size} train examples: set --config.train.batch_size={size}."
            )
        epoch, step = divmod(start_step, steps)
        if self.stream is None:
            batches = _shuffled_batches(self._read_once("train"), batch_size, seed, epoch, step, steps, share)
        else:
            batches = self._streamed_batches(self.stream, batch_size, seed, epoch, step, steps, share)

        def batch(step, examples):
            x, *rest = examples
            return _chosen((self._augmented(x, tf.stack([seed, step]), share), *rest), labels)

        return _finish(batches.map(batch, num_parallel_calls=tf.data.AUTOTUNE))

    def eval_batches(
        self, split: str, batch_size: int, limit: int | None = None, *, labels: bool = False
    ) -> tf.data.Dataset:
        """Returns a split in its own order; the last batch may be smaller.

        Args:
          split: name of the split.
          batch_size: examples in a batch.
          limit: take the first `limit` examples only.
          labels: whether to return the labels or conditions, too.

        Returns:
          A `tf.data.Dataset` of tensors or pairs, like `train_batches`.
        """
        self._check_labels(labels)
        size = self._size(split)
        size = size if limit is None else min(size, limit)
        if self.stream is not None:
            batches = self._decoded(self.stream(split, None, 0).take(size)).batch(batch_size)
        else:
            tensors = self._read_once(split)
            starts = tf.data.Dataset.range(0, size, batch_size)
            batches = starts.map(lambda i: tuple(t[i : tf.minimum(i + batch_size, size)] for t in tensors))
        return _finish(batches.map(lambda *examples: _chosen(examples, labels)))

    def array(self, split: str, limit: int | None = None) -> np.ndarray:
        """Returns the examples of a finite split, or its first `limit`, as a numpy array."""
        return np.concatenate(list(self.eval_batches(split, _ROWS, limit).as_numpy_iterator()))

    def with_channel_statistics(self) -> "Dataset":
        """Returns the data set with the mean and the std of each channel of the dequantized train images."""
        num, total, squares = 0, np.zeros([]), np.zeros([])
        for batch in self.eval_batches("train", _ROWS).as_numpy_iterator():
            values = batch.reshape(-1, batch.shape[-1]).astype(np.float64)
            num, total, squares = num + len(values), total + values.sum(0), squares + (values**2).sum(0)
        mean, variance = total / num, squares / num - (total / num) ** 2
        if self.levels is not None:
            mean, variance = (mean + 0.5) / self.levels, (variance + 1 / 12) / self.levels**2
        return dataclasses.replace(self, mean=mean, std=np.sqrt(variance))

    def _check_labels(self, labels):
        if labels and self.num_classes is None and self.condition_mean is None:
            raise ValueError(f"The data set {self.name!r} has no labels. Choose one with labels, or labels=False.")

    def _size(self, split):
        if split not in self.sizes:
            raise ValueError(f"{self.name!r} has no finite split {split!r}; it has {sorted(self.sizes)}.")
        return self.sizes[split]

    def _read_once(self, split):
        """The examples of a split, and its labels or conditions if it has some."""
        if split not in self._tensors:
            arrays = self.read(split)  # type: ignore[misc]
            if self.num_classes is not None:
                arrays = arrays[0], arrays[1].astype(np.int32)
            elif self.condition_mean is None:
                arrays = (arrays,)
            with tf.device("CPU"):
                self._tensors[split] = tuple(tf.constant(array) for array in arrays)
        return self._tensors[split]

    def _drawn_batches(self, draw, batch_size, seed, start_step, share):
        dtype = tf.float32 if self.levels is None else tf.uint8

        def draw_step(step):
            return _part(draw(batch_size, (seed, int(step))), share).astype(dtype.as_numpy_dtype)

        def batch(step):
            x = tf.numpy_function(draw_step, [step], dtype, stateful=False)
            return tf.ensure_shape(x, (batch_size // share[1], *self.event_shape))

        return tf.data.Dataset.counter(start_step).map(batch)

    def _streamed_batches(self, stream, batch_size, seed, first_epoch, first_step, steps, share):
        """Pairs of a step's number and its examples, from a stream that each epoch begins anew."""

        def of_share(*encoded):
            return tf.nest.map_structure(lambda values: _part(values, share), encoded)

        def epoch_batches(epoch):
            step = tf.where(epoch == first_epoch, tf.constant(first_step, tf.int64), 0)
            encoded = stream("train", tf.stack([seed, epoch]), step * batch_size)
            encoded = encoded.batch(batch_size, drop_remainder=True).map(of_share).unbatch()
            examples = self._decoded(encoded).batch(batch_size // share[1], drop_remainder=True)
            numbers = tf.data.Dataset.range(epoch * steps + step, (epoch + 1) * steps)
            return tf.data.Dataset.zip((numbers, examples))

        return tf.data.Dataset.counter(first_epoch).flat_map(epoch_batches)

    def _decoded(self, encoded):
        return encoded.map(self.decode, num_parallel_calls=tf.data.AUTOTUNE) if self.decode else encoded

    def _augmented(self, x, seed, share):
        if self.crop_padding:
            x = _cropped(x, self.crop_padding, tf.random.experimental.stateless_fold_in(seed, 2), share)
        if self.flip:
            mirror_seed = tf.random.experimental.stateless_fold_in(seed, 1)
            mirror = tf.random.stateless_uniform([share[1] * x.shape[0], 1, 1, 1], mirror_seed) < 0.5
            x = tf.where(_part(mirror, share), x[:, :, ::-1], x)
        return x


def _cropped(images, padding, seed, share):
    """Images padded on all sides, by reflection, and each cut to its size at a uniform position."""
    shape = [2, share[1] * images.shape[0], 1]
    shifts = tf.random.stateless_uniform(shape, seed, -padding, padding + 1, dtype=tf.int32)
    for axis, shift in zip((1, 2), tf.unstack(shifts), strict=True):
        last = images.shape[axis] - 1
        index = tf.range(last + 1) + _part(shift, share)
        reflected = last - tf.abs(last - tf.abs(index))
        images = tf.gather(images, reflected, axis=axis, batch_dims=1)
    return images


def _part(whole, share):
    """Part `index` of `num` equal parts of an array or a tensor `[batch, ...]` of static size, in their order."""
    index, num = share
    size = whole.shape[0] // num
    return whole[index * size : (index + 1) * size]


def _shuffled_batches(tensors, batch_size, seed, first_epoch, first_step, steps, share):
    """Pairs of a step's number and its examples, gathered from memory."""
    size = len(tensors[0])

    def epoch_indices(epoch):
        shuffle = tf.random.experimental.stateless_shuffle
        order = shuffle(tf.range(size), tf.stack([seed, epoch]))[: steps * batch_size]
        numbers = epoch * steps + tf.range(steps, dtype=tf.int64)
        order = tf.reshape(order, [steps, batch_size])
        return tf.data.Dataset.from_tensor_slices((numbers, order))

    def gather(step, indices):
        return step, tuple(tf.gather(tensor, _part(indices, share)) for tensor in tensors)

    indices = tf.data.Dataset.counter(first_epoch).flat_map(epoch_indices).skip(first_step)
    return indices.map(gather, num_parallel_calls=tf.data.AUTOTUNE)


def _chosen(examples, labels):
    return tuple(examples) if labels else examples[0]


def _finish(batches):
    options = tf.data.Options()
    options.deterministic = True
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    # The end of an iterator waits for the thread that tunes it, which sleeps for up to a minute.
    options.autotune.enabled = False
    return batches.with_options(options).prefetch(2)


def _checked(name, array, num_values, num=None):
    """An array as floats, or as integers below `num_values`; raises ValueError for other values or lengths."""
    array = np.asarray(array)
    if not len(array) or len(array) != (num or len(array)):
        raise ValueError(f"{name}: expected {num or 'some'} rows, but there are {len(array)}.")
    if array.dtype == np.uint8 and num_values == 256:
        return array
    if num_values is None:
        array = array.astype(np.float32)
        bad, expected = ~np.isfinite(array), "finite in float32"
    else:
        bad = (array < 0) | (array >= num_values) | (array != np.floor(array))
        expected = f"one of the integers 0, ..., {num_values - 1}"
    if bad.any():
        index = [int(i) for i in np.unravel_index(np.argmax(bad), bad.shape)]
        raise ValueError(f"{name}: the value {array[tuple(index)]} at {index} is not {expected}.")
    return array if num_values is None else array.astype(np.uint8 if num_values <= 256 else np.int32)


def check_power_of_two(levels: int) -> None:
    """Raises ValueError unless `levels` are those of a pixel of 8 bits without some of its low bits."""
    if levels not in [2**bits for bits in range(1, 9)]:
        raise ValueError(f"levels must be a power of two in 2, ..., 256, but is {levels}.")
