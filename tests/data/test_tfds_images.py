import itertools

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tf_resflow.data import dequantize, load, load_tfds_images, tfds_images

IMAGES = np.random.default_rng(0).integers(256, size=[600, 6, 4, 3]).astype(np.uint8)


def _store(directory, name, image, arrays, label=np.int64):
    features = tfds.features.FeaturesDict({"image": image, "label": label})
    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version="1.0.0",
        features=features,
        split_datasets={
            split: [(i, {"image": x, "label": i}) for i, x in enumerate(images)] for split, images in arrays.items()
        },
        data_dir=directory,
        disable_shuffling=True,
    )


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("tfds"))
    image = tfds.features.Image(shape=(6, 4, 3), dtype=np.uint8, encoding_format="png")
    _store(directory, "little", image, {"train": IMAGES[:550], "test": IMAGES[550:]})
    label = tfds.features.ClassLabel(num_classes=10)
    parts = {"train": IMAGES[:10], "validation": IMAGES[10:16], "test": IMAGES[16:20]}
    _store(directory, "three", image, parts, label)
    image = tfds.features.Image(shape=(None, None, 3), dtype=np.uint8, encoding_format="png")
    _store(directory, "ragged", image, {"train": IMAGES[:2], "test": IMAGES[2:4]})
    image = tfds.features.Tensor(shape=(2,), dtype=np.float32)
    _store(directory, "vectors", image, {"train": np.zeros([2, 2], "f4")})
    return directory


def test_loads_the_images_in_order(data_dir):
    dataset = load_tfds_images("little", data_dir, validation_fraction=0)
    assert dataset.event_shape == (6, 4, 3) and dataset.levels == 256
    assert dataset.sizes == {"train": 550, "test": 50}
    np.testing.assert_array_equal(dataset.array("train"), IMAGES[:550])
    np.testing.assert_array_equal(dataset.array("test"), IMAGES[550:])
    x = next(iter(dataset.train_batches(10, seed=0)))
    assert x.shape == (10, 6, 4, 3) and x.dtype == np.uint8


def test_subsplits_become_splits(data_dir):
    dataset = load_tfds_images("little", data_dir, split_train="train[:500]", split_validation="train[500:]")
    assert dataset.sizes == {"train": 500, "validation": 50, "test": 50}
    np.testing.assert_array_equal(dataset.array("validation"), IMAGES[500:550])


@pytest.mark.parametrize("levels", [2, 32, 128])
def test_bit_reduction_drops_the_low_bits(data_dir, levels):
    dataset = load_tfds_images("little", data_dir, levels=levels)
    assert dataset.levels == levels
    expected = np.floor(IMAGES[550:].astype(float) * levels / 256)
    np.testing.assert_array_equal(dataset.array("test"), expected)
    assert expected.max() == levels - 1


