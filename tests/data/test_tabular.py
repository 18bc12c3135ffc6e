import sys

import numpy as np
import pandas
import pytest
from tf_resflow.data.table_files import write_frames
from tf_resflow.data.tabular import read_rows

from tests.data import test_columns
from tf_resflow.data import load_tabular

pytestmark = pytest.mark.quick
NO_SPLITS = {"test_fraction": 0, "validation_fraction": 0}


@pytest.fixture
def matrix():
    return np.random.default_rng(0).normal([5, -2, 0], [1, 10, 0.1], size=[100, 3])


def _write(path, matrix, header=""):
    np.savetxt(path, matrix, delimiter=",", header=header, comments="", fmt="%.9g")


def _load(path, **fields):
    """Loads all rows."""
    return load_tabular(path, **NO_SPLITS, **fields)


def _read(path, **fields):
    """Returns the rows in the order of the file, and the names of the columns or None."""
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
        np.testing.assert_allclose(rows, matrix.astype(np.float32), rtol=1e-6)


def test_fractions_partition_the_rows(tmp_path, matrix):
    """The rows keep their units."""
    np.save(tmp_path / "a.npy", matrix)
    dataset = load_tabular(tmp_path / "a.npy", test_fraction=0.25, validation_fraction=0.1)
    assert dataset.sizes == {"test": 25, "validation": 10, "train": 65} and dataset.levels is None
    rows = np.concatenate([dataset.array(split) for split in dataset.sizes])
    np.testing.assert_array_equal(rows[np.argsort(rows[:, 0])], matrix[np.argsort(matrix[:, 0])].astype("f4"))
    other = load_tabular(tmp_path / "a.npy", test_fraction=0.25, split_seed=1)
    assert np.any(other.array("test") != dataset.array("test"))


def test_columns_that_are_the_condition(tmp_path, matrix):
    """The condition has the order of the names, and the moments of the train rows."""
    np.save(tmp_path / "a.npy", matrix)
    whole = load_tabular(tmp_path / "a.npy")
    dataset = load_tabular(tmp_path / "a.npy", condition_columns=["3", "1"])
    x, c = next(iter(dataset.eval_batches("train", 100, labels=True)))
    rows = whole.array("train")
    np.testing.assert_array_equal(x, rows[:, [1]])
    np.testing.assert_array_equal(c, rows[:, [2, 0]])
    np.testing.assert_allclose([*dataset.mean, *dataset.condition_mean], rows[:, [1, 2, 0]].mean(0), rtol=1e-5)
    np.testing.assert_allclose([*dataset.std, *dataset.condition_std], rows[:, [1, 2, 0]].std(0), rtol=1e-5)
    again = load_tabular(tmp_path / "a.npy", path_test=tmp_path / "a.npy", condition_columns=["3", "1"])
    x, c = next(iter(again.eval_batches("test", 100, labels=True)))
    np.testing.assert_array_equal(np.concatenate([x, c], 1), matrix[:, [1, 2, 0]].astype("f4"))
    x, c = next(iter(dataset.train_batches(8, seed=0, labels=True)))
    assert {*map(tuple, np.concatenate([x, c], 1))} <= {*map(tuple, rows[:, [1, 2, 0]])}
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
    """Options that are None, as in the config, are ignored."""
    text, encoding, options = READ_OPTIONS[case]
    (tmp_path / "a.csv").write_text(text, encoding)
    rows, names = _read(tmp_path / "a.csv", read_options=options)
    np.testing.assert_array_equal(rows, np.array([[1.5, -2e-05], [3, 4]], "f4"))
    assert len(names) == 2 and all(name == name.strip() for name in names)


@pytest.mark.parametrize("thousands, decimal", [(".", ","), (",", "."), (None, ","), ("'", ".")])
def test_marks_of_numbers_hold_beside_a_cell_that_cannot_be_read(tmp_path, thousands, decimal):
    numbers = np.random.RandomState(0).randint(-400_000_000, 400_000_000, [120, 2]) / 4
    table = pandas.DataFrame(numbers.astype("f4"), columns=["a", "b"])
    table.insert(0, "day", pandas.date_range("2025-01-01", periods=120).strftime("%d.%m.%Y"))
    marks = str.maketrans({",": thousands, ".": decimal})
    texts = table.map(lambda cell: cell if isinstance(cell, str) else f"{cell:,.2f}".translate(marks))
    options = {"sep": ";", "thousands": thousands, "decimal": decimal, "date_format": "%d.%m.%Y"}
    texts.to_csv(tmp_path / "a.csv", index=False, sep=";")
    rows = _read(tmp_path / "a.csv", read_options=options)[0]
    np.testing.assert_array_equal(rows[:, 1:], table[["a", "b"]])
    codes = _load(tmp_path / "a.csv", read_options=options).codes
    texts.replace({"a": {texts["a"][7]: "x"}}).to_csv(tmp_path / "b.csv", index=False, sep=";")
    read = read_rows(tmp_path / "b.csv", codes, read_options=options)[0]
    assert [*np.flatnonzero(read.faults[:, 1])] == [7] and not read.faults[:, [0, 2]].any()
    np.testing.assert_array_equal(np.delete(read.values, 7, axis=0), np.delete(rows, 7, axis=0))


