import itertools

import numpy as np
import pytest
import tensorflow as tf

from tf_resflow.data import Dataset


def _numbered(size=23, **fields):
    train = np.arange(2 * size, dtype=np.float32).reshape(size, 2)
    return Dataset.from_arrays("numbered", {"train": train, "test": train[:7] + 0.5}, **fields)


def _drawn():
    def draw(num, seed):
        return np.random.default_rng(seed).normal(size=[num, 2])

    test = np.zeros([7, 2], np.float32)
    return Dataset("drawn", (2,), None, {"test": 7}, read={"test": test}.get, draw=draw)


def _images(flip=True):
    images = np.arange(2000 * 4).reshape(2000, 2, 2, 1) % 5
    return Dataset.from_arrays("images", {"train": images}, levels=5, flip=flip)


def _labeled(**fields):
    images = np.arange(40 * 12).reshape(40, 3, 4, 1) % 256
    splits = {"train": images, "test": images[::-3]}
    labels = {split: array[:, 0, 0, 0] // 12 % 5 for split, array in splits.items()}
    return Dataset.from_arrays("labeled", splits, levels=256, labels=labels, num_classes=5, **fields)


def _streamed(decoded=None):
    """50 examples of which the stream holds numbers; those that are decoded are noted, with 50 more per epoch."""
    images = np.random.default_rng(2).integers(256, size=[50, 3, 4, 1]).astype(np.uint8)

    def stream(split, seed, skip):
        del split
        order = tf.random.experimental.stateless_shuffle(tf.range(50, dtype=tf.int64), seed)
        return tf.data.Dataset.from_tensor_slices(order + 50 * seed[1]).skip(skip)

    def note(number):
        if decoded is not None:
            decoded.append(int(number))
        return images[number % 50]

    def decode(number):
        image = tf.numpy_function(note, [number], tf.uint8, stateful=False)
        return tf.ensure_shape(image, [3, 4, 1]), tf.cast(number % 50, tf.int32)

    fields = {"num_classes": 50, "flip": True, "crop_padding": 1}
    return Dataset("streamed", (3, 4, 1), 256, {"train": 50}, stream=stream, decode=decode, **fields)


def _take(batches, num):
    return np.stack([batch.numpy() for batch in itertools.islice(batches, num)])


@pytest.mark.parametrize("make", [_numbered, _drawn, _images])
@pytest.mark.parametrize("start", [1, 4, 9])
def test_a_resumed_stream_continues_the_uninterrupted_one(make, start):
    dataset = make()
    whole = _take(dataset.train_batches(5, seed=7), 12)
    resumed = _take(dataset.train_batches(5, seed=7, start_step=start), 12 - start)
    np.testing.assert_array_equal(resumed, whole[start:])


@pytest.mark.parametrize("make", [_numbered, _drawn, _images, _streamed])
def test_no_thread_tunes_the_batches(make):
    """The end of an iterator would wait for it, at times for seconds."""
    assert make().train_batches(5, seed=7).options().autotune.enabled is False


def test_no_thread_tunes_the_batches_of_an_evaluation():
    assert _numbered().eval_batches("train", 5).options().autotune.enabled is False


@pytest.mark.parametrize("make", [_numbered, _drawn, _images])
def test_batches_depend_on_seed_and_step(make):
    dataset = make()
    batches = _take(dataset.train_batches(5, seed=7), 3)
    other = _take(dataset.train_batches(5, seed=8), 3)
    for a, b in [*itertools.combinations(batches, 2), *zip(batches, other, strict=True)]:
        assert np.any(a != b)


@pytest.mark.parametrize("make", [_numbered, _drawn, _images, _streamed])
def test_the_shares_of_a_batch_are_the_batch(make):
    """Any number of machines takes the same steps, and goes on with those of another number."""
    dataset = make()
    whole = _take(dataset.train_batches(12, seed=7), 7)
    for num, start in [(1, 0), (2, 0), (3, 2), (4, 5)]:
        shares = [
            _take(dataset.train_batches(12, seed=7, start_step=start, share=(i, num)), 7 - start)
            for i in range(num)
        ]
        np.testing.assert_array_equal(np.concatenate(shares, axis=1), whole[start:])
    spec = dataset.train_batches(12, seed=7, share=(1, 4)).element_spec
    assert spec.shape == (3, *dataset.event_shape)


def test_the_labels_of_a_share():
    for dataset in (_labeled(flip=True, crop_padding=1), _streamed()):
        whole = list(dataset.train_batches(12, seed=3, labels=True).take(5))
        second = list(dataset.train_batches(12, seed=3, labels=True, share=(1, 2)).take(5))
        for (x, labels), (part_x, part_labels) in zip(whole, second, strict=True):
            np.testing.assert_array_equal(part_x, x[6:])
            np.testing.assert_array_equal(part_labels, labels[6:])


def test_only_a_share_is_decoded():
    """Of an epoch's 4 batches of 12 each of 3 machines decodes its 16 examples, and no other."""
    decoded = [[] for _ in range(3)]
    labels = []
    for index, note in enumerate(decoded):
        batches = _streamed(note).train_batches(12, seed=7, labels=True, share=(index, 3))
        labels.append(np.concatenate([label for _, label in itertools.islice(batches, 5)])[:16])
    first_epoch = [sorted(number for number in numbers if number < 50) for numbers in decoded]
    assert first_epoch == [sorted(numbers) for numbers in labels]
    assert len({number for numbers in first_epoch for number in numbers}) == 48


@pytest.mark.parametrize("make", [_numbered, _drawn, _streamed])
@pytest.mark.parametrize(
    "share, message",
    [
        ((2, 2), r"index in 0, ..., num - 1, but is \(2, 2\)"),
        ((0, 5), "batch_size = 12 is not a multiple of the 5"),
    ],
)
def test_shares_that_a_batch_does_not_have_are_errors(make, share, message):
    with pytest.raises(ValueError, match=message):
        make().train_batches(12, seed=0, share=share)


def test_an_epoch_holds_each_example_at_most_once_in_a_new_order():
    epochs = _take(_numbered().train_batches(5, seed=0), 8)[..., 0].reshape(2, 20)
    for epoch in epochs:
        assert len(set(epoch)) == 20
    assert np.any(epochs[0] != epochs[1])


def test_every_example_is_equally_likely_in_every_place():
    num, size = 3000, 5
    batches = _numbered(size).train_batches(size, seed=1)
    orders = _take(batches, num)[..., 0].astype(int) // 2
    for place in range(size):
        counts = np.bincount(orders[:, place], minlength=size)
        chi_square = np.sum((counts - num / size) ** 2) / (num / size)
        assert chi_square < (size - 1) + 5 * np.sqrt(2 * (size - 1))


def test_static_shapes_and_types():
    assert _numbered().train_batches(5, seed=0).element_spec == tf.TensorSpec([5, 2], tf.float32)
    assert _drawn().train_batches(5, seed=0).element_spec == tf.TensorSpec([5, 2], tf.float32)
    spec = _images().train_batches(5, seed=0).element_spec
    assert spec == tf.TensorSpec([5, 2, 2, 1], tf.uint8)
    assert _numbered().eval_batches("test", 5).element_spec.shape.as_list() == [None, 2]


@pytest.mark.parametrize("limit, sizes", [(None, [3, 3, 1]), (4, [3, 1]), (6, [3, 3]), (99, [3, 3, 1])])
def test_eval_batches_keep_order_and_the_last_batch(limit, sizes):
    dataset = _numbered()
    batches = [batch.numpy() for batch in dataset.eval_batches("test", 3, limit)]
    assert [len(batch) for batch in batches] == sizes
    np.testing.assert_array_equal(np.concatenate(batches), dataset.array("test")[:limit])


def test_flip_mirrors_half_of_the_images_left_to_right():
    plain = _take(_images(flip=False).train_batches(500, seed=3), 4).reshape(2000, 2, 2, 1)
    flipped = _take(_images().train_batches(500, seed=3), 4).reshape(2000, 2, 2, 1)
    kept = np.all(flipped == plain, axis=(1, 2, 3))
    np.testing.assert_array_equal(flipped[~kept], plain[~kept][:, :, ::-1])
    assert abs(np.mean(kept) - 0.5) < 4 * 0.5 / np.sqrt(2000)


def test_evaluation_is_not_flipped():
    dataset = _images()
    x = next(iter(dataset.eval_batches("train", 2000)))
    np.testing.assert_array_equal(x, dataset.array("train"))


def test_distributes_over_a_strategy():
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    dataset = _numbered()
    batches = iter(strategy.experimental_distribute_dataset(dataset.train_batches(4, seed=2)))
    expected = _take(dataset.train_batches(4, seed=2), 3)
    np.testing.assert_array_equal([next(batches).numpy() for _ in range(3)], expected)


def test_batch_larger_than_the_train_split_is_an_error():
    with pytest.raises(
        ValueError, match="batch_size = 24 exceeds the 23 train examples.*--config.train.batch_size=23"
    ):
        _numbered().train_batches(24, seed=0)
    assert _take(_numbered().train_batches(23, seed=0), 2).shape == (2, 23, 2)


@pytest.mark.parametrize(
    "value, levels, message",
    [
        (np.nan, None, r"\[1, 0\] is NaN"),
        (np.inf, None, r"\[1, 0\] is NaN or infinite"),
        (1e39, None, r"\[1, 0\] is NaN or infinite in float32"),
        (17, 17, r"value 17.0 at \[1, 0\] is not one of the integers 0, ..., 16"),
        (-1, 17, "integers"),
        (0.5, 17, "integers"),
        (np.nan, 17, "integers"),
        (0, 300, "levels must be"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_bad_values_are_errors(value, levels, message):
    with pytest.raises(ValueError, match=message):
        Dataset.from_arrays("bad", {"train": np.array([[1.0, 2], [value, 3]])}, levels)


@pytest.mark.parametrize("augmentation", [{}, {"flip": True, "crop_padding": 2}])
def test_labels_belong_to_the_same_examples(augmentation):
    dataset = _labeled(**augmentation)
    plain = dataset.train_batches(8, seed=3, start_step=2)
    pairs = dataset.train_batches(8, seed=3, start_step=2, labels=True)
    assert pairs.element_spec[1] == tf.TensorSpec([8], tf.int32)
    for x, (again, label) in itertools.islice(zip(plain, pairs, strict=True), 7):
        np.testing.assert_array_equal(x, again)
        if not augmentation:
            np.testing.assert_array_equal(label, x[:, 0, 0, 0] // 12 % 5)
    plain = dataset.eval_batches("test", 6, 11)
    pairs = dataset.eval_batches("test", 6, 11, labels=True)
    for x, (again, label) in zip(plain, pairs, strict=True):
        np.testing.assert_array_equal(x, again)
        np.testing.assert_array_equal(label, x[:, 0, 0, 0] // 12 % 5)


@pytest.mark.parametrize("make", [_numbered, _drawn])
def test_labels_that_are_not_there_are_errors(make):
    for batches in (
        lambda: make().train_batches(4, seed=0, labels=True),
        lambda: make().eval_batches("test", 4, labels=True),
    ):
        with pytest.raises(ValueError, match="has no labels. Leave labels at False"):
            batches()


def test_labels_that_do_not_fit_are_errors():
    x = {"train": np.zeros([3, 2])}
    for labels, num_classes in [([0, 1], 2), ([[0], [1], [1]], 2), ([0, 1, 1], None)]:
        with pytest.raises(ValueError, match="labels need num_classes, and one integer for each"):
            Dataset.from_arrays("bad", x, labels={"train": labels}, num_classes=num_classes)
    for labels in ([0, 1, 2], [0, -1, 1], [0, 0.5, 1]):
        with pytest.raises(ValueError, match="labels must be integers 0, ..., 1"):
            Dataset.from_arrays("bad", x, labels={"train": labels}, num_classes=2)


@pytest.mark.parametrize("shape", [(2, 1), (3,)])
def test_conditions_that_do_not_fit_are_errors(shape):
    with pytest.raises(ValueError, match=r"3 examples have conditions of shape .*, and not \[3, size\]"):
        Dataset.from_arrays("bad", {"train": np.zeros([3, 2])}, conditions={"train": np.zeros(shape)})


def test_the_train_stream_is_cropped_then_flipped():
    """Each image is one of those that NumPy pads, cuts and mirrors; test images stay."""
    dataset, plain = _labeled(flip=True, crop_padding=2), _labeled()
    images = next(iter(plain.train_batches(40, seed=5)))
    changed = next(iter(dataset.train_batches(40, seed=5)))
    for image, x in zip(images.numpy(), changed.numpy(), strict=True):
        padded = np.pad(image, [(2, 2), (2, 2), (0, 0)], mode="reflect")
        crops = [padded[i : i + 3, j : j + 4] for i in range(5) for j in range(5)]
        assert any(np.all(x == crop) or np.all(x == crop[:, ::-1]) for crop in crops)
    assert np.mean(np.all(images == changed, axis=(1, 2, 3))) < 0.5
    np.testing.assert_array_equal(dataset.array("test"), plain.array("test"))


def test_wrong_arguments_are_errors():
    dataset = _numbered()
    with pytest.raises(ValueError, match="no finite split 'valid'; it has .'test', 'train'."):
        dataset.eval_batches("valid", 3)
    with pytest.raises(ValueError, match="no finite split 'train'"):
        _drawn().eval_batches("train", 3)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        dataset.train_batches(0, seed=0)
    with pytest.raises(ValueError, match="limit must be at least 1"):
        dataset.eval_batches("test", 3, limit=0)
    with pytest.raises(ValueError, match="Only images can be flipped"):
        _numbered(flip=True)
    with pytest.raises(ValueError, match="Only images can be flipped or cropped"):
        _numbered(crop_padding=1)
    for padding in (3, -1):
        with pytest.raises(ValueError, match=f"below the sides.*3 x 4, but is {padding}"):
            _labeled(crop_padding=padding)
    with pytest.raises(ValueError, match="differ in their event shapes"):
        Dataset.from_arrays("bad", {"train": np.zeros([3, 2]), "test": np.zeros([3, 1])})
    with pytest.raises(ValueError, match="holds no example"):
        Dataset.from_arrays("bad", {"train": np.zeros([0, 2])})


@pytest.mark.parametrize("levels", [None, 256])
def test_channel_statistics(levels):
    """In NumPy; of integers with the mean 1/2 and the variance 1/12 that u ~ U(0, 1) adds."""
    random = np.random.default_rng(0)
    images = random.integers(256, size=[1500, 4, 6, 3]) // np.array([1, 2, 4])
    images[..., 2] = 7
    splits = {"train": images, "test": 255 - images[:10]}
    if levels is None:
        splits = {split: x + random.normal(size=x.shape) for split, x in splits.items()}
    plain = Dataset.from_arrays("demo", splits, levels)
    dataset = plain.with_channel_statistics()
    assert plain.mean is None and dataset.sizes == plain.sizes
    x = plain.array("train").reshape(-1, 3).astype(np.float64)
    noise = 0.0 if levels is None else 1.0
    np.testing.assert_allclose(dataset.mean, (x.mean(0) + noise / 2) / (levels or 1), rtol=1e-10)
    np.testing.assert_allclose(dataset.std, np.sqrt(x.var(0) + noise / 12) / (levels or 1), rtol=1e-8)
