"""Columns of tables as coordinates of vectors."""

import numpy as np
import pandas
import pytest

from tf_resflow.data.columns import Columns

pytestmark = pytest.mark.quick


def column(kind, num, rng):
    """A column of a kind."""
    if kind == "number":
        return rng.normal(3.0, 2.0, size=num)
    if kind == "skewed number":
        return np.exp(rng.normal(size=num)).astype("float32")
    if kind == "large whole number":
        return rng.integers(-10_000, 10_000, size=num)
    if kind == "whole number":
        return rng.integers(3, 12, size=num).astype("int16")
    if kind == "grid":
        return np.round(rng.integers(0, 8, size=num) * 0.25 + 1.5, 2)
    if kind == "boolean":
        return rng.uniform(size=num) < 0.3
    if kind == "text":
        return rng.choice(["red", "green", "blue", "none"], size=num)
    if kind == "ordered":
        values = rng.choice(["low", "middle", "high"], size=num)
        return pandas.Categorical(values, ["low", "middle", "high", "highest"], ordered=True)
    days = rng.uniform(0, 100, size=num)
    return pandas.Timestamp("2024-02-28") + pandas.to_timedelta(np.round(days * 24), unit="h")


KINDS = {
    "number": "number",
    "skewed number": "number",
    "large whole number": "number",
    "whole number": "whole number",
    "grid": "whole number",
    "boolean": "category",
    "text": "category",
    "ordered": "ordered levels",
    "date": "date",
}


