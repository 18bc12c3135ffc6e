"""`TableEncoder`: the kinds of columns, their values as numbers, and rows as vectors and back."""

import decimal
import json

import numpy as np
import pandas
import pyarrow
import pytest

from tf_resflow.tables import TableEncoder
from tf_resflow.tables.columns.fitting import fit_column
from tf_resflow.tables.columns.kinds import format_kinds, parse_kinds

pytestmark = pytest.mark.quick

ZONED = pandas.date_range("2024-01-01", periods=300, tz="Europe/Zurich")
HOUR = pandas.Timedelta("1h")
LEVELS = ["low", "middle", "high", "highest"]


def _days(num, rng, unit):
    hours = np.round(rng.uniform(0, 100, size=num) * (1 if unit == "D" else 24))
    return pandas.Timestamp("2024-02-28") + pandas.to_timedelta(hours, unit)


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
    "code": ("category", lambda num, rng: rng.choice([f"code {i}" for i in range(12)], size=num)),
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


def restored(encoder):
    return TableEncoder.from_json(json.loads(json.dumps(encoder.to_json())))


def vectors_of(encoder, table):
    """Returns the `Vectors` of rows."""
    return encoder.encode(encoder.numbers(table).array)


def come_back(encoder, table, inside=0.5):
    """Returns the rows that points in the cells of rows mean."""
    vectors = vectors_of(encoder, table)
    return encoder.decode(vectors.lower + vectors.widths * inside)


@pytest.mark.parametrize("seed", range(8))
def test_rows_come_back(seed):
    """Rows keep their types, names and order, from anywhere in their cells, also in an encoder from JSON.

    Any subset of the rows implies the same kinds, and text has the numbers of typed values.
    """
    table, given = draw(seed)
    rng = np.random.default_rng(seed)
    fitted = TableEncoder(table, kinds=given)
    assert fitted.kinds == {name: KINDS[name] for name in table} == parse_kinds(format_kinds(fitted.kinds))
    some = table.sample(int(rng.integers(100, 200)), random_state=seed)
    for kinds in (given, fitted.kinds):
        assert {name: fit_column(name, some[name], kinds.get(name)).kind for name in table} == fitted.kinds
    saved = restored(fitted)
    assert saved.kinds == fitted.kinds and saved.to_json() == fitted.to_json()
    numbers, vectors = fitted.numbers(table), vectors_of(fitted, table)
    assert np.isfinite(numbers.array).all() and not any(numbers.reasons) and not vectors.is_blank.any()
    values, widths = vectors.lower, vectors.widths
    np.testing.assert_allclose((values + widths / 2).mean(axis=0), 0, atol=0.4)  # transforms bend wide cells
    np.testing.assert_allclose((values + widths / 2).var(axis=0) + (widths**2).mean(axis=0) / 12, 1, atol=0.4)
    inside = rng.uniform(0.01, 0.99, size=vectors.lower.shape)
    for encoder in (fitted, saved):
        np.testing.assert_array_equal(vectors_of(encoder, table).lower, vectors.lower)
        pandas.testing.assert_frame_equal(come_back(encoder, table, inside), table, rtol=1e-5)
        rows = table.iloc[::-3]
        back = come_back(encoder, rows[rng.permutation(table.columns)], inside[::-3])
        pandas.testing.assert_frame_equal(back, rows.reset_index(drop=True), rtol=1e-5)
    texts = table.astype({name: str for name in table if name not in ("skewed number", "return")})
    np.testing.assert_allclose(saved.numbers(texts).array, numbers.array, rtol=1e-12, atol=1e-6)


def _moved(name, values, share, rng):
    """Moves half of the values of a column. Returns the column, and which of its values cannot occur."""
    kind, is_moved = KINDS[name], rng.uniform(size=len(values)) < 0.5
    if name in ("text", "code", "boolean", "ordered"):
        return values.astype(object).mask(is_moved, "pink"), is_moved
    step = kind if isinstance(kind, (int, float)) else pandas.Timedelta("1D") if "da" in name else 1.0
    by = pandas.Series(np.where(is_moved, 1, 0)) * (share * step if name != "nanoseconds" else int(1000 * share))
    if isinstance(kind, set):
        by *= rng.choice([-1, 1], size=len(values))
    if name == "identifier":
        return values, ~is_moved & is_moved
    moved = values + by if values.dtype.kind not in "iu" or name == "nanoseconds" else values.astype(float) + by
    if name in ("rain", "capped"):
        return moved, (moved < values.min()) | (moved > values.max() if name == "capped" else False)
    return moved, is_moved & (kind not in ("number", "date") and name != "return")


