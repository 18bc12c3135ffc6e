import ml_collections
import numpy as np
import pytest
from sklearn import datasets

from tf_resflow.data import DENSITIES, default_config, load, load_digits


def test_each_name_loads_its_data():
    config = default_config()
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


def test_options_of_pandas_reach_the_loader(tmp_path):
    """A config has some of the options; a mapping can have any."""
    path = tmp_path / "a.csv"
    path.write_text("a;b\n" + "".join(f"{i},5;{i * i}\n" for i in range(20)))
    fields = {"name": "tabular", "path": str(path), "read_options": {"sep": ";", "decimal": ","}}
    fields |= {"test_fraction": 0.25, "validation_fraction": 0}
    dataset = load(default_config(**fields))
    assert dataset.columns == ("a", "b") and dataset.sizes == {"test": 5, "train": 15}
    assert set(dataset.array("test")[:, 0]) <= {i + 0.5 for i in range(20)}
    fields["read_options"] |= {"skipfooter": 4, "header": 0, "engine": "python"}
    assert load(fields).sizes == {"test": 4, "train": 12}


@pytest.mark.parametrize(
    "name, near",
    [("digit", "digits"), ("my_picturs", "my_pictures"), ("mnst/3.0.1", "mnist"), ("~/faces", None)],
)
def test_an_unknown_name_lists_the_known_and_the_nearest(tmp_path, name, near):
    (tmp_path / "my_pictures").mkdir()
    message = f"'{name}'; did you mean '{near}'" if near else "nothing has a similar name"
    with pytest.raises(ValueError, match=message) as error:
        load({"name": name, "data_dir": str(tmp_path)})
    assert all(known in str(error.value) for known in [*DENSITIES, "tabular", "my_pictures"])


def test_refusals(refused):
    refused("data.dta_dir; did you mean 'data_dir'", load, {"dta_dir": ""})
    for wrong in ({"levels": 16}, {"image_size": 9}):
        refused("digits have 17 levels and 8 x 8 pixels", load, wrong)
    refused("data.path is missing", load, {"name": "images"})
    refused("data.flip does not apply to data.name = 'moons'", load, {"name": "moons", "flip": True})
    refused("data.path does not .* set data.name to 'images' or 'tabular'", load, {"path": "photographs"})
    refused("data.read_options does not", load, {"read_options": {"sep": ";"}})
    refused("data.num_test does not", load, {"name": "mnist", "num_test": 5})


def test_columns_of_levels_in_a_config(refused, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("x,size,code\n" + "".join(f"{i / 7:.5f},{'SML'[i % 3]},{i % 4}\n" for i in range(40)))
    fields = {"name": "tabular", "path": str(path)}
    dataset = load({**fields, "kinds": "code: category; size: S < M < L; "})
    assert dataset.codes.kinds == {"x": "number", "size": ["S", "M", "L"], "code": "category"}
    with_comma, config = path.with_name("b.csv"), default_config(**fields)
    config.columns = ["size", "x, cm"]  # in config files, instead of the string 'size, "x, cm"'
    with_comma.write_text(path.read_text().replace("x,", '"x, cm",', 1))
    config.path = str(with_comma)
    assert load(config).columns == ("size", "x, cm")
    for wrong in ("S < M", "size: S < < M", "size", "x: {a}", "x: {}"):
        refused("malformed. Write it like 'wind: number; temp: 0.1", load, {**fields, "kinds": wrong})
