"""The descriptions of columns, which are in saved files and in the signatures.json of exports."""

import datetime
import json
import re
import warnings

import numpy as np
import pandas
import pytest

from tf_resflow.tables.columns.fitting import column_from_json, fit_column

pytestmark = pytest.mark.quick

NUMBER = {"kind": "number", "name": "x", "dtype": "float64"}
TIME = {
    "kind": "date",
    "name": "x",
    "dtype": "datetime64[us]",
    "start": "2024-02-28T00:00:00.000000",
    "resolution": 10**6,
}

# A description, its kind, values and their numbers, and a value that cannot occur.
DESCRIPTIONS = [
    (NUMBER, "number", [1.5, -2.0], [1.5, -2.0], None),
    (NUMBER | {"offset": 100, "decimals": 1}, "number", [101.5, 98.0], [1.5, -2.0], None),
    (NUMBER | {"low": 0, "high": 5}, "number", [0.5, 4.0], [0.5, 4.0], 5.0),
    (NUMBER | {"low": 0}, "number", [0.5, 7.0], [0.5, 7.0], 0.0),
    (NUMBER | {"first": 3, "step": 1, "num": 9}, "whole", [3.0, 11.0, 40.0], [3, 11, 40], 3.5),
    (NUMBER | {"first": 1.5, "step": 0.25, "num": 8, "offset": 1.5}, 0.25, [1.5, 2.25], [0.0, 0.75], 1.6),
    (NUMBER | {"atoms": [[0.0, 3.2, -1]]}, {0.0}, [0.0, 2.5], [0.0, 2.5], -1.0),
    (NUMBER | {"step": 1, "num": 300, "atoms": [[0, 50.0, -1]]}, {0}, [0.0, 25.0], [0, 25], -1.0),
    (TIME, "date", ["2024-02-28", "2024-03-01 12:00"], [0.0, 2.5], None),
    (TIME | {"step": 1, "num": 90}, "day", ["2024-02-28", "2024-03-01"], [0, 2], "2024-03-01 12:00"),
    (
        {"kind": "category", "name": "x", "dtype": "object", "levels": ["b", "a"], "step": 1, "num": 2},
        "category",
        ["a", "b"],
        [1, 0],
        "c",
    ),
    (
        {"kind": "category", "name": "x", "dtype": "object", "levels": ["S", "L"], "is_ordered": True},
        ["S", "L"],
        ["L", "S"],
        [1, 0],
        "M",
    ),
]


@pytest.mark.parametrize(("description", "kind", "values", "numbers", "impossible"), DESCRIPTIONS)
def test_descriptions(description, kind, values, numbers, impossible):
    """Files of every version have these descriptions, so they must keep their meaning."""
    column = column_from_json(json.loads(json.dumps(description)))
    assert column.kind == kind
    found, faults = column.to_numbers(pandas.Series(values))
    np.testing.assert_array_equal(found, numbers)
    assert not any(faults)
    back, _ = column.to_numbers(column.to_series(found))
    np.testing.assert_array_equal(back, found)
    written = json.loads(json.dumps(column.to_json()))
    assert written.items() >= description.items() and column_from_json(written).to_json() == column.to_json()
    if impossible is not None:
        _, faults = column.to_numbers(pandas.Series([impossible]))
        assert faults[0]


@pytest.mark.parametrize(
    "values, pair",
    [
        ([1, "a"], "1 and 'a'"),
        ([2, 1.5, "a"], "2 and 'a'"),
        (["1", "2", "-"], "'1' and '-'"),
        ([True, "maybe"], "True and 'maybe'"),
        ([datetime.date(2024, 1, 1), "soon"], "datetime.date(2024, 1, 1) and 'soon'"),
    ],
)
def test_a_category_of_mixed_values_is_a_warning(values, pair):
    """It may have wrong values. If the kind is set, there is no warning."""
    with pytest.warns(UserWarning, match=re.escape(f"Column 'x' mixes values such as {pair}, so it becomes a cat")):
        assert fit_column("x", pandas.Series(values)).kind == "category"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_column("x", pandas.Series(values), "category")


@pytest.mark.parametrize(
    "values", [["a", "b"], ["1", "b", "c"], ["1", "2"], [True, None, False], [1, 2.5], [1, None]]
)
def test_usual_columns_give_no_warning(values):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_column("x", pandas.Series(values, dtype=object))
        fit_column("x", pandas.Series(["1", "2", "-"], dtype="category"))
