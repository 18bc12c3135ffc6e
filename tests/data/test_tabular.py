import sys

import numpy as np
import pandas
import pytest

from tests.data import test_columns
from tf_resflow.data import load_tabular

pytestmark = pytest.mark.quick
NO_SPLITS = {"test_fraction": 0, "validation_fraction": 0}


@pytest.fixture
def matrix():
    return np.random.default_rng(0).normal([5, -2, 0], [1, 10, 0.1], size=[100, 3])


def _write(path, matrix, header=""):
    np.savetxt(path, matrix, delimiter=",", header=header, comments="", fmt="%.9g")
    return path


def _load(path, **fields):
    """All rows."""
    return load_tabular(path, **NO_SPLITS, **fields)


def _read(path, **fields):
    """The rows, and the names of the columns, None for numbers from 1."""
    dataset = _load(path, **fields)
    order = np.random.RandomState(0).permutation(dataset.sizes["train"])
    return dataset.array("train")[np.argsort(order)], dataset.columns


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
        rows, names = _read(tmp_path / file, key="rows" if file == "two.npz" else None)
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
    _write(tmp_path / "a.csv", matrix, header="a,b,c")
    named = load_tabular(tmp_path / "a.csv", columns=["c", "b", "a"], condition_columns=["a", "1"])
    assert (named.columns, named.condition_columns) == (("b",), ("a", "c"))


