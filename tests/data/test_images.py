import numpy as np
import pytest
import tensorflow_datasets as tfds

from tf_resflow.data import load, load_images

IMAGES = np.random.default_rng(0).integers(256, size=[600, 6, 4, 3]).astype(np.uint8)


def _store(directory, name, image, arrays):
    features = tfds.features.FeaturesDict({"image": image, "label": np.int64})
    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version="1.0.0",
        features=features,
        split_datasets={
            split: [(i, {"image": x, "label": i}) for i, x in enumerate(images)]
            for split, images in arrays.items()
        },
        data_dir=directory,
        disable_shuffling=True,
    )


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("tfds"))
    image = tfds.features.Image(shape=(6, 4, 3), dtype=np.uint8, encoding_format="png")
    _store(directory, "little", image, {"train": IMAGES[:550], "test": IMAGES[550:]})
    image = tfds.features.Image(shape=(None, None, 3), dtype=np.uint8, encoding_format="png")
    _store(directory, "ragged", image, {"train": IMAGES[:2], "test": IMAGES[2:4]})
    image = tfds.features.Tensor(shape=(2,), dtype=np.float32)
    _store(directory, "vectors", image, {"train": np.zeros([2, 2], "f4")})
    return directory


def test_loads_the_images_in_order(data_dir):
    dataset = load_images("little", data_dir)
    assert dataset.event_shape == (6, 4, 3) and dataset.levels == 256
    assert dataset.sizes == {"train": 550, "test": 50}
    np.testing.assert_array_equal(dataset.array("train"), IMAGES[:550])
    np.testing.assert_array_equal(dataset.array("test"), IMAGES[550:])
    x = next(iter(dataset.train_batches(10, seed=0)))
    assert x.shape == (10, 6, 4, 3) and x.dtype == np.uint8


def test_subsplits_become_splits(data_dir):
    dataset = load_images(
        "little", data_dir, split_train="train[:500]", split_validation="train[500:]"
    )
    assert dataset.sizes == {"train": 500, "validation": 50, "test": 50}
    np.testing.assert_array_equal(dataset.array("validation"), IMAGES[500:550])


@pytest.mark.parametrize("levels", [2, 32, 128])
def test_bit_reduction_drops_the_low_bits(data_dir, levels):
    dataset = load_images("little", data_dir, levels=levels)
    assert dataset.levels == levels
    expected = np.floor(IMAGES[550:].astype(float) * levels / 256)
    np.testing.assert_array_equal(dataset.array("test"), expected)
    assert expected.max() == levels - 1


@pytest.mark.parametrize("levels", [1, 17, 512])
def test_other_levels_are_errors(data_dir, levels):
    with pytest.raises(ValueError, match="power of two"):
        load_images("little", data_dir, levels=levels)


def test_missing_data_say_how_to_get_them(tmp_path):
    with pytest.raises(ValueError) as error:
        load({"name": "mnist", "data_dir": str(tmp_path)})
    message = str(error.value)
    assert str(tmp_path / "mnist") in message
    assert f"tfds build mnist --data_dir={tmp_path}" in message
    assert "--config.data.download=True" in message


def test_wrong_data_sets_are_errors(data_dir):
    with pytest.raises(ValueError, match=r"'tset'; its splits are \['test', 'train'\]"):
        load_images("little", data_dir, split_test="tset")
    with pytest.raises(ValueError, match="must be uint8 of one size"):
        load_images("ragged", data_dir)
    with pytest.raises(ValueError, match="has no image"):
        load_images("vectors", data_dir)
    with pytest.raises(ValueError, match="no data set 'unheard_of'"):
        load_images("unheard_of", data_dir)
    with pytest.raises(ValueError, match="refuses 'mnist:0.0.1'"):
        load_images("mnist:0.0.1", data_dir)
