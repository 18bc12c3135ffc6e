import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from tf_resflow.data import Dataset, tfds_reader
from tf_resflow.data.tfds_reader import TFDSReader

IMAGES = np.random.default_rng(0).integers(256, size=[300, 8, 8, 1]).astype(np.uint8)


def _store(directory, name, image, **kwargs):
    features = {"image": image, "label": tfds.features.ClassLabel(num_classes=300), "note": tfds.features.Text()}
    examples = [(i, {"image": x, "label": i, "note": "."}) for i, x in enumerate(IMAGES)]
    return tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version="1.0.0",
        features=tfds.features.FeaturesDict(features),
        split_datasets={"train": examples},
        data_dir=directory,
        disable_shuffling=True,
        **kwargs,
    )


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    """300 images in 5 files."""
    image = tfds.features.Image(shape=(8, 8, 1), dtype=np.uint8, encoding_format="png")
    config = tfds.download.DownloadConfig(num_shards=5)
    return _store(str(tmp_path_factory.mktemp("tfds")), "sharded", image, download_config=config)


@pytest.fixture(scope="module")
def open_builder(tmp_path_factory):
    """The same, of a size that the features leave open, and without classes."""
    image = tfds.features.Image(shape=(None, None, 1), dtype=np.uint8, encoding_format="png")
    return _store(str(tmp_path_factory.mktemp("tfds")), "unsized", image)


def labels_of(reader, *options):
    return np.array([int(label) for _, label in reader.stream("train", *options).map(reader.decode)])


def test_read_gives_images_with_their_labels(builder):
    images, labels = TFDSReader(builder, levels=32).read("train")
    np.testing.assert_array_equal(images, IMAGES[labels] // 8)
    np.testing.assert_array_equal(np.sort(labels), np.arange(300))


@pytest.mark.parametrize("split, part", [("train", slice(None)), ("train[20%:90%]", slice(60, 270))])
def test_a_stream_without_a_seed_keeps_the_order(builder, split, part):
    reader = TFDSReader(builder)
    examples = list(reader.stream(split).map(reader.decode))
    np.testing.assert_array_equal([int(label) for _, label in examples], np.arange(300)[part])
    np.testing.assert_array_equal([x.numpy() for x, _ in examples], IMAGES[part])


def test_a_seed_orders_a_stream(builder, monkeypatch):
    """A permutation, a function of the seed, in blocks of 64 examples of all files."""
    sizes = builder.info.splits["train"]
    monkeypatch.setattr(tfds_reader, "_SHUFFLE_BYTES", 64 * sizes.num_bytes / 300)
    reader = TFDSReader(builder)
    one, same, other = (labels_of(reader, tf.constant([0, s], tf.int64)) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    for order in (one, other):
        np.testing.assert_array_equal(np.sort(order), np.arange(300))
        block = order[:64]
        assert len(set(block // 60)) == 5
        # Read in turn, the places in the files never fall; shuffled, they do at 29 of 63 steps, with a standard
        # deviation of 2.3.
        assert np.sum(np.diff(block % 60) < 0) > 29 - 5 * 2.3
        assert np.max(block % 60) < 20
    assert np.mean(one == other) < 0.1


def test_skipped_examples_are_those_at_the_beginning(builder):
    reader, seed = TFDSReader(builder), tf.constant([5, 0], tf.int64)
    whole = labels_of(reader, seed)
    np.testing.assert_array_equal(labels_of(reader, seed, 77), whole[77:])


def streamed(builder):
    reader = TFDSReader(builder)
    fields = {"stream": reader.stream, "decode": reader.decode, "num_classes": 300}
    return Dataset("streamed", (8, 8, 1), 256, {"train": 300}, **fields)


def test_epochs_of_a_streamed_data_set(builder):
    """Every epoch has each example at most once, in a new order, with their labels."""
    batches = streamed(builder).train_batches(70, seed=3, labels=True)
    assert batches.element_spec[0] == tf.TensorSpec([70, 8, 8, 1], tf.uint8)
    batches = list(batches.take(8))
    for x, label in batches:
        np.testing.assert_array_equal(x, IMAGES[label.numpy()])
    epochs = np.stack([label for _, label in batches]).reshape(2, 280)
    assert all(len(set(epoch)) == 280 for epoch in epochs)
    assert np.mean(epochs[0] == epochs[1]) < 0.1


def test_a_streamed_data_set_over_replicas(builder, two_replicas):
    dataset = streamed(builder)
    expected = next(iter(dataset.train_batches(20, seed=3)))
    batches = two_replicas.experimental_distribute_dataset(dataset.train_batches(20, seed=3))
    parts = two_replicas.experimental_local_results(next(iter(batches)))
    np.testing.assert_array_equal(np.concatenate(parts), expected)


def test_larger_images_are_averaged(builder):
    reader = TFDSReader(builder, levels=32, image_size=4)
    assert reader.event_shape == (4, 4, 1)
    images, labels = reader.read("train")
    means = IMAGES.reshape(300, 4, 2, 4, 2, 1).astype(np.float64).mean(axis=(2, 4))
    np.testing.assert_array_equal(images, np.rint(means)[labels] // 8)


def test_an_open_size_is_that_of_the_argument(open_builder):
    reader = TFDSReader(open_builder, image_size=8)
    assert reader.event_shape == (8, 8, 1)
    np.testing.assert_array_equal(reader.read("train")[0], IMAGES)
    with pytest.raises(tf.errors.InvalidArgumentError, match="Set image_size to the size of"):
        TFDSReader(open_builder, image_size=16).read("train")


def test_sizes_that_do_not_fit_are_errors(builder, open_builder):
    with pytest.raises(ValueError, match="image_size = 3 must divide.*8 x 8"):
        TFDSReader(builder, image_size=3)
    with pytest.raises(ValueError, match="leaves the size of its images open"):
        TFDSReader(open_builder)
