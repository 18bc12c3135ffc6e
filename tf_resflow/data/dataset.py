"""A data set: named splits of examples, served as reproducible batches."""

__all__ = ["Dataset"]

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Examples of one event shape, split into "train", "test" and perhaps "validation".

    Images are uint8 with the integer values 0, ..., levels - 1 (see `dequantize`); vectors are
    float32 and `levels` is None. Each split is read once, when it is first needed, and kept in
    memory. The train split of a generated data set has no end: every step draws fresh examples.

    Example:
    >>> dataset = Dataset.from_arrays("demo", {"train": np.zeros([100, 2], np.float32)})
    >>> batches = dataset.train_batches(batch_size=32, seed=0)
    >>> next(iter(batches)).shape
    TensorShape([32, 2])

    Attributes:
        name: name of the data set.
        event_shape: shape of one example, `(height, width, channels)` or `(size,)`.
        levels: number of values that an integer example can take, None for continuous data.
        sizes: number of examples of each finite split, by name.
        read: function of a split's name, which returns all its examples.
        draw: `draw(num, seed) -> [num, *event_shape]` for generated train data, else None; the
            seed is a sequence of integers.
        flip: whether the train stream mirrors each image left to right with probability 1/2.
        mean: mean of the train split per coordinate, where it is known.
        std: standard deviation of the train split per coordinate, where it is known.
        entropy: differential entropy of the data distribution in nats, where it is known.
    """

    name: str
    event_shape: tuple[int, ...]
    levels: int | None
    sizes: Mapping[str, int]
    read: Callable[[str], np.ndarray]
    draw: Callable[[int, tuple[int, ...]], np.ndarray] | None = None
    flip: bool = False
    mean: np.ndarray | None = None
    std: np.ndarray | None = None
    entropy: float | None = None

    def __post_init__(self):
        if self.flip and len(self.event_shape) != 3:
            raise ValueError(
                f"Only images can be flipped, but an example of {self.name!r} has the shape "
                f"{self.event_shape}. Set flip=False."
            )
        object.__setattr__(self, "_tensor", functools.cache(self._read_tensor))

    @classmethod
    def from_arrays(cls, name, splits, levels=None, **fields):
        """Makes a data set of arrays.

        Args:
            name: name of the data set.
            splits: dict of split name to array `[num, *event_shape]`.
            levels: number of values of integer data, at most 256; None for continuous data.
            **fields: the remaining attributes.

        Raises:
            ValueError: if a value is not in 0, ..., levels - 1, or is NaN or infinite, or if
                the splits differ in their event shape.
        """
        arrays = {split: np.asarray(array) for split, array in splits.items()}
        shapes = {split: array.shape[1:] for split, array in arrays.items()}
        if len(set(shapes.values())) != 1:
            raise ValueError(f"The splits of {name!r} differ in their event shapes: {shapes}.")
        arrays = {s: _checked(f"{name} ({s})", array, levels) for s, array in arrays.items()}
        sizes = {split: len(array) for split, array in arrays.items()}
        shape = next(iter(shapes.values()))
        return cls(name, shape, levels, sizes, arrays.__getitem__, **fields)

    def train_batches(self, batch_size, seed, start_step=0):
        """Returns the endless train stream; its batch is a pure function of (seed, step).

        A finite split is shuffled anew in each epoch, and its last incomplete batch is dropped.

        Args:
            batch_size: examples in a batch.
            seed: integer; with the step it decides the batch.
            start_step: step whose batch comes first. A resumed run passes its step, and sees the
                batches that an uninterrupted run would have seen.

        Returns:
            A `tf.data.Dataset` of tensors `[batch_size, *event_shape]`.

        Raises:
            ValueError: if batch_size is not in 1, ..., size of the train split.
        """
        if self.draw is not None:
            batches = self._drawn_batches(_at_least_one(batch_size), seed, start_step)
        else:
            batches = self._shuffled_batches(_at_least_one(batch_size), seed, start_step)
        return _finish(batches)

    def eval_batches(self, split, batch_size, limit=None):
        """Returns a split in its own order; the last batch may be smaller.

        Args:
            split: name of the split.
            batch_size: examples in a batch.
            limit: take the first `limit` examples only.

        Returns:
            A `tf.data.Dataset` of tensors `[<= batch_size, *event_shape]`.

        Raises:
            ValueError: if the split is unknown, or batch_size or limit is not positive.
        """
        size = self._size(split)
        size = size if limit is None else min(size, _at_least_one(limit, "limit"))
        examples = self._tensor(split)
        starts = tf.data.Dataset.range(0, size, _at_least_one(batch_size))
        return _finish(starts.map(lambda i: examples[i : tf.minimum(i + batch_size, size)]))

    def array(self, split):
        """Returns all examples of a finite split as a numpy array."""
        self._size(split)
        return self._tensor(split).numpy()

    def _size(self, split):
        if split not in self.sizes:
            raise ValueError(
                f"The data set {self.name!r} has no finite split {split!r}; "
                f"it has {sorted(self.sizes)}."
            )
        return self.sizes[split]

    def _read_tensor(self, split):
        with tf.device("CPU"):
            return tf.constant(self.read(split))

    def _drawn_batches(self, batch_size, seed, start_step):
        dtype = tf.float32 if self.levels is None else tf.uint8

        def batch(step):
            def draw(step):
                return self.draw(batch_size, (seed, int(step))).astype(dtype.as_numpy_dtype)

            x = tf.numpy_function(draw, [step], dtype, stateful=False)
            return tf.ensure_shape(x, (batch_size, *self.event_shape))

        return tf.data.Dataset.counter(start_step).map(batch)

    def _shuffled_batches(self, batch_size, seed, start_step):
        size = self._size("train")
        if batch_size > size:
            raise ValueError(
                f"batch_size = {batch_size} exceeds the {size} train examples of {self.name!r}. "
                "Lower the batch size."
            )
        examples = self._tensor("train")
        steps = size // batch_size

        def epoch_indices(epoch):
            shuffle = tf.random.experimental.stateless_shuffle
            order = shuffle(tf.range(size), tf.stack([seed, epoch]))[: steps * batch_size]
            numbers = epoch * steps + tf.range(steps, dtype=tf.int64)
            order = tf.reshape(order, [steps, batch_size])
            return tf.data.Dataset.from_tensor_slices((numbers, order))

        def batch(step, indices):
            x = tf.gather(examples, indices)
            return self._flipped(x, tf.stack([seed, step])) if self.flip else x

        first_epoch, first_step = divmod(start_step, steps)
        indices = tf.data.Dataset.counter(first_epoch).flat_map(epoch_indices).skip(first_step)
        return indices.map(batch, num_parallel_calls=tf.data.AUTOTUNE)

    def _flipped(self, x, seed):
        seed = tf.random.experimental.stateless_fold_in(seed, 1)
        mirror = tf.random.stateless_uniform([x.shape[0], 1, 1, 1], seed) < 0.5
        return tf.where(mirror, x[:, :, ::-1], x)


def _finish(batches):
    options = tf.data.Options()
    options.deterministic = True
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return batches.with_options(options).prefetch(tf.data.AUTOTUNE)


def _at_least_one(number, name="batch_size"):
    if number < 1:
        raise ValueError(f"{name} must be at least 1, but is {number}.")
    return number


def _checked(name, array, levels):
    """Returns the array as uint8 (with levels) or float32, or raises ValueError."""
    if not len(array):
        raise ValueError(f"{name} holds no example.")
    if levels is None:
        array = array.astype(np.float32)
        bad = ~np.isfinite(array)
        fault = "is NaN or infinite in float32; remove or replace it"
    else:
        if not 2 <= levels <= 256:
            raise ValueError(f"levels must be in 2, ..., 256, but is {levels}.")
        bad = (array < 0) | (array >= levels) | (array != np.floor(array))
        fault = f"is not one of the integers 0, ..., {levels - 1}"
    if bad.any():
        index = [int(i) for i in np.unravel_index(np.argmax(bad), bad.shape)]
        raise ValueError(f"{name}: the value {array[tuple(index)]} at {index} {fault}.")
    return array if levels is None else array.astype(np.uint8)
