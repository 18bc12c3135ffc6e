"""Time columns with cycles: the choice of the cycles, densities, samples, explanations and exports."""

import json
import pickle
import warnings

import numpy as np
import pandas
import pytest
import tensorflow as tf
from sklearn.metrics import roc_auc_score

from tf_resflow.tables import FlowDensity, TableEncoder
from tf_resflow.tables.columns.kinds import format_kinds, parse_kinds
from tf_resflow.tables.export import export_density

SMALL = {"num_blocks": 2, "hidden": (16,), "max_steps": 200, "num_members": 1, "whiten": False, "random_state": 0}
NUM_DAYS = 84
DAYS = pandas.date_range("2024-01-01", periods=NUM_DAYS)
HOURS = pandas.date_range("2024-01-01", periods=24 * NUM_DAYS, freq="h")


def shop(num=800, seed=0, times=DAYS):
    """Returns sales that are high on the two last days of a week, with their dates."""
    rng = np.random.default_rng(seed)
    dates = times[rng.integers(len(times), size=num)]
    sales = np.where(dates.day_of_week >= 5, 3.0, 0.0) + rng.normal(0.0, 0.5, num)
    return pandas.DataFrame({"date": dates, "sales": sales, "noise": rng.normal(size=num)})


@pytest.fixture(scope="module")
def fitted():
    return FlowDensity(**SMALL).fit(shop())


def columns_of_cycle(period, times, seed=0):
    """Returns a column with a cycle, a trend, and a random walk."""
    rng = np.random.default_rng(seed)
    days = (times - times[0]) / pandas.Timedelta("1D")
    wave = np.zeros(len(times)) if period is None else np.cos(2 * np.pi * days / period)
    walk = np.cumsum(rng.normal(size=len(times)))
    table = {"t": times, "wave": wave + rng.normal(size=len(times)), "trend": days + rng.normal(size=len(times))}
    return pandas.DataFrame(table | {"walk": walk})


@pytest.mark.quick
@pytest.mark.parametrize(
    ("period", "times", "kind"),
    [
        (1.0, HOURS, "date + day"),
        (7.0, HOURS, "date + week"),
        (7.0, pandas.date_range("2024-01-01", periods=200), "day + week"),
        (365.2425, pandas.date_range("2020-01-01", "2023-12-31"), "day + year"),
        (365.2425, pandas.date_range("2020-01-01", "2021-10-31"), "day"),  # less than two years
        (None, pandas.date_range("2020-01-01", "2023-12-31"), "day"),
        (None, HOURS, "date"),
    ],
)
def test_cycles_that_help_are_chosen(period, times, kind):
    assert TableEncoder(columns_of_cycle(period, times)).kinds["t"] == kind


@pytest.mark.quick
@pytest.mark.parametrize(
    "kind", ["day + none", "day + week", "day + week + year", "date + day + year", "date + none"]
)
def test_named_cycles(kind):
    encoder = TableEncoder(shop(), kinds={"date": kind})
    assert encoder.kinds["date"] == kind
    assert encoder.size == 3 - (not kind.endswith("none"))
    restored = TableEncoder.from_json(json.loads(json.dumps(encoder.to_json())))
    assert restored.kinds == encoder.kinds
    numbers = encoder.numbers(shop(seed=1)).array
    for array, restored_array in zip(encoder.encode(numbers), restored.encode(numbers), strict=True):
        np.testing.assert_array_equal(restored_array, array)
    assert parse_kinds(format_kinds(encoder.kinds)) == encoder.kinds


@pytest.mark.quick
@pytest.mark.parametrize(
    ("error", "table", "arguments"),
    [
        ("can name the cycles week, year, or none", shop(), {"kinds": {"date": "day + day"}}),
        ("can name the cycles day, week, year, or none", shop(), {"kinds": {"date": "date + month"}}),
        ("can name the cycles", shop(), {"kinds": {"date": "date +"}}),
        ("can name the cycles", shop(), {"kinds": {"date": "date + none + week"}}),
        ("A kind must be", shop(), {"kinds": {"sales": "number + week"}}),
        ("only one can have cycles", shop()[["date"]], {"kinds": {"date": "day + week"}}),
        ("only one can have cycles", shop(), {"kinds": {"date": "day + week"}, "condition_columns": ["noise"]}),
        (
            "'end' has the kind 'day [+] week'",
            shop().assign(end=shop()["date"]),
            {"kinds": {"date": "day + week", "end": "day + week"}},
        ),
    ],
)
def test_refused_cycles(error, table, arguments):
    with pytest.raises(ValueError, match=error):
        TableEncoder(table, **arguments)


