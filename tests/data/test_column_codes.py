"""`ColumnCodes`: the kinds of columns, and their values in their own units."""

import json

import numpy as np
import pandas
import pytest

from tests.data.test_columns import KINDS, draw
from tf_resflow.data import ColumnCodes
from tf_resflow.data.column_kinds import kinds_from_words, kinds_in_words

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("seed", range(8))
def test_rows_come_back_by_codes_of_json(seed):
    """Values decode from anywhere in their cells, and text from a file has the same codes as typed values."""
    table, given = draw(seed)
    codes = ColumnCodes.from_json(json.loads(json.dumps(ColumnCodes(table, kinds=given).to_json())))
    assert codes.kinds == {name: KINDS[name] for name in table} == kinds_from_words(kinds_in_words(codes.kinds))
    rows = codes.encode(table[table.columns[::-1]])
    values = rows.values
    assert rows.known.all() and np.isfinite(values).all() and not any(rows.reasons)
    step = np.zeros(codes.size) if codes.cells is None else codes.cells.step
    noise = np.random.default_rng(seed).uniform(-0.49, 0.49, size=values.shape)
    back = codes.decode(values + step * noise)
    pandas.testing.assert_frame_equal(back, table, rtol=1e-6, check_categorical=False, check_dtype=False)
    texts = table.astype({name: str for name in table if KINDS[name] != "number" and name != "return"})
    np.testing.assert_array_equal(codes.encode(texts).values, values)


def test_units():
    """Numbers stay as they are, levels become numbers, and times become days since the first one."""
    table = {"x": [1.5, 2.5, 1e6], "rooms": [3, 5, 4], "half": [0.5, 1.0, 2.5], "color": ["red", "blue", "red"]}
    days = pandas.to_datetime(["2024-03-01", "2024-02-28", "2024-03-02"])
    table = pandas.DataFrame(table | {"size": ["M", "S", "L"], "day": days})
    codes = ColumnCodes(table, kinds={"size": ["S", "M", "L", "XL"], "half": 0.5})
    values = codes.encode(table).values
    assert values.tolist() == [[1.5, 3, 0.5, 0, 1, 2], [2.5, 5, 1, 1, 0, 0], [1e6, 4, 2.5, 0, 2, 3]]
    np.testing.assert_array_equal(codes.cells.step, [0, 1, 0.5, 1, 1, 1])
    np.testing.assert_array_equal(codes.cells.num, [0, 3, 5, 2, 4, 4])
    np.testing.assert_array_equal(codes.cells.first, [0, 3, 0.5, 0, 0, 0])
    assert codes.describe()["day"] == "days since 2024-02-28"
    assert codes.describe()["color"] == "the number of the level: 0 red, 1 blue"
    assert codes.describe()["half"] == "0.5 to 2.5 in steps of 0.5"
    assert codes.labels[4] == ["S", "M", "L", "XL"]


def test_rows_that_cannot_be_read_have_a_reason():
    """The reason is the first fault of the row. Its other values are read."""
    days = pandas.date_range("2024-01-01", periods=3)
    table = pandas.DataFrame({"x": [0, 0.3, 1], "code": [7, 3, 9], "flag": [True, False, True], "day": days})
    codes = ColumnCodes(table, kinds={"code": "category"})
    new = {"x": ["0.5", "a", None, "inf", "1e300", "0.5"], "code": ["7", "7", "7", "7", "8", "9.0"]}
    new["flag"] = ["True", "yes", "False", "True", "True", "False"]
    new["day"] = ["2024-01-03", "2024-01-03", "03.01.2024", None, "2024-01-01", "2024-01-09T12:00"]
    new = pandas.DataFrame(new)
    rows = codes.encode(new)
    assert rows.reasons.tolist() == [
        "",
        "column 'x': 'a' is not a number",
        "column 'day': '03.01.2024' is not a date",  # faults come before missing values
        "column 'x': 'inf' is infinite",
        "column 'code': '8' is not a known level",
        "column 'code': '9.0' is not a known level",
    ]
    assert rows.known.all(axis=1).tolist() == [True, False, True, True, False, False]
    assert (rows.faults != "").any(axis=1).tolist() == [False] + [True] * 5
    alone = codes.encode(new.assign(day="2024-01-03"))
    assert alone.reasons[2] == "column 'x': the value is missing" and not any(alone.faults[2])
    np.testing.assert_array_equal(rows.values[0], [0.5, 0, 0, 2])
    np.testing.assert_array_equal(rows.values[4, [0, 1, 3]], [1e300, -1, 0])
    assert codes.encode(new, date_format="%d.%m.%Y").values[2, 3] == 2


def test_columns_of_earlier_versions():
    """The data.json of version 0.1 has other names of kinds."""
    grid = {"name": "a", "kind": "whole number", "dtype": "int64", "first": 3, "step": 1, "num": 4}
    levels = {"name": "b", "kind": "ordered levels", "dtype": "object", "levels": ["S", "M"]}
    codes = ColumnCodes.from_json([grid, levels])
    assert codes.kinds == {"a": "whole", "b": ["S", "M"]}
    assert codes.encode(pandas.DataFrame({"a": ["4"], "b": ["M"]})).values.tolist() == [[4, 1]]