def _raw(column, values):
    """Returns the numbers of a column as a graph gets them, whether or not they can occur."""
    if column.kind in ("category", LEVELS, "date", "day"):
        return column.to_numbers(values)[0]
    return (values - column.offset).astype(float)


@pytest.mark.parametrize("seed", range(8))
def test_values_that_cannot_occur(seed):
    """They are infinity, have probability 0 and a reason. The check of a graph agrees, also for conditions.

    They are unknown levels, values between those of a grid, and numbers beyond an atom at an end of the column.
    """
    rng, (table, given) = np.random.default_rng(seed), draw(seed)
    conditions = list(table.columns[1 : rng.integers(1, len(table.columns))])
    encoder = TableEncoder(table, kinds=given, condition_columns=conditions)
    names = [column.name for column in encoder.columns]
    assert names == [*table.columns.drop(conditions), *conditions]
    found = {name: _moved(name, table[name], rng.uniform(0.02, 0.98), rng) for name in names}
    changed = pandas.DataFrame({name: values for name, (values, _) in found.items()})
    is_wrong = np.stack([wrong for _, wrong in found.values()], axis=1)
    numbers = encoder.numbers(changed)
    np.testing.assert_array_equal(numbers.array == np.inf, is_wrong)
    np.testing.assert_array_equal(numbers.faults != "", is_wrong)
    is_given = np.arange(len(names)) >= encoder.num_own
    for reason, wrong in zip(numbers.reasons, is_wrong, strict=True):
        is_cause = (
            wrong & is_given if (wrong & is_given).any() else wrong
        )  # a condition leaves the row without a score
        assert reason.startswith(f"column {names[np.argmax(is_cause)]!r}: ") if wrong.any() else not reason
    raw = np.stack([_raw(column, changed[column.name]) for column in encoder.columns], axis=1)
    np.testing.assert_allclose(encoder.mark_impossible(raw), numbers.array, rtol=1e-9, atol=1e-6)
    assert np.isnan(encoder.mark_impossible(np.nan * raw)).all()
    log_scale = encoder.encode(numbers.array).log_scale
    np.testing.assert_array_equal(np.isneginf(log_scale), is_wrong[:, : encoder.num_own].any(axis=1))


def test_units():
    """Numbers stay as they are, levels become numbers, and times become days since the first one."""
    table = {"x": [1.5, 2.5, 1e6], "rooms": [3, 5, 4], "half": [0.5, 1.0, 2.5], "color": ["red", "blue", "red"]}
    days = pandas.to_datetime(["2024-03-01", "2024-02-28", "2024-03-02"])
    table = pandas.DataFrame(table | {"size": ["M", "S", "L"], "day": days})
    encoder = TableEncoder(table, kinds={"size": ["S", "M", "L", "XL"], "half": 0.5})
    values = encoder.numbers(table).array
    assert values.tolist() == [[1.5, 3, 0.5, 0, 1, 2], [2.5, 5, 1, 1, 0, 0], [1e6, 4, 2.5, 0, 2, 3]]
    described = {"rooms": "3 to 5 in steps of 1", "half": "0.5 to 2.5 in steps of 0.5"}
    described |= {"color": "the number of the level: 0 red, 1 blue", "day": "days since 2024-02-28"}
    described |= {"x": "", "size": "the number of the level: 0 S, 1 M, 2 L, 3 XL"}
    assert {column.name: column.description() for column in encoder.columns} == described


def test_similar_levels_are_side_by_side():
    """Levels that follow a number have its order or the opposite one. Given levels keep theirs."""
    x, names = np.random.default_rng(0).normal(size=300), np.array(list("daebc"))
    table = pandas.DataFrame({"x": x, "level": names[np.digitize(x, [-1.0, -0.3, 0.3, 1.0])]})
    assert TableEncoder(table).columns[1].levels in (tuple(names), tuple(names[::-1]))
    assert TableEncoder(table, kinds={"level": list("abcde")}).columns[1].levels == tuple("abcde")


