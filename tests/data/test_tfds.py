"""Images from TensorFlow Datasets, as whole splits and as streams."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from tf_resflow.data import load, load_tfds_images
from tf_resflow.data.tfds_images import TFDSReader

IMAGES = np.random.default_rng(0).integers(256, size=[600, 6, 4, 3]).astype(np.uint8)
SQUARES = np.random.default_rng(0).integers(256, size=[300, 8, 8, 1]).astype(np.uint8)
LITTLE = {"train": IMAGES[:550], "test": IMAGES[550:]}
MEMORY = pytest.mark.parametrize("memory_limit", [1000, 10**9])  # streamed, or in memory


def _store(directory, name, shape, arrays, num_classes=None, num_shards=None):
    kind = {3: tfds.features.Image, 1: tfds.features.Tensor}[len(shape)]
    image = kind(shape=shape, dtype=np.uint8 if len(shape) == 3 else np.float32)
    label = tfds.features.ClassLabel(num_classes=num_classes) if num_classes else np.int64
    features = tfds.features.FeaturesDict({"image": image, "label": label, "note": tfds.features.Text()})

    def rows(images):
        return [(i, {"image": x, "label": i, "note": "."}) for i, x in enumerate(images)]

    options = {"data_dir": directory, "disable_shuffling": True}
    options["download_config"] = tfds.download.DownloadConfig(num_shards=num_shards)
    options["split_datasets"] = {split: rows(images) for split, images in arrays.items()}
    tfds.dataset_builders.store_as_tfds_dataset(name=name, version="1.0.0", features=features, **options)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("tfds"))
    _store(directory, "little", (6, 4, 3), LITTLE)
    parts = {"train": IMAGES[:10], "validation": IMAGES[10:16], "test": IMAGES[16:20]}
    _store(directory, "three", (6, 4, 3), parts, num_classes=10)
    _store(directory, "vectors", (2,), {"train": np.zeros([2, 2], "f4")})
    _store(directory, "sharded", (8, 8, 1), {"train": SQUARES}, num_classes=300, num_shards=5)
    _store(directory, "unsized", (None, None, 1), {"train": SQUARES[:20], "test": SQUARES[20:30]})
    return directory


@MEMORY
def test_the_images_in_order(data_dir, memory_limit):
    """With fewer levels, the low bits are dropped."""
    for levels in (2, 32, 256):
        options = {"levels": levels, "flip": levels == 32, "crop_padding": levels % 3}
        dataset = load_tfds_images("little", data_dir, validation_fraction=0, memory_limit=memory_limit, **options)
        assert (dataset.read is None) == (memory_limit == 1000)
        assert {name: getattr(dataset, name) for name in options} == options
        assert dataset.event_shape == (6, 4, 3) and dataset.num_classes is None
        assert dataset.sizes == {"train": 550, "test": 50}
        for split, images in LITTLE.items():
            expected = np.floor(images.astype(float) * levels / 256)
            np.testing.assert_array_equal(dataset.array(split), expected)
        np.testing.assert_array_equal(dataset.array("test", 20), expected[:20])
        assert expected.max() == levels - 1


def test_a_validation_split_of_tfds_is_there_unless_it_is_used(data_dir):
    for splits, sizes in [
        ({}, {"train": 10, "validation": 6, "test": 4}),
        ({"split_test": "validation"}, {"train": 10, "test": 6}),
        ({"split_train": "train+validation[:50%]"}, {"train": 13, "test": 4}),
        ({"split_train": "train[:7]", "split_validation": "train[7:]"}, {"train": 7, "validation": 3, "test": 4}),
    ]:
        dataset = load_tfds_images("three", data_dir, validation_fraction=0, **splits)
        assert dataset.sizes == sizes and dataset.num_classes == 10
    x, label = next(iter(dataset.eval_batches("validation", 6, labels=True)))
    np.testing.assert_array_equal(x, IMAGES[7:10])
    np.testing.assert_array_equal(label, [7, 8, 9])


@MEMORY
@pytest.mark.parametrize(
    "split, kept, held_back",
    [
        ("train[100:-50]", [*range(100, 460)], [*range(460, 500)]),
        ("train[:40%]+train[80%:90%]", [*range(220), *range(440, 467)], [*range(467, 495)]),
        ("train[10:30]+train[:5]", [*range(10, 30), *range(3)], [3, 4]),
    ],
)
def test_the_last_part_of_a_train_split_is_held_back(data_dir, memory_limit, split, kept, held_back):
    dataset = load_tfds_images("little", data_dir, split_train=split, memory_limit=memory_limit)
    assert (dataset.sizes["train"], dataset.sizes["validation"]) == (len(kept), len(held_back))
    np.testing.assert_array_equal(dataset.array("train"), IMAGES[kept])
    np.testing.assert_array_equal(dataset.array("validation"), IMAGES[held_back])


def test_files_of_another_format(refused, data_dir, monkeypatch):
    monkeypatch.setattr(tfds.core.DatasetInfo, "file_format", tfds.core.FileFormat.RIEGELI)
    refused("--file_format=tfrecord", load_tfds_images, "little", data_dir)


@pytest.mark.parametrize("name", ["mnist", "tfds/mnist"])
def test_missing_data_say_how_to_get_them(refused, tmp_path, name):
    message = f"there is no {tmp_path}/mnist.*\n.*\n    tfds build mnist --data_dir="
    refused(message, load, {"name": name, "data_dir": str(tmp_path)})


def test_what_does_not_fit_is_refused(refused, data_dir):
    for levels in (1, 17, 512):
        refused("power of two", load_tfds_images, "little", data_dir, levels=levels)
    few = r"little \(train\[:4\]\): 4 examples .* {'validation': 0, "
    refused(few, load_tfds_images, "little", data_dir, split_train="train[:4]")
    refused("Unknown split 'tset'. Should be one of", load_tfds_images, "little", data_dir, split_test="tset")
    for name, image_size in (("sharded", 3), ("unsized", None)):
        refused("have the shape .* Set image_size", load_tfds_images, name, data_dir, image_size=image_size)
    refused("has no image feature", load_tfds_images, "vectors", data_dir)
    twice = "Some examples of 'little' occur twice in"
    for train, test in (("[:51%]", "train[50%:]"), ("+test[10:]", "test"), ("[:60%]+train[50%:]", "test")):
        refused(twice, load_tfds_images, "little", data_dir, split_train=f"train{train}", split_test=test)


def _labels_of(reader, *options):
    return np.array([int(label) for _, label in reader.stream("train", *options).map(reader.decode)])


def test_a_seed_orders_a_stream(data_dir):
    """The order is a permutation that depends only on the seed. Blocks of 64 examples mix all files."""
    builder = tfds.builder("sharded", data_dir=data_dir)
    sizes = builder.info.splits["train"]
    reader = TFDSReader(builder, shuffled_bytes=64 * sizes.num_bytes / 300)
    one, skipped, other = (
        _labels_of(reader, tf.constant([0, seed], tf.int64), skip) for seed, skip in ((1, 0), (1, 77), (2, 0))
    )
    np.testing.assert_array_equal(one[77:], skipped)
    for order in (one, other):
        np.testing.assert_array_equal(np.sort(order), np.arange(300))
        block = order[:64]
        assert len(set(block // 60)) == 5
        # Without a shuffle, the positions in the files never decrease. With it, they decrease in 29 of 63 steps,
        # with a standard deviation of 2.3.
        assert np.sum(np.diff(block % 60) < 0) > 29 - 5 * 2.3
        assert np.max(block % 60) < 20
    assert np.mean(one == other) < 0.1


def test_larger_images_are_averaged(data_dir):
    reader = TFDSReader(tfds.builder("sharded", data_dir=data_dir), levels=32, image_size=4)
    assert reader.event_shape == (4, 4, 1)
    images, labels = map(np.array, zip(*map(reader.decode, reader.read("train")), strict=True))
    means = SQUARES.reshape(300, 4, 2, 4, 2, 1).astype(np.float64).mean(axis=(2, 4))
    np.testing.assert_array_equal(labels, np.arange(300))
    np.testing.assert_array_equal(images, np.rint(means) // 8)


def test_an_open_size_is_that_of_the_argument(refused, data_dir):
    builder = tfds.builder("unsized", data_dir=data_dir)
    reader, wrong = (TFDSReader(builder, image_size=size) for size in (8, 16))
    assert reader.event_shape == (8, 8, 1)
    encoded = reader.read("train")
    np.testing.assert_array_equal([reader.decode(one)[0] for one in encoded], SQUARES[:20])
    refused("not compatible with expected shape", wrong.decode, encoded[0], error=tf.errors.InvalidArgumentError)
