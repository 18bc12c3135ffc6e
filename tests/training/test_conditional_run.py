"""Runs of conditional models: of images given their label, and of columns of a table given others."""

import functools
import json
import math
import shutil

import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow
from tf_resflow import data, training
from tf_resflow.cli import sample as command
from tf_resflow.cli import score
from tf_resflow.training import loop, read_metrics
from tf_resflow.training.evaluation_table import table
from tf_resflow.training.report import Report

LABELS = {
    "data__name": "digits",
    "model__kind": "image",
    "model__condition": "label",
    "model__num_blocks": (1,),
    "model__width": 4,
    "model__num_fc_blocks": 0,
    "model__kernels": (3, 1),
    "train__steps": 2,
    "train__batch_size": 32,
    "train__eval_every": 2,
    "train__log_every": 2,
    "eval__num_examples": 30,
    "eval__batch_size": 20,
    "eval__num_samples": 20,
}


TABLE = {
    "data__name": "tabular",
    "data__condition_columns": "2",
    "model__num_blocks": (1,),
    "train__batch_size": 64,
    "train__checkpoint_every": 2,
}


@pytest.fixture(scope="module")
def labeled(tmp_path_factory, make_config):
    workdir = tmp_path_factory.mktemp("labels") / "run"
    return workdir, loop.train(make_config(**LABELS), workdir, progress=False)


@pytest.fixture(scope="module")
def loaded(labeled):
    return resflow.load(labeled[0])


def table_file(directory, **kwargs):
    """x_1 = 3 c + 0.5 e in the first of three columns, where c is in the second, and noise in the third."""
    generator = np.random.default_rng(0)
    c, e, noise = generator.normal(size=[3, 400])
    np.savetxt(directory / "table.csv", np.stack([3 * c + 0.5 * e, 10 + 2 * c, noise], 1), delimiter=",", **kwargs)
    return str(directory / "table.csv")


@pytest.fixture(scope="module")
def columns(tmp_path_factory, make_config):
    directory = tmp_path_factory.mktemp("table")
    fields = TABLE | {"data__path": table_file(directory, header="a,c,noise", comments="")}
    fields |= {"data__condition_columns": "c", "train__steps": 60, "train__eval_every": 60}
    config = make_config(**fields, train__learning_rate=2e-2)
    return directory / "run", loop.train(config, directory / "run", progress=False)


def held_out(labeled_run):
    config = labeled_run.config
    batches = data.load(config.data).eval_batches("test", 20, 30, labels=True)
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


def test_a_resumed_run_is_an_uninterrupted_one(tmp_path, make_config, forget_the_end, monkeypatch):
    """Of averaged weights, from the checkpoint after 2 of 4 steps."""
    scores = {"nats": 1.0, "nats_stderr": 0.5, "num_examples": 40}
    monkeypatch.setattr(Report, "figures", lambda self, directory: {})
    monkeypatch.setattr(Report, "scores", lambda report, split=None: scores)
    fields = TABLE | {"data__path": table_file(tmp_path), "train__ema_momentum": 0.5, "train__steps": 4}
    loop.train(make_config(**fields), tmp_path / "whole", progress=False)
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    forget_the_end(tmp_path / "resumed", 4)
    loop.train(make_config(**fields), tmp_path / "resumed", progress=False)
    models = [resflow.load(tmp_path / name).model for name in ("whole", "resumed")]
    for whole, resumed in zip(*(model.trainable_weights for model in models), strict=True):
        np.testing.assert_allclose(resumed, whole, rtol=1e-5, atol=1e-6)


def test_the_result_is_the_density_given_the_labels(labeled, loaded):
    """With the averaged weights, by the same estimates, of 30 test images."""
    result = labeled[1]
    x, labels = held_out(loaded)
    losses = np.concatenate(
        [
            loaded.model.loss_per_example(x[i : i + 20], [0, k], condition=labels[i : i + 20], evaluation=True)
            for k, i in enumerate(range(0, 30, 20))
        ]
    )
    assert abs(result["bits_per_dim"] - losses.mean()) < 0.05  # the second batch is padded, and draws other probes
    wrong = loaded.model.loss_per_example(x, 0, condition=(labels + 1) % 10, evaluation=True)
    assert np.any(wrong != losses)
    (train, *_), files = read_metrics(labeled[0]), {p.name for p in (labeled[0] / "figures").iterdir()}
    assert {"bits_per_dim", "gradient_norm"} <= train.keys()
    assert files == {"samples.png", "reconstructions.png"}
    assert result["reconstruction_error"] < 0.05