def frame(seed, num=200):
    """A table of some of the kinds, in any order."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(list(KINDS))[: rng.integers(2, 1 + len(KINDS))]
    return pandas.DataFrame({kind: column(kind, num, rng) for kind in chosen})


@pytest.mark.parametrize("seed", range(12))
def test_rows_come_back(seed):
    """In their types, names and order, of rows that the fit did not see, too; and standardized between."""
    table = frame(seed)
    columns = Columns(table)
    assert columns.kinds == {name: KINDS[name] for name in table}
    values, log_scale, known = columns.encode(table)
    centers = values + columns.widths / 2
    np.testing.assert_allclose(centers.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(centers.var(axis=0) + columns.widths**2 / 12, 1, rtol=1e-6)
    assert known.all() and log_scale.shape == (200,)
    for rows in (table, table.iloc[::-3]):
        values = columns.encode(rows[rows.columns[::-1]]).values
        inside = np.random.default_rng(seed).uniform(0.01, 0.99, size=values.shape)
        back = columns.decode(values + columns.widths * inside)
        pandas.testing.assert_frame_equal(back, rows.reset_index(drop=True), rtol=1e-5, check_categorical=False)


@pytest.mark.parametrize("seed", range(6))
def test_log_scale_is_that_of_the_map(seed):
    """The logarithm of the slopes of the columns of numbers; a cell has its width."""
    table = frame(seed)
    columns = Columns(table)
    discrete = dict(zip(columns.kinds, columns.widths > 0, strict=True))
    expected = np.log(columns.widths[columns.widths > 0]).sum()
    values = columns.encode(table).values
    for name, is_discrete in discrete.items():
        if not is_discrete:
            step = pandas.Timedelta("1s") if name == "date" else 1e-4
            moved = table.astype({} if name == "date" else {name: "float64"})
            below, above = moved.copy(), moved.copy()
            below[name] -= step
            above[name] += step
            place = list(columns.kinds).index(name)
            difference = (columns.encode(above).values - columns.encode(below).values)[:, place]
            expected = expected + np.log(difference / (2 / 86400 if name == "date" else 2e-4))
    assert values.shape == (200, columns.size)
    np.testing.assert_allclose(columns.encode(table).log_scale, expected, atol=1e-3)


def test_powers_go_on_linearly_beyond_the_fit():
    """A step of 1,000 deviations is as long 1,000 deviations further out, and comes back."""
    x = 10.0 - np.random.default_rng(0).gamma(1.2, size=500)
    columns = Columns(pandas.DataFrame({"x": x}))
    far = pandas.DataFrame({"x": [-1e4, -2e4, -3e4, 1e4, 2e4, 3e4]})
    values = columns.encode(far).values[:, 0]
    np.testing.assert_allclose(np.diff(values)[[0, 3]], np.diff(values)[[1, 4]], rtol=1e-9)
    assert abs(np.diff(values)[3]) > 2 * abs(np.diff(values)[0])  # by other slopes at the two ends
    np.testing.assert_allclose(columns.decode(values[:, np.newaxis])["x"], far["x"], rtol=1e-9)


def test_skewed_numbers_become_more_normal():
    """A log-normal column is transformed: its third moment is below 1. A normal one is not."""
    rng = np.random.default_rng(0)
    table = pandas.DataFrame({"skewed": np.exp(rng.normal(size=2000)), "normal": rng.normal(size=2000)})
    values = Columns(table).encode(table).values
    raw = ((table - table.mean()) / table.std()).to_numpy()
    before, after = (np.abs((x**3).mean(axis=0)) for x in (raw, values))
    assert before[0] > 3 and after[0] < 1 and after[1] == pytest.approx(before[1], rel=0.01)
    normal = (table["normal"] - table["normal"].mean()) / table["normal"].std(ddof=0)
    np.testing.assert_allclose(values[:, 1], normal, rtol=1e-9)


@pytest.mark.parametrize("bounds", [(0.0, None), (None, 5.0), (-1.0, 6.0)])
def test_bounded_numbers(bounds):
    x = np.random.default_rng(0).uniform(0.2, 4.8, size=100)
    columns = Columns(pandas.DataFrame({"x": x}), bounds={"x": bounds})
    far = columns.decode(np.array([[-3.0], [3.0]]))["x"].to_numpy()
    low, high = (end if end is not None else sign * np.inf for end, sign in zip(bounds, (-1, 1), strict=True))
    assert low < far[0] < far[1] < high
    outside = pandas.DataFrame({"x": [-2.0 if bounds[0] is not None else 7.0]})
    assert not columns.encode(outside).known[0]
    with pytest.raises(ValueError, match="1 values are not strictly between its bounds"):
        Columns(outside, bounds={"x": bounds})


@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_samples_are_within_bounds(dtype):
    """Far draws, too, whose distance from the bound rounds to 0."""
    x = pandas.DataFrame({"x": np.random.default_rng(0).integers(1, 1000, size=100).astype(dtype)})
    columns = Columns(x, bounds={"x": (0, 1000)})
    drawn = columns.decode(np.linspace(-40.0, 40.0, 99)[:, np.newaxis])
    assert columns.encode(drawn).known.all() and drawn["x"].dtype == dtype


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int64"])
def test_the_ends_of_whole_numbers_are_sampled(dtype):
    limits = np.iinfo(dtype)
    x = np.linspace(float(limits.min), float(limits.max), 200)
    x = np.clip(x, limits.min, np.nextafter(float(limits.max), 0) if dtype == "int64" else limits.max).astype(dtype)
    drawn = Columns(pandas.DataFrame({"x": x})).decode(np.array([[-50.0], [50.0]]))["x"]
    assert drawn[0] == limits.min and drawn[1] >= limits.max - 2**10 * (dtype == "int64")


def test_missing_and_unknown_values():
    table = pandas.DataFrame({"color": ["red", None, "blue", "green"], "x": [1.5, 2.25, np.nan, 4.125]})
    columns = Columns(table)
    values, _, known = columns.encode(table)
    np.testing.assert_array_equal(np.isnan(values), [[0, 0], [1, 0], [0, 1], [0, 0]])
    assert known.all()
    assert not columns.encode(pandas.DataFrame({"color": ["pink"], "x": [1.0]})).known[0]


def test_types_of_pandas():
    """Nullable types, zones and whole days come back; whole numbers within the range of the fit."""
    rng = np.random.default_rng(0)
    table = pandas.DataFrame(
        {
            "count": pandas.array(rng.integers(2, 9, size=60), dtype="Int64"),
            "size": pandas.array(rng.normal(size=60), dtype="Float64"),
            "new": pandas.array(rng.uniform(size=60) < 0.5, dtype="boolean"),
            "day": pandas.date_range("2024-01-01", periods=60, tz="Europe/Berlin"),
        }
    )
    columns = Columns(table)
    drawn = columns.decode(rng.normal(size=[500, columns.size]))
    pandas.testing.assert_series_equal(drawn.dtypes, table.dtypes)
    assert (drawn["count"].min(), drawn["count"].max()) == (2, 8)
    days = Columns(pandas.DataFrame({"day": pandas.date_range("2024-01-01", periods=60)}))
    drawn = days.decode(rng.normal(size=[9, 1]))["day"]
    assert (drawn == drawn.dt.floor("D")).all() and drawn.nunique() > 3


def test_warnings():
    rng = np.random.default_rng(0)
    table = pandas.DataFrame(
        {"a": rng.normal(size=50), "b": rng.normal(size=50), "same": 3, "other": rng.normal(size=50)}
    )
    table["sum"] = table["a"] + 2 * table["b"]
    with pytest.warns(UserWarning) as found:
        Columns(table)
    texts = [str(warning.message) for warning in found]
    assert "one value in all rows, and tell nothing of them: same" in texts[0]
    assert "depend on each other linearly: a, b, sum." in texts[1] and len(texts) == 2


def test_refusals(refused):
    table = pandas.DataFrame({"x": [1.5, 2.5, 3.5], "name": ["a", "b", "c"]})
    refused("no column 'y'; the columns are x, name", Columns, table, bounds={"y": (0, 1)})
    refused("Two columns have the name 'x'", Columns, pandas.DataFrame([[1, 2]], columns=["x", "x"]))
    refused("all values are missing", Columns, pandas.DataFrame({"x": [np.nan, np.nan]}))
    many = pandas.DataFrame({"name": [f"person {i}" for i in range(150)]})
    refused("150 different values in 150 rows, such as 'person 0': too many", Columns, many)
    refused("'c' is not one of its ordered levels", Columns, table, ordered={"name": ["a", "b"]})
    refused("has bounds, and is none of numbers", Columns, table, bounds={"name": (0, 1)})
    durations = pandas.DataFrame({"x": pandas.to_timedelta([1, 2, 3], unit="h")})
    refused(r"durations by .dt.total_seconds\(\)", Columns, durations)
    columns = Columns(table)
    refused("2 values are infinite", columns.encode, table.assign(x=[np.inf, 1.0, -np.inf]))
    refused("Column 'x' has numbers", columns.encode, table.assign(x=["1", "two", "3"]))
