import itertools
import pathlib
import sys

import numpy as np
import pyarrow
import pytest
from absl import logging
from pyarrow import parquet

from tf_resflow.data import load_tabular, read_table


@pytest.fixture
def matrix():
    return np.random.default_rng(0).normal([5, -2, 0], [1, 10, 0.1], size=[100, 3])


def _write(path, matrix, header=""):
    np.savetxt(path, matrix, delimiter=",", header=header, comments="", fmt="%.9g")
    return path


def test_reads_every_kind_of_file(tmp_path, matrix):
    np.save(tmp_path / "a.npy", matrix)
    np.savez(tmp_path / "one.npz", rows=matrix)
    np.savez(tmp_path / "two.npz", rows=matrix, other=matrix[:3])
    _write(tmp_path / "A.CSV", matrix)
    _write(tmp_path / "head.csv", matrix, header='"length, cm",width,height')
    for file, key in [
        ("a.npy", None),
        ("one.npz", None),
        ("two.npz", "rows"),
        ("A.CSV", None),
        ("head.csv", None),
    ]:
        rows, names = read_table(tmp_path / file, key)
        assert names == (("length, cm", "width", "height") if file == "head.csv" else None)
        assert rows.dtype == np.float32
        np.testing.assert_allclose(rows, matrix.astype(np.float32), rtol=1e-6)