def test_five_bits_dequantized_fill_the_unit_interval(data_dir):
    """(v // 8 + u) / 32. With 31 v' / 32 instead of v' = v // 8, as in the published code, nothing would
    come above (31 * 31 / 32 + 1) / 32 = 0.97, and the density be log2(32 / 31) = 0.046 bits/dim too good."""
    dataset = load_tfds_images("little", data_dir, levels=32, validation_fraction=0)
    x = dequantize(dataset.array("train"), dataset.levels, seed=[0, 1]).numpy()
    np.testing.assert_array_equal(np.floor(32 * x), IMAGES[:550] // 8)
    # 550 * 72 uniform numbers: the standard error of their mean is 0.0015, and 0.97 would be passed by none.
    values = np.unique(IMAGES[:550] // 8, return_counts=True)[1] / IMAGES[:550].size
    expected = np.sum(values * (np.arange(32) + 0.5) / 32)
    assert abs(np.mean(x) - expected) < 4 * np.sqrt(1 / 12 / 32**2 / x.size)
    assert 0.99 < np.max(x) < 1.0


@pytest.mark.parametrize("levels", [1, 17, 512])
def test_other_levels_are_errors(data_dir, levels):
    with pytest.raises(ValueError, match="power of two"):
        load_tfds_images("little", data_dir, levels=levels)


def test_a_validation_split_of_tfds_is_there_unless_it_is_used(data_dir):
    sizes = {"train": 10, "validation": 6, "test": 4}
    assert load_tfds_images("three", data_dir).sizes == sizes
    renamed = load_tfds_images("three", data_dir, split_test="validation", validation_fraction=0)
    assert renamed.sizes == {"train": 10, "test": 6}
    joined = load_tfds_images("three", data_dir, split_train="train+validation[:50%]", validation_fraction=0)
    assert joined.sizes == {"train": 13, "test": 4}


@pytest.mark.parametrize("memory", [1000, 10**9])
@pytest.mark.parametrize(
    "split, kept, held_back",
    [
        ("train", [*range(495)], [*range(495, 550)]),
        ("train[100:-50]", [*range(100, 460)], [*range(460, 500)]),
        ("train[:40%]+train[80%:90%]", [*range(220), *range(440, 467)], [*range(467, 495)]),
        ("train[10:30]+train[:5]", [*range(10, 30), *range(3)], [3, 4]),
    ],
)
def test_the_last_part_of_a_train_split_is_held_back(data_dir, monkeypatch, memory, split, kept, held_back):
    monkeypatch.setattr(tfds_images, "_MEMORY", memory)
    dataset = load_tfds_images("little", data_dir, split_train=split)
    assert (dataset.sizes["train"], dataset.sizes["validation"]) == (len(kept), len(held_back))
    np.testing.assert_array_equal(dataset.array("train"), IMAGES[kept])
    np.testing.assert_array_equal(dataset.array("validation"), IMAGES[held_back])


def test_wrong_fractions_are_errors(data_dir):
    with pytest.raises(ValueError, match="validation_fraction must be in"):
        load_tfds_images("little", data_dir, validation_fraction=1.0)
    with pytest.raises(ValueError, match=r"little \(train\[:4\]\): the validation split holds no example"):
        load_tfds_images("little", data_dir, split_train="train[:4]")


@pytest.mark.parametrize(
    "splits",
    [
        {"split_validation": "train[500:]"},
        {"split_test": "train"},
        {"split_train": "train[:51%]", "split_test": "train[50%:]"},
        {"split_train": "test[10:]+train"},
        {"split_train": "train+train"},
        {"split_test": "test+test[:10]"},
        {"split_train": "train[:60%]+train[50%:]"},
    ],
)
def test_splits_that_share_examples_are_errors(data_dir, splits):
    with pytest.raises(ValueError, match="of 'little' would count examples twice"):
        load_tfds_images("little", data_dir, **splits)


def test_labels(data_dir):
    dataset = load_tfds_images("three", data_dir)
    assert dataset.num_classes == 10
    x, label = next(iter(dataset.eval_batches("validation", 6, labels=True)))
    np.testing.assert_array_equal(x, dataset.array("validation"))
    np.testing.assert_array_equal(label, np.arange(6))
    assert load_tfds_images("little", data_dir).num_classes is None


@pytest.mark.parametrize("memory", [1000, 10**9])
def test_large_data_are_streamed_with_the_same_examples(data_dir, memory, monkeypatch):
    monkeypatch.setattr(tfds_images, "_MEMORY", memory)
    dataset = load_tfds_images("little", data_dir, levels=32, flip=True, crop_padding=1, validation_fraction=0)
    assert (dataset.read is None) == (memory == 1000)
    np.testing.assert_array_equal(dataset.array("train"), IMAGES[:550] // 8)
    np.testing.assert_array_equal(dataset.array("test", 20), IMAGES[550:570] // 8)
    batches = dataset.train_batches(60, seed=1)
    assert batches.element_spec.shape == (60, 6, 4, 3)
    whole = np.stack([x for x in itertools.islice(batches.as_numpy_iterator(), 20)])
    for start in (1, 9, 10, 19):
        resumed = next(iter(dataset.train_batches(60, seed=1, start_step=start)))
        np.testing.assert_array_equal(resumed, whole[start])


def test_a_stream_of_another_format_is_an_error(data_dir, monkeypatch):
    monkeypatch.setattr(tfds_images, "_MEMORY", 1000)
    builder = tfds_images._prepared_builder("little", data_dir, False)
    monkeypatch.setattr(builder.info, "_info_proto", None, raising=False)
    monkeypatch.setattr(type(builder.info), "file_format", tfds.core.FileFormat.RIEGELI)
    with pytest.raises(ValueError, match="stored as riegeli.*--file_format=tfrecord"):
        load_tfds_images("little", data_dir)


def test_missing_data_say_how_to_get_them(tmp_path):
    with pytest.raises(ValueError) as error:
        load({"name": "mnist", "data_dir": str(tmp_path)})
    message = str(error.value)
    assert str(tmp_path / "mnist") in message
    assert f"tfds build mnist --data_dir={tmp_path}" in message
    assert "--config.data.download=True" in message


def test_data_that_tfds_does_not_download_say_how_to_get_them(tmp_path):
    with pytest.raises(ValueError) as error:
        load({"name": "celeb_a_hq/256", "data_dir": str(tmp_path), "download": True})
    message = str(error.value)
    assert "progressive_growing_of_gans" in message
    assert f"tfds build celeb_a_hq/256 --data_dir={tmp_path} --manual_dir=FILES" in message


def test_wrong_data_sets_are_errors(data_dir):
    with pytest.raises(ValueError, match=r"'tset'; its splits are \['test', 'train'\]"):
        load_tfds_images("little", data_dir, split_test="tset")
    with pytest.raises(ValueError, match="leaves the size of its images open"):
        load_tfds_images("ragged", data_dir)
    with pytest.raises(ValueError, match="has no image"):
        load_tfds_images("vectors", data_dir)
    with pytest.raises(ValueError, match="no data set 'unheard_of'"):
        load_tfds_images("unheard_of", data_dir)
    with pytest.raises(ValueError, match="does not accept 'mnist:0.0.1'"):
        load_tfds_images("mnist:0.0.1", data_dir)
