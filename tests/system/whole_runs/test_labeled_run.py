"""Tests a run on images given their label, with variational dequantization."""

import json
import math
import types

import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow
from tf_resflow import data, training
from tf_resflow.cli import sample as sample_command
from tf_resflow.cli import score as score_command
from tf_resflow.cli.evaluate import table
from tf_resflow.evaluation.log_prob_samples import LogProbSamples


@pytest.fixture(scope="module")
def run(tmp_path_factory, image_config, train_without_steps):
    fields = {"model__condition": "label", "model__dequantization": "variational"}
    fields |= {"model__dequantization_blocks": 1, "model__dequantization_width": 4}
    workdir = tmp_path_factory.mktemp("labels") / "run"
    train_without_steps(image_config(**fields), workdir)
    return resflow.load(workdir)


def held_out(num):
    """Returns held-out images and their labels."""
    batches = data.load({"name": "digits"}).eval_batches("test", 20, num, labels=True)
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


def test_evaluation_and_classes(run, monkeypatch):
    """The density given the labels, and a classification by the densities of all classes (from one pixel here)."""
    assert {path.name for path in (run.workdir / "figures").iterdir()} == {"samples.png", "reconstructions.png"}
    assert run.result["reconstruction_error"] < 0.05
    evaluation = training.Evaluation(run, data.load(run.config.data), log_det_estimator="exact")
    assert "classification" not in evaluation.metrics and "likelihood" in evaluation.metrics
    result = evaluation.header() | evaluation.likelihood() | evaluation.reconstruction()
    result |= evaluation.importance_weighted(4)
    assert result["dequantization"] == run.result["dequantization"] == "variational"
    assert (result["bound"], result["importance_weighted"]["bound"]) == ("elbo", "importance_weighted")
    assert result["importance_weighted"]["bits_per_dim"] < result["bits_per_dim"]
    assert result["reconstruction"]["exact_examples"] == 1.0
    x, labels = held_out(30)
    losses = run.model.example_losses((x, labels), 0)[run.model.objective].numpy()
    for found in (run.result, result):
        assert abs(found["bits_per_dim"] - losses.mean()) < 0.05  # dequantization noise and probes differ

    def by_class(likelihood, x, seed):
        assert isinstance(likelihood.log_det_estimator, resflow.logdet.Exact)
        return tf.one_hot(tf.cast(x[:, 2, 4, 0], tf.int32) % 10, 10)

    monkeypatch.setattr(resflow.evaluation.LogLikelihood, "by_class", by_class)
    scores, right = evaluation.classification(), x[:, 2, 4, 0] % 10 == labels
    assert scores["accuracy"] == pytest.approx(right.mean()) and 0 < right.sum() < scores["num_examples"] == 30
    nats = math.log(math.e + 9) - right.mean()
    assert scores["cross_entropy"] == pytest.approx(nats / math.log(2), rel=1e-5)
    rows = dict(line.split(maxsplit=1) for line in table(result | scores).splitlines())
    assert (rows["dequantization"], rows["bound"]) == ("variational", "elbo") and "accuracy" in rows
    fid = evaluation.fid(lambda x: np.reshape(x, [len(x), -1])[:, :3].astype(float), num_samples=30)["fid"]
    assert fid["num_samples"] == 30 and math.isfinite(fid["fid"])


def test_samples_of_labels(run, run_command, tmp_path, monkeypatch):
    """Draws a row of samples for each class, or for the given classes."""

    def sample(name, *arguments):
        run_command(sample_command, run.workdir, tmp_path / name, *arguments)

    monkeypatch.setattr(resflow, "load", lambda workdir: run)
    sample("all.npy", "--num=2")
    expected = resflow.evaluation.Sampler(run.model)(20, condition=np.repeat(np.arange(10), 2))
    np.testing.assert_array_equal(np.load(tmp_path / "all.npy"), np.concatenate(list(expected)))
    sample("grid.png", "--num=2", "--condition=3", "--temperature=0.5,1")
    sample("rows.png", "--num=2", "--condition=3,4")
    assert all((tmp_path / name).stat().st_size > 500 for name in ("grid.png", "rows.png"))
    for label in ("10", "a"):
        with pytest.raises(ValueError, match=f"condition={label} names unknown labels. Give .* 0, ..., 9"):
            sample("x.npy", f"--condition={label}")


def test_images_without_labels_are_scored(run, run_command, tmp_path, monkeypatch):
    """New and held-out images need no labels; test_scores_of_a_mixture_of_the_classes checks their scores."""
    seen = []

    def scores(batches, seed):
        seen.append(np.concatenate(list(batches)))
        return {"log_prob": seen[-1].sum(axis=(1, 2, 3)).astype(float)}

    fake = types.SimpleNamespace(score_examples=scores)
    monkeypatch.setattr(resflow.evaluation, "LogLikelihood", lambda *_, **__: fake)
    x, _ = held_out(30)
    np.save(tmp_path / "images.npy", x[:2])
    run_command(score_command, run.workdir, tmp_path / "a.csv", f"--input={tmp_path / 'images.npy'}")
    for found, expected in zip(seen, (x[:2], x), strict=True):
        np.testing.assert_array_equal(found, expected)
    places = np.genfromtxt(tmp_path / "a.csv", delimiter=",", names=True)["p_value"]
    sums = x.sum(axis=(1, 2, 3)).astype(int)
    np.testing.assert_allclose(places, [(1 + np.sum(sums <= s)) / (1 + len(sums)) for s in sums[:2]], rtol=1e-6)


def test_served_labels(run, tmp_path):
    """The signatures accept a condition and check it in the graph. signatures.json documents it."""
    path = resflow.training.export_run(run.workdir, tmp_path, num_samples=2, log_det_estimator="exact")
    served, described = (
        tf.saved_model.load(str(path)).signatures,
        json.loads((path / "signatures.json").read_text()),
    )
    x, labels = held_out(5)
    x, labels = tf.constant(x), tf.constant(labels, tf.int32)
    found = served["serving_default"](x=x, condition=labels)
    samples = LogProbSamples(run.model, 2, log_det_estimator=resflow.logdet.Exact(), common=True)
    expected = np.mean(samples(x, tf.bitcast(tf.constant(0, tf.int64), tf.int32), labels), axis=0)
    np.testing.assert_allclose(found["log_prob"], expected, rtol=1e-4)
    z = served["encode"](x=x, condition=labels)["z"]
    np.testing.assert_allclose(z, run.model.encode(x, condition=labels), rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(served["decode"](z=z, condition=labels)["x"], x)
    options = {"num": tf.constant(3), "seed": tf.constant(1, tf.int64), "temperature": tf.constant(1.0)}
    drawn = served["sample"](**options, condition=tf.constant([4]))["x"]
    seed = tf.bitcast(tf.constant(1, tf.int64), tf.int32)
    np.testing.assert_array_equal(drawn, run.model.sample(3, seed, condition=4))
    wrong = {"condition must lie in 0, ..., 9": [1, 2, 10], "one row, or one row per example": [1, 2]}
    for message, condition in wrong.items():
        for name, arguments in (("sample", options), ("encode", {"x": x[:3]}), ("serving_default", {"x": x[:3]})):
            with pytest.raises(tf.errors.InvalidArgumentError, match=message):
                served[name](**arguments, condition=tf.constant(condition))
    assert described["num_classes"] == 10
    assert all("condition" in signature["inputs"] for signature in described["signatures"].values())
