"""Runs on tables: training, resuming and loading."""

import json

import numpy as np
import pandas
import pytest

import tf_resflow as resflow
from tf_resflow.tables import FlowDensity, runs
from tf_resflow.tables.figures import most_dependent
from tf_resflow.tables.runs.config import default_config, parse_bounds, parse_names, validate_config
from tf_resflow.tables.runs.files import read_table

SMALL = {"num_blocks": 1, "hidden": (8,), "max_steps": 40, "num_members": 2}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    rng = np.random.default_rng(0)
    rooms, is_house = rng.integers(1, 6, 120), rng.uniform(size=120) < 0.3
    table = {"name": [f"home {i}" for i in range(120)], "price": (100 * rooms + rng.normal(0, 20, 120)).round(3)}
    table |= {"rooms": rooms, "kind": np.where(is_house, "house", "flat")}
    path = tmp_path_factory.mktemp("table") / "homes.csv"
    pandas.DataFrame(table).to_csv(path, index=False)
    return path


def test_defaults_are_those_of_the_estimator():
    """The config repeats them, because it must not import TensorFlow."""
    arguments = FlowDensity().get_params()
    assert dict(default_config().density) == {name: arguments[name] for name in default_config().density}


def make_config(path, **fields):
    config = default_config()
    config.data.path = str(path)
    config.density.update(SMALL)
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in fields.items()})
    return config


@pytest.fixture(scope="module")
def workdir(path):
    workdir = path.parent / "run"
    result = runs.train(make_config(path, seed=3), workdir, progress=False)
    stored = json.loads((workdir / "result.json").read_text())
    assert stored["line"] == result["line"] and stored["num_members"] == 2
    return workdir


def test_scores_equal_those_of_a_fit_in_python(path, workdir):
    """The rows are those of the file without the test rows, and the identifiers are left out."""
    run = resflow.load(workdir)
    rows = runs.read_rows(run.config)
    whole = read_table(path, exclude_columns=["name"])
    pandas.testing.assert_frame_equal(pandas.concat(rows.values()).sort_index(), whole)
    assert [len(part) for part in rows.values()] == [108, 12]
    density = FlowDensity(random_state=3, **SMALL).fit(rows["train"])
    expected = density.score_samples(rows["test"])
    scores, _ = runs.score_rows(run.density, rows["test"].astype(str))
    np.testing.assert_array_equal(scores["log_prob"], expected)
    np.testing.assert_array_equal(scores["p_value"], density.p_values(rows["test"]))
    assert run.result["nats"] == expected.mean()
    assert run.result["nats_stderr"] == pytest.approx(expected.std(ddof=1) / 12**0.5)
    loaded = resflow.load(workdir / "density.npz")
    np.testing.assert_array_equal(loaded.score_samples(rows["test"]), expected)


def test_test_rows_without_names(path, tmp_path):
    whole = read_table(path, exclude_columns=["name"])
    whole[:20].to_csv(tmp_path / "test.csv", index=False, header=False)
    rows = runs.read_rows(make_config(path, data__path_test=str(tmp_path / "test.csv")))
    pandas.testing.assert_frame_equal(rows["test"].reset_index(drop=True), whole[:20].reset_index(drop=True))


def test_a_killed_fit_resumes(path, workdir, tmp_path, monkeypatch):
    """The first member is not trained again, and the result is the same."""
    train, trained = FlowDensity.fit_members, []

    def killed(density, table, members):
        class Stopping(dict):
            def __setitem__(self, place, member):
                members[place] = member
                trained.append(place)
                raise KeyboardInterrupt

        train(density, table, Stopping())

    monkeypatch.setattr(FlowDensity, "fit_members", killed)
    with pytest.raises(KeyboardInterrupt):
        runs.train(make_config(path, seed=3), tmp_path, progress=False)
    assert trained == [0] and not (tmp_path / "result.json").exists()
    with pytest.raises(ValueError, match="no fitted density yet"):
        resflow.load(tmp_path)
    monkeypatch.setattr(FlowDensity, "fit_members", train)
    first = (tmp_path / "members" / "0.npz").stat().st_mtime_ns
    result = runs.train(make_config(path, seed=3), tmp_path, progress=False)
    assert (tmp_path / "members" / "0.npz").stat().st_mtime_ns == first
    assert result["nats"] == resflow.load(workdir).result["nats"]
    monkeypatch.setattr(FlowDensity, "fit_members", None)
    assert runs.train(make_config(path, seed=3), tmp_path, progress=False)["line"].startswith("Already done: homes")


