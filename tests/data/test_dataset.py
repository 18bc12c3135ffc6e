import functools
import itertools

import numpy as np
import pytest
import tensorflow as tf

from tf_resflow.data import Dataset

ROWS = {"train": np.zeros([3, 2])}


def _numbered(size=50, **fields):
    train = np.arange(2 * size, dtype=np.float32).reshape(size, 2)
    return Dataset.from_arrays("numbered", {"train": train, "test": train[:7] + 0.5}, **fields)


def _drawn():
    def draw(num, seed):
        return np.random.default_rng(seed).normal(size=[num, 2])

    test = np.zeros([7, 2], np.float32)
    return Dataset("drawn", (2,), None, {"test": 7}, read={"test": test}.get, draw=draw)


def _labeled(**fields):
    images = np.arange(40 * 12).reshape(40, 3, 4, 1) % 256
    splits = {"train": images, "test": images[::-3]}
    labels = {split: array[:, 0, 0, 0] // 12 % 5 for split, array in splits.items()}
    return Dataset.from_arrays("labeled", splits, levels=256, labels=labels, num_classes=5, **fields)


def _streamed():
    """A stream of the numbers of 50 examples."""
    images = np.random.default_rng(2).integers(256, size=[50, 3, 4, 1]).astype(np.uint8)

    def stream(split, seed, skip):
        del split
        order = tf.random.experimental.stateless_shuffle(tf.range(50, dtype=tf.int64), seed)
        return tf.data.Dataset.from_tensor_slices(order).skip(skip)

    def decode(number):
        return tf.gather(images, number), tf.cast(number, tf.int32)

    fields = {"num_classes": 50, "flip": True, "crop_padding": 1}
    return Dataset("streamed", (3, 4, 1), 256, {"train": 50}, stream=stream, decode=decode, **fields)


def _take(batches, num):
    return np.stack([batch.numpy() for batch in itertools.islice(batches, num)])


@pytest.mark.parametrize("make", [_numbered, _drawn, lambda: _labeled(flip=True, crop_padding=2), _streamed])
def test_a_batch_is_that_of_its_seed_and_step_and_the_shares_are_its_parts(make):
    """A resumed stream continues the first one, on any number of machines. An epoch has 4 or 3 batches."""
    dataset = make()
    whole = _take(dataset.train_batches(12, seed=7), 11)
    for num, start in [(1, 9), (2, 0), (3, 5)]:
        shares = [dataset.train_batches(12, seed=7, start_step=start, share=(i, num)) for i in range(num)]
        shares = [_take(batches, 11 - start) for batches in shares]
        np.testing.assert_array_equal(np.concatenate(shares, axis=1), whole[start:])
    other = _take(dataset.train_batches(12, seed=8), 3)
    for a, b in [*itertools.combinations(whole[:3], 2), *zip(whole[:3], other, strict=True)]:
        assert np.any(a != b)
    batches = dataset.train_batches(12, seed=7, share=(1, 4))
    dtype = tf.float32 if dataset.levels is None else tf.uint8
    assert batches.element_spec == tf.TensorSpec([3, *dataset.event_shape], dtype)
    # The autotuning thread would delay the end of an iterator, sometimes by seconds.
    assert batches.options().autotune.enabled is False


def test_an_epoch_holds_each_example_at_most_once_in_a_new_order():
    epochs = _take(_numbered(23).train_batches(5, seed=0), 8)[..., 0].reshape(2, 20)
    assert [len(set(epoch)) for epoch in epochs] == [20, 20] and np.any(epochs[0] != epochs[1])


@pytest.mark.parametrize("limit, sizes", [(None, [3, 3, 1]), (4, [3, 1]), (99, [3, 3, 1])])
def test_eval_batches_keep_order_and_the_last_batch(limit, sizes):
    batches = [batch.numpy() for batch in _numbered().eval_batches("test", 3, limit)]
    assert [len(batch) for batch in batches] == sizes
    np.testing.assert_array_equal(np.concatenate(batches), np.arange(14).reshape(7, 2)[:limit] + 0.5)


def test_the_train_stream_is_cropped_and_flipped_at_random():
    """All images are equal and their pixels distinct, so each crop reveals its shift."""
    image = np.arange(60, dtype=np.uint8).reshape(5, 6, 2)
    images = np.tile(image, [5000, 1, 1, 1])
    dataset = Dataset.from_arrays("images", {"train": images}, 256, flip=True, crop_padding=2)
    x, other = (next(iter(dataset.train_batches(5000, seed=seed))).numpy() for seed in (5, 6))
    padded = np.pad(image, [(2, 2), (2, 2), (0, 0)], mode="reflect")
    crops = [padded[i : i + 5, j : j + 6] for i in range(5) for j in range(5)]
    counts = [np.sum(np.all(x == y, axis=(1, 2, 3))) for crop in crops for y in (crop, crop[:, ::-1])]
    # Each of the 50 possible images occurs 100 times in 5,000 draws, with a standard deviation of 9.9.
    assert x.dtype == np.uint8 and sum(counts) == 5000
    np.testing.assert_allclose(counts, 100, atol=4.5 * 9.9)
    assert np.mean(np.all(x == other, axis=(1, 2, 3))) < 0.1
    np.testing.assert_array_equal(dataset.array("train"), images)


@pytest.mark.parametrize("make", [_labeled, lambda: _labeled(flip=True, crop_padding=2), _streamed])
def test_labels_belong_to_the_same_examples(make):
    dataset = make()
    streams = [functools.partial(dataset.train_batches, 12, seed=3, start_step=2)]
    if dataset.stream is None:
        streams.append(functools.partial(dataset.eval_batches, "test", 6, 11))
    for batches in streams:
        for x, (again, label) in itertools.islice(zip(batches(), batches(labels=True), strict=True), 5):
            np.testing.assert_array_equal(x, again)
            if not dataset.flip:
                np.testing.assert_array_equal(label, x[:, 0, 0, 0] // 12 % 5)
    whole, part = (streams[0](labels=True, share=share) for share in ((0, 1), (1, 2)))
    assert part.element_spec[1] == tf.TensorSpec([6], tf.int32)
    for (x, label), (part_x, part_label) in itertools.islice(zip(whole, part, strict=True), 5):
        np.testing.assert_array_equal(part_x, x[6:])
        np.testing.assert_array_equal(part_label, label[6:])


@pytest.mark.parametrize("levels", [None, 256])
def test_channel_statistics(levels):
    """The statistics agree with NumPy. For integers, u ~ U(0, 1) adds 1/2 to the mean and 1/12 to the variance."""
    random = np.random.default_rng(0)
    images = random.integers(256, size=[1500, 4, 6, 3]) // np.array([1, 2, 400])
    splits = {"train": images + (0.0 if levels else random.normal(size=images.shape)), "test": 255 - images[:10]}
    plain = Dataset.from_arrays("demo", splits, levels)
    dataset = plain.with_channel_statistics()
    assert plain.mean is None and dataset.sizes == plain.sizes
    x = plain.array("train").reshape(-1, 3).astype(np.float64)
    noise = 0.0 if levels is None else 1.0
    np.testing.assert_allclose(dataset.mean, (x.mean(0) + noise / 2) / (levels or 1), rtol=1e-10)
    np.testing.assert_allclose(dataset.std, np.sqrt(x.var(0) + noise / 12) / (levels or 1), rtol=1e-8)


def test_refused_batches(refused):
    refused("must be a multiple of the number of shares, 5", _drawn().train_batches, 12, 0, share=(0, 5))
    refused("has no labels", _numbered().eval_batches, "test", 4, labels=True)
    refused("51 exceeds the 50 train examples.*train.batch_size=50", _numbered().train_batches, 51, seed=0)
    refused("no finite split 'valid'. Choose one of .'test', 'train'.", _numbered().eval_batches, "valid", 3)


@pytest.mark.filterwarnings("ignore:overflow")
def test_refused_arrays(refused):
    refused(r"flip = True .* of shape \(2,\). Both need images", _numbered, flip=True)
    refused(r"crop_padding = 3 .* of shape \(3, 4, 1\)", _labeled, crop_padding=3)
    refused("have different event shapes", Dataset.from_arrays, "a", ROWS | {"test": np.zeros([3, 1])})
    refused("a .train. has 0 rows; expected at least 1", Dataset.from_arrays, "a", {"train": np.zeros([0, 2])})
    wrong = [(value, 17, r"at \[1, 0\] is not one of the integers 0, ..., 16") for value in (17, -1, 0.5, np.nan)]
    wrong += [(1e39, None, r"\[1, 0\] is not finite in float32"), (0, 300, "levels = 300 must be")]
    for value, levels, message in wrong:
        refused(message, Dataset.from_arrays, "a", {"train": np.array([[1.0, 2], [value, 3]])}, levels)
    for labels, message in (([0, 1], "has 2 rows; expected 3"), ([0, 1, 2], "integers 0, ..., 1")):
        refused(message, Dataset.from_arrays, "a", ROWS, labels={"train": labels}, num_classes=2)