def test_rows_that_cannot_be_read_have_a_reason():
    """The reason is the first fault that prevents the score, else the first one. Other values are read."""
    days = pandas.date_range("2024-01-01", periods=3)
    table = pandas.DataFrame({"x": [0, 0.3, 1], "code": [7, 3, 9], "flag": [True, False, True], "day": days})
    encoder = TableEncoder(table, kinds={"code": "category"})
    new = {"x": ["0.5", "a", None, "inf", "1e300", "0.5", "1"], "code": ["7", "7", "7", "7", "8", "9.0", "8"]}
    new["flag"] = ["True", "yes", "False", "True", "True", "False", "no"]
    new["day"] = ["2024-01-03", "2024-01-03", "03.01.2024", None, "2024-01-01", "2024-01-09T12:00", None]
    new = pandas.DataFrame(new)
    numbers = encoder.numbers(new)
    assert numbers.reasons.tolist() == [
        "",
        "column 'x': 'a' is not a number",
        "column 'x': the value is missing",
        "column 'x': 'inf' is infinite",
        "column 'code': '8' is not a known level",
        "column 'code': '9.0' is not a known level",
        "column 'day': the value is missing",
    ]
    assert numbers.has_score.tolist() == [True, False, False, False, True, True, False]
    assert [count.text for count in numbers.fault_counts()] == [
        "column 'code': 3 of 7 values are not a known level, such as '8'",
        "column 'flag': 2 of 7 values are not a known level, such as 'yes'",
        "column 'day': 2 of 7 values are missing",
        "column 'x': 1 of 7 values is infinite, such as 'inf'",
        "column 'x': 1 of 7 values is missing",
        "column 'x': 1 of 7 values is not a number, such as 'a'",
        "column 'day': 1 of 7 values is not a date, such as '03.01.2024'",
        "column 'day': 1 of 7 values is not a whole day, such as '2024-01-09T12:00'",
    ]
    blocking = [count.text for count in numbers.fault_counts(numbers.is_blocking)]
    assert "column 'x': 1 of 7 values is missing" in blocking and not any("level" in text for text in blocking)
    np.testing.assert_array_equal(numbers.array[0], [0.5, encoder.columns[1].levels.index(7), 0, 2])
    np.testing.assert_array_equal(numbers.array[1:4, 0], [np.nan] * 3)  # unreadable, not impossible
    np.testing.assert_array_equal(numbers.array[4], [1e300, np.inf, 0, 0])
    assert encoder.numbers(new, date_format="%d.%m.%Y").array[2, 3] == 2


@pytest.mark.parametrize("seed", range(4))
def test_an_offset_costs_no_digits(seed):
    """An offset that float64 can hold does not change the vectors, up to the precision of float32."""
    rng = np.random.default_rng(seed)
    offset, scale = 10.0 ** rng.uniform(4, 12), 10.0 ** rng.uniform(-2, 3)
    x = np.round(rng.normal(size=100) * scale * 2**10) / 2**10  # so that adding the offset causes little rounding
    moved, tables = x + offset, [pandas.DataFrame({"x": part}) for part in (x, x + offset)]
    np.testing.assert_allclose(moved - offset, x, atol=1e-3 * scale)
    encoders = [TableEncoder(table) for table in tables]
    near, far = (vectors_of(*pair).lower for pair in zip(encoders, tables, strict=True))
    np.testing.assert_allclose(far, near, atol=1e-2)
    np.testing.assert_allclose(encoders[1].decode(far.astype(np.float32))["x"], moved, atol=1e-3 * scale)
    whole = np.round(rng.normal(size=100) * 30).astype(int)
    for start in (0, 2**53, int(rng.integers(2**61, 2**62)), -(2**63), 2**64 - 1):
        numbers = [int(k) + start for k in (whole.max() - whole if start < 0 else whole - whole.max())]
        table = pandas.DataFrame({"x": np.array(numbers, "uint64" if start >= 2**63 else "int64")})
        table = table.convert_dtypes() if seed % 2 else table
        encoder = TableEncoder(table)
        numbers = encoder.numbers(table).array
        assert np.array_equal(numbers.astype(np.float32), numbers) and not encoder.numbers(table).reasons.any()
        assert come_back(encoder, table)["x"].tolist() == table["x"].tolist()


@pytest.mark.parametrize("step", [1.0, 0.1, 0.25])
def test_numbers_of_another_type(step):
    """Grid values encode alike as float32, float64, text and categories, whichever type the fit had."""
    x = step * np.random.default_rng(0).integers(-2000, 2000, size=100)
    tables = [pandas.DataFrame({"x": part}) for part in (x, x.astype("float32"))]
    tables += [pandas.DataFrame({"x": x.round(6).astype(str)}), pandas.DataFrame({"x": x}).astype("category")]
    for fit in tables:
        encoder = TableEncoder(fit, kinds={"x": step})
        numbers = [encoder.numbers(table).array for table in tables]
        assert all(np.allclose(values, x[:, np.newaxis]) for values in numbers)
        for table in tables[: 1 + (fit is tables[1])]:  # the check of a graph allows the rounding errors of the fit
            assert np.isfinite(encoder.mark_impossible(table.to_numpy(float))).all()


