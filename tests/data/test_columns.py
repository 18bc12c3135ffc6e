"""Columns of tables as coordinates of vectors."""

import numpy as np
import pandas
import pytest
from scipy import stats

from tf_resflow.data.column_codes import ColumnCodes
from tf_resflow.data.columns import Columns

pytestmark = pytest.mark.quick


def column(kind, num, rng):
    """A column that is named after what it holds."""
    if kind == "number":
        return rng.normal(3.0, 2.0, size=num)
    if kind == "skewed number":
        return np.exp(rng.normal(size=num)).astype("float32")
    if kind == "tenths":
        return rng.normal(20.0, 3.0, size=num).round(1)
    if kind == "seconds":
        return 1.6e9 + rng.normal(0.0, 200.0, size=num)
    if kind == "large whole number":
        return np.exp(rng.normal(8.0, 2.0, size=num)).astype(int)
    if kind == "identifier":
        return 2**60 + rng.integers(0, 50, size=num)
    if kind == "whole number":
        return rng.integers(3, 12, size=num).astype("int16")
    if kind == "whole float":
        return rng.poisson(4.0, size=num).astype(float)
    if kind == "fine grid":
        return rng.integers(-303, 400, size=num) / 10
    if kind == "thirds":
        return rng.integers(-20, 20, size=num) / 3
    if kind == "far grid":
        return 16_000_000_000 + rng.integers(0, 500, size=num) / 4
    if kind == "milliseconds":
        return 1.6e12 + rng.integers(0, 10_000, size=num)
    if kind == "nanoseconds":
        return 1_600_000_000_000_000_000 + 1000 * rng.integers(0, 300, size=num)
    if kind == "hundreds":
        return (100 * rng.integers(0, 328, size=num)).astype("int16")
    if kind == "zoned day":
        return pandas.date_range("2024-01-01", periods=300, tz="Europe/Zurich")[rng.integers(0, 300, size=num)]
    if kind == "grid":
        return rng.integers(0, 8, size=num) * 0.25 + 1.5
    if kind == "boolean":
        return rng.uniform(size=num) < 0.3
    if kind == "text":
        return rng.choice(["red", "green", "blue", "none"], size=num)
    if kind == "ordered":
        values = rng.choice(["low", "middle", "high"], size=num)
        return pandas.Categorical(values, ["low", "middle", "high", "highest"], ordered=True)
    days = rng.uniform(0, 100, size=num)
    unit = "D" if kind == "day" else "h"
    return pandas.Timestamp("2024-02-28") + pandas.to_timedelta(np.round(days * (1 if kind == "day" else 24)), unit)


KINDS = {
    "number": "number",
    "skewed number": "number",
    "tenths": "number",
    "seconds": "number",
    "large whole number": "whole",
    "identifier": "whole",
    "whole number": "whole",
    "whole float": "whole",
    "grid": 0.25,
    "fine grid": 0.1,
    "thirds": 1 / 3,
    "far grid": 0.25,
    "milliseconds": "whole",
    "nanoseconds": 1000,
    "hundreds": 100,
    "zoned day": "day",
    "boolean": "category",
    "text": "category",
    "ordered": ["low", "middle", "high", "highest"],
    "date": "date",
    "day": "day",
}
# What no type says.
GIVEN = {name: KINDS[name] for name in ("grid", "fine grid", "thirds", "far grid", "nanoseconds", "hundreds")}


