"""`FlowDensity`: a scikit-learn estimator of the density of a table.

Fits with the same number of columns, masks and conditions share their graphs, so the tests use few of these sizes.
"""

import contextlib
import copy
import itertools
import pickle
import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import keras
import numpy as np
import pandas
import polars
import pytest
from scipy import stats
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from tests.tables.test_encoder import TYPED, rows_that_are_alone
from tf_resflow.tables import FlowDensity
from tf_resflow.tables.noise_conditioned import NoiseConditionedFlow, shared_flow
from tf_resflow.tables.thresholds import threshold

SMALL = {"num_blocks": 1, "hidden": (8,), "max_steps": 60, "num_members": 1, "whiten": False, "random_state": 0}


def table(num=150, seed=0):
    """Returns a table of skewed numbers, whole numbers that depend on them, and text."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=num)
    rows = pandas.DataFrame({"price": np.exp(x).round(4), "rooms": rng.poisson(np.where(x > 0, 4, 1))})
    return rows.assign(color=np.where(rng.uniform(size=num) < 0.7, "red", "blue"))


@pytest.fixture(scope="module")
def fitted():
    return FlowDensity(**SMALL).fit(table())


PRICES = np.concatenate([np.linspace(-6.0, 6.0, 121), np.geomspace(6.1, 200.0, 40)])
ROOMS = range(table()["rooms"].max() + 1)


def everything(values):
    """Returns all combinations of these column values."""
    return pandas.MultiIndex.from_product(values.values(), names=list(values)).to_frame(index=False)


def integral(fit, **others):
    """Returns the integral over prices of the sum over the other columns."""
    scores = fit.score_samples(everything({"price": PRICES} | others)).reshape(len(PRICES), -1)
    return np.trapezoid(np.exp(scores).sum(axis=1), PRICES)


# Three columns.


@pytest.fixture(scope="module")
def draws(fitted):
    return fitted.sample(2000, random_state=1)


def test_samples_have_the_distributions_of_columns(draws):
    for name in ("price", "rooms"):
        distance = stats.ks_2samp(draws[name], table()[name]).statistic
        assert distance < 0.02 + 2 * np.sqrt(1 / 2000 + 1 / 4000)  # p < 0.001 for a map from 4,000 draws
    shares = [rows["color"].value_counts(normalize=True) for rows in (draws, table())]
    pandas.testing.assert_series_equal(*shares, atol=0.15)


def test_samples_have_the_types_and_decimals_of_columns(draws):
    pandas.testing.assert_series_equal(draws.dtypes, table().dtypes)
    np.testing.assert_array_equal(draws["price"], draws["price"].round(4))


def test_samples_are_beyond_the_data_only_if_they_extrapolate(fitted, draws):
    for name in ("price", "rooms"):
        assert draws[name].between(table()[name].min(), table()[name].max()).all()
    far = copy.copy(fitted).set_params(extrapolate=True).sample(2000, random_state=1)
    assert far["price"].max() > 1.2 * table()["price"].max() and far["price"].min() < 0


def test_a_seed_gives_the_same_samples(fitted, draws):
    pandas.testing.assert_frame_equal(draws, fitted.sample(2000, random_state=1))


def test_outliers(fitted, monkeypatch):
    """Scores and explanations do not depend on other rows, nor on the number of rows scored at once."""
    rows = table()
    scores = fitted.score_samples(rows)
    assert fitted.score(rows) == pytest.approx(scores.mean())
    np.testing.assert_array_equal(fitted.decision_function(rows), scores - fitted.offset_)
    np.testing.assert_array_equal(fitted.predict(rows) == -1, scores < fitted.offset_)
    odd = rows.iloc[:3].copy()
    odd.loc[0, "price"], odd.loc[1, "rooms"], odd.loc[2, "color"] = 300.0, 60, "green"
    with pytest.warns(UserWarning, match="The score of 1 row is minus infinity"):
        assert fitted.predict(odd).tolist() == [-1, -1, -1]
    reasons = fitted.explain(odd.iloc[:2])
    assert reasons.idxmax(axis=1).tolist() == ["price", "rooms"]
    monkeypatch.setattr("tf_resflow.tables.density._AT_ONCE", 2 * 32 * 2)
    places = [149, 3, 3, 70]
    np.testing.assert_allclose(fitted.score_samples(rows.iloc[places]), scores[places], rtol=1e-12)
    pandas.testing.assert_frame_equal(fitted.explain(odd.iloc[:2]), reasons, rtol=1e-9)


def gains_of_all_candidates(fit, numbers):
    """Returns the entries of `explain`, with as many points for each candidate as for its row."""
    scores = fit.density_.score(numbers, num_points=8)[1]
    gains = []
    for column_index, values in fit.reference_.values():
        changed = np.repeat(numbers[np.newaxis], len(values), axis=0)
        changed[:, :, column_index] = np.reshape(values, [-1, 1])
        scores_of_values = fit.density_.score(changed.reshape(-1, numbers.shape[1]), num_points=8)[1]
        gains.append(scores_of_values.reshape(len(values), -1).max(axis=0) - scores)
    return np.stack(gains, axis=1)


def test_explanations_find_the_best_values_in_half_the_evaluations(fitted):
    """The points of the candidates differ only in the changed column, so few points find the best ones."""
    numbers = fitted.encoder_.numbers(table()[:40]).array
    evaluated = mock.patch.object(
        NoiseConditionedFlow, "log_prob", autospec=True, side_effect=NoiseConditionedFlow.log_prob
    )
    with evaluated as log_prob:
        found = fitted.gains(numbers)
    num_vectors = sum(len(call.args[2]) for call in log_prob.call_args_list)
    num_values = sum(len(values) for _, values in fitted.reference_.values())
    assert num_vectors < 0.5 * 2 * 8 * len(numbers) * (1 + num_values)  # at two noise levels and 8 points
    expected = gains_of_all_candidates(fitted, numbers)
    assert np.all(found <= expected + 1e-9)
    assert np.all(found >= expected - fitted.tolerance_) and np.mean(np.abs(found - expected) < 1e-9) > 0.9
    is_color = list(fitted.reference_).index("color")
    assert found[:, is_color].min() == 0  # the color of the row is among the tried ones


def test_explanations_of_numbers_are_exact():
    x = np.random.default_rng(0).normal(size=[100, 3]) @ [[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 1.0]]
    fit = FlowDensity(**SMALL).fit(x)
    rows = np.concatenate([x[:20], [[9.0, 0.0, 0.0], [1e6, 1e6, 0.0]]])
    np.testing.assert_allclose(fit.explain(rows), gains_of_all_candidates(fit, rows), rtol=1e-6, atol=1e-5)


def test_p_values_of_fresh_rows():
    """The share of 2,000 fresh rows with a p-value of at most t is t, up to the error of 150 held-out rows.

    The p-value of a row does not depend on other rows.
    """
    fit = FlowDensity(**SMALL, validation_fraction=0.5).fit(table(300))
    rows = table(2000, seed=1)
    found = fit.p_values(rows)
    np.testing.assert_array_equal(fit.p_values(rows[3:4]), found[3:4])
    assert found.min() >= 1 / 151 == fit.least_p_value
    for share in (0.05, 0.2, 0.5):
        error = 4.5 * np.sqrt(share * (1 - share) * (1 / 150 + 1 / 2000))
        assert np.mean(found <= share) == pytest.approx(share, abs=error + 1 / 151)


def test_the_expected_share_of_fresh_rows_is_flagged():
    """On average over 16 fits to 100 rows, of 2,000 fresh rows each, within 4 standard errors."""
    shares = []
    expected = 0.05
    for seed in range(16):
        rows = np.random.default_rng(seed).standard_t(4, size=[2100, 2]) @ [[1.0, 1.0], [0.0, 0.5]]
        arguments = SMALL | {"random_state": seed, "num_members": 3, "max_steps": 40}
        fit = FlowDensity(contamination=expected, **arguments).fit(rows[:100])
        shares.append(np.mean(fit.predict(rows[100:]) == -1))
        assert fit.offset_ > threshold(*fit.held_out_, expected).score  # the mean over members has a larger score
    error = np.std(shares) / np.sqrt(len(shares))
    assert error < expected / 4
    assert np.mean(shares) == pytest.approx(expected, abs=4 * error)


def test_a_row_with_a_level_of_its_own_counts_like_an_unknown_level():
    """Also the only fraction, and the only number below a frequent zero."""
    rows = rows_that_are_alone()
    new = rows[:3].assign(level="d")
    fit = FlowDensity(**SMALL | {"num_members": 7, "max_steps": 3}).fit(rows)  # each row is held out, 9 at once
    assert fit.offset_ == -np.inf and np.isfinite(fit.score_samples(rows)).all()
    with pytest.warns(UserWarning) as warned:
        np.testing.assert_allclose(fit.p_values(new), 4 / 61)
    assert "No p-value is below 0.016, because only 60 rows" in str(warned[-1].message)
    with pytest.warns(UserWarning, match="minus infinity") as warned:
        assert fit.predict(new).tolist() == [1] * 3 and fit.decision_function(new).tolist() == [0.0] * 3
    assert {warning.category for warning in warned} == {UserWarning}


@pytest.mark.parametrize("num_levels", [3, 60])
def test_an_unknown_level_is_an_outlier_if_few_rows_are_alone_with_theirs(num_levels):
    """Few of the 200 rows are alone with 3 levels, and many with 60, so 7 % of new rows have an unknown level.

    Over four tables, `predict` reports at most 1 % of 1,600 new rows, plus one row in 201.
    """
    shares = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        chances = rng.permutation(1.0 / np.arange(1, num_levels + 1) ** 1.3)

        def draw(num, rng=rng, chances=chances):
            levels = rng.choice(num_levels, num, p=chances / chances.sum()).astype(str)
            return pandas.DataFrame({"level": levels, "size": rng.normal(size=num)})

        fit = FlowDensity(**SMALL | {"num_members": 2, "max_steps": 3, "validation_fraction": 0.5}).fit(draw(200))
        unknown = draw(1).assign(level="unknown")
        with pytest.warns(UserWarning, match="minus infinity"):
            is_outlier = fit.predict(unknown)[0] == -1
            assert is_outlier == (fit.p_values(unknown)[0] < 0.01) == (num_levels == 3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            shares.append((fit.predict(draw(400)) == -1).mean())
    assert np.mean(shares) <= 0.01 + 1 / 201 + 4 * np.sqrt(0.01 / 1600)


def test_rows_that_miss_values_are_dropped(capsys):
    rows = table()
    rows.loc[3, "price"] = np.nan
    fit = FlowDensity(missing="drop", **SMALL | {"max_steps": 5}).fit(rows)
    scores = fit.score_samples(rows)
    assert np.isnan(scores[3]) and fit.predict(rows)[3] == -1
    assert fit.score(rows) == pytest.approx(np.delete(scores, 3).mean(), rel=1e-6)
    assert fit.explain(rows[2:5]).isna().any(axis=1).tolist() == [False, True, False]
    kept = rows.drop(index=3)
    np.testing.assert_array_equal(np.delete(scores, 3), clone(fit).fit(kept).score_samples(kept))
    assert capsys.readouterr().out == ""


def test_threads_share_graphs(fitted):
    """Fits and scores in three threads at once are those of one thread."""

    def work(seed):
        fit = clone(fitted).set_params(random_state=seed, max_steps=4).fit(table(40))
        return fit.score_samples(table(40))

    expected = [work(seed) for seed in range(3)]
    assert not np.array_equal(expected[0], expected[1])
    with ThreadPoolExecutor(3) as threads:
        for found, same in zip(threads.map(work, range(3)), expected, strict=True):
            np.testing.assert_array_equal(found, same)


# One to three discrete columns.


@pytest.mark.parametrize("seed", range(3))
def test_probabilities_add_up_to_one_and_are_those_of_samples(seed):
    """Tests all rows of tables of one to three discrete columns, and the frequencies in 4,000 samples."""
    # The RMS error of the sum over ten tables was 0.020 with 32 points, and 0.003 with 1,024.
    rng = np.random.default_rng(seed)
    days = pandas.date_range("2024-02-28", periods=5)
    columns = {"count": rng.poisson(rng.uniform(0.5, 3.0), 200)}
    columns["flag"] = rng.uniform(size=200) < rng.uniform(0.03, 0.5)
    columns["level"] = rng.choice(list("abc"), 200, p=[0.7, 0.2, 0.1])
    columns |= {"half": rng.integers(0, 6, 200) * 0.5, "day": days[rng.integers(0, 5, 200)]}
    rows = pandas.DataFrame({name: columns[name] for name in rng.permutation(list(columns))[: rng.integers(1, 4)]})
    fit = FlowDensity(**SMALL, kinds={"half": 0.5} if "half" in rows else None).fit(rows)
    values = {"count": range(max(columns["count"]) + 1), "half": np.arange(6) * 0.5, "day": days}
    values |= {name: pandas.unique(columns[name]) for name in ("flag", "level")}
    every = everything({name: values[name] for name in rows})
    every = every[(every >= rows.min()).all(axis=1) & (every <= rows.max()).all(axis=1)]
    assert np.exp(fit.score_samples(every)).sum() == pytest.approx(1.0, abs=0.1)
    probabilities = np.exp(fit.density_.score(fit.encoder_.numbers(every).array, num_points=1024)[0])
    assert probabilities.sum() == pytest.approx(1.0, abs=0.02)
    draws = fit.set_params(extrapolate=True).sample(4000, random_state=seed)
    for name in rows:
        expected = pandas.Series(probabilities).groupby(every[name].to_numpy()).sum()
        found = draws[name].value_counts(normalize=True).reindex(expected.index, fill_value=0.0)
        np.testing.assert_array_less(np.abs(found - expected), 4.5 * np.sqrt(expected / 4000) + 0.02)


# Two columns.


@pytest.fixture(scope="module")
def rain():
    """Returns a table with 60 % of zeros in a column, and a fit."""
    x = np.random.default_rng(0).normal(size=300)
    rows = pandas.DataFrame({"rain": np.where(x < 0.25, 0.0, (5 * (x - 0.25)).round(1) + 0.1), "wind": 3.0 + x})
    return rows, FlowDensity(**SMALL).fit(rows)


@pytest.mark.filterwarnings("ignore:The score of 1 row is minus infinity")
def test_atoms(rain):
    """A frequent value has a probability, which agrees with the share of 4,000 samples; other values a density."""
    rows, fit = rain
    assert fit.kinds_ == {"rain": {0.0}, "wind": "number"}
    drawn = fit.sample(4000, random_state=0)
    share = (drawn["rain"] == 0).mean()
    assert abs(share - (rows["rain"] == 0).mean()) < 4.5 * np.sqrt(0.24 / 4000) + 0.05
    assert all(drawn[name].between(rows[name].min(), rows[name].max()).all() for name in rows)
    np.testing.assert_array_equal(drawn["rain"], drawn["rain"].round(1))
    wind = np.linspace(-4.0, 10.0, 29)
    numbers = np.concatenate([[0.0], np.geomspace(1e-4, 100.0, 80)])
    scores = fit.score_samples(everything({"rain": numbers, "wind": wind})).reshape(len(numbers), -1)
    assert np.isneginf(fit.score_samples(pandas.DataFrame({"rain": [-0.1], "wind": [3.0]}))).all()
    marginal = np.trapezoid(np.exp(scores), wind, axis=1)
    assert marginal[0] == pytest.approx(share, abs=4.5 * np.sqrt(0.24 / 4000) + 0.02)
    assert marginal[0] + np.trapezoid(marginal[1:], numbers[1:]) == pytest.approx(1.0, abs=0.05)


def test_explanations_of_atoms(rain):
    """The wind brings rain. An atom has a column of its own."""
    gains = rain[1].explain(pandas.DataFrame({"rain": [0.0, 12.0], "wind": [6.0, 1.0]}))
    assert list(gains) == ["rain", "rain = 0", "wind"]
    assert gains["rain = 0"][0] == 0 and gains["rain"][0] > 1 and gains["rain = 0"][1] > 1


def test_the_noise_is_the_smoothest_within_two_standard_errors():
    """The rows lie near a line, at 0.05 deviations. Much noise lowers the score clearly, a little does not."""
    x = np.random.default_rng(0).normal(size=[300, 2]) * [1.0, 0.05] @ [[1.0, 1.0], [1.0, -1.0]]
    fit = FlowDensity(**SMALL | {"max_steps": 200, "whiten": True}).fit(x)
    best = np.argmax(fit.held_out_scores_)
    assert fit.noise_levels_[best] <= fit.noise_ < 0.5 and fit.noise_ in fit.noise_levels_
    assert fit.held_out_scores_[-1] < fit.held_out_scores_[best] - 0.1
    fit.set_params(extrapolate=True)
    gap = np.abs(np.diff(fit.sample(4000, random_state=0))) / 2  # 1 % of the samples are broad
    assert 0 < np.mean(gap > 0.5) < 0.02 and fit.held_out_scores_[best] == pytest.approx(fit.score(x), abs=1.0)
    broad = clone(fit).set_params(noise=1.0).fit(x)
    assert broad.noise_ == 1.0
    np.testing.assert_array_equal(broad.density_.members[0][0], fit.density_.members[0][0])  # the same training
    far = [[3.0, -3.0]]  # the density there is 1 % of the broad one
    assert fit.score_samples(far) == pytest.approx(broad.score_samples(far) - np.log(100), abs=1e-3)


def test_flows_are_whitened_where_that_helps():
    """Whitening helps columns that nearly repeat each other, and not independent ones."""
    x = np.random.default_rng(0).normal(size=[300, 2])
    alike = x @ [[1.0, 1.0], [0.02, -0.02]]
    fits = [FlowDensity(**SMALL | {"whiten": way}).fit(alike) for way in ("auto", True, False)]
    assert fits[0].whiten_ and fits[0].score(alike) == fits[1].score(alike) > fits[2].score(alike) + 0.5
    assert not FlowDensity(**SMALL | {"whiten": "auto"}).fit(x).whiten_


def test_progress_is_in_the_units_of_the_table(capsys):
    """The entropy of independent normal columns is known. Noise of all levels adds about 0.07 nats per column."""
    x = np.random.default_rng(0).normal(size=[1000, 2]) * [1.0, 1000.0]
    entropy = np.log(2 * np.pi * np.e) + np.log(1000.0) + 0.14
    for verbose in (1, 2):
        FlowDensity(**SMALL | {"max_steps": 20}, verbose=verbose).fit(x)
        printed = capsys.readouterr().out
        numbers = [float(number) for number in re.findall(r"held_out_nats:? (-?[.0-9]+)", printed)]
        assert numbers[-1] == pytest.approx(-entropy, abs=0.4)  # 4 standard errors of 150 held-out rows
        assert ("20/20" in printed) == (verbose == 1) and printed.count("\n") == 1
        assert len(numbers) == 1 or verbose == 1


@pytest.fixture
def few_quantiles(monkeypatch):
    """Draws fewer samples to map the draws of `sample` to the margins of the fit."""
    monkeypatch.setattr("tf_resflow.tables.flow_density._NUM_QUANTILES", 200)


# One column.


def test_weights():
    """Of two clusters of 100 rows, the one with 1 % of the weight has less than 10 % of the mass."""
    x = np.random.default_rng(0).normal(size=[200, 1]) * 0.3 + np.repeat([-3.0, 3.0], 100)[:, np.newaxis]
    fit = FlowDensity(contamination=0.02, **SMALL | {"max_steps": 200})
    fit.fit(x, sample_weight=np.repeat([0.01, 1.0], 100))
    line = np.linspace(-8.0, 8.0, 801)[:, np.newaxis]
    density = np.exp(fit.score_samples(line))
    assert np.trapezoid(density[line[:, 0] < 0], line[line[:, 0] < 0, 0]) < 0.1
    assert fit.offset_ > fit.score_samples([[-3.0]])[0]  # 1 % of the weight is below the offset
    weights, few = np.repeat([0.0, 1.0, 2.0], [50, 50, 100]), clone(fit).set_params(max_steps=5)
    fits = clone(few).fit(x, sample_weight=weights), few.fit(x[50:], sample_weight=weights[50:])
    np.testing.assert_array_equal(*(each.score_samples(line) for each in fits))


@pytest.fixture
def held_out(monkeypatch):
    """Records the held-out rows of each training, in order."""
    found, train = [], NoiseConditionedFlow.train

    def recorded(density, kept, chosen, *args, **options):
        found.append(chosen.lower[:, 0])
        return train(density, kept, chosen, *args, **options)

    monkeypatch.setattr(NoiseConditionedFlow, "train", recorded)
    return found


@pytest.mark.filterwarnings("ignore:No p-value is below")
def test_members(held_out, few_quantiles, monkeypatch):
    """The density is the mean over members, which hold out different rows. Trained members are kept.

    A share of `contamination` of the scores of held-out rows is below the offset.
    """
    rows, trained = table()[["price"]], {}
    fit = FlowDensity(contamination=0.3, **SMALL | {"num_members": 2, "max_steps": 20}).fit_members(rows, trained)
    values = fit.encoder_.encode(fit.encoder_.numbers(rows).array).lower[:, 0]
    alone = [copy.copy(fit) for _ in range(2)]
    for place, one in enumerate(alone):
        one.density_ = copy.copy(fit.density_)
        one.density_.members = fit.density_.members[place : place + 1]
    assert set(held_out[0]).isdisjoint(held_out[1])
    pairs = zip(alone, held_out, strict=True)
    decisions = np.concatenate([one.decision_function(rows[np.isin(values, own)]) for one, own in pairs])
    np.testing.assert_allclose(np.sort(fit.held_out_[0]), np.sort(decisions) + fit.offset_, atol=2e-5)
    assert (decisions < -1e-6).sum() == np.floor(0.3 * 45)  # the rank among 44 scores
    scores = [one.score_samples(rows) for one in alone]
    assert np.abs(scores[0] - scores[1]).max() > 0.01
    np.testing.assert_allclose(fit.score_samples(rows), np.logaddexp(*scores) - np.log(2), rtol=1e-9)
    prices = copy.copy(fit).set_params(extrapolate=True).sample(4000, random_state=0)
    density = np.exp(alone[0].score_samples(prices) - fit.score_samples(prices)) / 2  # given the price
    assert density.mean() == pytest.approx(0.5, abs=4.5 * density.std() / np.sqrt(4000))
    expected = fit.score_samples(rows), fit.p_values(rows), fit.sample(9)
    held_out.clear()
    trained = {1: trained[1]}
    again = clone(fit).fit_members(rows, trained)
    assert len(held_out) == 1 and sorted(trained) == [0, 1] and again.offset_ == fit.offset_
    results = again.score_samples(rows), again.p_values(rows), again.sample(9)
    for found, same in zip(results, expected, strict=True):
        np.testing.assert_array_equal(found, same)
    held_out.clear()
    monkeypatch.setattr("tf_resflow.tables.flow_density._MOST_HELD_OUT", 10)
    clone(fit).set_params(max_steps=1).fit(rows)
    assert [len(own) for own in held_out] == [10, 10]


# Two columns, and two numbers that are masks or conditions.


def test_scores_of_missing_values_are_those_of_the_others():
    """The sum over rooms is 1, whether or not prices are missing."""
    rows = table()[["price", "rooms"]].astype({"rooms": "Int64"})
    rows.loc[::4, "price"], rows.loc[5, "rooms"] = np.nan, None
    fit = FlowDensity(missing="condition", **SMALL).fit(rows)
    alone = fit.score_samples(rows[1:2])  # without a row whose price is missing
    np.testing.assert_allclose(fit.score_samples(rows)[1:2], alone, rtol=1e-12)
    missing = everything({"price": [np.nan], "rooms": ROOMS})
    assert np.exp(fit.score_samples(missing)).sum() == pytest.approx(1.0, abs=0.05)
    assert integral(fit, rooms=ROOMS) == pytest.approx(1.0, abs=0.01)


@pytest.mark.filterwarnings("ignore:No p-value is below")
def test_units_do_not_decide(rain):
    """Units change neither outliers, p-values nor explanations, with atoms and missing values.

    They shift the scores of rows with a positive amount of rain. Missing and central values explain nothing.
    """
    rows = rain[0].copy()
    rows.loc[::2, "wind"], rows.loc[3, "rain"] = np.nan, np.nan
    few, found = pandas.DataFrame({"rain": [1.0, 1.0], "wind": [3.5, np.nan]}), []
    for units in ([1.0, 1.0], [1024.0, 1e4]):
        fit, scaled = FlowDensity(missing="condition", **SMALL).fit(rows * units), rows * units
        shift = np.where(rows["rain"] > 0, np.log(units[0]), 0.0) + np.where(
            rows["wind"].isna(), 0.0, np.log(units[1])
        )
        reasons = fit.explain(few * units)
        scores = fit.score_samples(scaled) + shift
        found.append((fit.tolerance_, scores, fit.decision_function(scaled), reasons, fit.p_values(scaled)))
        assert reasons["wind"].max() < 1.5
    # p-values may change places
    for before, after, atol in zip(*found, [1e-5, 1e-3, 1e-3, 1e-2, 0.03], strict=True):
        np.testing.assert_allclose(after, before, atol=atol)


def discrete_table(seed):
    """Returns 80 rows of two to four dependent discrete columns with all of their combinations."""
    rng = np.random.default_rng(seed)
    sizes = rng.choice([2, 2, 3, 5], size=rng.integers(2, 5))
    common = rng.normal(size=80)
    columns, values = {}, []
    for i, size in enumerate(sizes):
        codes = np.clip(np.round(common + rng.normal(size=80) + size / 2), 0, size - 1).astype(int)
        codes[:size] = np.arange(size)  # all occur
        is_level = bool(rng.integers(2))
        columns[f"x{i}"] = np.array(list("abcde"))[codes] if is_level else codes
        values.append(list("abcde")[:size] if is_level else range(size))
    rows = pandas.DataFrame(columns)
    return rows, pandas.DataFrame(list(itertools.product(*values)), columns=rows.columns)


def test_probabilities_of_all_rows_add_up_to_one_within_the_stated_errors():
    """For 10 random tables. The errors of rows are independent, so that of the sum is the root of their squares.

    Of four tables, each score is compared with a mean over 16,384 points, and so is the mean over all rows.
    """
    standardized = []
    for seed in range(10):
        rows, combinations = discrete_table(seed)
        fit = FlowDensity(**SMALL | {"random_state": seed}).fit(rows)
        scores, errors = fit.score_samples(combinations, return_std=True)
        chances = np.exp(scores)
        assert abs(chances.sum() - 1) <= 3.5 * np.sqrt(np.sum((chances * errors) ** 2)) + 1e-3, seed
        assert (errors > 0).all() and (errors <= fit.tolerance_).mean() > 0.5
        if seed < 4:
            density = fit.density_
            numbers = fit.encoder_.numbers(combinations).array
            exact = density.score(numbers, num_points=2**14)[0]
            standardized.append((scores - exact) / errors)
    standardized = np.concatenate(standardized)
    assert np.abs(standardized).max() < 5.0  # Student's t with 15 degrees of freedom, about 100 rows
    assert abs(standardized.mean()) < 4 / np.sqrt(len(standardized))
    assert standardized.std() < 1.5


def test_the_score_of_a_row_depends_on_this_row_alone(tmp_path):
    """Not on other rows, their order, their number, or on a file. Rows without cells need one point."""
    rows, combinations = discrete_table(3)
    fit = FlowDensity(**SMALL).fit(rows)
    scores, errors = fit.score_samples(combinations, return_std=True)
    order = np.random.default_rng(0).permutation(len(combinations))
    fit.save(tmp_path / "density.npz")
    for other in (fit, FlowDensity.load(tmp_path / "density.npz")):
        found = other.score_samples(combinations.iloc[order], return_std=True)
        np.testing.assert_allclose(found, [scores[order], errors[order]], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(other.score_samples(combinations[:1]), scores[:1], rtol=1e-5, atol=1e-6)
    numbers = pandas.DataFrame(np.random.default_rng(1).normal(size=[60, 2]), columns=["a", "b"])
    scores, errors = FlowDensity(**SMALL).fit(numbers).score_samples(numbers, return_std=True)
    assert np.isfinite(scores).all() and (errors == 0).all()


def test_densities_given_other_columns(refused):
    rows = table().assign(x=np.random.default_rng(1).uniform(size=150))
    fit = FlowDensity(condition_columns=["color", "rooms"], bounds={"x": (0, 1)}, **SMALL).fit(rows)
    x = (np.arange(30) + 0.5) / 30
    for color, rooms in (("red", 0), ("blue", 5)):
        assert integral(fit, rooms=[rooms], color=[color], x=x) / 30 == pytest.approx(1.0, abs=0.02)
    given = table(400).sort_values("rooms")[["rooms", "color"]].reset_index(drop=True)
    draws = fit.sample(condition=given)
    pandas.testing.assert_frame_equal(draws[["rooms", "color"]], given)
    assert list(draws) == ["price", "rooms", "color", "x"] and draws["x"].nunique() > 100
    assert draws["price"][200:].median() > 1.3 * draws["price"][:200].median()  # 2.7 in the table itself
    refused("must have the values of condition_columns", fit.sample, 5)
    unknown = rows[:5].assign(color=["green", *rows["color"][1:5]])
    with pytest.warns(
        UserWarning, match="1 of 5 rows cannot be scored .*'color': 1 of 5 values is not a known level"
    ):
        found = fit.score_samples(unknown)
    np.testing.assert_array_equal(found, [np.nan, *fit.score_samples(rows[1:5])])
    refused("column 'color': 'green' is not a known level", fit.sample, condition=unknown[["color", "rooms"]])


# Other sizes, and new graphs.


GIVEN = ["count", "enum"]


def typed_frame():
    """Returns a frame of polars with many types. A tenth of the values are missing, except in `GIVEN`."""
    rng, table, decimals = np.random.default_rng(0), TYPED["arrow"], TYPED["decimals and dates of arrow"]
    own = pandas.concat([table[["identifier", "new", "day", "time"]], decimals[["price", "born", "shade"]]], axis=1)
    frame = polars.from_pandas(own.mask(rng.uniform(size=own.shape) < 0.1).assign(count=table["count"]))
    enum = polars.Series(rng.choice(["red", "blue"], len(own)), dtype=polars.Enum(["red", "green", "blue"]))
    return frame.with_columns(polars.col("count").cast(polars.UInt8), enum=enum)


@pytest.mark.filterwarnings("ignore:These columns are")
def test_frames_of_other_libraries(few_quantiles):
    """Scores are those of pandas. Samples and explanations are frames of the library, with the types of the fit."""
    frame = typed_frame()
    arrow = frame.to_arrow()
    fit = FlowDensity(missing="condition", condition_columns=GIVEN, **SMALL | {"max_steps": 5}).fit(frame)
    expected = ["whole", "category", "day", "date", "number", "day", "category", "whole", ["red", "green", "blue"]]
    assert list(fit.kinds_.values()) == expected
    scores = fit.score_samples(frame)
    for same in (arrow, frame.to_pandas(use_pyarrow_extension_array=True)):
        np.testing.assert_array_equal(fit.score_samples(same), scores)
    of_arrow = clone(fit).fit(arrow)
    for own, each in ((pickle.loads(pickle.dumps(fit)), frame), (of_arrow, arrow)):
        assert own.offset_ == fit.offset_
        drawn, reasons = own.sample(condition=each.select(GIVEN)), own.explain(each[:3])
        assert type(drawn) is type(reasons) is type(each) and drawn.schema == each.schema
        assert drawn.select(GIVEN).equals(each.select(GIVEN)) and np.isfinite(own.score_samples(drawn)).all()
        assert reasons.shape == (3, 7)


def results(density, rows, condition):
    """Returns all that a fit computes, also draws beyond the data if it has no condition."""
    densities = [density]
    if condition is None:
        densities.append(copy.copy(density).set_params(extrapolate=True))
    drawn = [each.sample(20, random_state=1, condition=condition) for each in densities]
    scores = [density.score_samples(rows), density.p_values(rows)]
    choices = [density.noise_, density.whiten_, density.offset_, density.flagged_interval_]
    return [*scores, *choices, density.explain(rows[:2]), *map(pandas.DataFrame, drawn)]


def assert_copies_are_equal(density, rows, condition, path):
    """Compares a fit with what was loaded and unpickled, in a process without graphs."""
    density.save(path)
    copies = [FlowDensity.load(path), pickle.loads(pickle.dumps(density))]
    expected = results(density, rows, condition)
    shared_flow.cache_clear()
    for same in copies:
        for value, value_of_fit in zip(results(same, rows, condition), expected, strict=True):
            np.testing.assert_array_equal(value, value_of_fit)
    np.testing.assert_array_equal(clone(copies[0]).fit(rows).score_samples(rows), expected[0])


@pytest.mark.filterwarnings("ignore:No p-value is below")
def test_copies_of_a_density_of_an_array_are_equal(tmp_path, few_quantiles):
    rows = np.random.default_rng(0).normal(size=[40, 3]).astype("float32")
    density = FlowDensity(**SMALL | {"max_steps": np.int64(3)}).fit(rows)
    assert_copies_are_equal(density, rows, None, tmp_path / "density.npz")
    loaded = FlowDensity.load(tmp_path / "density.npz")
    assert loaded.sample(5).dtype == "float32" and loaded.sample(5).shape == (5, 3)
    assert loaded.score_samples(rows.astype("float64")).dtype == "float64"


@pytest.mark.filterwarnings("ignore:No p-value is below")
def test_copies_of_a_conditional_density_of_a_table_are_equal(tmp_path, few_quantiles):
    rng = np.random.default_rng(0)
    rows = table(60)[["color"]].assign(rain=np.where(rng.uniform(size=60) < 0.5, 0.0, rng.exponential(size=60)))
    rows["share"] = rng.uniform(0.1, 0.9, size=60)
    rows.loc[::7, "rain"] = None
    options = {"missing": "condition", "condition_columns": ["color"], "bounds": {"share": (0, 1.0)}}
    density = FlowDensity(**options, **SMALL | {"whiten": "auto", "max_steps": 5}).fit(rows)
    assert_copies_are_equal(density, rows, table(20, seed=1)[["color"]], tmp_path / "density.npz")


def test_a_file_keeps_the_parameters(fitted, tmp_path, refused):
    fitted.save(tmp_path / "density.npz")
    params = fitted.get_params() | {"hidden": list(fitted.hidden), "kinds": fitted.kinds_}
    if fitted.condition_columns is not None:
        params["condition_columns"] = list(fitted.condition_columns)
    assert FlowDensity.load(tmp_path / "density.npz").get_params() == params
    (tmp_path / "density.npz").write_text("a")
    refused("a saved FlowDensity", FlowDensity.load, tmp_path / "density.npz")


def test_interruptions_and_global_policies_of_keras_change_nothing(monkeypatch, refused, fitted, dtype_policy):
    """Interrupts the first fit in a process, under a policy, and a later one, after two evaluations."""
    expected, fit = fitted.score_samples(table()), copy.copy(fitted)
    shared_flow.cache_clear()
    for interrupted, policy in ((clone(fitted), dtype_policy("mixed_bfloat16")), (fit, contextlib.nullcontext())):
        update = mock.Mock(side_effect=[None, KeyboardInterrupt])
        monkeypatch.setattr(keras.utils.Progbar, "update", update)
        with policy:
            with pytest.raises(KeyboardInterrupt):
                interrupted.fit(table(seed=1))
            monkeypatch.undo()
            refused("not fitted", interrupted.score_samples, table(), error=NotFittedError)
            again = clone(fitted).fit(table())
            np.testing.assert_array_equal(again.score_samples(table()), expected)
        np.testing.assert_array_equal(fitted.score_samples(table()), expected)


def test_rows_without_a_score(refused, fitted):
    """Empty tables, and rows that all miss values, have no scores. Nothing can be drawn for no condition.

    If no value was missing in the fit, missing values are an error by default, and otherwise NaN with a warning.
    """
    empty = table()[:0]
    assert fitted.score_samples(empty).shape == fitted.predict(empty).shape == (0,)
    assert fitted.explain(empty).shape == (0, 3)
    dropping = copy.copy(fitted).set_params(missing="drop")
    missing = table()[:2].assign(price=np.nan)
    assert np.isnan(dropping.score_samples(missing)).all() and dropping.explain(missing).isna().all(axis=None)
    with pytest.warns(UserWarning, match="2 of 2 rows cannot be scored .*'price': 2 of 2 values are missing"):
        explained = copy.copy(fitted).set_params(missing="condition").explain(missing)
    assert explained.shape == (2, 3) and explained.isna().all(axis=None)
    refused(r"missing in 2 of 2 rows, by column: price \(2\)", fitted.score_samples, missing.assign(rooms="many"))
    refused("n_samples must be at least 1", fitted.sample, 0)


# Values that are wrong in one row: the columns, and whether the row has the score minus infinity, or none.
WRONG = {
    "text": ({"price": "high"}, "column 'price': 1 of 6 values is not a number, such as 'high'"),
    "empty text": ({"price": ""}, "column 'price': 1 of 6 values is not a number, such as ''"),
    "infinity": ({"price": np.inf}, "column 'price': 1 of 6 values is infinite, such as 'inf'"),
    "text beside an impossible value": (
        {"rooms": 2.5, "price": "?"},
        "'price': 1 of 6 values is not a number, such",
    ),
    "a fraction": ({"rooms": 2.5}, "column 'rooms': 1 of 6 values is not a whole number, such as '2.5'"),
    "a level": ({"color": "green"}, "column 'color': 1 of 6 values is not a known level, such as 'green'"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("missing", ["error", "drop", "condition"])
@pytest.mark.filterwarnings("ignore:No p-value is below")
def test_a_wrong_value_changes_no_other_row(fitted, case, missing):
    """Its row has the score NaN or minus infinity, with a warning that names the column and the value."""
    fit = copy.copy(fitted).set_params(missing=missing)
    values, text = WRONG[case]
    rows = table()[:6].astype(object)
    for name, value in values.items():
        rows.loc[2, name] = value
    expected = -np.inf if case in ("a fraction", "a level") else np.nan
    start = (
        "1 of 6 rows cannot be scored and get NaN" if np.isnan(expected) else "The score of 1 row is minus infinity"
    )
    others = [0, 1, 3, 4, 5]
    for method in (fit.score_samples, fit.decision_function, fit.p_values, fit.predict, fit.explain):
        if np.isnan(expected) or method != fit.explain:
            with pytest.warns(UserWarning, match=rf"{start}.*{re.escape(text)}") as warned:
                found = np.asarray(method(rows))
            assert len([warning for warning in warned if "p-value" not in str(warning.message)]) == 1
            assert "rooms" not in str(warned[0].message) or "rooms" in text
        else:
            found = np.asarray(method(rows))
        np.testing.assert_array_equal(found[others], np.asarray(method(table()[:6]))[others])
        if method == fit.predict:
            assert found[2] == -1
        elif method in (fit.score_samples, fit.decision_function):
            np.testing.assert_array_equal(found[2], expected)
        else:
            assert np.isnan(found[2]).all() == np.isnan(expected)


def test_refused_arguments(refused):
    wrong = {"contamination": 0.0, "missing": "fill", "whiten": "yes", "max_steps": 0, "condition_columns": "color"}
    for name, value in [("noise", 2.0), ("noise", "none"), *wrong.items()]:
        refused(f"{name} is {value!r}; it must be", FlowDensity(**{name: value}).fit, table())


def test_refused_rows(refused, fitted):
    rows, fit = table(), copy.copy(fitted)
    missing = rows.astype({"rooms": float})
    missing.loc[:1, "rooms"] = np.nan
    refused(r"missing in 2 of 150 rows, by column: rooms \(2\)", FlowDensity().fit, missing)
    refused("at least 10 rows", fit.fit, table(5))
    refused("not fitted", fit.score_samples, rows, error=NotFittedError)  # a fit that fails is no fit
    refused("Column 'y' has values of type ndarray", FlowDensity().fit, polars.DataFrame({"y": [[1]] * 20}))