def test_decoded_values_have_the_resolution_of_the_data():
    """Times are multiples of 15 minutes, and numbers have two decimals, in spite of rounding errors."""
    rng = np.random.default_rng(0)
    time = pandas.Timestamp("2024-01-01 05:00") + pandas.to_timedelta(15 * rng.integers(2000, size=200), unit="min")
    table = pandas.DataFrame({"time": time, "x": rng.integers(-500, 500, size=200) * 0.01 + 1e-16})
    drawn = TableEncoder(table).decode(rng.normal(size=[500, 2]))
    assert set(drawn["time"].dt.minute) == {0, 15, 30, 45}
    assert (drawn["time"] == drawn["time"].dt.floor("min")).all()
    assert all(len(repr(x)) <= len("-99.99") for x in drawn["x"].tolist())


@pytest.mark.parametrize("bounds", [(0.0, None), (None, 5.0), (-1.0, 6.0)])
def test_bounded_numbers(bounds, refused):
    """Draws are within the bounds, including those whose distance from a bound rounds to 0. Others cannot occur."""
    table = pandas.DataFrame({"x": np.random.default_rng(0).uniform(0.2, 4.8, size=100)})
    encoder = restored(TableEncoder(table, bounds={"x": bounds}))
    pandas.testing.assert_frame_equal(come_back(encoder, table), table, rtol=1e-9)
    far = encoder.decode(np.array([[-3.0], [3.0]]))["x"].to_numpy()
    low, high = (end if end is not None else sign * np.inf for end, sign in zip(bounds, (-1, 1), strict=True))
    assert low < far[0] < far[1] < high
    outside = pandas.DataFrame({"x": [-2.0 if bounds[0] is not None else 7.0]})
    assert encoder.numbers(outside).array == encoder.mark_impossible(outside.to_numpy()) == np.inf
    refused("1 of 1 values are outside the bounds, such as", TableEncoder, outside, bounds={"x": bounds})
    for dtype in ("float32", "int64"):
        encoder = TableEncoder(table.round().clip(1, 4).astype(dtype), bounds={"x": (0, 5)})
        drawn = encoder.decode(np.linspace(-40.0, 40.0, 99)[:, np.newaxis])
        assert np.isfinite(encoder.numbers(drawn).array).all() and drawn["x"].dtype == dtype


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64"])
def test_the_ends_of_whole_numbers_are_sampled(dtype):
    limits = np.iinfo(dtype)
    x = np.linspace(float(limits.min), float(limits.max), 200)
    x = np.clip(x, limits.min, np.nextafter(float(limits.max), 0) if dtype == "int64" else limits.max).astype(dtype)
    drawn = TableEncoder(pandas.DataFrame({"x": x})).decode(np.array([[-50.0], [50.0]]))["x"]
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
    python |= {"code": [decimal.Decimal(int(k)) for k in cents], "size": table["size"].tolist()}
    python = pandas.DataFrame(python, dtype=object)
    arrow = {"price": pyarrow.decimal128(5, 2), "born": pyarrow.date32(), "code": pyarrow.decimal128(18, 0)}
    arrow = {name: pandas.ArrowDtype(kind) for name, kind in arrow.items()}
    shades = pyarrow.array(rng.choice(["light", "dark"], 60)).dictionary_encode()
    arrow = python[list(arrow)].astype(arrow)
    arrow = arrow.assign(shade=pandas.Series(shades, dtype=pandas.ArrowDtype(shades.type)))
    units = "Y-MAR Q-JAN M 2M W-WED D h 15min s ms us ns".split()
    periods = {unit: pandas.period_range("2024-01-01", periods=60, freq=unit) for unit in units}
    grades = pandas.Categorical(rng.choice(["b", "a"], 60), ["b", "c", "a"])
    return {
        "nullable": table.convert_dtypes(),
        "arrow": table.convert_dtypes(dtype_backend="pyarrow"),
        "python": python,
        "decimals and dates of arrow": arrow,
        "periods": pandas.DataFrame(periods),
        "categories": pandas.DataFrame({"grade": grades, "ordered": grades.as_ordered()}),
    }


