"""Tests a run that models columns of a table given other columns."""

import functools
import json
import math
import re

import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow
from tests.system.whole_runs.conftest import regression_nats
from tf_resflow import training
from tf_resflow.cli import sample as command
from tf_resflow.models.step import NON_FINITE
from tf_resflow.training.non_finite import diagnosed


@pytest.fixture(scope="module")
def whole(tmp_path_factory, train_table):
    """A run on a table with three columns: 3 c + 0.5 e, 10 + 2 c (the condition), and noise."""
    path, (c, e, noise) = tmp_path_factory.mktemp("table") / "t.csv", np.random.default_rng(0).normal(size=[3, 400])
    rows = np.stack([3 * c + 0.5 * e, 10 + 2 * c, noise], 1)
    np.savetxt(path, rows, delimiter=",", header="a,c,noise", comments="")
    return train_table(path, 60, data__condition_columns="c")


def test_columns_given_others(whole):
    """The score and the baseline (a Gaussian linear regression) are in the units of the modeled columns."""
    result, model = whole.result, whole.model
    assert model.data_space.event_shape == (2,) and model.condition.shape == (1,)
    (x, c), (train_x, train_c) = (whole.pairs(split) for split in ("test", "train"))
    info = json.loads((whole.workdir / "data.json").read_text())
    np.testing.assert_allclose(info["condition_mean"], train_c.mean(0), rtol=1e-5)
    expected = regression_nats(train_x, train_c, x, c)
    assert result["baselines"]["gaussian"] == pytest.approx(expected, rel=1e-4)
    marginal = resflow.evaluation.gaussian_baseline(train_x, x)
    assert result["nats"] < marginal - 0.3  # the marginal density does not use the condition
    loss = model.example_losses((x, c), 0)[model.objective]
    assert result["nats"] == pytest.approx(float(np.mean(loss)), rel=1e-4)  # exact, in 2-D
    assert whole.figures() == {"pairs.png"}


def test_an_evaluation_up_to_a_standard_error(whole):
    evaluation = training.Evaluation(whole.run, whole.data, stderr=0.3)
    likelihood = evaluation.likelihood()
    assert likelihood["num_examples"] == 40 and likelihood.get("example_stderr", 0.0) < 0.6
    assert likelihood["nats"] == pytest.approx(whole.result["nats"], abs=0.2)


def test_samples_given_columns(whole, run_command, tmp_path):
    """x_1 is about 3 (c - 10) / 2 for a value c of the condition column."""
    sample = functools.partial(run_command, command, whole.workdir)
    sample(tmp_path / "high.npy", "--num=500", "--condition=13")
    sample(tmp_path / "low.npy", "--num=500", "--condition=7")
    high, low = (np.load(tmp_path / name) for name in ("high.npy", "low.npy"))
    assert high.shape == (500, 2) and high[:, 0].mean() > low[:, 0].mean() + 3
    sample(tmp_path / "picture.png", "--num=50", "--condition=10")
    for arguments in ([], ["--condition=1,2"], ["--condition=x"], ["--condition=nan"]):
        with pytest.raises(ValueError, match="give 1 values, separated by commas, in the order"):
            sample(tmp_path / "x.npy", *arguments)


def test_served_columns(whole, tmp_path, monkeypatch, capsys, caplog):
    path, served, described, readme = whole.export(tmp_path, stderr=0.1)
    x, c = tf.constant([[1.0, 0.5], [2.0, 0.0]]), tf.constant([[11.0], [9.0]])
    expected = whole.model.log_prob(x, condition=c, log_det_estimator=resflow.logdet.Exact())
    np.testing.assert_allclose(served["serving_default"](x=x, condition=c)["log_prob"], expected, atol=0.5)
    answer = served["encode"](x=x, condition=c * [[math.nan], [1.0]])
    assert answer["reason"].numpy().tolist() == [1, 0] and np.isnan(answer["z"]).all(axis=1).tolist() == [
        True,
        False,
    ]
    with pytest.raises(tf.errors.InvalidArgumentError, match="condition must have valid values"):
        served["decode"](z=x, condition=c * math.nan)
    assert described["columns"] == {"x": ["a", "noise"], "condition": ["c"]}
    assert "The columns of `x`, in this order:\n\n- `a`: a number\n- `noise`: a number\n" in readme
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    monkeypatch.chdir(path)
    exec(code, {})
    assert 0 <= eval(capsys.readouterr().out)["p_value"][0] <= 1
    assert described["log_prob"]["num_held_out"] == 40
    _, _, described, readme = whole.export(tmp_path, data_path=str(tmp_path / "away.csv"))
    assert "The export has no p-values, because " in caplog.text and "`p_value`" not in readme
    assert "p_value" not in described["signatures"]["serving_default"]["outputs"]


def test_a_loss_that_is_nan_names_the_part(whole):
    """The diagnosis takes the condition into account."""
    x, c = (tf.constant(part) for part in whole.pairs("test"))
    of_step = diagnosed(whole.model, tf.distribute.get_strategy(), None, (x, c * math.nan), tf.constant([0, 2]))
    message = "at step 2. All weights are finite; the output of block0"
    with pytest.raises(training.NonFiniteError, match=message), of_step:
        raise tf.errors.InvalidArgumentError(None, None, NON_FINITE)
