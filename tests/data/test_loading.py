import ml_collections
import numpy as np
from sklearn import datasets

from tf_resflow.data import load, load_digits


def test_each_name_loads_its_data():
    config = ml_collections.ConfigDict({"name": "digits"})
    assert load(config).name == load(ml_collections.FrozenConfigDict(config)).name == load({}).name == "digits"
    dataset = load({"name": "moons", "num_test": 9})
    assert dataset.name == "moons" and dataset.sizes == {"test": 9, "validation": 9}
    assert load({"name": "moons", "num_test": 9, "validation_fraction": 0}).sizes == {"test": 9}


def test_the_split_of_the_digits_is_fixed():
    digits, order = datasets.load_digits(), np.random.RandomState(0).permutation(1797)
    for fraction, num_train in [(0.1, 1347), (0.0, 1497)]:
        dataset = load_digits(validation_fraction=fraction)
        parts = {"train": order[:num_train], "validation": order[num_train:1497], "test": order[1497:]}
        parts = {split: part for split, part in parts.items() if len(part)}
        assert dataset.sizes == {split: len(part) for split, part in parts.items()}
        for split, part in parts.items():
            images, labels = next(iter(dataset.eval_batches(split, 1797, labels=True)))
            np.testing.assert_array_equal(images, digits.images[part][..., np.newaxis])
            np.testing.assert_array_equal(labels, digits.target[part])
            assert images.dtype == np.uint8
    assert (dataset.event_shape, dataset.levels, dataset.num_classes) == ((8, 8, 1), 17, 10)


def test_refusals(refused, tmp_path):
    (tmp_path / "my_pictures").mkdir()
    refused("did you mean 'my_pictures'", load, {"name": "my_picturs", "data_dir": str(tmp_path)})
    refused("did you mean 'mnist'", load, {"name": "mnst/3.0.1"})
    refused("data.dta_dir; did you mean 'data_dir'", load, {"dta_dir": ""})
    refused("num_test is '9', of the type .*str.*Set it to a value of the type int", load, {"num_test": "9"})
    assert load({"name": "digits", "data_dir": None, "validation_fraction": None}).event_shape == (8, 8, 1)
    for wrong in ({"levels": 16}, {"image_size": 9}):
        refused("digits have 17 levels", load, wrong)
    refused("data.flip does not apply to data.name = 'moons'", load, {"name": "moons", "flip": True})
