import datetime
import decimal
import importlib.util
import zipfile

import numpy as np
import pandas
import pyarrow
import pytest
from absl import logging
from pyarrow import parquet

from tf_resflow.tables.runs.files import find_columns, identifiers, read_table, write_frames

pytestmark = pytest.mark.quick
MATRIX = np.random.default_rng(0).normal([5, -2, 0], [1, 10, 0.1], size=[100, 3])


@pytest.fixture
def read(tmp_path):
    """Reads text as a .csv file."""

    def read(text, encoding="utf-8", **options):
        (tmp_path / "a.csv").write_bytes(text.encode(encoding))
        return read_table(tmp_path / "a.csv", **options)

    return read


def _rows(frame):
    return frame.astype(object).where(frame.notna(), None).to_numpy().tolist()


def test_reads_every_kind_of_file(tmp_path):
    np.save(tmp_path / "a.npy", MATRIX)
    np.savez(tmp_path / "one.npz", rows=MATRIX)
    np.savez(tmp_path / "two.npz", rows=MATRIX, other=MATRIX[:3])
    names = ["length, cm", "width", "height"]
    frame = pandas.DataFrame(MATRIX, columns=names)
    frame.to_csv(tmp_path / "head.csv", index=False)
    frame.to_csv(tmp_path / "A.CSV", index=False, header=False)
    frame.set_axis([f"row {i}" for i in range(100)]).to_parquet(tmp_path / "a.parquet")
    frame.to_excel(tmp_path / "a.xlsx", index=False)
    frame.to_excel(tmp_path / "bare.xlsx", index=False, header=False)
    for file in tmp_path.iterdir():
        found = read_table(file, key="rows" if file.stem == "two" else None, read_options={"sep": None})
        np.testing.assert_allclose(found, MATRIX, rtol=1e-12)
        assert [*found] == (names if file.name in ("head.csv", "a.parquet", "a.xlsx") else [1, 2, 3])
        name, first = {"head.csv": ("line", 2), "A.CSV": ("line", 1)}.get(file.name, ("row", 1))
        assert found.index.name == name and [*found.index] == [*range(first, first + 100)]
    read_table(tmp_path / "a.parquet", read_options={"sep": ";", "columns": ["width"]})


@pytest.mark.parametrize("suffix, compression", [("gz", "gzip"), ("bz2", "bz2"), ("zip", "zip"), ("xz", "xz")])
def test_compressed_files_are_read_like_others(tmp_path, suffix, compression):
    """The format is detected, and the lines are numbered."""
    frame = pandas.DataFrame(MATRIX, columns=["a", "b", "größe"])
    for name, options in (("a.csv", {}), (f"A.CSV.{suffix}", {"compression": compression})):
        frame.to_csv(tmp_path / name, index=False, sep=";", decimal=",", encoding="cp1252", **options)
    expected = read_table(tmp_path / "a.csv")
    found = read_table(tmp_path / f"A.CSV.{suffix}")
    pandas.testing.assert_frame_equal(found, expected)
    assert found.index.name == "line"
    (tmp_path / f"A.CSV.{suffix}").rename(tmp_path / "b.csv")
    pandas.testing.assert_frame_equal(
        read_table(tmp_path / "b.csv", read_options={"compression": compression}), expected, check_names=False
    )


def test_zstandard_needs_its_package(tmp_path):
    content = pyarrow.compress(b"a,b\n1,2\n", codec="zstd", asbytes=True)
    (tmp_path / "a.csv.zst").write_bytes(content)
    if importlib.util.find_spec("zstandard"):
        assert _rows(read_table(tmp_path / "a.csv.zst")) == [[1, 2]]
    else:
        with pytest.raises(ImportError, match="a.csv.zst cannot be decompressed: .*zstandard"):
            read_table(tmp_path / "a.csv.zst")


