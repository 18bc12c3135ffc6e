"""Runs of hybrid models: what they report, what they leave, and what they refuse."""

import json
import math

import numpy as np
import pytest

import tf_resflow as resflow
from tf_resflow import data, training
from tf_resflow.training import NonFiniteError, loop, read_metrics
from tf_resflow.training.evaluation_table import table

FIELDS = {
    "task": "hybrid",
    "data__name": "digits",
    "data__validation_fraction": 0.0,
    "model__kind": "image",
    "model__num_blocks": (1,),
    "model__width": 4,
    "model__num_fc_blocks": 0,
    "model__kernels": (3, 1),
    "hybrid__features": 8,
    "train__steps": 3,
    "train__batch_size": 32,
    "train__eval_every": 3,
    "train__log_every": 3,
    "eval__num_examples": 50,
    "eval__batch_size": 40,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory, make_config):
    workdir = tmp_path_factory.mktemp("hybrid")
    config = make_config(**FIELDS, train__ema_momentum=0.9)
    return workdir, loop.train(config, workdir, progress=False)


@pytest.fixture(scope="module")
def loaded(run):
    return resflow.load(run[0])


@pytest.fixture(scope="module")
def model(loaded):
    return loaded.model


@pytest.fixture(scope="module")
def evaluation(loaded):
    return training.Evaluation(loaded, data.load(loaded.config.data))


def held_out():
    batches = data.load({"name": "digits"}).eval_batches("test", 40, 50, labels=True)
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


def test_result(run, model):
    """Of 50 images in batches of 40 and 10; the classifier's scores in NumPy."""
    _, result = run
    x, labels = held_out()
    logits = model.classify(x)["logits"].numpy().astype(np.float64)
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    assert result["num_examples"] == 50
    accuracy = np.mean(logits.argmax(-1) == labels)
    assert result["accuracy"] == pytest.approx(accuracy)
    assert result["accuracy_stderr"] == pytest.approx(math.sqrt(accuracy * (1 - accuracy) / 50))
    bits = -log_probabilities[np.arange(50), labels].mean() / math.log(2)
    assert result["cross_entropy"] == pytest.approx(bits, rel=1e-4)
    assert 0 <= result["calibration_error"] <= 1
    assert result["loss"] == pytest.approx(result["cross_entropy"] + result["bits_per_dim"])
    assert result["best"] == result["loss"]
    assert 2 < result["bits_per_dim"] < 8
    line = result["line"]
    for part in (f"accuracy {accuracy:.2%} ± ", f"{result['bits_per_dim']:.3f} ± ", "calibration error", "uniform"):
        assert part in line


def test_files(run):
    workdir, result = run
    assert json.loads((workdir / "result.json").read_text())["accuracy"] == result["accuracy"]
    train, test = read_metrics(workdir)
    assert {"loss", "bits_per_dim", "cross_entropy", "accuracy", "gradient_norm"} <= train.keys()
    assert train["loss"] == pytest.approx(train["bits_per_dim"] + train["cross_entropy"], rel=1e-5)
    assert {"loss", "bits_per_dim", "cross_entropy", "accuracy", "calibration_error"} <= test.keys()
    assert (workdir / "figures" / "samples.png").stat().st_size > 500


def test_the_input_is_normalized_by_the_train_images(loaded, model):
    x = data.load(loaded.config.data).array("train").astype(np.float64)
    normalize = model.flow.bijectors[0]
    assert isinstance(normalize, resflow.bijectors.Normalize)
    mean, std = (x.mean() + 0.5) / 17, math.sqrt(x.var() + 1 / 12) / 17
    np.testing.assert_allclose(normalize.forward(np.full([1, 8, 8, 1], 0.3)), (0.3 - mean) / std, rtol=1e-6)