@pytest.mark.parametrize(
    "value, message",
    [
        (np.nan, "/a.npy, row 5, column 3: .* 2 of 100 rows have missing values, by column: .*1.*, .*1"),
        (np.inf, "Column .*1 of 100 values are infinite"),
        (1e300, r"a \(t.*the value .* is not finite in float32"),
    ],
)
def test_a_value_that_is_not_finite_is_an_error(tmp_path, matrix, value, message):
    matrix[4, 2] = matrix[9, 0] = value
    np.save(tmp_path / "a.npy", matrix)
    _refuse(message, tmp_path / "a.npy")


PEOPLE = "name,height,age,city\nAda,1.6,36,London\nAlan,1.8,41,Wilmslow\nGrace,1.7,,Arlington\n"
WRITTEN = "set arguments of pandas.read_csv, .*--config.data.read_options.sep=';'"


def test_what_is_wrong_in_a_csv_file_has_its_place(tmp_path):
    for text, fields, message in [
        ("a,b\n1,2\n3,x\n", {}, f", row 2, column 'b': 'x' is not a number .* 1 of the 2 .*y'. .*{WRITTEN}"),
        ("1,x\n3,4\n", {}, ", row 1, column 2: 'x' is not a number or a date"),
        ("1,2\n\n3,\n", {}, ", row 2, column 2: the value is missing. 1 of 2 rows have .* by column: 2 .1."),
        ("a;b\n1.5;2\n", {}, f": the cells do not match the first line, a;b. .*{WRITTEN}"),
        ("a,b\n1,2,3\n", {}, ": the cells do not match the first line, a, b."),
        ("1,2\n3,4,5\n", {}, f" cannot be read as a table .*Expected 2 fields in line 2, saw 3.*{WRITTEN}"),
        (PEOPLE, {}, ", row 3, column 'age': .*missing. 1 of 3 rows .* column: 'age' .1.. .*data.missing=drop"),
        (PEOPLE, {"columns": ["height", "ages"]}, "no column 'ages'; .*'age'. Its columns are 'name', 'height'"),
        (PEOPLE, {"columns": ["age", "age"]}, "'age' is chosen twice"),
        (PEOPLE, {"kinds": {"cities": "category"}}, "no column 'cities'; did you mean 'city'"),
    ]:  # fmt: skip
        (tmp_path / "a.csv").write_text(text)
        _refuse(f"a.csv.*{message}", tmp_path / "a.csv", **fields, load=_load)


def test_an_unusable_array_or_split_is_an_error(tmp_path):
    for array, message, fields in [
        (np.zeros([3, 2, 1]), r"the shape is \[3, 2, 1\]", {}),
        (np.zeros([0, 2]), r"the shape is \[0, 2\]", {}),
        (np.array([["a", "b"], ["c", "b"]]), "column 2 is constant in the train rows", NO_SPLITS),
        (np.zeros([3, 2], complex), "Column 1 has values of type complex128. Leave it out", {}),
        (np.eye(100), "'test': -10, ", {"test_fraction": -0.1}),
        (np.eye(100), "100 examples would be split into {'test': 0, ", {"test_fraction": 0.001}),
        (np.eye(1), "{'train': 1}, .* train needs at least 2", NO_SPLITS),
        (np.eye(3), "'1' is chosen twice", {"condition_columns": ["1", "1"]}),
        (np.eye(3), "none is left", {"condition_columns": ["1", "2", "3"]}),
        *[(np.eye(3), f"no column '{name}'", {"condition_columns": [name]}) for name in "04"],
    ]:  # fmt: skip
        np.savez(tmp_path / "a.npz", array)
        _refuse(message, tmp_path / "a.npz", **fields)