def test_evaluation_and_classes(loaded):
    """Accuracy by Bayes' rule with equal frequencies; in the table, beside the likelihood."""
    evaluation = training.Evaluation(loaded, data.load(loaded.config.data), log_det="exact")
    assert "classification" not in evaluation.metrics and "likelihood" in evaluation.metrics
    result = evaluation.header() | evaluation.likelihood() | evaluation.reconstruction()
    assert result["reconstruction"]["exact_examples"] == 1.0
    x, labels = held_out(loaded)
    scores = evaluation.classification()
    classes = loaded.model.log_prob_by_class(x, 0, log_det=resflow.logdet.Exact()).numpy()
    assert abs(scores["accuracy"] - np.mean(classes.argmax(1) == labels)) < 0.11  # by other dequantizations
    assert scores["num_examples"] == 30 and scores["cross_entropy"] > 0
    assert f"{scores['accuracy']:.2%} ± " in table(result | scores)
    fid = evaluation.fid(lambda x: np.reshape(x, [len(x), -1])[:, :3].astype(float), num_samples=30)["fid"]
    assert fid["num_samples"] == 30 and math.isfinite(fid["fid"])
    found = evaluation.ood(data.load(loaded.config.data))["ood"]  # without labels, so from equal scores
    assert found == {"name": "digits", "num_examples": 30, "auroc_log_prob": 0.5}


def test_a_planned_evaluation(columns):
    run = resflow.load(columns[0])
    evaluation = training.Evaluation(run, data.load(run.config.data), stderr=0.3)
    likelihood = evaluation.likelihood()
    assert likelihood["num_examples"] == 40 and likelihood["example_stderr"] < 0.6
    assert likelihood["nats"] == pytest.approx(columns[1]["nats"], abs=0.2)


def test_other_tables(columns):
    """Rows whose columns are not those that the condition implies; a table without the condition is refused."""
    run = resflow.load(columns[0])
    dataset = data.load(run.config.data)
    x, c = (np.concatenate(p) for p in zip(*dataset.eval_batches("test", 50, labels=True), strict=True))
    statistics = {"condition_mean": dataset.condition_mean, "condition_std": dataset.condition_std}
    other = data.Dataset.from_arrays("shifted", {"test": x}, conditions={"test": c + 8}, **statistics)
    evaluation = training.Evaluation(run, dataset)
    assert evaluation.ood(other)["ood"]["auroc_log_prob"] > 0.9
    with pytest.raises(ValueError, match="takes 1 columns as a condition, of which 'plain' has 0: choose other"):
        evaluation.ood(data.Dataset.from_arrays("plain", {"test": x}))


def test_columns_given_others(columns, make_config):
    """The score is that of the others, in their units, beside the Gaussian of a linear regression."""
    workdir, result = columns
    run = resflow.load(workdir)
    dataset = data.load(run.config.data)
    assert run.model.event_shape == (2,) and run.model.condition_shape == (1,)
    info = json.loads((workdir / "data.json").read_text())
    (x, c), (train_x, train_c) = (
        [np.concatenate(p).astype(np.float64) for p in zip(*dataset.eval_batches(s, 50, labels=True), strict=True)]
        for s in ("test", "train")
    )
    np.testing.assert_allclose(info["condition_mean"], train_c.mean(0), rtol=1e-5)
    design = np.concatenate([train_c, np.ones_like(train_c)], 1)
    slopes = np.linalg.lstsq(design, train_x, rcond=None)[0]
    residual, error = train_x - design @ slopes, x - np.concatenate([c, np.ones_like(c)], 1) @ slopes
    covariance = residual.T @ residual / len(residual)
    squares = np.sum(error @ np.linalg.inv(covariance) * error, 1).mean()
    expected = 0.5 * (squares + np.linalg.slogdet(2 * np.pi * covariance)[1])
    assert result["baselines"]["gaussian"] == pytest.approx(expected, rel=1e-4)
    marginal = resflow.evaluation.gaussian_baseline(train_x, x)
    assert result["nats"] < marginal - 0.3  # the marginal density cannot use the condition
    loss = run.model.loss_per_example(x, 0, condition=c, evaluation=True)
    assert result["nats"] == pytest.approx(float(np.mean(loss)), rel=1e-4)  # exact, in 2-D
    assert {p.name for p in (workdir / "figures").iterdir()} == {"pairs.png"}


@pytest.fixture
def sample(run_command):
    return functools.partial(run_command, command)