def test_other_configs_and_data_are_refused(path, workdir):
    for field, value in {"seed": 4, "density.max_steps": 41, "data.exclude_columns": "rooms"}.items():
        with pytest.raises(ValueError, match=rf"belongs to a run with config.{field} = "):
            runs.train(make_config(path, **{"seed": 3} | {field: value}), workdir, progress=False)
    content = path.read_text()
    try:
        path.write_text(content.replace("flat", "hut"))
        with pytest.raises(ValueError, match="homes.csv has changed since the training"):
            runs.train(make_config(path, seed=3), workdir, progress=False)
    finally:
        path.write_text(content)


def test_missing_values_and_identifiers(path, tmp_path, said):
    table = pandas.read_csv(path)
    table.loc[[3, 7], "price"] = np.nan
    table.to_csv(tmp_path / "homes.csv", index=False)
    fields = {"data__test_fraction": 0.0, "density__max_steps": 2}
    message = r"homes.csv: .* in 2 of 120 rows, .* price \(2\). .*--config.density.missing=drop"
    with pytest.raises(ValueError, match=message):
        runs.train(make_config(tmp_path / "homes.csv", **fields), tmp_path / "a", progress=False)
    assert said[0].endswith("--config.data.kinds or --config.data.columns.") and "'name'" in said[0]
    config = make_config(tmp_path / "homes.csv", **fields, density__missing="condition")
    result = runs.train(config, tmp_path / "b", progress=False)
    assert "nats" not in result and "without test rows" in result["line"]
    assert list(resflow.load(tmp_path / "b").density.kinds_) == ["price", "rooms", "kind"]


def test_test_rows_of_another_format_are_a_warning(path, tmp_path, said):
    rows = pandas.read_csv(path)[:12].drop(columns="name")
    rows.assign(price="$ " + rows["price"].astype(str)).to_csv(tmp_path / "new.csv", index=False)
    fields = {"data__path_test": str(tmp_path / "new.csv"), "density__max_steps": 2, "density__num_members": 1}
    result = runs.train(make_config(path, **fields), tmp_path / "run", progress=False)
    assert result["num_examples"] == 0 and result["num_unscored"] == 12
    warned = [text for text in said if "new.csv, column 'price': 12 of 12 values are not a number" in text]
    assert len(warned) == 1


def test_fields():
    assert parse_names('"length, cm", age') == parse_names(["length, cm", "age"]) == ["length, cm", "age"]
    assert parse_names("") == parse_names(()) == []
    assert parse_names(3) == ["3"] and parse_names((1, 2)) == ["1", "2"]
    assert parse_bounds("price: 0..; share: -0.5..1;") == {"price": (0.0, None), "share": (-0.5, 1.0)}
    for field, value, message in (
        ("density.noise", 2.0, "config.density.noise is 2.0; it must be 'auto', or from 0.003 to 1"),
        ("data.bounds", "price: 0-1", "is malformed. Write it like"),
        ("data.kinds", "price", "is malformed. Write it like"),
    ):
        config = default_config()
        config.update_from_flattened_dict({field: value})
        with pytest.raises(ValueError, match=message):
            validate_config(config)


def test_the_most_dependent_columns():
    x = np.random.default_rng(0).normal(size=[500, 10])
    x[:, 7] = x[:, 2] + 0.1 * x[:, 7]
    x[::3, 2] = np.nan
    x[:, 4] = np.sign(x[:, 7])
    assert most_dependent(x, 3) == [2, 4, 7] and most_dependent(x, 10) == list(range(10))