def test_folders_of_parquet_files(tmp_path, refused):
    frame = pandas.DataFrame({"a": [1.5, 2.5, 3.5], "part": ["x", "y", "x"]})
    frame.to_parquet(tmp_path / "rows.parquet", partition_cols=["part"])
    found = read_table(tmp_path / "rows.parquet")
    assert sorted(_rows(found)) == [[1.5, "x"], [2.5, "y"], [3.5, "x"]] and [*found.index] == [1, 2, 3]
    (tmp_path / "rows.csv").mkdir()
    refused("or a folder that ends in .parquet", read_table, tmp_path / "rows.csv")
    refused("there is no such file", read_table, tmp_path / "none.parquet")


# Each text has the columns a and b, if it has names, with the rows (1.5, -0.25) and (1234.5, 3).
FORMATS = {
    "commas": "a,b\n1.5,-0.25\n1234.5,3\n",
    "semicolons": "a;b\n1.5;-0.25\n1234.5;3\n",
    "decimal commas": "a;b\n1,5;-2,5e-01\n1234,5;3\n",
    "thousands": "a;b\n1,5;-0,25\n1.234,5;3\n",
    "tabs": "a\tb\n1,5\t-0,25\n1234,5\t3\n",
    "bars": "a|b\n1.5|-0.25\n1234.5|3\n",
    "no names": "1,5;-0,25\n1234,5;3,0\n",
    "quotes": '"a";"b"\n"1,5";"-0,25"\n"1234,5";"3"\n',
    "spaces": "a, b\n 1.5, -0.25\n1234.5, 3\n",
    "blank lines": "\na,b\n\n1.5,-0.25\n  \n1234.5,3\n\n",
    "carriage returns": "a;b\r1,5;-0,25\r\r1234,5;3\r",
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("case", FORMATS)
def test_formats_of_csv_are_detected(read, case, encoding, monkeypatch):
    """A column of text changes nothing. An unusual format is logged."""
    lines: list[str] = []
    monkeypatch.setattr(logging, "info", lambda text, *values: lines.append(text % values))
    text = FORMATS[case]
    sep = next(mark for mark in "\t;|," if mark in text)
    frame = read(text, encoding)
    np.testing.assert_array_equal(frame, [[1.5, -0.25], [1234.5, 3]])
    assert [*frame] == ([1, 2] if case == "no names" else ["a", "b"])
    assert len(lines) == (sep != "," or encoding == "utf-16") and all(
        f"{sep!r}" in line or sep == "," for line in lines
    )
    notes = iter(["Größe"] * (case != "no names") + ["Äpfel, Birnen", "€ 3.20; x|y"])
    longer = "\n".join(f'{line}{sep}"{next(notes)}"' if line.strip() else line for line in text.splitlines())
    noted = read(longer, encoding)
    np.testing.assert_array_equal(noted.iloc[:, :2], frame)
    assert [*noted.iloc[:, 2]] == ["Äpfel, Birnen", "€ 3.20; x|y"] and [*noted.index] == [*frame.index]


@pytest.mark.parametrize(
    "text, rows",
    [
        ('text\n"hello, you"\nthere\n', [["hello, you"], ["there"]]),
        ('"x; y",b\n"1;2",3\n"4;5",6\n', [["1;2", 3], ["4;5", 6]]),
        ("1,a|b\n2,c|d\n", [[1, "a|b"], [2, "c|d"]]),
        ("name;text\nA;hello, you\nB;well, done\n", [["A", "hello, you"], ["B", "well, done"]]),
        ("degrees;C,b\n1.5,2\n3.5,4\n", [[1.5, 2], [3.5, 4]]),
        ("a,b,c\n1,2\n4,5,6\n", [[1, 2, None], [4, 5, 6]]),
    ],
)
def test_marks_in_text_separate_no_cells(read, text, rows):
    assert _rows(read(text)) == rows


def test_read_options_replace_the_detection(read):
    def found(text, **options):
        return _rows(read(text, options.get("encoding", "utf-8"), read_options=options))

    assert found("a;b\n1;2\n", sep=",") == [["1;2"]]
    assert found("a;b\n1,234;2,5\n", thousands=",") == [[1234, 25]]
    assert found("a;b\n1,234;2\n", delimiter=";", decimal=",") == [[1.234, 2]]
    assert found("Größe,b\n1,2\n", encoding="utf-16-le") == [[1, 2]]
    assert found("2019,2020\n1,2\n", header=0) == [[1, 2]]
    assert found("a b\n1  2\n", sep=r"\s+") == found("1|2;\n", sep="[|;]", usecols=[0, 1]) == [[1, 2]]


def test_the_index_is_the_line_in_the_file(read):
    """If some lines are not rows, it is the number of the row."""
    assert [*read("a,b\n1,2\n3,4").index] == [2, 3] and [*read("1,2\n3,4\n").index] == [1, 2]
    for text, options in (
        ("A title\na,b\n1,x\n2,y\n", {"skiprows": 1}),
        ("a,b\n\n1,x\n2,y\n", {}),
        ("a,b\n1,x\n# no, row\n2,y\n", {"comment": "#"}),
        ('a,b\n1,"x\n"\n2,y\n', {}),
        ("a,b\n1,x\n2,y\n3,z\n", {"nrows": 2}),
        ("a,b\n1,x\n2,y\n3,z\n", {"skipfooter": 1}),
    ):
        frame = read(text, read_options=options)
        assert frame.index.name == "row" and [*frame.index] == [*frame["a"]] == [1, 2]


def test_columns_are_chosen_by_name_or_number(read, refused):
    text = "name,b2,age\nAda,3,36\n"
    assert _rows(read(text, columns=["age", "1"])) == [[36, "Ada"]]
    assert _rows(read(text, columns=[2])) == _rows(read(text, exclude_columns=["name", 3])) == [[3]]
    assert _rows(read("1,2,3\n", columns=[3, 1])) == _rows(read("3,1\n", columns=["x", "y"])) == [[3, 1]]
    assert find_columns("a.csv", read(text), ["3", "name"]) == [2, 0]
    for message, other, options in [
        ("no column 'ages'; did you mean 'age'. Its columns are 'name', 'b2'", text, {"columns": ["ages"]}),
        ("no column 'ages'", text, {"texts": ["ages"]}),
        ("no column 'AGE'; did you mean 'age'", text, {"columns": ["AGE"]}),
        (
            "no column 'wind'; did you mean 'wind_speed'",
            "wind_speed,wind_2\n1,2\n",
            {"columns": ["wind", "wind_2"]},
        ),
        ("no column 'wind_speed'; did you mean 'wind'", "wind,temp\n1,2\n", {"columns": ["temp", "wind_speed"]}),
        ("no column 'x'; nothing has a similar name", "exit,age\n1,2\n", {"columns": ["x"]}),
        ("'age' is chosen twice", text, {"columns": ["age", "3"]}),
        ("no column '4'; it has 3 columns", "1,2,3\n", {"exclude_columns": ["4"]}),
        ("has 3 columns without names. Expected the columns a, b", "1,2,3\n", {"columns": ["a", "b"]}),
        ("no columns are left", "a\n1\n", {"exclude_columns": ["a"]}),
        ("two columns have the name 'a'", "a, a\n1,2\n", {}),
    ]:
        refused(message, read, other, **options)


@pytest.mark.parametrize(
    "cells, message",
    [
        (["1,000", "2,500.5", "3"], r"line 2, column 'x': '1,000' \(80 of 120 values\)"),
        (["1", "2", "x"], r"line 4, column 'x': 'x' \(40 of 120 values\)"),
        (["2024-01-01", "2024-01-02", "soon"], "line 4, column 'x': 'soon'"),
        (["31.12.2024", "1.1.2025", "2.1.2025"], "line 2, column 'x': '31.12.2024'"),
    ],
)
def test_bad_values_are_listed_for_all_columns(read, refused, tmp_path, cells, message):
    frame = pandas.DataFrame({"x": cells * 40, "y": [1.5, "n/a?", 2] * 40, "good": ["1", "b", "c"] * 40})
    text = frame.to_csv(index=False)
    refused(rf"a.csv: .*{message}", read, text)
    refused(r"; line 3, column 'y': 'n/a\?' \(40 of 120 values\). Correct .*kinds='x: category; y: cat", read, text)
    assert _rows(read(text, columns=["good"])) == [["1"], ["b"], ["c"]] * 40
    assert [*read(text, texts=["x"], exclude_columns=["y"])["x"]] == cells * 40
    loose = read(text, typed=False)
    assert (
        loose.astype(str).to_numpy().tolist() == pandas.read_csv(tmp_path / "a.csv", dtype=str).to_numpy().tolist()
    )
    frame.to_excel(tmp_path / "a.xlsx", index=False)
    refused("a.xlsx: .*; row 2, column 'y'", read_table, tmp_path / "a.xlsx")


@pytest.mark.parametrize("thousands, decimal_mark", [(".", ","), (",", "."), (None, ","), ("'", ".")])
def test_numbers_beside_a_bad_cell_match_a_fit(read, thousands, decimal_mark):
    numbers = np.random.RandomState(0).randint(-400_000_000, 400_000_000, [120, 2]) / 4
    table = pandas.DataFrame(numbers, columns=["a", "b"])
    marks = str.maketrans({",": thousands, ".": decimal_mark})
    texts = table.map(lambda cell: f"{cell:,.2f}".translate(marks))
    texts.insert(0, "day", pandas.date_range("2025-01-01", periods=120).strftime("%d.%m.%Y"))
    options = {"thousands": thousands, "decimal": decimal_mark, "date_format": "%d.%m.%Y"}
    fit = read(texts.to_csv(index=False, sep=";"), read_options=options)
    np.testing.assert_array_equal(fit[["a", "b"]], table)
    texts.loc[7, "a"], texts.loc[9, "day"] = "x", "soon"
    found = read(texts.to_csv(index=False, sep=";"), typed=False, read_options=options)
    assert found.loc[7 + 2, "a"] == "x" and [*found["day"]] == [*texts["day"]]
    np.testing.assert_array_equal(found.drop(7 + 2)[["a", "b"]].astype(float), table.drop(7))


def test_texts_and_booleans(read):
    """Booleans beside a bad cell match a fit. In a fit with missing values, they have a type for these."""
    text = "zip,b,c\n007,01,true\n 10,02,FALSE\n"
    assert _rows(read(text, texts=["zip", 3])) == [["007", 1, "true"], ["10", 2, "FALSE"]]
    assert _rows(read(text, texts=["b"], columns=["b", "zip"])) == [["01", 7], ["02", 10]]
    assert (
        _rows(read("007,1\n", texts=["p"], columns=["p", "q"])) == _rows(read("007,1\n", texts=[1])) == [["007", 1]]
    )
    assert [*read(text + "5,,\n")["c"]] == [True, False, pandas.NA]
    assert [*read(text + "5,,maybe\n", typed=False)["c"]] == ["True", "False", "maybe"]
    for options in ({}, {"typed": False, "texts": ["c"]}):
        assert [*read(text + "5,,maybe\n", **options)["c"]] == ["true", "FALSE", "maybe"]


def test_tables_without_rows(read, refused, tmp_path):
    frame = read("a;b\n", typed=False)
    assert frame.shape == (0, 2) and [*frame] == ["a", "b"] and frame.index.name == "line"
    refused("a.csv: there are no rows; expected at least one", read, "a;b\n")
    np.save(tmp_path / "a.npy", np.zeros([0, 2]))
    assert read_table(tmp_path / "a.npy", typed=False).shape == (0, 2)
    refused("there are no rows", read_table, tmp_path / "a.npy")


def test_unreadable_files_are_errors(read, refused, tmp_path):
    refused("Expected 2 fields in line 3.*format is sep=';'", read, "a;b\n1;2\n3;4;5\n")
    refused("the cells do not match the first line", read, "a,b\n1,2,3\n")
    refused("cannot be read as a table .EmptyDataError", read, "")
    np.savez(tmp_path / "two.npz", rows=MATRIX, cube=MATRIX[np.newaxis])
    refused(r"Set key to one of \['rows', 'cube'\]", read_table, tmp_path / "two.npz")
    refused("the shape is", read_table, tmp_path / "two.npz", key="cube")
    refused("no such file", read_table, tmp_path / "none.csv")
    refused("ends in .csv", read_table, tmp_path / "a.txt")
    refused("ends in .csv", read_table, tmp_path / "a.gz")
    (tmp_path / "a.csv.gz").write_text("a,b\n1,2\n")
    refused("a.csv.gz cannot be read as a table .BadGzipFile", read_table, tmp_path / "a.csv.gz")
    with zipfile.ZipFile(tmp_path / "a.csv.zip", "w") as file:
        file.writestr("a.csv", "a\n1\n")
        file.writestr("b.csv", "a\n1\n")
    refused("Only one file per ZIP", read_table, tmp_path / "a.csv.zip")
    pandas.DataFrame().to_parquet(tmp_path / "a.parquet")
    refused("there are no columns", read_table, tmp_path / "a.parquet", typed=False)
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    refused("cannot be read as a table", read_table, tmp_path / "b.parquet")


def test_identifiers():
    frame = pandas.DataFrame({"name": [f"Smith, Mr. {number}" for number in range(40)], "row": np.arange(3, 43)})
    data = {"shuffled": np.random.default_rng(0).permutation(40), "city": ["a", "b"] * 20, "x": np.arange(40.0)}
    frame = frame.assign(**data, day=pandas.date_range("2024-01-01", periods=40), two=2 * np.arange(40))
    assert identifiers(frame) == ["name", "row"] and identifiers(frame.set_axis(range(7), axis=1)) == [0, 1]
    assert identifiers(frame[:19]) == [] and identifiers(frame[:20]) == ["name", "row"]


def test_parquet_keeps_the_types_of_objects(tmp_path):
    day, price = datetime.date(2024, 2, 29), decimal.Decimal("1.50")
    objects = {"day": [day, None], "price": [price, None], "flag": [True, None], "text": [" x", None]}
    frame = pandas.DataFrame(objects | {"other": [1, "b"]}, dtype=object).assign(
        rank=pandas.Categorical(["a", "b"])
    )
    write_frames(tmp_path / "a.parquet", [frame])
    types = parquet.read_schema(tmp_path / "a.parquet").types[:3]
    assert types == [pyarrow.date32(), pyarrow.decimal128(38, 2), pyarrow.bool_()]
    back = read_table(tmp_path / "a.parquet", typed=False)
    assert back["day"][1] == day and back["price"][1] == price and [*back["other"]] == ["1", "b"]


def test_tables_are_written(tmp_path):
    frame = pandas.DataFrame({"id": [1, 2.0, None, "b"], "x": [1.0, 2.5, 3.0, 4.0]}, dtype=object)
    for suffix in (".csv", ".parquet"):
        write_frames(tmp_path / f"a{suffix}", [frame])
        write_frames(tmp_path / f"empty{suffix}", [frame[:0]])
    expected = pandas.DataFrame({"id": ["1", "2", None, "b"], "x": [1.0, 2.5, 3.0, 4.0]})
    pandas.testing.assert_frame_equal(pandas.read_parquet(tmp_path / "a.parquet"), expected, check_dtype=False)
    assert (tmp_path / "a.csv").read_bytes() == b"id,x\r\n1,1.0\r\n2.0,2.5\r\n,3.0\r\nb,4.0\r\n"
    assert (tmp_path / "empty.csv").read_bytes() == b"id,x\r\n"
    assert [*pandas.read_parquet(tmp_path / "empty.parquet")] == ["id", "x"]


def frames_of_parts():
    """Yields two frames with types that the values of one alone do not determine."""
    levels = pandas.CategoricalDtype(["a", "b"])
    for rows, price in ((40_000, "1.50"), (2, "123456.50")):
        times = pandas.date_range("2024-01-01", periods=rows, freq="90min", tz="Europe/Berlin")
        whole = pandas.array([1] * rows, "Int64")
        columns = {"x": np.arange(rows) * 0.5 if rows > 2 else [1.0, 2.0], "whole": whole, "time": times}
        objects = pandas.Series([decimal.Decimal(price)] * rows, dtype=object)
        level = pandas.Categorical(["a" if rows > 2 else "b"] * rows, dtype=levels)
        yield pandas.DataFrame(columns | {"price": objects, "level": level, "day": times.date})


def test_frames_are_written_below_each_other(tmp_path):
    """The types are those of all rows together, and so is the format of times, also if few follow many rows."""
    expected = pandas.concat(frames_of_parts(), ignore_index=True)
    write_frames(tmp_path / "a.parquet", frames_of_parts())
    pandas.testing.assert_frame_equal(pandas.read_parquet(tmp_path / "a.parquet"), expected, check_dtype=False)
    assert parquet.ParquetFile(tmp_path / "a.parquet").num_row_groups == 2
    write_frames(tmp_path / "a.csv", frames_of_parts())
    text = (tmp_path / "a.csv").read_text()
    assert text.splitlines()[-1] == "2,1,2024-01-01 01:30:00+01:00,123456.50,b,2024-01-01"
    assert text.count("x,whole") == 1 and text.count("\n") == 1 + len(expected)
    assert pandas.read_csv(tmp_path / "a.csv")["time"].str.len().nunique() == 1
    midnights = expected[["time"]][:20_001].assign(
        x=0, y=0, z=0, a=0
    )  # five columns: `to_csv` writes 20,000 rows at once
    midnights.loc[20_000, "time"] = midnights["time"].iloc[0]
    write_frames(tmp_path / "a.csv", [midnights])
    assert pandas.read_csv(tmp_path / "a.csv")["time"].str.len().nunique() == 1


@pytest.mark.parametrize("names", [[0, 1], ["a", 1]])
def test_names_that_are_not_text(tmp_path, names):
    """Tables without names have numbers as names. Their times are written, too."""
    frame = pandas.DataFrame({"a": pandas.date_range("2024-01-01", periods=3, freq="h"), "b": [1.5, 2.0, 3.0]})
    write_frames(tmp_path / "a.csv", [frame.set_axis(names, axis=1)] * 2)
    write_frames(tmp_path / "a.parquet", [frame.set_axis(names, axis=1)] * 2)
    expected = pandas.concat([frame, frame], ignore_index=True).set_axis([*map(str, names)], axis=1)
    from_csv = pandas.read_csv(tmp_path / "a.csv", parse_dates=[0])
    for written in (from_csv, pandas.read_parquet(tmp_path / "a.parquet")):
        pandas.testing.assert_frame_equal(written, expected, check_dtype=False)


def test_an_error_between_frames_leaves_the_file_as_it_was(tmp_path):
    def frames():
        yield from frames_of_parts()
        raise ArithmeticError("between")

    for name in ("a.csv", "a.parquet"):
        (tmp_path / name).write_text("before")
        with pytest.raises(ArithmeticError, match="between"):
            write_frames(tmp_path / name, frames())
        assert (tmp_path / name).read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 2


def test_numbers_in_csv_files_are_exact(tmp_path):
    numbers = np.random.RandomState(0).standard_cauchy([500, 2]) * 10.0 ** np.arange(-250, 250)[:, np.newaxis]
    frame = pandas.DataFrame(numbers, columns=["a", "b"])
    frame["narrow"] = numbers[:, 0].clip(-1e38, 1e38).astype("f4")
    frame["id"] = np.where(np.arange(500) % 7, 1234567890.0 + np.arange(500), np.nan)
    write_frames(tmp_path / "a.csv", [frame])
    texts = pandas.read_csv(tmp_path / "a.csv", dtype=str)
    pandas.testing.assert_frame_equal(texts.astype(frame.dtypes), frame, check_exact=True)
    assert texts["narrow"].str.len().max() <= 15 and texts["id"][1] == "1234567891"