def test_evaluation(run, evaluation):
    """The metrics repeat the result of the run; the table says them."""
    metrics = ["classification", "likelihood", "noise", "reconstruction", "lipschitz"]
    assert evaluation.metrics == metrics
    result = evaluation.header() | evaluation.classification() | evaluation.likelihood()
    for name in ("accuracy", "accuracy_stderr", "cross_entropy", "calibration_error", "bits_per_dim"):
        assert result[name] == pytest.approx(run[1][name], rel=1e-4)
    ood = {"name": "noise", "num_examples": 50, "auroc_log_prob": 0.75, "auroc_max_probability": 0.25}
    text = table(result | {"ood": ood})
    parts = [f"{result['accuracy']:.2%} ± ", f"{result['bits_per_dim']:.4f} ± ", "against noise", "0.75", "0.25"]
    assert [part for part in parts if part not in text] == []


def test_ood(loaded, model, evaluation):
    """Against noise, and against itself."""
    noise = np.random.default_rng(0).integers(17, size=[50, 8, 8, 1])
    splits = {"train": noise, "test": noise}
    labels = {split: np.zeros(50, int) for split in splits}
    other = data.Dataset.from_arrays("noise", splits, 17, labels=labels, num_classes=10)
    result = evaluation.ood(other)["ood"]
    assert result["name"] == "noise" and result["num_examples"] == 50
    x, _ = held_out()
    ours, theirs = [model.classify(v)["probabilities"].numpy().max(-1) for v in (x, noise.astype("uint8"))]
    wins = np.mean(ours[:, None] > theirs) + 0.5 * np.mean(ours[:, None] == theirs)
    assert result["auroc_max_probability"] == pytest.approx(wins, abs=2e-3)
    assert 0 <= result["auroc_log_prob"] <= 1
    same = evaluation.ood(data.load(loaded.config.data))["ood"]
    assert same["auroc_max_probability"] == 0.5 and same["auroc_log_prob"] == 0.5
    with pytest.raises(ValueError, match="'8gaussians' have the shape"):
        evaluation.ood(data.load({"name": "8gaussians", "num_test": 10}))


def test_a_classifier_alone(tmp_path, make_config):
    """Of weight 0, on couplings with halves that leave: no figure of a density anywhere."""
    config = make_config(
        **FIELDS | {"train__steps": 2, "train__eval_every": 2, "train__log_every": 2, "model__num_blocks": (1, 1)},
        hybrid__density_weight=0.0,
        model__block="affine_coupling",
        model__inv_1x1_conv=True,
        model__factor_out=True,
    )
    result = loop.train(config, tmp_path, progress=False)
    assert result["loss"] == result["cross_entropy"]
    lines = read_metrics(tmp_path)
    for names in (*lines, result):
        assert not {"bits_per_dim", "estimator_std"} & names.keys()
    assert result["line"].startswith(f"digits: accuracy {result['accuracy']:.2%} ± ")
    assert "bits" not in result["line"]
    loaded = resflow.load(tmp_path)
    assert loaded.model.density_weight == 0.0
    evaluation = training.Evaluation(loaded, data.load(loaded.config.data))
    assert evaluation.metrics == ["classification", "reconstruction"]
    assert evaluation.header()["log_det"] == "exact"
    ood = evaluation.ood(data.load(loaded.config.data))["ood"]
    assert ood == {"name": "digits", "num_examples": 50, "auroc_max_probability": 0.5}


def test_a_loss_that_is_nan_stops_the_run(tmp_path, make_config, monkeypatch):
    train_step = loop.train_step

    def spoiled(model, batch, seed):
        return train_step(model, batch, seed) | {"cross_entropy": math.nan}

    monkeypatch.setattr(loop, "train_step", spoiled)
    config = make_config(**FIELDS, model__block="additive_coupling", hybrid__density_weight=0.0)
    with pytest.raises(NonFiniteError, match="cross_entropy is nan at step 1"):
        loop.train(config, tmp_path, progress=False)


def test_data_without_labels_are_refused_at_once(tmp_path, make_config, monkeypatch):
    images = {split: np.zeros([40, 8, 8, 1]) for split in ("train", "test")}
    unlabeled = data.Dataset.from_arrays("unlabeled", images, levels=17)
    monkeypatch.setattr("tf_resflow.data.load", lambda config: unlabeled)
    with pytest.raises(ValueError, match="config.task is 'hybrid', but 'unlabeled' has no labels"):
        loop.train(make_config(**FIELDS), tmp_path, progress=False)