def test_wrong_files_are_errors(tmp_path, matrix):
    path, other = tmp_path / "a.npy", tmp_path / "two.npz"
    np.save(path, matrix)
    np.savez(other, rows=matrix[:, :2], other=matrix)
    _refuse("no such file", tmp_path / "none.csv")
    _refuse("ends in .csv, .parquet, .xlsx, .npy, .npz", tmp_path / "a.txt")
    _refuse(r"Set key to one of \['rows', 'other'\]", other)
    _refuse("two.npz has 2 columns; expected 3 columns without names", path, other, key="rows")


def test_the_types_of_parquet(tmp_path):
    columns = {"int": [1, 2], "flag": [True, False], "whole": pandas.array([1, None], dtype="Int64")}
    columns |= {"day": pandas.to_datetime(["2020-01-01", "2021-01-01"]), "name": ["x", "y"]}
    path = tmp_path / "a.parquet"
    pandas.DataFrame(columns).to_parquet(path)
    rows, names = _read(path, columns=["flag", "int", "day", "name"])
    assert names == ("flag", "int", "day", "name")
    np.testing.assert_array_equal(rows, [[1, 1, 0, 0], [0, 2, 366, 1]])
    _refuse("a.parquet, row 2, column 'whole': the value is missing", path, load=_load)
    dataset = _load(path, columns=["flag", "day", "name"])
    assert dataset.codes.kinds == {"flag": [False, True], "day": "day", "name": "category"}
    pandas.DataFrame().to_parquet(path)
    _refuse(r"the shape is \[0, 0\]", path, load=_load)
    pandas.DataFrame({"x": [1.5, 2.5], "parts": [[1], [2, 3]]}).to_parquet(path)
    _refuse("Column 'parts' has values of type ndarray. Leave it out", path, load=_load)


@pytest.mark.parametrize("options", [{}, {"dtype_backend": "pyarrow"}])
def test_decimals_dates_and_periods_of_parquet(tmp_path, options):
    """They have the same kinds as in `Columns`, and come back from text."""
    table, path = (
        test_columns.TYPED["python"].assign(shade=pandas.Categorical(["light", "dark"] * 30)),
        tmp_path / "a.parquet",
    )
    kinds = {"price": "number", "born": "day", "code": "whole", "shade": "category"}
    if not options:  # with the other backend, pandas reads periods as numbers
        table, kinds = table.assign(month=test_columns.TYPED["periods"]["M"]), kinds | {"month": "whole"}
    table.to_parquet(path)
    codes, (rows, _) = _load(path, read_options=options).codes, _read(path, read_options=options)
    assert codes.kinds == kinds
    codes.decode(rows).to_csv(tmp_path / "b.csv", index=False)
    back = pandas.read_csv(tmp_path / "b.csv")
    for name in table:
        if name in ("price", "code"):
            np.testing.assert_allclose(back[name], table[name].astype(float), rtol=1e-6)
        else:
            assert back[name].tolist() == table[name].astype(str).tolist()
    again, _ = read_rows(tmp_path / "b.csv", codes)
    np.testing.assert_allclose(again.values, rows, rtol=1e-6)