def test_samples_of_labels(labeled, loaded, sample, tmp_path):
    """A row for each class, or for the given ones; temperatures for a single one."""
    workdir = labeled[0]
    sample(workdir, tmp_path / "all.npy", "--num=2")
    every = np.load(tmp_path / "all.npy")
    expected = np.concatenate(
        list(resflow.evaluation.draw_samples(loaded.model, 20, condition=np.repeat(np.arange(10), 2)))
    )
    np.testing.assert_array_equal(every, expected)
    sample(workdir, tmp_path / "some.npy", "--num=3", "--condition=7,2")
    assert np.load(tmp_path / "some.npy").shape == (6, 8, 8, 1)
    sample(workdir, tmp_path / "grid.png", "--num=2", "--condition=3", "--temperature=0.5,1")
    sample(workdir, tmp_path / "rows.png", "--num=2", "--condition=3,4")
    assert all((tmp_path / name).stat().st_size > 500 for name in ("grid.png", "rows.png"))
    sample(workdir, tmp_path / "paths.npy", "--interpolate=pairs", "--num=2", "--condition=3,4")
    points = np.load(tmp_path / "paths.npy").reshape(2, 10, 8, 8, 1)
    dataset = data.load(loaded.config.data)
    x, labels = map(np.concatenate, zip(*dataset.eval_batches("test", 100, labels=True), strict=True))
    for end in points[:, [0, -1]].reshape(4, 1, 8, 8, 1):
        same = np.all(end == x, axis=(1, 2, 3))
        assert same.any() and set(labels[same]) <= {3, 4}
    for arguments, message in (
        (["--condition=10"], "labels in 0, ..., 9; got '10'"),
        (["--condition=a"], "labels in 0, ..., 9; got 'a'"),
        (["--temperature=0.5,1"], "several temperatures take a single --condition"),
    ):
        with pytest.raises(ValueError, match=message):
            sample(workdir, tmp_path / "x.npy", *arguments)


def test_images_without_labels_are_scored(labeled, loaded, run_command, tmp_path, monkeypatch):
    """They and the held-out ones come without labels; test_scores_of_a_mixture_of_the_classes has their scores."""
    seen = []

    def scores(batches, seed):
        seen.append(np.concatenate(list(batches)))
        return {"log_prob": seen[-1].sum(axis=(1, 2, 3)).astype(float)}

    monkeypatch.setattr(resflow.evaluation, "ExampleScores", lambda model, log_det: scores)
    x, _ = held_out(loaded)
    np.save(tmp_path / "images.npy", x[:2])
    run_command(score, labeled[0], tmp_path / "a.csv", f"--input={tmp_path / 'images.npy'}")
    for found, expected in zip(seen, (x[:2], x), strict=True):
        np.testing.assert_array_equal(found, expected)
    places = np.genfromtxt(tmp_path / "a.csv", delimiter=",", names=True)["quantile"]
    sums = x.sum(axis=(1, 2, 3)).astype(int)
    np.testing.assert_allclose(places, [np.mean((sums < s) + 0.5 * (sums == s)) for s in sums[:2]], rtol=1e-6)


def test_samples_given_columns(columns, sample, tmp_path):
    """x_1 is about 3 (c - 10) / 2 for a value c of the condition column."""
    workdir = columns[0]
    sample(workdir, tmp_path / "high.npy", "--num=500", "--condition=13")
    sample(workdir, tmp_path / "low.npy", "--num=500", "--condition=7")
    high, low = (np.load(tmp_path / name) for name in ("high.npy", "low.npy"))
    assert high.shape == (500, 2) and high[:, 0].mean() > low[:, 0].mean() + 3
    sample(workdir, tmp_path / "picture.png", "--num=50", "--condition=10")
    sample(workdir, tmp_path / "paths.npy", "--interpolate=corners", "--num=2")
    assert np.load(tmp_path / "paths.npy").shape == (4, 2)
    with pytest.raises(ValueError, match="No one density lies under paths"):
        sample(workdir, tmp_path / "paths.png", "--interpolate=pairs")
    with pytest.raises(ValueError, match="with their own condition: leave out --condition"):
        sample(workdir, tmp_path / "x.npy", "--interpolate=pairs", "--condition=1")
    for arguments in ([], ["--condition=1,2"], ["--condition=x"], ["--condition=nan"]):
        with pytest.raises(ValueError, match="--condition takes 1 numbers, separated by commas"):
            sample(workdir, tmp_path / "x.npy", *arguments)


