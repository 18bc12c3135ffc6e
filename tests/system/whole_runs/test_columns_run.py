"""A run of columns of a table given others."""

import functools
import json
import math
import re

import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow
from tests.system.whole_runs.conftest import pairs, regression_nats
from tf_resflow import data, training
from tf_resflow.cli import sample as command
from tf_resflow.models.step import NON_FINITE


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    """x_1 = 3 c + 0.5 e in the first of three columns, where c is in the second, and noise in the third."""
    path, (c, e, noise) = tmp_path_factory.mktemp("table") / "t.csv", np.random.default_rng(0).normal(size=[3, 400])
    rows = np.stack([3 * c + 0.5 * e, 10 + 2 * c, noise], 1)
    np.savetxt(path, rows, delimiter=",", header="a,c,noise", comments="")
    fields = {"data__name": "tabular", "data__path": str(path), "data__condition_columns": "c"}
    return fields | {"train__batch_size": 64, "train__learning_rate": 2e-2}


@pytest.fixture(scope="module")
def columns(tmp_path_factory, make_config, train, fields):
    """The workdir and the result."""
    workdir = tmp_path_factory.mktemp("columns")
    return workdir, train(make_config(**fields, train__steps=60, train__eval_every=60), workdir)


@pytest.fixture(scope="module")
def run(columns):
    return resflow.load(columns[0])


def test_a_planned_evaluation(columns, run):
    evaluation = training.Evaluation(run, data.load(run.config.data), stderr=0.3)
    likelihood = evaluation.likelihood()
    assert likelihood["num_examples"] == 40 and likelihood.get("example_stderr", 0.0) < 0.6
    assert likelihood["nats"] == pytest.approx(columns[1]["nats"], abs=0.2)


def test_other_tables(run):
    """Rows that do not fit their condition are outliers. A table without the condition is an error."""
    dataset = data.load(run.config.data)
    x, c = pairs(dataset, "test")
    statistics = {"condition_mean": dataset.condition_mean, "condition_std": dataset.condition_std}
    other = data.Dataset.from_arrays("shifted", {"test": x}, conditions={"test": c + 8}, **statistics)
    evaluation = training.Evaluation(run, dataset)
    assert evaluation.ood(other)["ood"]["auroc_log_prob"] > 0.9
    with pytest.raises(ValueError, match=", 0., and those of the model .*, 1.: choose other"):
        evaluation.ood(data.Dataset.from_arrays("plain", {"test": x}))


def test_columns_given_others(columns, run):
    """The score is in the units of the other columns, like the baseline, the Gaussian of a linear regression."""
    workdir, result = columns
    dataset = data.load(run.config.data)
    assert run.model.data_space.event_shape == (2,) and run.model.condition.shape == (1,)
    (x, c), (train_x, train_c) = (pairs(dataset, split) for split in ("test", "train"))
    info = json.loads((workdir / "data.json").read_text())
    np.testing.assert_allclose(info["condition_mean"], train_c.mean(0), rtol=1e-5)
    expected = regression_nats(train_x, train_c, x, c)
    assert result["baselines"]["gaussian"] == pytest.approx(expected, rel=1e-4)
    marginal = resflow.evaluation.gaussian_baseline(train_x, x)
    assert result["nats"] < marginal - 0.3  # the marginal density cannot use the condition
    loss = run.model.example_losses((x, c), 0)[run.model.objective]
    assert result["nats"] == pytest.approx(float(np.mean(loss)), rel=1e-4)  # exact, in 2-D
    assert {p.name for p in (workdir / "figures").iterdir()} == {"pairs.png"}


def test_samples_given_columns(columns, run_command, tmp_path):
    """x_1 is about 3 (c - 10) / 2 for a value c of the condition column."""
    sample = functools.partial(run_command, command, columns[0])
    sample(tmp_path / "high.npy", "--num=500", "--condition=13")
    sample(tmp_path / "low.npy", "--num=500", "--condition=7")
    high, low = (np.load(tmp_path / name) for name in ("high.npy", "low.npy"))
    assert high.shape == (500, 2) and high[:, 0].mean() > low[:, 0].mean() + 3
    sample(tmp_path / "picture.png", "--num=50", "--condition=10")
    sample(tmp_path / "paths.npy", "--interpolate=corners", "--num=2")
    assert np.load(tmp_path / "paths.npy").shape == (4, 2)
    with pytest.raises(ValueError, match="with their own condition: leave out --condition"):
        sample(tmp_path / "x.npy", "--interpolate=pairs", "--condition=1")
    for arguments in ([], ["--condition=1,2"], ["--condition=x"], ["--condition=nan"]):
        with pytest.raises(ValueError, match="--condition takes 1 values, separated by commas"):
            sample(tmp_path / "x.npy", *arguments)


def test_served_columns(columns, run, tmp_path, monkeypatch, capsys):
    path = resflow.serving.export_run(columns[0], tmp_path, stderr=0.1)
    served = tf.saved_model.load(str(path)).signatures
    x, c = tf.constant([[1.0, 0.5], [2.0, 0.0]]), tf.constant([[11.0], [9.0]])
    expected = run.model.log_prob(x, condition=c, log_det_estimator=resflow.logdet.Exact())
    np.testing.assert_allclose(served["serving_default"](x=x, condition=c)["log_prob"], expected, atol=0.5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="condition must be finite"):
        served["encode"](x=x, condition=c * math.nan)
    described = json.loads((path / "signatures.json").read_text())
    assert described["columns"] == {"x": ["a", "noise"], "condition": ["c"]}
    readme = (path / "README.md").read_text()
    assert "The columns of `x`, in this order:\n\n- `a`: a number\n- `noise`: a number\n" in readme
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    monkeypatch.chdir(path)
    exec(code, {})
    assert 0 <= eval(capsys.readouterr().out)["quantile"][0] <= 1
    held_out = described["log_prob"]["held_out"]
    assert held_out["num"] == 40 and [*held_out["quantiles"]] == ["0.05", "0.5"]
    x, c = pairs(data.load(run.config.data), "test")
    answer = served["serving_default"](x=x, condition=c)
    for q, threshold in held_out["quantiles"].items():
        np.testing.assert_array_equal(answer["log_prob"] < threshold, answer["quantile"] <= float(q))
        assert abs(np.mean(answer["log_prob"] < threshold) - float(q)) < 1.01 / 40  # by rounding


def test_an_export_without_the_data(columns, tmp_path, caplog):
    path = resflow.serving.export_run(columns[0], tmp_path, data_path=str(tmp_path / "away.csv"))
    assert "The export has no quantiles: " in caplog.text and "`quantile`" not in (path / "README.md").read_text()
    described = json.loads((path / "signatures.json").read_text())
    assert "quantile" not in described["signatures"]["serving_default"]["outputs"]


def test_a_loss_that_is_nan_names_the_part(tmp_path, make_config, train, fields, monkeypatch, set_step):
    """The diagnosis knows the condition."""
    train_batches = resflow.data.Dataset.train_batches

    def spoiled(*args, **kwargs):
        batches = train_batches(*args, **kwargs).enumerate(1)
        return batches.map(lambda i, pair: (pair[0], tf.where(i == 2, math.nan, pair[1])))

    def step(model, batch, step):
        if step == 2:
            raise tf.errors.InvalidArgumentError(None, None, NON_FINITE)
        return {"nats": 0.0}

    monkeypatch.setattr(resflow.data.Dataset, "train_batches", spoiled)
    set_step(step)
    with pytest.raises(training.NonFiniteError, match="at step 2. All weights are finite; the output of block0"):
        train(make_config(**fields), tmp_path / "run")