@pytest.mark.quick
@pytest.mark.parametrize("times", [DAYS, DAYS[::-1][:70], pandas.date_range("2020-01-01", periods=400), HOURS])
def test_the_density_of_times_adds_up_to_one(times):
    rng = np.random.default_rng(0)
    table = shop(times=times)
    encoder = TableEncoder(table, kinds={"date": f"{'date' if times is HOURS else 'day'} + week"})
    has_ends = len(times) <= 100
    days = np.arange(len(times)) if has_ends else np.arange(-1e6, 1e6)
    if times is HOURS:
        days = np.linspace(-2000, 2000, 2_000_001)
    probabilities = np.exp(encoder.time.log_prob(tf.constant(days, tf.float64))[0])
    total = probabilities.sum() * (days[1] - days[0])
    np.testing.assert_allclose(total, 1.0, atol=1e-9 if has_ends else 2e-4)  # the tails beyond
    drawn = encoder.time.draw(rng.uniform(size=[10_000, 2])).numpy()
    middle = np.abs(days - np.median(days)) < len(times) / 4
    share = probabilities[middle].sum() * (days[1] - days[0])
    is_near = np.isin(drawn, days[middle]) if times is not HOURS else np.abs(drawn - np.median(days)) < 504
    assert abs(is_near.mean() - share) < 4 * np.sqrt(share * (1 - share) / 10_000)


@pytest.mark.quick
def test_the_density_of_times_is_that_of_weighted_rows():
    table = shop()
    weights = np.where(table["date"] < DAYS[42], 3.0, 1.0)
    encoder = TableEncoder(table, weights=weights)
    log_probs = encoder.time.log_prob(tf.range(0.0, NUM_DAYS, dtype=tf.float64))[0]
    share = weights[table["date"] < DAYS[42]].sum() / weights.sum()
    np.testing.assert_allclose(np.exp(log_probs[:42]).sum(), share, atol=0.03)
    assert encoder.time.log_prob(tf.constant([20.0, 1e5], tf.float64))[0].numpy()[1] > -40


@pytest.mark.quick
@pytest.mark.parametrize(
    ("share", "weight", "kind"), [(0.5, 1.0, "day + week"), (0.5, 1e-3, "day"), (0.3, 50.0, "day + week")]
)
def test_weighted_rows_choose_cycles(share, weight, kind):
    """Only a share of 800 rows has a cycle. Equal weights do not choose it if the share is 30 %."""
    table = shop()
    has_cycle = np.random.default_rng(2).uniform(size=len(table)) < share
    table["sales"] = table["sales"].where(has_cycle, shop(seed=1)["sales"])
    assert TableEncoder(table, weights=np.where(has_cycle, weight, 1.0)).kinds["date"] == kind
    assert TableEncoder(table).kinds["date"] == ("day + week" if share == 0.5 else "day")


@pytest.mark.quick
def test_missing_and_impossible_times():
    table = shop().astype({"date": "datetime64[us]"})
    table.loc[::7, "date"] = pandas.NaT
    encoder = TableEncoder(table)
    assert encoder.kinds["date"] == "day + week" and encoder.is_masked.tolist() == [False, False, True]
    numbers = encoder.numbers(table.assign(date=table["date"].astype(str).where(table.index != 1, "soon")))
    assert numbers.reasons[1] == "column 'date': 'soon' is not a date"
    rows = encoder.encode(encoder.numbers(table).array)
    assert rows.condition[0, 0] == 1 and not rows.condition[0, 1:].any()
    assert rows.condition[1, 0] == 0 and rows.condition[1, 1:].all()
    halves = encoder.encode(encoder.numbers(table[1:2].assign(date="2024-01-05T12:00")).array)
    assert np.isneginf(halves.log_scale).all() and np.isfinite(halves.condition).all()


def test_densities_integrate_to_one(fitted):
    assert fitted.kinds_ == {"date": "day + week", "sales": "number", "noise": "number"}
    values = np.concatenate([-np.geomspace(300, 6, 20), np.linspace(-5.9, 5.9, 60), np.geomspace(6, 300, 20)])
    weights = np.gradient(values)
    for days in (DAYS[[3]], DAYS[[6]]):
        grid = pandas.MultiIndex.from_product([days, values, values], names=["date", "sales", "noise"])
        scores = fitted.score_samples(grid.to_frame(index=False)).reshape(len(values), len(values))
        numbers = fitted.encoder_.numbers(grid.to_frame(index=False)[:1]).array
        of_time = np.exp(fitted.encoder_.time.log_prob(tf.constant(numbers[:, 2]))[0])
        np.testing.assert_allclose(weights @ np.exp(scores) @ weights, of_time, rtol=0.02)