def draw(seed, num=200):
    """A table of some of the columns, in any order, and the kinds that its types do not say."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(list(KINDS))[: rng.integers(2, 1 + len(KINDS))]
    table = pandas.DataFrame({kind: column(kind, num, rng) for kind in chosen})
    return table, {name: kind for name, kind in GIVEN.items() if name in table}


@pytest.mark.parametrize("seed", range(6))
def test_kinds_do_not_depend_on_the_sample(seed):
    """Those of any rows are those of all, and the same when they are given to another fit."""
    table, given = draw(seed)
    rng = np.random.default_rng(seed)
    kinds = ColumnCodes(table, kinds=given).kinds
    assert kinds == {name: KINDS[name] for name in table}
    for num in rng.integers(10, 200, size=8):
        rows = table.iloc[rng.permutation(len(table))[:num]]
        assert ColumnCodes(rows, kinds=given).kinds == kinds == ColumnCodes(rows, kinds=kinds).kinds


@pytest.mark.parametrize("seed", range(6))
def test_rows_come_back(seed):
    """In their types, names and order, of rows that the fit did not see, too; and standardized between."""
    table, given = draw(seed)
    columns = Columns(table, kinds=given)
    values, widths, _, log_scale, known = columns.encode(table)
    centers = values + widths / 2
    np.testing.assert_allclose(centers.mean(axis=0), 0, atol=0.3)
    np.testing.assert_allclose(centers.var(axis=0) + (widths**2).mean(axis=0) / 12, 1, atol=0.3)
    assert known.all() and log_scale.shape == (200,)
    for rows in (table, table.iloc[::-3]):
        values, widths, *_ = columns.encode(rows[rows.columns[::-1]])
        inside = np.random.default_rng(seed).uniform(0.01, 0.99, size=values.shape)
        back = columns.decode(values + widths * inside)
        pandas.testing.assert_frame_equal(back, rows.reset_index(drop=True), rtol=1e-5, check_categorical=False)


@pytest.mark.parametrize("kind", KINDS)
def test_a_density_of_vectors_is_a_density_of_rows(kind):
    """A normal one: over all values of a column it adds up, or integrates over far more than the data, to 1."""
    rng = np.random.default_rng(1)
    table = pandas.DataFrame({"x": column(kind, 300, rng)})
    columns = Columns(table, kinds={"x": KINDS[kind]} if kind in GIVEN else None)
    if not columns.is_discrete[0]:
        x = columns.decode(np.sinh(np.linspace(-4.0, 4.0, 8001))[:, np.newaxis])
        z, _, _, log_scale, _ = columns.encode(x)
        place = (
            x["x"].to_numpy("datetime64[us]").astype(float) / 86400e6 if kind == "date" else x["x"].to_numpy(float)
        )
        density = np.exp(stats.norm.logpdf(z[:, 0]) + log_scale)
        assert np.trapezoid(density, place) == pytest.approx(1.0, abs=1e-3)
        return
    if kind == "large whole number":
        values = pandas.DataFrame({"x": np.arange(-1000, 100_000)})  # without ends: a part of all
    else:
        values = columns.decode(np.linspace(-30.0, 30.0, 200_001)[:, np.newaxis]).drop_duplicates()
    z, widths, ends, log_scale, _ = columns.encode(values)
    np.testing.assert_allclose(log_scale, np.log(widths[:, 0]), rtol=1e-9)
    lower = np.where(ends[0, :, 0], -np.inf, z[:, 0])
    upper = np.where(ends[1, :, 0], np.inf, z[:, 0] + widths[:, 0])
    whole = stats.norm.cdf(upper.max()) - stats.norm.cdf(lower.min())
    np.testing.assert_allclose(np.sum(stats.norm.cdf(upper) - stats.norm.cdf(lower)), whole, rtol=1e-6)
    assert whole == pytest.approx(1.0) or kind == "large whole number"


@pytest.mark.parametrize("seed", range(6))
def test_values_between_those_of_a_grid_cannot_occur(seed):
    """As unknown levels: their rows are not known, and have a reason; those of real numbers can."""
    rng = np.random.default_rng(seed)
    table, given = draw(seed)
    rows, share = table.copy(), rng.uniform(0.02, 0.98)
    for name, kind in KINDS.items():
        if name not in rows or name == "identifier":  # whose halves no type holds
            continue
        if kind == "day":
            rows[name] += share * pandas.Timedelta("1D")
        elif name == "nanoseconds":
            rows[name] += int(1000 * share)
        elif kind in ("number", "whole") or isinstance(kind, (int, float)):
            rows[name] = rows[name].astype(float) + share * (kind if isinstance(kind, (int, float)) else 1.0)
        elif name == "text":
            rows[name] = "pink"
    moved = [name for name in rows if (rows[name] != table[name]).any()]
    for name in moved:
        is_known = KINDS[name] == "number"
        changed = table.assign(**{name: rows[name]})
        assert (Columns(table, kinds=given).encode(changed).known == is_known).all()
        read = ColumnCodes(table, kinds=given).read(changed)
        assert (read.known == is_known).all() and (read.unreadable != is_known).all()
        assert all((reason == "") == is_known and (is_known or repr(name) in reason) for reason in read.reasons)


@pytest.mark.parametrize("seed", range(8))
def test_an_offset_costs_no_digits(seed):
    """Numbers of any offset that float64 holds have the vectors of those without, in the precision of float32."""
    rng = np.random.default_rng(seed)
    offset, scale = 10.0 ** rng.uniform(4, 12), 10.0 ** rng.uniform(-2, 3)
    x = np.round(rng.normal(size=100) * scale * 2**10) / 2**10  # which the sum with an offset rounds little
    moved, tables = x + offset, [pandas.DataFrame({"x": part}) for part in (x, x + offset)]
    np.testing.assert_allclose(moved - offset, x, atol=1e-3 * scale)
    values = [Columns(table).encode(table).values for table in tables]
    np.testing.assert_allclose(values[1], values[0], atol=1e-2)
    codes = ColumnCodes(tables[1])
    units = codes.read(tables[1]).values.astype(np.float32)
    np.testing.assert_allclose(codes.table(units)["x"], moved, atol=1e-3 * scale)
    whole = np.round(rng.normal(size=100) * 30).astype(int)
    for start in (0, 2**53, int(rng.integers(2**61, 2**62)), -(2**62)):
        table = pandas.DataFrame({"x": whole + start})
        codes, columns = ColumnCodes(table), Columns(table)
        assert codes.read(table).known.all()
        assert codes.table(codes.read(table).values.astype(np.float32))["x"].tolist() == table["x"].tolist()
        values, widths, *_ = columns.encode(table)
        assert columns.decode(values + widths / 2)["x"].tolist() == table["x"].tolist()


@pytest.mark.parametrize("seed", range(4))
def test_numbers_of_another_type(seed):
    """Values on a grid are the same in float32, in float64, as text and as categories, whichever the fit had."""
    rng = np.random.default_rng(seed)
    step = float(rng.choice([1.0, 0.1, 0.25]))
    x = step * rng.integers(-2000, 2000, size=100)
    tables = [pandas.DataFrame({"x": part}) for part in (x, x.astype("float32"))]
    tables += [pandas.DataFrame({"x": x.round(6).astype(str)}), pandas.DataFrame({"x": x}).astype("category")]
    for fit in tables:
        columns = Columns(fit, kinds={"x": step})
        encoded = [columns.encode(table) for table in tables]
        assert all(rows.known.all() and np.allclose(rows.values, encoded[0].values) for rows in encoded)


def test_a_constant_column_has_no_scale():
    """Whatever the rounding error of its mean is."""
    rows = pandas.DataFrame({"x": [0.1] * 77, "y": np.random.default_rng(0).normal(size=77)})
    with pytest.warns(UserWarning, match="one value in all rows: x"):
        values, _, _, log_scale, _ = Columns(rows).encode(rows)
    np.testing.assert_allclose(values[:, 0], 0, atol=1e-12)
    np.testing.assert_allclose(log_scale, -np.log(rows["y"].std(ddof=0)), rtol=1e-6)


def test_powers_go_on_linearly_beyond_the_fit():
    """A step of 1,000 deviations is as long 1,000 deviations further out, and comes back."""
    x = 10.0 - np.random.default_rng(0).gamma(1.2, size=500)
    columns = Columns(pandas.DataFrame({"x": x}))
    far = pandas.DataFrame({"x": [-1e4, -2e4, -3e4, 1e4, 2e4, 3e4]})
    values = columns.encode(far).values[:, 0]
    np.testing.assert_allclose(np.diff(values)[[0, 3]], np.diff(values)[[1, 4]], rtol=1e-9)
    assert abs(np.diff(values)[3]) > 2 * abs(np.diff(values)[0])  # by other slopes at the two ends
    np.testing.assert_allclose(columns.decode(values[:, np.newaxis])["x"], far["x"], rtol=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_skewed_numbers_become_more_normal(seed):
    """A normal column stays. A log-normal one does not, and far normal draws stay near its data."""
    rng = np.random.default_rng(seed)
    sigma = rng.uniform(0.8, 3.0)
    skewed = pandas.DataFrame({"x": np.exp(sigma * rng.normal(size=500))})
    columns = Columns(skewed)
    moments = [
        ((x - x.mean()) ** 3).mean() / x.std() ** 3 for x in (skewed["x"], columns.encode(skewed).values[:, 0])
    ]
    assert moments[0] > 2 and abs(moments[1]) < 0.6 * moments[0]
    far = columns.decode(np.array([[-5.0], [5.0]]))["x"]
    assert -20 * skewed["x"].max() < far[0] < far[1] < 20 * skewed["x"].max()
    normal = pandas.DataFrame({"x": rng.normal(size=500)})
    expected = (normal["x"] - normal["x"].mean()) / normal["x"].std(ddof=0)
    np.testing.assert_allclose(Columns(normal).encode(normal).values[:, 0], expected, rtol=1e-9)


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
    values, *_, known = columns.encode(table)
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
    assert "one value in all rows: same" in texts[0]
    assert "depend on each other linearly: a, b, sum." in texts[1] and len(texts) == 2


def test_refusals(refused):
    table = pandas.DataFrame({"x": [1.5, 2.5, 3.5], "name": ["a", "b", "c"]})
    refused("no column 'y'; the columns are x, name", Columns, table, bounds={"y": (0, 1)})
    refused("Two columns have the name 'x'", Columns, pandas.DataFrame([[1, 2]], columns=["x", "x"]))
    refused("all values are missing", Columns, pandas.DataFrame({"x": [np.nan, np.nan]}))
    many = pandas.DataFrame({"name": [f"person {i}" for i in range(150)]})
    refused("150 different values in 150 rows, such as 'person 0': too many", Columns, many)
    refused("'c' is not one of its ordered levels", Columns, table, kinds={"name": ["a", "b"]})
    refused("has bounds, but it is of type", Columns, table, bounds={"name": (0, 1)})
    refused("3 of 3 values are not a whole number, such as 1.5", Columns, table, kinds={"x": "whole"})
    refused(
        "1 of 3 values are not a multiple of 0.1, such as 2.55",
        Columns,
        table.assign(x=[1, 2.55, 3]),
        kinds={"x": 0.1},
    )
    for kind in ("wohle", 0, -1.0, True, np.inf):
        refused(f"a kind is one of number, whole, category, .* got {kind!r}", Columns, table, kinds={"x": kind})
    times = table.assign(x=np.array(["2024-01-01T00", "2024-01-02T12", "2024-01-05T00"], "M8[us]"))
    refused("not whole days apart", Columns, times, kinds={"x": "day"})
    refused(r"'x' has numbers; got datetime64\[", Columns, times, kinds={"x": "number"})
    refused("'x' has dates; got numbers", Columns, table, kinds={"x": "date"})
    durations = pandas.DataFrame({"x": pandas.to_timedelta([1, 2, 3], unit="h")})
    refused(r"durations by .dt.total_seconds\(\)", Columns, durations)
    columns = Columns(table)
    refused("2 values are infinite", columns.encode, table.assign(x=[np.inf, 1.0, -np.inf]))
    refused("Column 'x' has numbers", columns.encode, table.assign(x=["1", "two", "3"]))
    refused(r"'x' has numbers; got datetime64\[", columns.encode, times)
    refused(r"'x' has numbers; got datetime64\[", ColumnCodes(table).read, times)
    refused("'x' has dates; got numbers", Columns(times).encode, table)
    refused("'x' has dates; got numbers", ColumnCodes(times).read, table)