def test_served_labels(labeled, loaded, tmp_path):
    """The signatures take a condition, and check it in the graph; the texts say so."""
    path = resflow.serving.export_run(labeled[0], tmp_path, num_samples=2, log_det="exact")
    served = tf.saved_model.load(str(path)).signatures
    x, labels = held_out(loaded)
    x, labels = tf.constant(x[:5]), tf.constant(labels[:5], tf.int32)
    found = served["serving_default"](x=x, condition=labels)
    samples = resflow.models.LogProbSamples(loaded.model, resflow.logdet.Exact(), num_samples=2, common=True)
    expected = np.mean(samples((x, labels), tf.bitcast(tf.constant(0, tf.int64), tf.int32)), axis=0)
    np.testing.assert_allclose(found["log_prob"], expected, rtol=1e-4)
    z = served["encode"](x=x, condition=labels)["z"]
    np.testing.assert_allclose(z, loaded.model.encode(x, condition=labels), rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(served["decode"](z=z, condition=labels)["x"], x)
    options = {"num": tf.constant(3), "seed": tf.constant(1, tf.int64), "temperature": tf.constant(1.0)}
    drawn = served["sample"](**options, condition=tf.constant([4]))["x"]
    seed = tf.bitcast(tf.constant(1, tf.int64), tf.int32)
    np.testing.assert_array_equal(drawn, loaded.model.sample(3, seed, condition=4))
    wrong = {
        "condition must lie in 0, ..., 9": tf.constant([1, 2, 10]),
        "one row, or one for each example": tf.constant([1, 2]),
    }
    for message, condition in wrong.items():
        for name, arguments in (("sample", options), ("encode", {"x": x[:3]}), ("serving_default", {"x": x[:3]})):
            with pytest.raises(tf.errors.InvalidArgumentError, match=message):
                served[name](**arguments, condition=condition)
    described = json.loads((path / "signatures.json").read_text())
    assert described["num_classes"] == 10
    inputs = {name: set(signature["inputs"]) for name, signature in described["signatures"].items()}
    assert inputs == {
        "serving_default": {"x", "condition"},
        "log_prob_seeded": {"x", "seed", "condition"},
        "sample": {"num", "seed", "temperature", "condition"},
        "encode": {"x", "condition"},
        "decode": {"z", "condition"},
    }
    assert "`condition` is a label 0, ..., 9" in (path / "README.md").read_text()
    assert "the density of an example given its label 0, ..., 9" in (path / "MODEL_CARD.md").read_text()


def test_served_columns(columns, tmp_path):
    path = resflow.serving.export_run(columns[0], tmp_path, stderr=0.1)
    served, model = tf.saved_model.load(str(path)).signatures, resflow.load(columns[0]).model
    x, c = tf.constant([[1.0, 0.5], [2.0, 0.0]]), tf.constant([[11.0], [9.0]])
    expected = model.log_prob(x, condition=c, log_det=resflow.logdet.Exact())
    np.testing.assert_allclose(served["serving_default"](x=x, condition=c)["log_prob"], expected, atol=0.5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="condition must be finite"):
        served["encode"](x=x, condition=c * math.nan)
    assert json.loads((path / "signatures.json").read_text())["columns"] == {
        "x": ["a", "noise"],
        "condition": ["c"],
    }
    readme = (path / "README.md").read_text()
    assert "real numbers in the units of the data" in readme
    assert "The columns of `x` are, in this order: `a`, `noise`." in readme
    assert "given its condition of 1 real numbers" in (path / "MODEL_CARD.md").read_text()


def test_what_does_not_fit_is_said_at_once(tmp_path, make_config):
    path = table_file(tmp_path)
    tabular = TABLE | {"data__path": path}
    wrong = {
        "'label', but '8gaussians' has no labels": {"model__condition": "label"},
        "config.model.condition is 'labels'; it must be one of '', 'label'": {"model__condition": "labels"},
        "leave config.model.condition at ''": LABELS | {"task": "hybrid"},
        "table has no column '0'; It has 3, unnamed": tabular | {"data__condition_columns": "0"},
        "table has no column 'age'": tabular | {"data__condition_columns": "age"},
        "'1' is chosen twice. Name each column once": tabular | {"data__condition_columns": "1,1"},
        "none is left. Leave some out": tabular | {"data__condition_columns": "1,2,3"},
        "data.condition_columns = '1' does not apply to data.name = 'digits'": LABELS
        | {"data__condition_columns": "1"},
    }
    for message, fields in wrong.items():
        with pytest.raises(ValueError, match=message):
            loop.train(make_config(**fields), tmp_path / "run", progress=False)
    assert not list((tmp_path / "run").glob("*.json"))


def test_a_loss_that_is_nan_names_the_part(tmp_path, make_config, monkeypatch):
    """The diagnosis knows the condition."""
    train_batches = resflow.data.Dataset.train_batches

    def spoiled(*args, **kwargs):
        batches = train_batches(*args, **kwargs).enumerate(1)
        return batches.map(lambda i, pair: (pair[0], tf.where(i == 2, math.nan, pair[1])))

    monkeypatch.setattr(resflow.data.Dataset, "train_batches", spoiled)
    config = make_config(**TABLE, data__path=table_file(tmp_path))
    with pytest.raises(training.NonFiniteError, match="at step 2. All weights are finite; the output of block0"):
        loop.train(config, tmp_path / "run", progress=False)