TYPED = _typed_tables()


@pytest.mark.filterwarnings("ignore:These columns are")
@pytest.mark.parametrize("name", TYPED)
def test_types_come_back(name):
    """Decoding restores types, also of missing values and of draws beyond the data, which can occur."""
    table = TYPED[name]
    encoder = TableEncoder(table)
    numbers, vectors, saved = encoder.numbers(table).array, vectors_of(encoder, table), restored(encoder)
    back = come_back(encoder, table)
    pandas.testing.assert_frame_equal(back, table, rtol=1e-12)
    pandas.testing.assert_frame_equal(come_back(saved, table), table, rtol=1e-12)
    assert np.isfinite(numbers).all() and np.isfinite(encoder.numbers(back).array).all()
    drawn = encoder.decode(5 * np.random.default_rng(0).normal(size=[500, encoder.size]))
    pandas.testing.assert_series_equal(drawn.dtypes, table.dtypes)
    assert np.isfinite(encoder.numbers(drawn).array).all()
    assert "count" not in drawn or drawn["count"].between(2, 8).all()
    blank = table.mask(np.random.default_rng(1).uniform(size=table.shape) < 0.2)
    pandas.testing.assert_series_equal(blank.dtypes, table.dtypes)
    np.testing.assert_array_equal(encoder.numbers(blank).array, np.where(blank.isna(), np.nan, numbers))
    is_blank = blank.isna().to_numpy()
    np.testing.assert_array_equal(vectors_of(encoder, blank).is_blank, is_blank)
    np.testing.assert_array_equal(vectors_of(encoder, blank).lower, np.where(is_blank, 0, vectors.lower))
    masked = TableEncoder(blank)
    assert masked.kinds == encoder.kinds and masked.condition_size == len(table.columns)
    rows = vectors_of(masked, blank)
    np.testing.assert_array_equal(rows.condition, blank.isna())
    np.testing.assert_array_equal(vectors_of(restored(masked), blank).condition, rows.condition)
    np.testing.assert_array_equal(saved.numbers(table).array, numbers)
    np.testing.assert_allclose(saved.numbers(back.astype(str)).array, numbers, rtol=1e-12)


@pytest.mark.filterwarnings("ignore:These columns are")
def test_kinds_of_types():
    kinds = {name: TableEncoder(table[:50]).kinds for name, table in TYPED.items()}
    expected = {"count": "whole", "size": "number", "new": "category", "color": "category", "day": "day"}
    assert kinds["nullable"] == kinds["arrow"] == expected | {"identifier": "whole", "time": "date"}
    expected = {"price": "number", "born": "day", "code": "whole"}
    assert kinds["python"] == expected | {"size": "number"}
    assert kinds["decimals and dates of arrow"] == expected | {"shade": "category"}
    assert kinds["periods"] == dict.fromkeys(TYPED["periods"], "whole") | {"2M": 2, "15min": 15}
    assert kinds["categories"] == {"grade": "category", "ordered": ["b", "c", "a"]}
    encoder = TableEncoder(TYPED["periods"][["M"]])
    march = encoder.numbers(TYPED["periods"][2:3]).array
    for value in ("2024-03", pandas.Timestamp("2024-03-31"), pandas.Period("2024-03-31", "D")):
        np.testing.assert_array_equal(encoder.numbers(pandas.DataFrame({"M": [value]})).array, march)


def rows_that_are_alone():
    """Returns a table. Rows 3, 7 and 11 have the only value of a level, fraction, and number below an atom."""
    num, rng = 60, np.random.default_rng(0)
    rows = pandas.DataFrame({"level": rng.choice(list("ab"), num), "count": rng.poisson(3.0, num).astype(float)})
    rows["rain"] = np.where(np.arange(num) % 2, 0.0, rng.exponential(size=num))
    rows.loc[3, "level"], rows.loc[7, "count"], rows.loc[11, "rain"] = "c", 2.5, -1.0
    return rows


def test_rows_that_are_alone():
    """Also the row with the only time of day. A given kind does not depend on the rows."""
    days = pandas.to_timedelta(np.random.default_rng(0).integers(0, 90, 60), unit="D")
    rows = rows_that_are_alone().assign(day=pandas.Timestamp("2024-01-01") + days)
    rows.loc[13, "day"] += pandas.Timedelta(hours=1)
    given = {"level": list("abc"), "count": "number", "day": "date"}
    for kinds, expected in ((None, [3, 7, 11, 13]), (given, [11])):
        assert np.flatnonzero(TableEncoder(rows, kinds=kinds).is_singleton(rows)).tolist() == expected
    for place in (3, 7, 11, 13):
        without = TableEncoder(rows.drop(index=place))
        assert np.isinf(without.numbers(rows[place : place + 1]).array).any()


