"""`Columns`: rows of tables as standardized vectors."""

import decimal
import json

import numpy as np
import pandas
import pyarrow
import pytest
from scipy import stats

from tf_resflow.data import column_kinds
from tf_resflow.data.column_codes import ColumnCodes
from tf_resflow.data.columns import Columns

pytestmark = pytest.mark.quick


def _days(num, rng, unit):
    hours = np.round(rng.uniform(0, 100, size=num) * (1 if unit == "D" else 24))
    return pandas.Timestamp("2024-02-28") + pandas.to_timedelta(hours, unit)


ZONED = pandas.date_range("2024-01-01", periods=300, tz="Europe/Zurich")
LEVELS = ["low", "middle", "high", "highest"]


def _where(share, atom, values):
    """Replaces a share of values by an atom."""
    return np.where(np.arange(len(values)) % 100 < 100 * share, atom, values)


# The kind of each column, and a function that draws its values.
COLUMNS = {
    "number": ("number", lambda num, rng: rng.normal(3.0, 2.0, size=num)),
    "skewed number": ("number", lambda num, rng: np.exp(rng.normal(size=num)).astype("float32")),
    "tenths": ("number", lambda num, rng: rng.normal(20.0, 3.0, size=num).round(1)),
    "rain": ({0.0}, lambda num, rng: _where(0.5, 0.0, rng.exponential(3.0, size=num))),
    "return": ({0.25}, lambda num, rng: _where(0.3, 0.25, rng.laplace(size=num)).astype("float32")),
    "capped": ({-1.5, 2.0}, lambda num, rng: rng.normal(scale=2.0, size=num).clip(-1.5, 2.0)),
    "gain": ({0}, lambda num, rng: _where(0.9, 0, 10 + rng.integers(20_000, size=num))),
    "seconds": ("number", lambda num, rng: 1.6e9 + rng.normal(0.0, 200.0, size=num)),
    "large whole number": ("whole", lambda num, rng: np.exp(rng.normal(8.0, 2.0, size=num)).astype(int)),
    "identifier": ("whole", lambda num, rng: 2**60 + rng.integers(0, 50, size=num)),
    "whole number": ("whole", lambda num, rng: rng.integers(3, 12, size=num).astype("int16")),
    "whole float": ("whole", lambda num, rng: rng.poisson(4.0, size=num).astype(float)),
    "grid": (0.25, lambda num, rng: rng.integers(0, 8, size=num) * 0.25 + 1.5),
    "fine grid": (0.1, lambda num, rng: rng.integers(-303, 400, size=num) / 10),
    "thirds": (1 / 3, lambda num, rng: rng.integers(-20, 20, size=num) / 3),
    "far grid": (0.25, lambda num, rng: 16_000_000_000 + rng.integers(0, 500, size=num) / 4),
    "milliseconds": ("whole", lambda num, rng: 1.6e12 + rng.integers(0, 10_000, size=num)),
    "nanoseconds": (1000, lambda num, rng: 1_600_000_000_000_000_000 + 1000 * rng.integers(0, 300, size=num)),
    "hundreds": (100, lambda num, rng: (100 * rng.integers(0, 328, size=num)).astype("int16")),
    "zoned day": ("day", lambda num, rng: ZONED[rng.integers(0, 300, size=num)]),
    "boolean": ("category", lambda num, rng: rng.uniform(size=num) < 0.3),
    "text": ("category", lambda num, rng: rng.choice(["red", "green", "blue", "none"], size=num)),
    "ordered": (
        LEVELS,
        lambda num, rng: pandas.Categorical(rng.choice(LEVELS[:3], size=num), LEVELS, ordered=True),
    ),
    "date": ("date", lambda num, rng: _days(num, rng, "h")),
    "day": ("day", lambda num, rng: _days(num, rng, "D")),
}
KINDS = {name: kind for name, (kind, _) in COLUMNS.items()}
GIVEN = {name: kind for name, kind in KINDS.items() if isinstance(kind, (int, float))}  # kinds that no type implies