READ_OPTIONS = {
    "semicolons": ("a;b\n1,5;-2e-05\n3;4\n", "utf-8", {"sep": ";", "decimal": ","}),
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


@pytest.mark.parametrize("kind, name", [("npy", "3"), ("csv", "'c'")])
def test_a_value_that_is_not_finite_is_an_error(tmp_path, matrix, kind, name):
    for value, message in (
        (
            np.nan,
            f"{tmp_path}/a.{kind}, row 5, column {name}: .* 2 of 100 rows miss values, by columns: .*1.*, .*1",
        ),
        (np.inf, "Column .*1 of 100 values are infinite"),
        (1e300, r"a \(t.*the value .* is not finite in float32"),
    ):
        matrix[4, 2] = matrix[9, 0] = value
        np.save(tmp_path / "a.npy", matrix)
        _write(tmp_path / "a.csv", matrix, header="a,b,c")
        _refuse(message, tmp_path / f"a.{kind}")


PEOPLE = """name,height,age,city
Ada,1.6,36,London
Alan,1.8,41,Wilmslow
Grace,1.7,,Arlington
"""
WRITTEN = (
    "how the file is written, .*--config.data.read_options.sep=';'.* decimal=',', .* encoding=utf-16, or header=0"
)


@pytest.mark.parametrize(
    "text, fields, message",
    [
        ("a,b\n1,2\n3,x\n", {}, f", row 2, column 'b': 'x' is not a number .* 1 of the 2 .*y'. .*{WRITTEN}"),
        ("1,x\n3,4\n", {}, f", row 1, column 2: 'x' is not a number or a date, .*{WRITTEN}"),
        ("1,2\n\n3,\n", {}, ", row 2, column 2: the value is missing. 1 of 2 rows miss values, by columns: 2 .1."),
        ("a;b\n1.5;2\n", {}, f": the cells do not suit the first line, a;b. .*{WRITTEN}"),
        ("a;b\n1,5;2,5\n3,5;4\n", {}, f": the cells do not suit the first line, a;b. .*{WRITTEN}"),
        ("a,b\n1,2,3\n", {}, ": the cells do not suit the first line, a, b."),
        ("1,2\n3,4,5\n", {}, f" cannot be read as a table .*Expected 2 fields in line 2, saw 3.*{WRITTEN}"),
        ("a,b\n", {}, r"the shape is \[0, 2\]"),
        ("\xff", {}, f"codec can't decode.*{WRITTEN}"),
        (PEOPLE, {}, ", row 3, column 'age': .*missing. 1 of 3 rows .* columns: 'age' .1.. .*data.missing=drop"),
        (PEOPLE, {"columns": ["height", "ages"]}, "no column 'ages'; .*'age'. Its columns are 'name', 'height'"),
        (PEOPLE, {"columns": ["age", "age"]}, "'age' is chosen twice"),
        (PEOPLE, {"kinds": {"cities": "category"}}, "no column 'cities'; did you mean 'city'"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_csv_file_has_its_place(tmp_path, text, fields, message):
    (tmp_path / "a.csv").write_text(text, "latin-1")
    _refuse(f"a.csv.*{message}", tmp_path / "a.csv", **fields, load=_load)


@pytest.mark.parametrize(
    "array, message, fields",
    [
        (np.zeros([3, 2, 1]), r"the shape is \[3, 2, 1\]", {}),
        (np.zeros([0, 2]), r"the shape is \[0, 2\]", {}),
        (np.array([["a", "b"], ["c", "b"]]), "column 2 has one value in all train rows", NO_SPLITS),
        (np.zeros([3, 2], complex), "Column 1: 3 of 3 values are not a number, such as 0j", {}),
        (np.array([[None, 1]]), "cannot be read as an array of numbers", {}),
        (np.eye(100), "'test': -10, ", {"test_fraction": -0.1}),
        (np.eye(100), "'train': -20", {"test_fraction": 0.6, "validation_fraction": 0.6}),
        (np.eye(100), "100 examples would be split into {'test': 0, ", {"test_fraction": 0.001}),
        (np.eye(1), "{'train': 1}, .* train needs 2", NO_SPLITS),
        (np.eye(3), "'1' is chosen twice", {"condition_columns": ["1", "1"]}),
        (np.eye(3), "none is left", {"condition_columns": ["1", "2", "3"]}),
        *[(np.eye(3), f"no column '{name}'", {"condition_columns": [name]}) for name in "04"],
    ],
)  # fmt: skip
def test_an_unusable_array_or_split_is_an_error(tmp_path, array, message, fields):
    np.savez(tmp_path / "a.npz", array)
    _refuse(message, tmp_path / "a.npz", **fields)


def test_wrong_files_are_errors(tmp_path, matrix):
    path, other = tmp_path / "a.npy", tmp_path / "two.npz"
    np.save(path, matrix)
    np.savez(other, rows=matrix[:, :2], other=matrix)
    _refuse("no such file", tmp_path / "none.csv")
    _refuse("ends in .csv, .parquet, .xlsx, .npy, .npz", tmp_path / "a.txt")
    _refuse(r"set key to one of \['rows', 'other'\]", other)
    _refuse("two.npz has 2 columns; the model takes 3, without names", path, other, key="rows")


def test_the_types_of_parquet(tmp_path):
    columns = {"int": [1, 2], "flag": [True, False], "whole": pandas.array([1, None], dtype="Int64")}
    columns |= {"day": pandas.to_datetime(["2020-01-01", "2021-01-01"]), "name": ["x", "y"]}
    path = tmp_path / "a.parquet"
    pandas.DataFrame(columns).to_parquet(path)
    rows, names = _read(path, columns=["flag", "int"])
    assert names == ("flag", "int")
    np.testing.assert_array_equal(rows, np.array([[1, 1], [0, 2]], "f4"))
    _refuse("a.parquet, row 2, column 'whole': the value is missing", path, load=_load)
    dataset = _load(path, columns=["flag", "day", "name"])
    assert dataset.codes.kinds == {"flag": [False, True], "day": "day", "name": "category"}
    np.testing.assert_array_equal(_read(path, columns=["day", "name"])[0], np.array([[0, 0], [366, 1]], "f4"))
    pandas.DataFrame().to_parquet(path)
    _refuse(r"the shape is \[0, 0\]", path, load=_load)


@pytest.mark.parametrize("suffix", ["parquet", "xlsx"])
def test_damaged_files_and_missing_packages(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(b"PAR1")
    _refuse(f"a.{suffix} cannot be read as a table", path, load=_load)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r'pandas is not installed: pip install "tf-resflow\[data\]"'):
        _load(path)


def test_splits_of_other_files_have_the_columns_of_the_first(tmp_path, matrix):
    """By name, in whatever order; or as many, without names."""
    (tmp_path / "p.csv").write_text(PEOPLE)
    for chosen in (["height"], ["2"]):  # the others may hold text, or miss values
        rows, names = _read(tmp_path / "p.csv", columns=chosen)
        np.testing.assert_array_equal(rows, np.array([[1.6], [1.8], [1.7]], "f4"))
        assert names == ("height",)
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
    _refuse("has 2 columns without names, and not the 3 columns a, b, c", **files)


def _mixed(path, num=120, **columns):
    """A table of columns of all kinds, as text."""
    rng = np.random.default_rng(1)
    table = pandas.DataFrame(
        {
            "price": rng.normal(50, 10, num).round(3),
            "rooms": rng.integers(1, 6, num),
            "sold": pandas.Timestamp("2024-02-28") + pandas.to_timedelta(rng.integers(0, 300, num), unit="D"),
            "new": rng.uniform(size=num) < 0.3,
            "color": rng.choice(["red", "green", "blue"], num),
            "size": rng.choice(["S", "M", "L"], num),
        }
    )
    table = table.assign(**{name: values for name, values in columns.items()})
    table.to_csv(path, index=False)
    return table


def test_mixed_columns(tmp_path):
    """Numbers as they are, days, levels by number, booleans as 0 and 1; a condition of levels likewise."""
    table = _mixed(tmp_path / "a.csv")
    fields = {"kinds": {"size": ["S", "M", "L"]}, "condition_columns": ["color", "rooms"]}
    dataset = load_tabular(tmp_path / "a.csv", **fields, validation_fraction=0)
    kinds = {"price": "number", "sold": "day", "new": [False, True], "size": ["S", "M", "L"]}
    assert dataset.codes.kinds == kinds and list(dataset.condition_codes.kinds) == ["color", "rooms"]
    x, c = (np.concatenate(p) for p in zip(*dataset.eval_batches("test", 99, labels=True), strict=True))
    rows = table.iloc[np.random.RandomState(0).permutation(120)[:12]]
    colors = table["color"].value_counts().index
    days = (rows["sold"] - table["sold"].min()).dt.days
    levels = rows["size"].map({"S": 0, "M": 1, "L": 2})
    expected = np.stack([rows["price"], days, rows["new"], levels], axis=1).astype("f4")
    np.testing.assert_array_equal(x, expected)
    np.testing.assert_array_equal(c, np.stack([colors.get_indexer(rows["color"]), rows["rooms"]], axis=1))
    pandas.testing.assert_frame_equal(dataset.codes.decode(x), rows[list(kinds)].reset_index(drop=True), rtol=1e-5)
    assert load_tabular(tmp_path / "a.csv", kinds={"2": "category"}).codes.kinds["rooms"] == "category"


@pytest.mark.parametrize("seed", range(4))
def test_rows_of_any_columns_come_back(tmp_path, seed):
    """Through a file, with some missing cells, and some columns as the condition of the others."""
    rng = np.random.default_rng(seed)
    table, kinds = test_columns.draw(seed, num=150)
    unsuited = ["identifier", "nanoseconds", "zoned day"]  # floats if some are missing, and several zones
    table = table.drop(columns=unsuited, errors="ignore")
    kinds.pop("nanoseconds", None)
    blank = table.astype(object).mask(rng.uniform(size=table.shape) < 0.02)
    if "text" in blank:
        blank["text"] += " "  # which is no part of a level
    blank.to_csv(tmp_path / "a.csv", index=False)
    given = list(table)[: rng.integers(0, table.shape[1])]
    kinds |= {"ordered": ["low", "middle", "high"]} if "ordered" in table else {}
    fields = {"condition_columns": given, "missing": "drop", "kinds": kinds, "validation_fraction": 0}
    dataset = load_tabular(tmp_path / "a.csv", **fields)
    parts = [part for part in (dataset.codes, dataset.condition_codes) if part is not None]
    found = {name: kind for part in parts for name, kind in part.kinds.items()}
    same = [name for name in table if name not in ("boolean", "ordered")]
    assert {name: found[name] for name in same} == {name: test_columns.KINDS[name] for name in same}
    again = load_tabular(tmp_path / "a.csv", **fields | {"kinds": found})
    assert [part.to_json() for part in (again.codes, again.condition_codes) if part] == [p.to_json() for p in parts]
    whole = table[blank.notna().all(axis=1)]
    rows = whole.iloc[np.random.RandomState(0).permutation(len(whole))[: dataset.sizes["test"]]]
    batches = dataset.eval_batches("test", 999, labels=bool(given))
    parts = next(iter(batches)) if given else (next(iter(batches)),)
    for part, codes in zip(parts, (dataset.codes, dataset.condition_codes), strict=False):
        back, expected = codes.decode(part.numpy()), rows[list(codes.kinds)].reset_index(drop=True)
        for name in back:
            if name in ("date", "day"):
                np.testing.assert_allclose((back[name] - expected[name]) / pandas.Timedelta("1s"), 0, atol=1)
            elif back[name].dtype.kind in "OU" or name in ("text", "ordered"):
                assert back[name].astype(str).tolist() == expected[name].astype(str).tolist()
            else:
                np.testing.assert_allclose(back[name].astype(float), expected[name].astype(float), rtol=1e-5)


def test_missing_values_are_dropped_if_asked(tmp_path, said):
    table = _mixed(tmp_path / "a.csv").astype({"new": object})
    table.loc[[3, 7], "price"] = np.nan
    table.loc[[7, 9], "color"] = np.nan
    table.loc[[11], "new"] = np.nan
    table.to_csv(tmp_path / "a.csv", index=False)
    counts = r"'price' \(2\), 'new' \(1\), 'color' \(2\)"
    _refuse(f"row 4, column 'price': the value is missing. 4 of 120 rows .* {counts}", tmp_path / "a.csv")
    dataset = _load(tmp_path / "a.csv", missing="drop")
    assert dataset.sizes == {"train": 116} and dataset.codes.labels[3] == ["False", "True"]
    assert len(said) == 1 and "left out rows. 4 of 120 rows miss values" in said[0]


def test_another_file_is_read_by_the_codes_of_the_first(tmp_path):
    """Levels that look like numbers are levels there, too; what is unknown or cannot be read is an error."""
    _mixed(tmp_path / "a.csv", color=np.array(["1", "x1", "x2"] * 40))
    table = _mixed(tmp_path / "b.csv", num=30, color=1)
    load = {"path_test": tmp_path / "b.csv"}
    dataset = load_tabular(tmp_path / "a.csv", **load)
    assert set(dataset.codes.decode(dataset.array("test"))["color"]) == {"1"}
    for column, value, message in [("color", "3", "'3' is not a level"), ("rooms", "many", "'many' is not a num")]:
        changed = table.astype({column: object})
        changed.loc[4, column] = value
        changed.to_csv(tmp_path / "b.csv", index=False)
        _refuse(f"{tmp_path}/b.csv, row 5, column '{column}': {message}", tmp_path / "a.csv", **load)


DATES = ["31.12.2024", "1.1.2025", "2.1.2025"]


@pytest.mark.parametrize(
    "cells, message",
    [
        (["1,000", "2,500.5", "3"], "row 1, .*'1,000' is not a number .*thousands=','"),
        (["1,5", "2,5", "3,25"], "row 1, .*'1,5' is not a number .*decimal=','"),
        (["1", "2", "x"], "row 3, .*'x' is not a number or a date, and neither are 40 of the 120 values. .*kinds="),
        (["2024-01-01", "2024-01-02", "soon"], "row 3, .*'soon' is not a number or a date"),
        (DATES, "row 1, .*'31.12.2024' is not a number or a date, .*date_format"),
    ],
)
def test_text_that_should_be_numbers_or_dates_is_an_error(tmp_path, cells, message):
    _mixed(tmp_path / "a.csv", size=np.array(cells * 40))
    _refuse(message, tmp_path / "a.csv")
    named = load_tabular(tmp_path / "a.csv", kinds={"size": "category"})
    assert named.codes.kinds["size"] == "category"
    if cells is DATES:
        rows, _ = _read(tmp_path / "a.csv", columns=["size", "price"], read_options={"date_format": "%d.%m.%Y"})
        np.testing.assert_array_equal(rows[:3, 0], [0, 1, 2])


def test_text_in_files_that_have_types(tmp_path):
    """Text of numbers alone is numbers; a mistake has its row, whatever the index, and in a spreadsheet."""
    table = _mixed(tmp_path / "a.csv").assign(rooms=lambda table: table["rooms"].astype(str))
    table = table.set_axis([f"row {i}" for i in range(120)])
    table.to_parquet(tmp_path / "a.parquet")
    assert load_tabular(tmp_path / "a.parquet").codes.kinds["rooms"] == "whole"
    mistaken = table.assign(rooms=["many", *table["rooms"][1:]])
    mistaken.to_parquet(tmp_path / "a.parquet")
    _refuse("row 1, column 'rooms': 'many' is not a number", tmp_path / "a.parquet")
    mistaken.assign(rooms=[*mistaken["rooms"][:1], *map(int, table["rooms"][1:])]).to_excel(tmp_path / "a.xlsx")
    _refuse("row 1, column 'rooms': 'many' is not a number", tmp_path / "a.xlsx")


def test_columns_without_a_density(tmp_path):
    _mixed(tmp_path / "a.csv", name=[f"person {i}" for i in range(120)], same=3)
    _refuse("Column 'name' has 120 .* too many for a category", tmp_path / "a.csv")
    _refuse("column 'same' has one value in all train rows", tmp_path / "a.csv", columns=["same", "price"])


def test_what_is_told_of_rows_and_columns(tmp_path, said):
    """Rows of two splits are counted; columns that depend on each other are named. Discrete rows may repeat."""
    table = _mixed(tmp_path / "a.csv")
    both = pandas.concat([table, table]).reset_index(drop=True)
    both.assign(twice=2 * both["price"] + both["rooms"]).to_csv(tmp_path / "a.csv", index=False)
    load_tabular(tmp_path / "a.csv", validation_fraction=0)
    assert len(said) == 2 and "depend on each other linearly: 'price', 'rooms', 'twice'." in said[0]
    assert " of 24 test rows are train rows, too" in said[1]
    load_tabular(tmp_path / "a.csv", columns=["rooms", "color"])
    assert len(said) == 2