def test_warnings():
    """Whole numbers that repeat each other have probabilities, which are bounded."""
    table = pandas.DataFrame(np.random.default_rng(0).normal(size=[50, 3]), columns=["a", "b", "other"])
    table = table.assign(same=3, sum=table["a"] + 2 * table["b"], rooms=np.arange(50) % 7, twice=np.arange(50) % 7)
    with pytest.warns(UserWarning) as found:
        TableEncoder(table)
    texts = [str(warning.message) for warning in found]
    assert "columns are constant: same" in texts[0]
    assert "linearly dependent: a, b, sum." in texts[1] and len(texts) == 2


@pytest.mark.parametrize("bounds", [None, {"x": (0, 1)}])
def test_a_constant_column_has_no_scale(bounds):
    """The rounding errors of the mean and of logarithms do not count as variation."""
    rows = pandas.DataFrame({"x": [0.3] * 77, "y": np.random.default_rng(0).normal(size=77)})
    with pytest.warns(UserWarning, match="columns are constant: x"):
        encoder = TableEncoder(rows, bounds=bounds)
    vectors = vectors_of(encoder, rows)
    np.testing.assert_allclose(vectors.lower[:, 0], 0, atol=1e-12)
    slope = np.log(0.3 * 0.7) if bounds else 0.0
    np.testing.assert_allclose(vectors.log_scale, -np.log(rows["y"].std(ddof=0)) - slope, rtol=1e-6)


def test_what_a_fit_refuses(refused):
    for message, values, fields in [
        ("no column 'y'; nothing has a similar name. The columns are x", [1, 2, 3], {"bounds": {"y": (0, 1)}}),
        ("condition_columns contains all columns", [1, 2, 3], {"condition_columns": ["x"]}),
        ("all values are missing", [np.nan] * 3, {}),
        ("150 different values, such as '0'; a category can have at most 100", [*map(str, range(150))], {}),
        ("1 of 3 values are not a known level, such as c", ["a", "b", "c"], {"kinds": {"x": ["a", "b"]}}),
        ("3 of 3 values are not a number, such as a", ["a", "b", "c"], {"bounds": {"x": (0, 1)}}),
        ("Only the kind 'number' can have bounds", [1, 2], {"bounds": {"x": (0, 3)}, "kinds": {"x": "whole"}}),
        ("1 of 3 values are not a multiple of 0.1, such as 2.55", [1, 2.55, 3], {"kinds": {"x": 0.1}}),
        ("all values are atoms", [1.5, 1.5, 1.5], {"kinds": {"x": {1.5}}}),
        ("2 of 3 values are infinite, such as inf", [np.inf, 1.0, -np.inf], {}),
        ("1 of 4 values are not a whole day", ZONED[:3].append(ZONED[:1] + HOUR), {"kinds": {"x": "day"}}),
        ("3 of 3 values are not a date, such as 1", [1, 2, 3], {"kinds": {"x": "date"}}),
        ("has values of type list. Leave it out, or", [[1], [2, 3], []], {}),
        *[("A kind must be number, ", [1, 2], {"kinds": {"x": k}}) for k in ("wohle", 0, True, np.inf)],
    ]:  # fmt: skip
        refused(message, TableEncoder, pandas.DataFrame({"x": values}), **fields)
    twice = pandas.DataFrame([[1, 2, 3]], columns=["a", "x", "x"])
    refused("Two columns have the name 'x'. Rename", TableEncoder, twice)


def test_parts_are_encoded_like_the_whole(monkeypatch):
    """Encodes 100 rows in parts of 7 rows."""
    rng = np.random.default_rng(0)
    table = pandas.DataFrame(
        {name: COLUMNS[name][1](100, rng) for name in ("rain", "identifier", "whole number", "text")}
    )
    encoder = TableEncoder(table)
    expected = vectors_of(encoder, table)
    monkeypatch.setattr("tf_resflow.tables.encoder._MOST_VALUES", 29)
    for values, same in zip(vectors_of(encoder, table), expected, strict=True):
        np.testing.assert_allclose(values, same, rtol=1e-12)
    assert vectors_of(encoder, table[:0]).ends.shape == (0, encoder.size, 2)
