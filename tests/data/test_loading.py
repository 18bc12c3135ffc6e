import re
import subprocess
import sys

import ml_collections
import numpy as np
import pytest
from sklearn import datasets

from tf_resflow.data import DENSITIES, default_config, load, load_digits


def test_importing_the_package_loads_no_optional_library():
    code = (
        "import sys, tf_resflow.data; loaded = {m.split('.')[0] for m in sys.modules};"
        "print(sorted(loaded & {'tensorflow_datasets', 'sklearn', 'matplotlib', 'torch'}))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


def test_each_name_loads_its_data():
    config = default_config()
    assert load(config).name == load(ml_collections.FrozenConfigDict(config)).name == "digits"
    assert load({}).levels == 17
    for name in ("moons", "8gaussians"):
        dataset = load({"name": name, "num_test": 9})
        assert dataset.name == name and dataset.sizes == {"test": 9, "validation": 9}
        assert load({"name": name, "num_test": 9, "validation_fraction": 0}).sizes == {"test": 9}


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
    """Those of the config, and others in a mapping."""
    path = tmp_path / "a.csv"
    path.write_text("a;b\n" + "".join(f"{i},5;{i * i}\n" for i in range(20)))
    fields = {"name": "tabular", "path": str(path), "read_options": {"sep": ";", "decimal": ","}}
    fields |= {"test_fraction": 0.25, "validation_fraction": 0}
    config = default_config(**fields)
    for given in (fields, config, ml_collections.FrozenConfigDict(config)):
        dataset = load(given)
        assert dataset.columns == ("a", "b") and dataset.sizes == {"test": 5, "train": 15}
        assert set(dataset.array("test")[:, 0]) <= {i + 0.5 for i in range(20)}
    fields["read_options"]["skipfooter"], fields["read_options"]["header"] = 4, 0
    assert sum(load(fields | {"read_options": fields["read_options"] | {"engine": "python"}}).sizes.values()) == 16


def test_other_names_are_image_data_sets(tmp_path):
    for name in ("cifar10", "tfds/cifar10"):
        with pytest.raises(ValueError, match="'cifar10' is missing"):
            load({"name": name, "data_dir": str(tmp_path)})


@pytest.mark.parametrize(
    "name, near",
    [("digit", "digits"), ("my_picturs", "my_pictures"), ("mnst/3.0.1", "mnist"), ("~/faces", None)],
)
def test_an_unknown_name_lists_the_known_and_the_nearest(tmp_path, name, near):
    (tmp_path / "my_pictures").mkdir()
    message = f"'{name}'; did you mean '{near}'" if near else "nothing has a similar name"
    with pytest.raises(ValueError, match=message) as error:
        load({"name": name, "data_dir": str(tmp_path)})
    own = "or a table set --config.data.name=images or =tabular"
    assert all(known in str(error.value) for known in [*DENSITIES, "tabular", "my_pictures", own])


def test_wrong_fields_are_errors():
    for fields, message in [
        ("digits", "such as {'name': 'digits'}; got 'digits'"),
        ({"dta_dir": ""}, "data.dta_dir; did you mean 'data_dir'"),
        ({"levels": 16}, "17 levels, not 16"),
        ({"image_size": 9}, "8 x 8, not of size 9"),
    ]:
        with pytest.raises(ValueError, match=message):
            load(fields)


FOREIGN = {
    "moons": {"flip": True},
    "digits": {"path": "photographs", "test_fraction": 0.2, "read_options": {"sep": ";"}},
    "mnist": {"key": "a", "num_test": 5},
    "tabular": {"image_size": 8},
    "images": {"split_train": "train[:10]"},
}


@pytest.mark.parametrize("name, field", [(name, field) for name, fields in FOREIGN.items() for field in fields])
def test_a_field_of_other_data_is_refused(name, field):
    value = FOREIGN[name][field]
    message = re.escape(f"data.{field} = {value!r} does not apply to data.name = '{name}'")
    with pytest.raises(ValueError, match=message) as error:
        load({"name": name, field: value})
    assert ("'images' for a folder" in str(error.value)) == (field in ("path", "key", "test_fraction"))


def test_columns_of_levels_in_a_config(tmp_path):
    rows = np.random.default_rng(0).normal(size=[40, 1])
    path = tmp_path / "a.csv"
    path.write_text("x,size,code\n" + "".join(f"{x:.5f},{'SML'[i % 3]},{i % 4}\n" for i, (x,) in enumerate(rows)))
    fields = {"name": "tabular", "path": str(path)}
    dataset = load({**fields, "kinds": "code: category; size: S < M < L; "})
    assert dataset.codes.kinds == {"x": "number", "size": ["S", "M", "L"], "code": "category"}
    for wrong in ("S < M", "size: S < < M", "size"):
        with pytest.raises(ValueError, match="the kinds of columns, such as 'wind: number; temp: 0.1"):
            load({**fields, "kinds": wrong})
    with pytest.raises(ValueError, match="a.csv: Column 'code': a kind is one of date, .* got 'S'"):
        load({**fields, "kinds": "code: S"})