@pytest.mark.parametrize("suffix", ["parquet", "xlsx"])
def test_damaged_files_and_missing_packages(refused, tmp_path, monkeypatch, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(b"PAR1")
    refused(f"a.{suffix} cannot be read as a table", _load, path)
    monkeypatch.setitem(sys.modules, "pandas", None)
    refused(r'pandas is not installed. Run pip install "tf-resflow\[data\]"', _load, path, error=ImportError)


def test_splits_of_other_files_have_the_columns_of_the_first(tmp_path, matrix):
    """Columns match by name in any order. Files without names must have as many columns."""
    (tmp_path / "p.csv").write_text(PEOPLE)
    rows, names = _read(tmp_path / "p.csv", columns=["2"])  # other columns may have text or missing values
    np.testing.assert_array_equal(rows, np.array([[1.6], [1.8], [1.7]], "f4"))
    assert names == ("height",)
    _write(tmp_path / "a.csv", matrix, header="a,b,c")
    _write(tmp_path / "b.csv", matrix[:5, ::-1], header="c,b,a")
    np.save(tmp_path / "c.npy", matrix[:7, ::2])
    files = {"path": tmp_path / "a.csv", "path_test": tmp_path / "b.csv", "path_validation": tmp_path / "c.npy"}
    dataset = load_tabular(**files, columns=["a", "c"])
    assert dataset.columns == ("a", "c") and dataset.sizes == {"train": 100, "test": 5, "validation": 7}
    np.testing.assert_allclose(dataset.array("test"), matrix[:5, ::2], rtol=1e-6)
    np.testing.assert_allclose(dataset.array("validation"), matrix[:7, ::2], rtol=1e-6)
    _refuse("has 2 columns without names. Expected the columns a, b, c", **files)


def _mixed(path, num=120, **columns):
    """Writes a .csv file with columns of all kinds, and returns its table."""
    rng = np.random.default_rng(1)
    table = pandas.DataFrame({"price": rng.normal(50, 10, num).round(3), "rooms": rng.integers(1, 6, num)})
    columns = {"new": rng.uniform(size=num) < 0.3, "color": rng.choice(["red", "green", "blue"], num)} | columns
    table = table.assign(size=rng.choice(["S", "M", "L"], num)).assign(**columns)
    table.to_csv(path, index=False)
    return table


@pytest.mark.parametrize("seed", range(4))
def test_rows_of_any_columns_come_back(tmp_path, seed):
    """Rows survive a .csv file with some missing cells. Some columns form the condition."""
    rng = np.random.default_rng(seed)
    table, kinds = test_columns.draw(seed, num=150)
    unsuited = ["identifier", "nanoseconds", "zoned day"]  # floats if some are missing; several UTC offsets
    table = table.drop(columns=unsuited, errors="ignore")
    kinds.pop("nanoseconds", None)
    blank = table.astype(object).mask(rng.uniform(size=table.shape) < 0.02)
    if "text" in blank:
        blank["text"] += " "  # levels do not include surrounding spaces
    blank.to_csv(tmp_path / "a.csv", index=False)
    given = list(table)[: rng.integers(0, table.shape[1])]
    kinds |= {"ordered": ["low", "middle", "high"]} if "ordered" in table else {}
    fields = {"condition_columns": given, "missing": "drop", "kinds": kinds, "validation_fraction": 0}
    dataset = load_tabular(tmp_path / "a.csv", **fields)
    parts = [part for part in (dataset.codes, dataset.condition_codes) if part is not None]
    found = {name: kind for part in parts for name, kind in part.kinds.items()}
    expected = test_columns.KINDS | {"boolean": [False, True], "ordered": ["low", "middle", "high"]}
    assert found == {name: expected[name] for name in found} and set(found) == set(table)
    again = load_tabular(tmp_path / "a.csv", **fields | {"kinds": found})
    assert [part.to_json() for part in (again.codes, again.condition_codes) if part] == [p.to_json() for p in parts]
    whole = table[blank.notna().all(axis=1)]
    rows = whole.iloc[np.random.RandomState(0).permutation(len(whole))[: dataset.sizes["test"]]]
    (batch,) = dataset.eval_batches("test", 999, labels=bool(given))
    for part, codes in zip(batch if given else [batch], parts, strict=True):
        for name, back in codes.decode(part.numpy()).items():
            if name in ("date", "day"):
                np.testing.assert_allclose((back - rows[name].to_numpy()) / pandas.Timedelta("1s"), 0, atol=1)
            elif name in ("text", "ordered"):
                assert back.astype(str).tolist() == rows[name].astype(str).tolist()
            else:
                np.testing.assert_allclose(back.astype(float), rows[name].astype(float), rtol=1e-5)


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
    assert len(said) == 1 and "dropped rows. 4 of 120 rows have missing values" in said[0]


def test_another_file_is_read_by_the_codes_of_the_first(tmp_path):
    """Levels that look like numbers stay levels. Unknown or unreadable values are errors."""
    path, test = tmp_path / "a.csv", tmp_path / "b.csv"
    _mixed(path, color=np.array(["1", "x1", "x2"] * 40))
    table = _mixed(test, num=30, color=1)
    dataset = load_tabular(path, test)
    assert set(dataset.codes.decode(dataset.array("test"))["color"]) == {"1"}
    for column, value, message in [("color", "3", "'3' is not a known"), ("rooms", "many", "'many' is not a num")]:
        table.assign(**{column: [*table[column][:4], value, *table[column][5:]]}).to_csv(test, index=False)
        _refuse(f"{test}, row 5, column '{column}': {message}", path, test)
    dataset = load_tabular(path, condition_columns=["color", "rooms"])
    table.assign(color=["3", "1"] * 15).to_csv(test, index=False)
    rows, _ = read_rows(test, dataset.codes, dataset.condition_codes)
    has_no_condition = np.isnan(rows.values[:, dataset.codes.size :]).all(axis=1)
    assert has_no_condition.tolist() == (rows.faults != "").any(axis=1).tolist() == [True, False] * 15


DATES = ["31.12.2024", "1.1.2025", "2.1.2025"]


@pytest.mark.parametrize(
    "cells, message",
    [
        (["1,000", "2,500.5", "3"], "row 1, .*'1,000' is not a number .*thousands=','"),
        (["1,5", "2,5", "3,25"], "row 1, .*'1,5' is not a number .*decimal=','"),
        (["1", "2", "x"], "row 3, .*'x' is not a number or a date. This affects 40 of the 120 values. .*kinds="),
        (["2024-01-01", "2024-01-02", "soon"], "row 3, .*'soon' is not a number or a date"),
        (DATES, "row 1, .*'31.12.2024' is not a number or a date. .*date_format"),
    ],
)
def test_text_that_should_be_numbers_or_dates_is_an_error(tmp_path, cells, message):
    _mixed(tmp_path / "a.csv", size=np.array(cells * 40))
    _refuse(message, tmp_path / "a.csv")
    named = load_tabular(tmp_path / "a.csv", kinds={"3": "category"})
    assert named.codes.kinds["size"] == "category"
    if cells is DATES:
        rows, _ = _read(tmp_path / "a.csv", columns=["size", "price"], read_options={"date_format": "%d.%m.%Y"})
        np.testing.assert_array_equal(rows[:3, 0], [0, 1, 2])


def test_text_in_files_that_have_types(tmp_path):
    """Text that is all numbers is parsed. Errors name the row, whatever the index, also for a spreadsheet."""
    table, path = _mixed(tmp_path / "a.csv").set_axis([f"row {i}" for i in range(120)]), tmp_path / "a.parquet"
    rooms = [*map(str, table["rooms"])]
    table.assign(rooms=rooms).to_parquet(path)
    assert load_tabular(path).codes.kinds["rooms"] == "whole"
    table.assign(rooms=["many", *rooms[1:]]).to_parquet(path)
    table.assign(rooms=["many", *table["rooms"][1:]]).to_excel(tmp_path / "a.xlsx")
    for file in (path, tmp_path / "a.xlsx"):
        _refuse("row 1, column 'rooms': 'many' is not a number", file)


def test_what_is_told_of_rows_and_columns(tmp_path, said):
    """Repeated rows are counted, and linearly dependent columns are named. Purely discrete rows may repeat."""
    table = _mixed(tmp_path / "a.csv")
    both = pandas.concat([table, table]).reset_index(drop=True)
    both.assign(twice=2 * both["price"] + both["rooms"]).to_csv(tmp_path / "a.csv", index=False)
    load_tabular(tmp_path / "a.csv", validation_fraction=0)
    assert len(said) == 2 and "linearly dependent: 'price', 'rooms', 'twice'." in said[0]
    assert " of 24 test rows are also train rows" in said[1]
    load_tabular(tmp_path / "a.csv", columns=["rooms", "color"])
    assert len(said) == 2


def test_numbers_in_csv_files_are_exact(tmp_path):
    numbers = np.random.RandomState(0).standard_cauchy([500, 2]) * 10.0 ** np.arange(-250, 250)[:, np.newaxis]
    frame = pandas.DataFrame(numbers, columns=["a", "b"])
    frame["narrow"] = numbers[:, 0].clip(-1e38, 1e38).astype("f4")
    frame["seconds"] = 1732900000.25 + np.arange(500)
    frame["id"] = np.where(np.arange(500) % 7, 1234567890.0 + np.arange(500), np.nan)
    write_frames(tmp_path / "a.csv", [frame])
    texts = pandas.read_csv(tmp_path / "a.csv", dtype=str)
    pandas.testing.assert_frame_equal(texts.astype(frame.dtypes), frame, check_exact=True)
    assert texts["narrow"].str.len().max() <= 15 and texts["id"][1] == "1234567891"


def test_tables_are_written_part_by_part(tmp_path):
    """A column with several types, as in a spreadsheet, is text in a Parquet file."""
    parts = [
        pandas.DataFrame({"id": ids, "x": x}) for ids, x in (([1, 2.0], [1.0, 2.5]), ([None, "b"], [3.0, 4.0]))
    ]
    for suffix in (".csv", ".parquet"):
        write_frames(tmp_path / f"a{suffix}", parts)
    expected = pandas.DataFrame({"id": ["1", "2", None, "b"], "x": [1.0, 2.5, 3.0, 4.0]})
    pandas.testing.assert_frame_equal(pandas.read_parquet(tmp_path / "a.parquet"), expected, check_dtype=False)
    assert (tmp_path / "a.csv").read_bytes() == b"id,x\r\n1,1\r\n2,2.5\r\n,3\r\nb,4\r\n"
