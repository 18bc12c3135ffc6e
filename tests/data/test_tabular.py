import itertools
import sys

import numpy as np
import pandas
import pytest
from absl import logging

from tf_resflow.data import load_tabular
from tf_resflow.data.tabular import read_table

pytestmark = pytest.mark.quick


@pytest.fixture
def matrix():
    return np.random.default_rng(0).normal([5, -2, 0], [1, 10, 0.1], size=[100, 3])


@pytest.fixture
def said(monkeypatch):
    """The warnings."""
    lines = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: lines.append(text % values))
    return lines


def _write(path, matrix, header=""):
    np.savetxt(path, matrix, delimiter=",", header=header, comments="", fmt="%.9g")
    return path


def _read(path, *arguments, **fields):
    """The rows, and the names of the columns, None for numbers from 1."""
    frame = read_table(path, *arguments, **fields)
    named = [*frame.columns] != [*range(1, frame.shape[1] + 1)]
    return frame.to_numpy(), tuple(frame.columns) if named else None


def _refuse(message, path, *arguments, load=load_tabular, **fields):
    with pytest.raises(ValueError, match=message):
        load(path, *arguments, **fields)


def test_reads_every_kind_of_file(tmp_path, matrix):
    np.save(tmp_path / "a.npy", matrix)
    np.savez(tmp_path / "one.npz", rows=matrix)
    np.savez(tmp_path / "two.npz", rows=matrix, other=matrix[:3])
    _write(tmp_path / "A.CSV", matrix)
    _write(tmp_path / "head.csv", matrix, header='"length, cm", width,height')
    frame = pandas.DataFrame(matrix, columns=["length, cm", "width", "height"])
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_excel(tmp_path / "a.xlsx", index=False)
    frame.to_excel(tmp_path / "bare.xlsx", index=False, header=False)
    named = ("head.csv", "a.parquet", "a.xlsx")
    for file in ("a.npy", "one.npz", "two.npz", "A.CSV", "bare.xlsx", *named):
        rows, names = _read(tmp_path / file, "rows" if file == "two.npz" else None)
        assert names == (("length, cm", "width", "height") if file in named else None)
        assert rows.dtype == np.float32
        np.testing.assert_allclose(rows, matrix.astype(np.float32), rtol=1e-6)


