import itertools
import sys

import numpy as np
import pyarrow
import pytest
from absl import logging
from pyarrow import parquet

from tf_resflow.data import load_tabular, read_table

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


def _refuse(message, path, *arguments, load=load_tabular, **fields):
    with pytest.raises(ValueError, match=message):
        load(path, *arguments, **fields)


def test_reads_every_kind_of_file(tmp_path, matrix):
    np.save(tmp_path / "a.npy", matrix)
    np.savez(tmp_path / "one.npz", rows=matrix)
    np.savez(tmp_path / "two.npz", rows=matrix, other=matrix[:3])
    _write(tmp_path / "A.CSV", matrix)
    _write(tmp_path / "head.csv", matrix, header='"length, cm",width,height')
    for file, key in {"a.npy": None, "one.npz": None, "two.npz": "rows", "A.CSV": None, "head.csv": None}.items():
        rows, names = read_table(tmp_path / file, key)
        assert names == (("length, cm", "width", "height") if file == "head.csv" else None)
        assert rows.dtype == np.float32
        np.testing.assert_allclose(rows, matrix.astype(np.float32), rtol=1e-6)
    columns = {"a": matrix[:, 0], "b": np.arange(100), "c": matrix[:, 2] > 0}
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    rows, names = read_table(tmp_path / "a.parquet")
    assert names == ("a", "b", "c")
    np.testing.assert_array_equal(rows, np.stack([*columns.values()], axis=1).astype("f4"))


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


HEADERS = ["", "Größe{0}width\n", "sep={0}\na{0}b\n"]
ENCODINGS = ["utf-8-sig", "utf-16", "cp1252", "utf-8"]
FORMATS = [(",", False), (";", False), ("\t", False), ("|", False), (" ", False), (";", True), ("\t", True)]


@pytest.mark.parametrize("case", range(14))
def test_reads_the_csv_files_of_spreadsheets(tmp_path, said, case):
    """Each separator, with or without decimal commas, twice, with the headers and encodings in turn."""
    delimiter, comma = FORMATS[case % 7]
    rows = [[1.5, -2e-05], [3, 4], [0.25, 7]]
    text = HEADERS[case % 3].format(delimiter)
    text += "\r\n".join(f"{a}{delimiter}{b}" for a, b in rows) + "\r\n\r\n"
    path = tmp_path / "a.csv"
    path.write_text(text.replace(".", ",") if comma else text, ENCODINGS[case % 4], newline="")
    np.testing.assert_array_equal(read_table(path).values, np.array(rows, "f4"))
    told = [] if delimiter == "," else [f"2 columns separated by {delimiter!r}"]
    assert len(said) == len(told) and all(words in line for words, line in zip(told, said, strict=True))
    assert sum("decimal commas" in line for line in said) == comma


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
@pytest.mark.parametrize("kind, place", [("npy", "row 5, column 3"), ("csv", "line 6, column 3 'c'")])
def test_a_value_that_is_not_finite_is_an_error(tmp_path, matrix, value, kind, place):
    """Its place is that which an editor shows, as for a cell that is not a number."""
    matrix[4, 2] = matrix[9, 0] = value
    np.save(tmp_path / "a.npy", matrix)
    _write(tmp_path / "a.csv", matrix, header="a,b,c")
    _refuse(f"a.{kind}, {place}: .*2 of 300", tmp_path / f"a.{kind}")


PEOPLE = """name,height,age,city
Ada,1.6,36,London
Alan,1.8,41,Wilmslow
Grace,1.7,,Arlington
"""
IN_TWO_LINES = '"length,\nin cm",b\n\n1,2\n3,4\n5,'