def test_fractions_partition_the_rows(tmp_path, matrix):
    np.save(tmp_path / "a.npy", matrix)
    dataset = load_tabular(tmp_path / "a.npy", test_fraction=0.25, validation_fraction=0.1)
    assert dataset.sizes == {"test": 25, "validation": 10, "train": 65}
    assert dataset.event_shape == (3,) and dataset.levels is None
    rows = np.concatenate([dataset.array(split) for split in dataset.sizes])
    np.testing.assert_array_equal(np.sort(rows, axis=0), np.sort(matrix.astype("f4"), axis=0))
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
    alone = next(iter(dataset.train_batches(8, seed=0)))
    np.testing.assert_array_equal(alone, x)
    pairs = {tuple(row) for row in rows[:, [1, 2, 0]]}
    assert {tuple(row) for row in np.concatenate([x, c], 1)} <= pairs
    assert whole.condition_mean is None
    with pytest.raises(ValueError, match="has no labels"):
        whole.train_batches(8, seed=0, labels=True)
    for columns, message in [
        ("0", "no column '0'"),
        ("4", "no column '4'"),
        ("11", "'1' is chosen twice"),
        ("123", "none is left"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_tabular(tmp_path / "a.npy", condition_columns=[*columns])
    _write(tmp_path / "a.csv", matrix, header="a,b,c")
    named = load_tabular(tmp_path / "a.csv", columns=["c", "b", "a"], condition_columns=["a", "1"])
    assert (named.columns, named.condition_columns) == (("b",), ("a", "c"))
    _, c = next(iter(named.eval_batches("test", 100, labels=True)))
    assert np.isin(c, matrix[:, [0, 2]].astype("f4")).all()


def test_separate_files_and_no_validation(tmp_path, matrix):
    np.save(tmp_path / "a.npy", matrix)
    np.save(tmp_path / "b.npy", matrix[:7])
    dataset = load_tabular(tmp_path / "a.npy", tmp_path / "b.npy", validation_fraction=0)
    assert dataset.sizes == {"test": 7, "train": 100}
    np.testing.assert_array_equal(dataset.array("test"), matrix[:7].astype(np.float32))


def test_statistics_are_of_the_train_split_and_data_keep_their_units(tmp_path, matrix):
    np.save(tmp_path / "a.npy", matrix)
    dataset = load_tabular(tmp_path / "a.npy", test_fraction=0.5)
    train = dataset.array("train")
    np.testing.assert_allclose(dataset.mean, train.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(dataset.std, train.std(axis=0), rtol=1e-4)
    assert np.isin(train, matrix.astype(np.float32)).all()


@pytest.fixture
def said(monkeypatch):
    """The warnings."""
    lines = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: lines.append(text % values))
    return lines


@pytest.mark.parametrize("header", ["", "Größe{0}width\n", "sep={0}\na{0}b\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("delimiter, comma", [*itertools.product(",;\t| ", [False]), (";", True), ("\t", True)])
def test_reads_the_csv_files_of_spreadsheets(tmp_path, said, header, encoding, delimiter, comma):
    rows = [[1.5, -2e-05], [3, 4], [0.25, 7]]
    text = header.format(delimiter) + "\r\n".join(f"{a}{delimiter}{b}" for a, b in rows) + "\r\n\r\n"
    (tmp_path / "a.csv").write_text(text.replace(".", ",") if comma else text, encoding, newline="")
    np.testing.assert_array_equal(read_table(tmp_path / "a.csv").values, np.array(rows, "f4"))
    told = [] if delimiter == "," else [f"2 columns separated by {delimiter!r}"]
    assert len(said) == len(told) and all(words in line for words, line in zip(told, said, strict=True))
    assert sum("decimal commas" in line for line in said) == comma


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
@pytest.mark.parametrize("kind, place", [("npy", "row 5, column 3"), ("csv", "line 6, column 3")])
def test_a_value_that_is_not_finite_is_an_error(tmp_path, matrix, value, kind, place):
    """Its place is that which an editor shows, as for a cell that is not a number."""
    matrix[4, 2] = matrix[9, 0] = value
    np.save(tmp_path / "a.npy", matrix)
    _write(tmp_path / "a.csv", matrix, header="a,b,c")
    place += " 'c'" if kind == "csv" else ""
    with pytest.raises(ValueError, match=f"a.{kind}, {place}: .*2 of 300"):
        load_tabular(tmp_path / f"a.{kind}")


@pytest.mark.parametrize("cell", ["nan", "x", ""])
def test_lines_are_counted_as_an_editor_does(tmp_path, cell):
    """After a name in two lines and an empty line."""
    (tmp_path / "a.csv").write_text(f'"length,\nin cm",b\n\n1,2\n3,4\n5,{cell}\n')
    with pytest.raises(ValueError, match="a.csv, line 6, column 2 'b': "):
        read_table(tmp_path / "a.csv")


@pytest.mark.parametrize(
    "text, message",
    [
        ("a,b\n1,2\n3,x\n", r"a.csv, line 3, column 2 'b': 'x' is not a number"),
        ("1,2\n\n3,\n", "a.csv, line 3, column 2: the value is missing, .* 1 of 4 values, in 1 of 2 rows"),
        ("1,x\n3,4\n", r"a.csv, line 1, column 2: 'x'"),
        ("1,2\n3,4,5\n", r"a.csv, line 2: 3 cells separated by ',', but the lines above have 2"),
        ("1;2\n3;x\n", r"a.csv, line 2, column 2: 'x' is not a number \(cells are separated by ';'\)"),
        ("1,234;2\n5.5;3\n0.5;2\n", r"a.csv, line 1, column 1: '1,234' is not a number"),
        ("1,5;2,5\n3,5;1.000\n", r"a.csv, line 2, column 2: '1.000' is not a number"),
        ("a,b\n", "no line holds a number"),
        ("", "no line holds a number"),
        ("a\0b,1\n", "is not text in UTF-8 or UTF-16"),
        ('1,2\n"3,' + "4" * 200_000, "a.csv, line 2: field larger.*quote left open"),
    ],
)
def test_malformed_csv_is_an_error(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_table(tmp_path / "a.csv")


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
        with pytest.raises(ValueError, match=f"{file}: .*{message}"):
            read_table(tmp_path / file)


@pytest.mark.parametrize("size", [0, 3, 50, -40])
@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_files_that_were_cut_short_are_errors(tmp_path, matrix, kind, size):
    np.save(tmp_path / "whole.npy", matrix)
    np.savez(tmp_path / "whole.npz", matrix)
    (tmp_path / f"a.{kind}").write_bytes((tmp_path / f"whole.{kind}").read_bytes()[:size])
    with pytest.raises(ValueError, match=f"a.{kind}: not an array of numbers") as error:
        read_table(tmp_path / f"a.{kind}")
    assert pathlib.Path(error.traceback[-1].path).name == "numpy_files.py"  # the message of ours, not of NumPy


def test_wrong_files_are_errors(tmp_path, matrix):
    with pytest.raises(ValueError, match="no such file"):
        load_tabular(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="ends in .npy, .npz, .csv, .parquet"):
        load_tabular(tmp_path / "a.txt")
    with pytest.raises(ValueError, match="is a folder. .* data.name = 'images'"):
        load_tabular(tmp_path)
    with pytest.raises(ValueError, match="No table was given"):
        load_tabular("")
    np.savez(tmp_path / "two.npz", rows=matrix, other=matrix)
    with pytest.raises(ValueError, match=r"2 arrays: set key to one of \['rows', 'other'\]"):
        load_tabular(tmp_path / "two.npz")
    with pytest.raises(ValueError, match="no array 'row'"):
        load_tabular(tmp_path / "two.npz", key="row")
    (tmp_path / "a.npy").write_text("not numpy")
    with pytest.raises(ValueError, match="not an array of numbers"):
        load_tabular(tmp_path / "a.npy")


def test_unusable_splits_are_errors(tmp_path, matrix):
    np.save(tmp_path / "a.npy", matrix)
    with pytest.raises(ValueError, match="test_fraction must be"):
        load_tabular(tmp_path / "a.npy", test_fraction=1.5)
    with pytest.raises(ValueError, match="100 examples .* leave -20"):
        load_tabular(tmp_path / "a.npy", test_fraction=0.6, validation_fraction=0.6)
    with pytest.raises(ValueError, match="test split holds no example, since test_fraction of 100"):
        load_tabular(tmp_path / "a.npy", test_fraction=0.001)
    for num, fraction in [(1, 0), (1, 0.1), (2, 0.5), (3, 0.4)]:
        np.save(tmp_path / "few.npy", matrix[:num])
        with pytest.raises(ValueError, match="leave [01] for training, which needs at least 2"):
            load_tabular(tmp_path / "few.npy", test_fraction=fraction, validation_fraction=fraction)
    np.save(tmp_path / "b.npy", matrix[:, :2])
    with pytest.raises(ValueError, match="differ in their event shapes"):
        load_tabular(tmp_path / "a.npy", tmp_path / "b.npy")
    matrix[:, 1] = 3
    np.save(tmp_path / "a.npy", matrix)
    with pytest.raises(ValueError, match="column 2 has the same value 3.0"):
        load_tabular(tmp_path / "a.npy")


@pytest.mark.parametrize("fields", [*itertools.combinations(["path", "path_test", "path_validation"], 2)])
def test_files_of_the_same_rows_are_errors(tmp_path, matrix, fields):
    """A copy, of another kind, too."""
    np.save(tmp_path / "a.npy", matrix.astype("f4"))
    np.savez(tmp_path / "copy.npz", matrix.astype("f4"))
    np.save(tmp_path / "other.npy", matrix + 1)
    one, other = fields
    for copy in ("a.npy", "copy.npz"):
        paths = {"path": tmp_path / "other.npy", one: tmp_path / "a.npy", other: tmp_path / copy}
        with pytest.raises(ValueError, match=f"{one} and {other} have the same examples"):
            load_tabular(**paths)


def test_reads_parquet(tmp_path, matrix):
    columns = {"a": matrix[:, 0], "b": np.arange(100), "c": matrix[:, 2] > 0}
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    rows, names = read_table(tmp_path / "a.parquet")
    assert names == ("a", "b", "c")
    np.testing.assert_array_equal(rows, np.stack([*columns.values()], axis=1).astype("f4"))


def test_wrong_parquet_is_an_error(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    for columns, message in [
        ({"a": [1, 2], "name": ["x", "y"]}, "the column 'name' holds string, not numbers. Choose .*columns=a$"),
        ({"a": [1, 2], "b": [0.5, None]}, "a.parquet, row 2, column 2 'b': the value is missing"),
        ({}, r"the shape is \[0, 0\]"),
    ]:
        parquet.write_table(pyarrow.table(columns), path)
        with pytest.raises(ValueError, match=message):
            read_table(path)
    path.write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="a.parquet: not a Parquet file"):
        read_table(path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r'pyarrow is not installed: pip install "tf-resflow\[data\]"'):
        read_table(path)


PEOPLE = """name,height,age,city
Ada,1.6,36,London
Alan,1.8,41,Wilmslow
Grace,1.7,,Arlington
"""


def test_columns_are_chosen_by_their_names(tmp_path):
    """The others may hold text, or miss values."""
    (tmp_path / "a.csv").write_text(PEOPLE)
    heights = [[1.6], [1.8], [1.7]]
    np.testing.assert_array_equal(
        read_table(tmp_path / "a.csv", columns=["height"]).values, np.array(heights, "f4")
    )
    columns = {"name": ["Ada", "Alan"], "age": [36, 41], "height": [1.6, 1.8]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    values, names = read_table(tmp_path / "a.parquet", columns=["height", "age"])
    assert names == ("height", "age")
    np.testing.assert_array_equal(values, np.array([[1.6, 36], [1.8, 41]], "f4"))


@pytest.mark.parametrize(
    "columns, message",
    [
        (None, r"line 2, column 1 'name': 'Ada' is not a number .*Choose .* --config.data.columns=height,age"),
        (["height", "age"], r"line 4, column 2 'age': the value is missing.* 1 of 6 .* 1 of 3 rows, .*'age' \(1\)"),
        (["height", "ages"], r"no column 'ages'; did you mean 'age'\? Its columns are 'name', 'height', 'age'"),
        (["age", "age"], "'age' is chosen twice"),
    ],
)
def test_wrong_columns_are_errors(tmp_path, columns, message):
    (tmp_path / "a.csv").write_text(PEOPLE)
    with pytest.raises(ValueError, match=message):
        read_table(tmp_path / "a.csv", columns=columns)


def test_splits_of_other_files_have_the_columns_of_the_first(tmp_path, matrix):
    """By name, in whatever order; or as many, without names."""
    _write(tmp_path / "a.csv", matrix, header="a,b,c")
    _write(tmp_path / "b.csv", matrix[:5, ::-1], header="c,b,a")
    np.save(tmp_path / "c.npy", matrix[:7, ::2])
    files = {"path": tmp_path / "a.csv", "path_test": tmp_path / "b.csv"}
    dataset = load_tabular(**files)
    assert dataset.columns == ("a", "b", "c")
    np.testing.assert_allclose(dataset.array("test"), matrix[:5], rtol=1e-6)
    dataset = load_tabular(**files, path_validation=tmp_path / "c.npy", columns=["a", "c"])
    assert dataset.columns == ("a", "c")
    np.testing.assert_allclose(dataset.array("test"), matrix[:5, ::2], rtol=1e-6)
    np.testing.assert_allclose(dataset.array("validation"), matrix[:7, ::2], rtol=1e-6)
    with pytest.raises(ValueError, match="has 2 columns without names, and those wanted are 3: a, b, c"):
        load_tabular(**files, path_validation=tmp_path / "c.npy")


def test_a_header_with_a_name_twice_gives_no_names(tmp_path):
    (tmp_path / "a.csv").write_text("a,a\n1,2\n")
    assert read_table(tmp_path / "a.csv").columns is None


def test_columns_with_few_values_cause_a_warning(tmp_path, matrix, said):
    matrix[:, 1] = np.arange(len(matrix)) % 3
    _write(tmp_path / "a.csv", matrix, header="a,grade,c")
    load_tabular(tmp_path / "a.csv", test_fraction=0.5, validation_fraction=0)
    assert len(said) == 1 and "50 train rows" in said[0] and "column 2 'grade' (3). A density" in said[0]