def test_fractions_partition_the_rows(tmp_path, matrix):
    """Statistics are of the train split, and the data keep their units."""
    np.save(tmp_path / "a.npy", matrix)
    dataset = load_tabular(tmp_path / "a.npy", test_fraction=0.25, validation_fraction=0.1)
    assert dataset.sizes == {"test": 25, "validation": 10, "train": 65}
    assert dataset.event_shape == (3,) and dataset.levels is None
    rows = np.concatenate([dataset.array(split) for split in dataset.sizes])
    np.testing.assert_array_equal(rows[np.argsort(rows[:, 0])], matrix[np.argsort(matrix[:, 0])].astype("f4"))
    train = dataset.array("train")
    np.testing.assert_allclose(dataset.mean, train.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(dataset.std, train.std(axis=0), rtol=1e-4)
    other = load_tabular(tmp_path / "a.npy", test_fraction=0.25, split_seed=1)
    assert np.any(other.array("test") != dataset.array("test"))


def test_columns_that_are_the_condition(tmp_path, matrix):
    """In the order in which they are named; each with its own moments, of the train rows."""
    np.save(tmp_path / "a.npy", matrix)
    whole = load_tabular(tmp_path / "a.npy")
    dataset = load_tabular(tmp_path / "a.npy", condition_columns=["3", "1"])
    assert dataset.event_shape == (1,) and dataset.sizes == whole.sizes
    x, c = next(iter(dataset.eval_batches("train", 100, labels=True)))
    rows = whole.array("train")
    np.testing.assert_array_equal(x, rows[:, [1]])
    np.testing.assert_array_equal(c, rows[:, [2, 0]])
    np.testing.assert_allclose(dataset.condition_mean, rows[:, [2, 0]].mean(0), rtol=1e-5)
    np.testing.assert_allclose(dataset.condition_std, rows[:, [2, 0]].std(0), rtol=1e-5)
    np.testing.assert_allclose(dataset.mean, rows[:, [1]].mean(0), rtol=1e-5)
    x, c = next(iter(dataset.train_batches(8, seed=0, labels=True)))
    np.testing.assert_array_equal(next(iter(dataset.train_batches(8, seed=0))), x)
    pairs = {tuple(row) for row in rows[:, [1, 2, 0]]}
    assert {tuple(row) for row in np.concatenate([x, c], 1)} <= pairs
    assert whole.condition_mean is None
    with pytest.raises(ValueError, match="has no labels"):
        whole.train_batches(8, seed=0, labels=True)
    refused = {"0": "no column '0'", "4": "no column '4'", "11": "'1' is chosen twice", "123": "none is left"}
    for columns, message in refused.items():
        _refuse(message, tmp_path / "a.npy", condition_columns=[*columns])
    _write(tmp_path / "a.csv", matrix, header="a,b,c")
    named = load_tabular(tmp_path / "a.csv", columns=["c", "b", "a"], condition_columns=["a", "1"])
    assert (named.columns, named.condition_columns) == (("b",), ("a", "c"))
    _, c = next(iter(named.eval_batches("test", 100, labels=True)))
    assert np.isin(c, matrix[:, [0, 2]].astype("f4")).all()


READ_OPTIONS = {
    "semicolons": ("a;b\n1,5;-2e-05\n3;4\n", "utf-8", {"sep": ";", "decimal": ","}),
    "white space": ("a  b\n1.5\t-2e-05\n3 4\n", "utf-8", {"sep": r"\s+"}),
    "thousands": ('a,b\n1.5,-2e-05\n3,"0,004"\n', "utf-8", {"thousands": ","}),
    "an encoding": ("a,Größe\n1.5,-2e-05\n3,4\n", "utf-16", {"encoding": "utf-16"}),
    "a mark of the byte order": ("a,b\n1.5,-2e-05\n\n3,4\n", "utf-8-sig", {}),
    "lines above": ("A table\n\na,b\n1.5,-2e-05\n3,4\n", "utf-8", {"skiprows": 1, "sep": None}),
    "a header of numbers": ("2019,2020\n1.5,-2e-05\n3,4\n", "utf-8", {"header": 0}),
    "spaces": ("a, b\n 1.5, -2e-05\n3, 4\n", "utf-8", {}),
}


@pytest.mark.parametrize("case", READ_OPTIONS)
def test_options_of_pandas(tmp_path, case):
    """An option that is None, as in the config, is not set."""
    text, encoding, options = READ_OPTIONS[case]
    (tmp_path / "a.csv").write_text(text, encoding)
    rows, names = _read(tmp_path / "a.csv", read_options=options)
    np.testing.assert_array_equal(rows, np.array([[1.5, -2e-05], [3, 4]], "f4"))
    assert len(names) == 2 and all(name == name.strip() for name in names)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
@pytest.mark.parametrize("kind, place", [("npy", "row 5, column 3"), ("csv", "row 5, column 'c'")])
def test_a_value_that_is_not_finite_is_an_error(tmp_path, matrix, value, kind, place):
    matrix[4, 2] = matrix[9, 0] = value
    np.save(tmp_path / "a.npy", matrix)
    _write(tmp_path / "a.csv", matrix, header="a,b,c")
    _refuse(f"a.{kind}, {place}: .*2 of 300", tmp_path / f"a.{kind}")


PEOPLE = """name,height,age,city
Ada,1.6,36,London
Alan,1.8,41,Wilmslow
Grace,1.7,,Arlington
"""
WRITTEN = "another kind of CSV, .*--config.data.read_options.sep=';'.* decimal=',', encoding=utf-16, or header=0"


@pytest.mark.parametrize(
    "text, fields, message",
    [
        ("a,b\n1,2\n3,x\n", {}, f", row 2, column 'b': 'x' is not a real number. .*columns=a. .*{WRITTEN}"),
        ("1,x\n3,4\n", {}, f", row 1, column 2: 'x' is not a real number. .*columns=1. .*{WRITTEN}"),
        ("1,2\n\n3,\n", {}, ", row 2, column 2: the value is missing, .* 1 of 4 values, in 1 of 2 rows"),
        ("a;b\n1.5;2\n", {}, f", row 1, column 'a;b': '1.5;2' is not a real number. .*{WRITTEN}"),
        ("a;b\n1,5;2,5\n3,5;4\n", {}, f": the first line has fewer cells than the lines below. .*{WRITTEN}"),
        ("a,b\n1,2,3\n", {}, "fewer cells"),
        ("1,2\n3,4,5\n", {}, f" cannot be read as a table .*Expected 2 fields in line 2, saw 3.*{WRITTEN}"),
        ('1,2\n"3,4\n', {}, "EOF inside string"),
        ("a,b\n", {}, r"the shape is \[0, 2\]"),
        ("", {}, "No columns to parse"),
        ("\xff", {}, f"codec can't decode.*{WRITTEN}"),
        ("a,b\n1,2\n", {"read_options": {"spe": ";"}}, "unexpected keyword argument 'spe'"),
        (PEOPLE, {}, "row 1, column 'name': 'Ada' is not a real number. Choose .*config.data.columns=height,age"),
        (PEOPLE, {"columns": ["height", "age"]}, r"row 3, column 'age': .*missing.* 1 of 6 .* 1 of 3 rows"),
        (PEOPLE, {"columns": ["height", "ages"]}, "no column 'ages'; .*'age'. Its columns are 'name', 'height'"),
        (PEOPLE, {"columns": ["age", "age"]}, "'age' is chosen twice"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_csv_file_has_its_place(tmp_path, text, fields, message):
    (tmp_path / "a.csv").write_text(text, "latin-1")
    _refuse(f"a.csv.*{message}", tmp_path / "a.csv", **fields, load=read_table)


@pytest.mark.parametrize(
    "array, message",
    [
        (np.zeros([3]), r"the shape is \[3\]"),
        (np.zeros([3, 2, 1]), r"the shape is \[3, 2, 1\]"),
        (np.zeros([0, 2]), r"the shape is \[0, 2\]"),
        (np.array([["a", "b"]]), "row 1, column 1: 'a' is not a real number"),
        (np.zeros([3, 2], complex), "row 1, column 1: '0j' is not a real number"),
        (np.array([[None, 1]]), "cannot be read as an array of numbers"),
    ],
)
def test_an_array_that_is_no_matrix_is_an_error(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", array)
    for file in ("a.npy", "a.npz"):
        _refuse(f"{file}.*{message}", tmp_path / file, load=read_table)


def test_wrong_files_are_errors(tmp_path, matrix):
    np.savez(tmp_path / "two.npz", rows=matrix, other=matrix)
    _refuse("no such file", tmp_path / "none.csv")
    _refuse("ends in .csv, .parquet, .xlsx, .npy, .npz", tmp_path / "a.txt")
    _refuse("is a folder. .* data.name = 'images'", tmp_path)
    _refuse("No table was given", "")
    _refuse(r"2 arrays: set key to one of \['rows', 'other'\]", tmp_path / "two.npz")
    _refuse("no array 'row'", tmp_path / "two.npz", key="row")


def test_unusable_splits_are_errors(tmp_path, matrix):
    path, few, other = tmp_path / "a.npy", tmp_path / "few.npy", tmp_path / "b.npy"
    np.save(path, matrix)
    _refuse("test_fraction must be", path, test_fraction=1.5)
    _refuse("split_seed must be in 0", path, split_seed=-1)
    _refuse("100 examples .* leave -20", path, test_fraction=0.6, validation_fraction=0.6)
    _refuse("test split holds no example, since test_fraction of 100", path, test_fraction=0.001)
    for num, fraction in [(1, 0), (1, 0.1), (2, 0.5), (3, 0.4)]:
        np.save(few, matrix[:num])
        message = "leave [01] for training, which needs at least 2"
        _refuse(message, few, test_fraction=fraction, validation_fraction=fraction)
    np.save(other, matrix[:, :2])
    _refuse("differ in their event shapes", path, other)
    matrix[:, 1] = 3
    np.save(path, matrix)
    _refuse("column 2 has the same value 3.0", path)


@pytest.mark.parametrize("fields", [*itertools.combinations(["path", "path_test", "path_validation"], 2)])
def test_files_of_the_same_rows_are_errors(tmp_path, matrix, fields):
    """A copy of another kind."""
    np.save(tmp_path / "a.npy", matrix.astype("f4"))
    np.savez(tmp_path / "copy.npz", matrix.astype("f4"))
    np.save(tmp_path / "other.npy", matrix + 1)
    one, other = fields
    paths = {"path": tmp_path / "other.npy", one: tmp_path / "a.npy", other: tmp_path / "copy.npz"}
    _refuse(f"{one} and {other} have the same examples", **paths)


def test_the_types_of_parquet(tmp_path):
    columns = {"int": [1, 2], "flag": [True, False], "whole": pandas.array([1, None], dtype="Int64")}
    columns |= {"day": pandas.to_datetime(["2020-01-01", "2021-01-01"]), "name": ["x", "y"]}
    path = tmp_path / "a.parquet"
    pandas.DataFrame(columns).to_parquet(path)
    rows, names = _read(path, columns=["flag", "int"])
    assert names == ("flag", "int")
    np.testing.assert_array_equal(rows, np.array([[1, 1], [0, 2]], "f4"))
    for name, message in {
        "whole": "row 2, column 'whole': the value is missing",
        "day": "row 1, column 'day': '2020-01-01",
        "name": "row 1, column 'name': 'x' is not a real number",
    }.items():
        _refuse(f"a.parquet, {message}", path, columns=[name], load=read_table)
    _refuse("Choose .*columns=int,flag,whole", path, load=read_table)
    pandas.DataFrame().to_parquet(path)
    _refuse(r"the shape is \[0, 0\]", path, load=read_table)


@pytest.mark.parametrize("suffix", ["parquet", "xlsx"])
def test_damaged_files_and_missing_packages(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(b"PAR1")
    _refuse(f"a.{suffix} cannot be read as a table", path, load=read_table)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r'pandas is not installed: pip install "tf-resflow\[data\]"'):
        read_table(path)


def test_columns_are_chosen_by_their_names(tmp_path):
    """Or numbers. The others may hold text, or miss values."""
    (tmp_path / "a.csv").write_text(PEOPLE)
    for chosen in (["height"], ["2"]):
        rows, names = _read(tmp_path / "a.csv", columns=chosen)
        np.testing.assert_array_equal(rows, np.array([[1.6], [1.8], [1.7]], "f4"))
        assert names == ("height",)


def test_splits_of_other_files_have_the_columns_of_the_first(tmp_path, matrix):
    """By name, in whatever order; or as many, without names."""
    _write(tmp_path / "a.csv", matrix, header="a,b,c")
    _write(tmp_path / "b.csv", matrix[:5, ::-1], header="c,b,a")
    np.save(tmp_path / "c.npy", matrix[:7, ::2])
    files = {"path": tmp_path / "a.csv", "path_test": tmp_path / "b.csv"}
    dataset = load_tabular(**files, validation_fraction=0)
    assert dataset.columns == ("a", "b", "c") and dataset.sizes == {"test": 5, "train": 100}
    np.testing.assert_allclose(dataset.array("test"), matrix[:5], rtol=1e-6)
    files["path_validation"] = tmp_path / "c.npy"
    dataset = load_tabular(**files, columns=["a", "c"])
    assert dataset.columns == ("a", "c")
    np.testing.assert_allclose(dataset.array("test"), matrix[:5, ::2], rtol=1e-6)
    np.testing.assert_allclose(dataset.array("validation"), matrix[:7, ::2], rtol=1e-6)
    _refuse("has 2 columns without names, and those wanted are 3: a, b, c", **files)


def test_columns_with_few_values_cause_a_warning(tmp_path, matrix, said):
    matrix[:, 1] = np.arange(len(matrix)) % 3
    _write(tmp_path / "a.csv", matrix, header="a,grade,c")
    load_tabular(tmp_path / "a.csv", test_fraction=0.5, validation_fraction=0)
    assert len(said) == 1 and "50 train rows" in said[0] and "categories: 'grade' (3). A density" in said[0]