@pytest.mark.parametrize(
    "text, columns, message",
    [
        ("a,b\n1,2\n3,x\n", None, "line 3, column 2 'b': 'x' is not a number"),
        ("1,2\n\n3,\n", None, "line 3, column 2: the value is missing, .* 1 of 4 values, in 1 of 2 rows"),
        ("1,x\n3,4\n", None, "line 1, column 2: 'x'"),
        ("1,2\n3,4,5\n", None, "line 2: 3 cells separated by ',', but the lines above have 2"),
        ("1;2\n3;x\n", None, r"line 2, column 2: 'x' is not a number \(cells are separated by ';'\)"),
        ("1,234;2\n5.5;3\n0.5;2\n", None, "line 1, column 1: '1,234' is not a number"),
        ("1,5;2,5\n3,5;1.000\n", None, "line 2, column 2: '1.000' is not a number"),
        ("a,b\n", None, "no line holds a number"),
        ("", None, "no line holds a number"),
        ("a\0b,1\n", None, "is not text in UTF-8 or UTF-16"),
        ('1,2\n"3,' + "4" * 200_000, None, "line 2: field larger.*quote left open"),
        *[(IN_TWO_LINES + cell, None, "line 6, column 2 'b': ") for cell in ("nan", "x", "")],
        (PEOPLE, None, "line 2, column 1 'name': 'Ada' is not a number .*Choose .*config.data.columns=height,age"),
        (PEOPLE, ["height", "age"], r"line 4, column 2 'age': .*missing.* 1 of 6 .* 1 of 3 rows, .*'age' \(1\)"),
        (PEOPLE, ["height", "ages"], r"no column 'ages'; .*'age'\? Its columns are 'name', 'height', 'age'"),
        (PEOPLE, ["age", "age"], "'age' is chosen twice"),
    ],
)
def test_what_is_wrong_in_a_csv_file_has_its_place(tmp_path, text, columns, message):
    """In lines as an editor counts them."""
    (tmp_path / "a.csv").write_text(text)
    _refuse(f"a.csv.*{message}", tmp_path / "a.csv", columns=columns, load=read_table)


@pytest.mark.parametrize(
    "array, message",
    [
        (np.zeros([3]), r"the shape is \[3\]"),
        (np.zeros([3, 2, 1]), r"the shape is \[3, 2, 1\]"),
        (np.zeros([0, 2]), r"the shape is \[0, 2\]"),
        (np.array([["a", "b"]]), "expected real numbers"),
        (np.zeros([3, 2], complex), "expected real numbers"),
        (np.array([[None, 1]]), "not an array of numbers"),
    ],
)
def test_an_array_that_is_no_matrix_is_an_error(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", array)
    for file in ("a.npy", "a.npz"):
        _refuse(f"{file}: .*{message}", tmp_path / file, load=read_table)


def test_wrong_files_are_errors(tmp_path, matrix):
    np.savez(tmp_path / "two.npz", rows=matrix, other=matrix)
    _refuse("no such file", tmp_path / "none.csv")
    _refuse("ends in .npy, .npz, .csv, .parquet", tmp_path / "a.txt")
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


def test_wrong_parquet_is_an_error(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    for columns, message in [
        ({"a": [1, 2], "name": ["x", "y"]}, "the column 'name' holds string, not numbers. Choose .*columns=a$"),
        ({"a": [1, 2], "b": [0.5, None]}, "a.parquet, row 2, column 2 'b': the value is missing"),
        ({}, r"the shape is \[0, 0\]"),
    ]:
        parquet.write_table(pyarrow.table(columns), path)
        _refuse(message, path, load=read_table)
    path.write_bytes(b"PAR1")
    _refuse("a.parquet: not a Parquet file", path, load=read_table)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r'pyarrow is not installed: pip install "tf-resflow\[data\]"'):
        read_table(path)


def test_columns_are_chosen_by_their_names(tmp_path):
    """The others may hold text, or miss values. A header with a name twice gives no names."""
    (tmp_path / "a.csv").write_text(PEOPLE)
    heights = read_table(tmp_path / "a.csv", columns=["height"]).values
    np.testing.assert_array_equal(heights, np.array([[1.6], [1.8], [1.7]], "f4"))
    columns = {"name": ["Ada", "Alan"], "age": [36, 41], "height": [1.6, 1.8]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    values, names = read_table(tmp_path / "a.parquet", columns=["height", "age"])
    assert names == ("height", "age")
    np.testing.assert_array_equal(values, np.array([[1.6, 36], [1.8, 41]], "f4"))
    (tmp_path / "a.csv").write_text("a,a\n1,2\n")
    assert read_table(tmp_path / "a.csv").columns is None


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
    assert len(said) == 1 and "50 train rows" in said[0] and "column 2 'grade' (3). A density" in said[0]