def test_samples_keep_the_cycle_and_the_dates(fitted):
    for extrapolate in (False, True):
        drawn = fitted.set_params(extrapolate=extrapolate).sample(2000, random_state=0)
        is_late = drawn["date"].dt.day_of_week >= 5
        means = drawn.groupby(is_late)["sales"].mean()
        # The standard errors are 0.5 / sqrt(500) = 0.02. The rest is the error of a short training.
        np.testing.assert_allclose(means, [0.0, 3.0], atol=0.35)
        assert abs(is_late.mean() - 2 / 7) < 0.05
    fitted.set_params(extrapolate=False)


def test_wrong_days_of_the_week_are_found(fitted):
    table = shop(seed=2)
    table = table[table["date"] > DAYS[4]]
    is_late = table["date"].dt.day_of_week >= 5
    moved = table[is_late].assign(date=table["date"] - pandas.Timedelta("4D"))
    scores = [fitted.decision_function(rows) for rows in (table, moved)]
    assert roc_auc_score(np.repeat([1, 0], [len(table), len(moved)]), np.concatenate(scores)) > 0.95
    gains = fitted.explain(moved)
    assert gains.columns.tolist() == ["date", "sales", "noise"]
    assert (gains[["date", "sales"]].max(axis=1) > gains["noise"]).mean() > 0.9
    assert (gains["date"] > 2).mean() > 0.9


def test_copies_and_exports_score_the_same_rows(fitted, tmp_path):
    table = shop(num=50, seed=3)
    scores = fitted.score_samples(table)
    fitted.save(tmp_path / "density.npz")
    for copy in (FlowDensity.load(tmp_path / "density.npz"), pickle.loads(pickle.dumps(fitted))):
        assert copy.kinds_ == fitted.kinds_
        np.testing.assert_array_equal(copy.score_samples(table), scores)
        pandas.testing.assert_frame_equal(copy.sample(9, random_state=1), fitted.sample(9, random_state=1))
    path = export_density(fitted, tmp_path / "served", max_samples=500)
    served = tf.saved_model.load(path).signatures
    names = json.loads((path / "signatures.json").read_text())["columns"]["x"]
    days = (table["date"] - DAYS[0]).dt.days
    x = table.assign(date=days)[names].to_numpy(float)
    answer = served["serving_default"](x=tf.constant(x))
    np.testing.assert_allclose(answer["log_prob"], scores, atol=1e-4)
    np.testing.assert_allclose(answer["p_value"], fitted.p_values(table), atol=1e-9)
    drawn = served["sample"](num=tf.constant(500), seed=tf.constant(0, tf.int64))["x"].numpy()
    drawn = pandas.DataFrame(drawn, columns=names)
    late = drawn["sales"][drawn["date"] % 7 >= 5]
    np.testing.assert_allclose(late.mean(), 3.0, atol=0.5)


def test_dates_as_conditions_have_cycles():
    table = shop()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        density = FlowDensity(**SMALL, condition_columns=["date"]).fit(table)
    assert density.kinds_["date"] == "day + week" and density.encoder_.time is None
    drawn = density.sample(condition=table[["date"]], random_state=0)
    assert drawn["date"].equals(table["date"])
    means = drawn.groupby(drawn["date"].dt.day_of_week >= 5)["sales"].mean()
    np.testing.assert_allclose(means, [0.0, 3.0], atol=0.35)


@pytest.mark.quick
def test_columns_with_cycles_keep_their_order():
    """The other columns keep the coordinates that they have without the time."""
    table = shop()
    without = TableEncoder(table.drop(columns="date"))
    encoder = TableEncoder(table)
    assert [column.name for column in encoder.columns] == ["sales", "noise", "date"]
    assert list(encoder.kinds) == list(table)
    rows = encoder.encode(encoder.numbers(table).array)
    np.testing.assert_array_equal(rows.lower, without.encode(without.numbers(table).array).lower)
    decoded = encoder.decode(rows.lower, encoder.numbers(table).array[:, 2:])
    pandas.testing.assert_frame_equal(decoded[list(table)], table)