def draw(seed, num=200):
    """Returns a table of random columns in random order, and the kinds that its types do not imply."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(list(KINDS))[: rng.integers(2, 1 + len(KINDS))]
    table = pandas.DataFrame({kind: COLUMNS[kind][1](num, rng) for kind in chosen})
    return table, {name: kind for name, kind in GIVEN.items() if name in table}


@pytest.mark.parametrize("seed", range(4))
def test_kinds_do_not_depend_on_the_sample(seed):
    """Any subset of the rows has the kinds of all rows, and passing these to another fit keeps them."""
    table, given = draw(seed)
    rng = np.random.default_rng(seed)
    kinds = ColumnCodes(table, kinds=given).kinds
    assert kinds == {name: KINDS[name] for name in table}
    for num in rng.integers(100, 200, size=8):
        rows = table.sample(num, random_state=seed)
        assert ColumnCodes(rows, kinds=given).kinds == kinds == ColumnCodes(rows, kinds=kinds).kinds


@pytest.mark.parametrize("seed", range(4))
def test_rows_come_back(seed):
    """Rows keep their types, names and order, also rows that are not in the fit. The vectors are standardized."""
    table, given = draw(seed)
    columns = Columns(table, kinds=given)
    values, widths, _, log_scale, known = columns.encode(table)
    centers = values + widths / 2
    np.testing.assert_allclose(centers.mean(axis=0), 0, atol=0.4)  # the transform bends the wide cells of atoms
    np.testing.assert_allclose(centers.var(axis=0) + (widths**2).mean(axis=0) / 12, 1, atol=0.4)
    assert known.all() and log_scale.shape == (200,)
    for rows in (table, table.iloc[::-3]):
        values, widths, *_ = columns.encode(rows[rows.columns[::-1]])
        inside = np.random.default_rng(seed).uniform(0.01, 0.99, size=values.shape)
        back = columns.decode(values + widths * inside)
        pandas.testing.assert_frame_equal(back, rows.reset_index(drop=True), rtol=1e-5, check_categorical=False)


@pytest.mark.parametrize("kind", KINDS)
def test_a_density_of_vectors_is_a_density_of_rows(kind):
    """A normal density of vectors sums to 1 over all values of a column, or integrates to 1."""
    rng = np.random.default_rng(1)
    table = pandas.DataFrame({"x": COLUMNS[kind][1](300, rng)})
    columns = Columns(table, kinds={"x": KINDS[kind]} if kind in GIVEN else None)
    if kind in ("rain", "return", "capped"):
        numbers = columns.decode(np.sinh(np.linspace(-5.0, 5.0, 20_001))[:, np.newaxis])["x"].astype(float).unique()
        z, widths, ends, log_scale, _ = columns.encode(pandas.DataFrame({"x": numbers}))
        is_atom = widths[:, 0] > 0
        assert set(numbers[is_atom]) == KINDS[kind] and not ends[:, ~is_atom].any()
        np.testing.assert_allclose(log_scale[is_atom], np.log(widths[is_atom, 0]))
        lower = np.where(ends[0], -np.inf, z)[is_atom, 0]
        upper = np.where(ends[1], np.inf, z + widths)[is_atom, 0]
        density = np.exp(stats.norm.logpdf(z[:, 0]) + log_scale)[~is_atom]
        rest = np.trapezoid(density, numbers[~is_atom])
        assert np.sum(stats.norm.cdf(upper) - stats.norm.cdf(lower)) + rest == pytest.approx(1.0, abs=2e-3)
        return
    if not columns.has_cells[0]:
        x = columns.decode(np.sinh(np.linspace(-4.0, 4.0, 8001))[:, np.newaxis])
        z, _, _, log_scale, _ = columns.encode(x)
        is_time = kind == "date"
        place = x["x"].to_numpy("datetime64[us]" if is_time else float).astype(float) / (86400e6 if is_time else 1)
        density = np.exp(stats.norm.logpdf(z[:, 0]) + log_scale)
        assert np.trapezoid(density, place) == pytest.approx(1.0, abs=1e-3)
        return
    if kind in ("large whole number", "gain"):
        first = 0 if kind == "gain" else -1000  # the cell of 0, the smallest gain, includes all values below
        values = pandas.DataFrame({"x": np.arange(first, 100_000)})  # a part, because the cells continue
    else:
        values = columns.decode(np.linspace(-30.0, 30.0, 200_001)[:, np.newaxis]).drop_duplicates()
    z, widths, ends, log_scale, _ = columns.encode(values)
    np.testing.assert_allclose(log_scale, np.log(widths[:, 0]), rtol=1e-9)
    lower = np.where(ends[0, :, 0], -np.inf, z[:, 0])
    upper = np.where(ends[1, :, 0], np.inf, z[:, 0] + widths[:, 0])
    whole = stats.norm.cdf(upper.max()) - stats.norm.cdf(lower.min())
    np.testing.assert_allclose(np.sum(stats.norm.cdf(upper) - stats.norm.cdf(lower)), whole, rtol=1e-6)
    assert whole == pytest.approx(1.0) or kind in ("large whole number", "gain")


@pytest.mark.parametrize("seed", range(6))
def test_values_between_those_of_a_grid_cannot_occur(seed):
    """Rows with such values or unknown levels are not known, and have a reason. Any real number can occur.

    Numbers above an atom that is the largest value of the fit cannot occur either.
    """
    rng = np.random.default_rng(seed)
    table, given = draw(seed)
    columns, codes, share = Columns(table, kinds=given), ColumnCodes(table, kinds=given), rng.uniform(0.02, 0.98)
    steps = {"day": pandas.Timedelta("1D"), "number": 1.0, "whole": 1.0} | {kind: kind for kind in given.values()}
    for name in table.columns.drop(["identifier", "boolean", "ordered", "date"], errors="ignore"):
        if name == "text":
            moved = "pink"
        elif name == "nanoseconds":
            moved = table[name] + int(1000 * share)
        elif isinstance(KINDS[name], set):
            moved = table[name].astype(float) + share
        else:
            numbers = table[name] if KINDS[name] == "day" else table[name].astype(float)
            moved = numbers + share * steps[KINDS[name]]
        is_known = np.full(len(table), KINDS[name] == "number" or name in ("rain", "return"))
        if name == "capped":
            is_known = (moved <= table[name].max()).to_numpy()
        changed = table.assign(**{name: moved})
        np.testing.assert_array_equal(columns.encode(changed).known, is_known)
        read = codes.encode(changed)
        np.testing.assert_array_equal(read.known.all(axis=1), is_known)
        np.testing.assert_array_equal((read.faults == "").all(axis=1), is_known)
        for reason, known in zip(read.reasons, is_known, strict=True):
            assert (reason == "") == known and (known or repr(name) in reason)


@pytest.mark.parametrize("seed", range(6))
def test_an_offset_costs_no_digits(seed):
    """An offset that float64 can hold does not change the vectors, up to the precision of float32."""
    rng = np.random.default_rng(seed)
    offset, scale = 10.0 ** rng.uniform(4, 12), 10.0 ** rng.uniform(-2, 3)
    x = np.round(rng.normal(size=100) * scale * 2**10) / 2**10  # so that adding the offset causes little rounding
    moved, tables = x + offset, [pandas.DataFrame({"x": part}) for part in (x, x + offset)]
    np.testing.assert_allclose(moved - offset, x, atol=1e-3 * scale)
    values = [Columns(table).encode(table).values for table in tables]
    np.testing.assert_allclose(values[1], values[0], atol=1e-2)
    codes = ColumnCodes(tables[1])
    units = codes.encode(tables[1]).values.astype(np.float32)
    np.testing.assert_allclose(codes.decode(units)["x"], moved, atol=1e-3 * scale)
    whole = np.round(rng.normal(size=100) * 30).astype(int)
    for start in (0, 2**53, int(rng.integers(2**61, 2**62)), -(2**62)):
        table = pandas.DataFrame({"x": whole + start})
        codes, columns = ColumnCodes(table), Columns(table)
        assert codes.encode(table).known.all()
        assert codes.decode(codes.encode(table).values.astype(np.float32))["x"].tolist() == table["x"].tolist()
        values, widths, *_ = columns.encode(table)
        assert columns.decode(values + widths / 2)["x"].tolist() == table["x"].tolist()


@pytest.mark.parametrize("seed", range(4))
def test_numbers_of_another_type(seed):
    """Grid values encode alike as float32, float64, text and categories, whichever type the fit had."""
    rng = np.random.default_rng(seed)
    step = float(rng.choice([1.0, 0.1, 0.25]))
    x = step * rng.integers(-2000, 2000, size=100)
    tables = [pandas.DataFrame({"x": part}) for part in (x, x.astype("float32"))]
    tables += [pandas.DataFrame({"x": x.round(6).astype(str)}), pandas.DataFrame({"x": x}).astype("category")]
    for fit in tables:
        columns = Columns(fit, kinds={"x": step})
        encoded = [columns.encode(table) for table in tables]
        assert all(rows.known.all() and np.allclose(rows.values, encoded[0].values) for rows in encoded)


def test_decoded_values_have_the_resolution_of_the_data():
    """Times are multiples of 15 minutes, and numbers have two decimals, in spite of rounding errors."""
    rng = np.random.default_rng(0)
    time = pandas.Timestamp("2024-01-01 05:00") + pandas.to_timedelta(15 * rng.integers(2000, size=200), unit="min")
    table = pandas.DataFrame({"time": time, "x": rng.integers(-500, 500, size=200) * 0.01 + 1e-16})
    drawn = Columns(table).decode(rng.normal(size=[500, 2]))
    assert (
        set(drawn["time"].dt.minute) == {0, 15, 30, 45} and (drawn["time"] == drawn["time"].dt.floor("min")).all()
    )
    assert all(len(repr(x)) <= len("-99.99") for x in drawn["x"].tolist())


def test_a_constant_column_has_no_scale():
    """The rounding error of the mean does not count as variation."""
    rows = pandas.DataFrame({"x": [0.1] * 77, "y": np.random.default_rng(0).normal(size=77)})
    with pytest.warns(UserWarning, match="columns are constant: x"):
        values, _, _, log_scale, _ = Columns(rows).encode(rows)
    np.testing.assert_allclose(values[:, 0], 0, atol=1e-12)
    np.testing.assert_allclose(log_scale, -np.log(rows["y"].std(ddof=0)), rtol=1e-6)


def test_powers_go_on_linearly_beyond_the_fit():
    """Far from the data, equal steps stay equal, and values decode."""
    x = 10.0 - np.random.default_rng(0).gamma(1.2, size=500)
    columns = Columns(pandas.DataFrame({"x": x}))
    far = pandas.DataFrame({"x": [-1e4, -2e4, -3e4, 1e4, 2e4, 3e4]})
    values = columns.encode(far).values[:, 0]
    np.testing.assert_allclose(np.diff(values)[[0, 3]], np.diff(values)[[1, 4]], rtol=1e-9)
    assert abs(np.diff(values)[3]) > 2 * abs(np.diff(values)[0])  # the slopes at the two ends differ
    np.testing.assert_allclose(columns.decode(values[:, np.newaxis])["x"], far["x"], rtol=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_skewed_numbers_become_more_normal(seed):
    """A normal column is not transformed. A log-normal one is, and far draws decode to values near the data."""
    rng = np.random.default_rng(seed)
    sigma = rng.uniform(0.8, 3.0)
    skewed = pandas.DataFrame({"x": np.exp(sigma * rng.normal(size=500))})
    columns = Columns(skewed)
    moments = [stats.skew(x) for x in (skewed["x"], columns.encode(skewed).values[:, 0])]
    assert moments[0] > 2 and abs(moments[1]) < 0.6 * moments[0]
    far = columns.decode(np.array([[-5.0], [5.0]]))["x"]
    assert -20 * skewed["x"].max() < far[0] < far[1] < 20 * skewed["x"].max()
    normal = pandas.DataFrame({"x": rng.normal(size=500)})
    expected = (normal["x"] - normal["x"].mean()) / normal["x"].std(ddof=0)
    np.testing.assert_allclose(Columns(normal).encode(normal).values[:, 0], expected, rtol=1e-9)


@pytest.mark.parametrize("bounds", [(0.0, None), (None, 5.0), (-1.0, 6.0)])
def test_bounded_numbers(bounds):
    table = pandas.DataFrame({"x": np.random.default_rng(0).uniform(0.2, 4.8, size=100)})
    columns = Columns(table, bounds={"x": bounds})
    far = columns.decode(np.array([[-3.0], [3.0]]))["x"].to_numpy()
    low, high = (end if end is not None else sign * np.inf for end, sign in zip(bounds, (-1, 1), strict=True))
    assert low < far[0] < far[1] < high
    outside = pandas.DataFrame({"x": [-2.0 if bounds[0] is not None else 7.0]})
    assert not columns.encode(outside).known[0]
    with pytest.raises(ValueError, match="1 of 1 values are outside the bounds, such as"):
        Columns(outside, bounds={"x": bounds})
    for dtype in ("float32", "int64"):  # including far draws whose distance from the bound rounds to 0
        columns = Columns(table.round().clip(1, 4).astype(dtype), bounds={"x": (0, 5)})
        drawn = columns.decode(np.linspace(-40.0, 40.0, 99)[:, np.newaxis])
        assert columns.encode(drawn).known.all() and drawn["x"].dtype == dtype


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64"])
def test_the_ends_of_whole_numbers_are_sampled(dtype):
    limits = np.iinfo(dtype)
    x = np.linspace(float(limits.min), float(limits.max), 200)
    x = np.clip(x, limits.min, np.nextafter(float(limits.max), 0) if dtype == "int64" else limits.max).astype(dtype)
    drawn = Columns(pandas.DataFrame({"x": x})).decode(np.array([[-50.0], [50.0]]))["x"]
    assert drawn[0] == limits.min and drawn[1] >= limits.max - 2**10 * (dtype == "int64")


def _typed_tables():
    """Returns tables of 60 rows with types of pandas, Arrow and Python."""
    rng = np.random.default_rng(0)
    table = {"count": rng.integers(2, 9, size=60), "size": rng.normal(size=60), "new": rng.uniform(size=60) < 0.5}
    table |= {"color": rng.choice(["red", "blue"], 60), "day": ZONED[:60], "identifier": 2**60 + np.arange(60)}
    times = pandas.Timestamp("2024-01-01") + pandas.to_timedelta(rng.integers(0, 10**6, size=60), "s")
    table = pandas.DataFrame(table | {"time": times.as_unit("s")})
    cents, days = rng.integers(-900_00, 900_00, size=60), pandas.date_range("2024-01-01", periods=60)
    python = {"price": [decimal.Decimal(int(k)) / 100 for k in cents], "born": [day.date() for day in days]}
    python = pandas.DataFrame(python | {"code": [decimal.Decimal(int(k)) for k in cents]}, dtype=object)
    arrow = {"price": pyarrow.decimal128(5, 2), "born": pyarrow.date32(), "code": pyarrow.decimal128(18, 0)}
    arrow = {name: pandas.ArrowDtype(kind) for name, kind in arrow.items()}
    shades = pyarrow.array(rng.choice(["light", "dark"], 60)).dictionary_encode()
    arrow = python.astype(arrow).assign(shade=pandas.Series(shades, dtype=pandas.ArrowDtype(shades.type)))
    units = "Y-MAR Q-JAN M 2M W-WED D h 15min s ms us ns".split()
    periods = {unit: pandas.period_range("2024-01-01", periods=60, freq=unit) for unit in units}
    return {
        "nullable": table.convert_dtypes(),
        "arrow": table.convert_dtypes(dtype_backend="pyarrow"),
        "python": python,
        "decimals and dates of arrow": arrow,
        "periods": pandas.DataFrame(periods),
    }


TYPED = _typed_tables()


@pytest.mark.filterwarnings("ignore:These columns are")
@pytest.mark.parametrize("name", TYPED)
def test_types_come_back(name):
    """Decoding restores types, also of missing values and of draws beyond the data, which can occur."""
    table = TYPED[name]
    columns, codes = Columns(table), ColumnCodes(table)
    rows = columns.encode(table)
    back = columns.decode(rows.values + rows.widths / 2)
    pandas.testing.assert_frame_equal(back, table, rtol=1e-12)
    assert rows.known.all() and columns.encode(back).known.all()
    drawn = columns.decode(5 * np.random.default_rng(0).normal(size=[500, columns.size]))
    pandas.testing.assert_series_equal(drawn.dtypes, table.dtypes)
    assert columns.encode(drawn).known.all() and ("count" not in drawn or drawn["count"].between(2, 8).all())
    blank = table.mask(np.random.default_rng(1).uniform(size=table.shape) < 0.2)
    pandas.testing.assert_series_equal(blank.dtypes, table.dtypes)
    np.testing.assert_array_equal(columns.encode(blank).values, np.where(blank.isna(), np.nan, rows.values))
    assert Columns(blank).kinds == columns.kinds
    saved = ColumnCodes.from_json(json.loads(json.dumps(codes.to_json())))
    values = saved.encode(table).values
    np.testing.assert_array_equal(values, codes.encode(table).values)
    np.testing.assert_allclose(saved.encode(saved.decode(values).astype(str)).values, values, rtol=1e-12)


@pytest.mark.filterwarnings("ignore:These columns are")
def test_kinds_of_types():
    kinds = {name: Columns(table[:50]).kinds for name, table in TYPED.items()}
    expected = {"count": "whole", "size": "number", "new": "category", "color": "category", "day": "day"}
    assert kinds["nullable"] == kinds["arrow"] == expected | {"identifier": "whole", "time": "date"}
    expected = {"price": "number", "born": "day", "code": "whole"}
    assert kinds["python"] == expected and kinds["decimals and dates of arrow"] == expected | {"shade": "category"}
    assert kinds["periods"] == dict.fromkeys(TYPED["periods"], "whole") | {"2M": 2, "15min": 15}
    columns = Columns(TYPED["periods"][["M"]])
    march = columns.encode(TYPED["periods"][2:3]).values
    for value in ("2024-03", pandas.Timestamp("2024-03-31"), pandas.Period("2024-03-31", "D")):
        np.testing.assert_array_equal(columns.encode(pandas.DataFrame({"M": [value]})).values, march)


def test_warnings():
    table = pandas.DataFrame(np.random.default_rng(0).normal(size=[50, 3]), columns=["a", "b", "other"])
    table = table.assign(same=3, sum=table["a"] + 2 * table["b"])
    with pytest.warns(UserWarning) as found:
        Columns(table)
    texts = [str(warning.message) for warning in found]
    assert "columns are constant: same" in texts[0]
    assert "linearly dependent: a, b, sum." in texts[1] and len(texts) == 2


TIMES = np.array(["2024-01-01T00", "2024-01-02T12", "2024-01-05T00"], "M8[us]")


UNSUITED = {
    "Timedelta": pandas.to_timedelta([1, 2, 3], unit="h"),
    "complex128": [1j, 2.0, 3.0],
    "list": [[1], [2, 3], []],
    "ndarray": pandas.array([[1], [2], [3]], pandas.ArrowDtype(pyarrow.list_(pyarrow.int64()))),
    "dict": [{"a": 1}] * 3,
}


def test_what_a_fit_refuses(refused):
    for message, values, fields in [
        ("no column 'y'; the columns are x", [1, 2, 3], {"bounds": {"y": (0, 1)}}),
        ("all values are missing", [np.nan] * 3, {}),
        ("150 different values, such as '0'; a category can have at most 100", [*map(str, range(150))], {}),
        ("1 of 3 values are not a known level, such as c", ["a", "b", "c"], {"kinds": {"x": ["a", "b"]}}),
        ("3 of 3 values are not a number, such as a", ["a", "b", "c"], {"bounds": {"x": (0, 1)}}),
        ("Only the kind 'number' can have bounds", [1, 2], {"bounds": {"x": (0, 3)}, "kinds": {"x": "whole"}}),
        ("3 of 3 values are not a whole number, such as 1.5", [1.5, 2.5, 3.5], {"kinds": {"x": "whole"}}),
        ("1 of 3 values are not a multiple of 0.1, such as 2.55", [1, 2.55, 3], {"kinds": {"x": 0.1}}),
        ("2 of 3 values are infinite, such as inf", [np.inf, 1.0, -np.inf], {}),
        ("1 of 3 values are not a whole day, such as", TIMES, {"kinds": {"x": "day"}}),
        ("3 of 3 values are not a number, such as 2024-01-01", TIMES, {"kinds": {"x": "number"}}),
        ("3 of 3 values are not a date, such as 1", [1, 2, 3], {"kinds": {"x": "date"}}),
        *[(f"Column 'x' has values of type {name}. Leave it out, or", x, {}) for name, x in UNSUITED.items()],
        *[("A kind must be one of date, ", [1, 2], {"kinds": {"x": k}}) for k in ("wohle", 0, -1.0, True, np.inf)],
    ]:  # fmt: skip
        refused(message, Columns, pandas.DataFrame({"x": values}), **fields)


def test_refusals(refused):
    refused(
        "Two columns have the name 'x'. Rename", Columns, pandas.DataFrame([[1, 2, 3]], columns=["a", "x", "x"])
    )
    columns = Columns(pandas.DataFrame({"x": [1.5, 2.5, 3.5]}))
    for values, reason in (([1.0, -np.inf], "'-inf' is infinite"), ([1, "two"], "'two' is not a number")):
        rows = pandas.DataFrame({"x": values}, index=["first", "second"])
        refused(f"Row with index second, column 'x': {reason}. Correct", columns.encode, rows)


def test_parts_are_encoded_like_the_whole(monkeypatch, refused):
    """Fits and encodes 100 rows in parts of 7 rows. The row of an error is a row of the whole table."""
    rng = np.random.default_rng(0)
    table = pandas.DataFrame({"size": rng.lognormal(size=100), "id": 2**60 + rng.integers(0, 50, size=100)})
    table = table.assign(rooms=rng.poisson(2.0, size=100), color=rng.choice(["red", "blue"], size=100))
    expected = Columns(table).encode(table)
    monkeypatch.setattr("tf_resflow.data.columns.MOST_CELLS", 29)
    for values, same in zip(Columns(table).encode(table), expected, strict=True):
        np.testing.assert_array_equal(values, same)
    assert Columns(table).encode(table[:0]).ends.shape == (2, 0, 4)
    wrong = table.astype({"size": object})
    wrong.loc[50, "size"] = "large"
    refused("Row with index 50, column 'size': 'large' is not a number", Columns(table).encode, wrong)


@pytest.mark.parametrize("dtype", ["int64", "uint64", "Int64", "UInt64"])
def test_differences_of_large_integers_are_exact(dtype):
    """Compares 200 differences, rounded once, with those of Python's integers, including the extreme ones."""
    limits = np.iinfo(dtype.lower())
    rng, ends = np.random.default_rng(0), [int(limits.min), int(limits.max)]
    numbers = [*ends, *rng.integers(*ends, size=198, dtype=dtype.lower(), endpoint=True).tolist()]
    column = pandas.Series(numbers, dtype=dtype)
    missing = column.mask(np.arange(200) == 3) if dtype[0] in "IU" else column
    for origin in (*ends, 0, numbers[5], -(2**62) - 1):
        expected = np.array([float(number - origin) for number in numbers])
        np.testing.assert_array_equal(column_kinds._minus(column, origin), expected)
        found = column_kinds._minus(missing, origin)
        np.testing.assert_array_equal(found, np.where(missing.isna(), np.nan, expected))
