"""Runs of hybrid models: their results, files and errors."""

import functools
import math

import numpy as np
import pytest

import tf_resflow as resflow
from tf_resflow import data, training
from tf_resflow.training import read_metrics

FIELDS = {"task": "hybrid", "data__validation_fraction": 0.0, "hybrid__features": 8}


@pytest.fixture(scope="module")
def run(tmp_path_factory, image_config, train):
    """Returns a loaded run and its evaluation."""
    workdir = tmp_path_factory.mktemp("hybrid")
    train(image_config(**FIELDS, train__ema_momentum=0.9), workdir)
    loaded = resflow.load(workdir)
    return loaded, training.Evaluation(loaded, data.load(loaded.config.data))


def held_out():
    batches = data.load({"name": "digits"}).eval_batches("test", 20, 30, labels=True)
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


def test_result_and_evaluation(run):
    """Compares scores of 30 images, in batches of 20 and 10, with NumPy."""
    (loaded, evaluation), (x, labels) = run, held_out()
    workdir, result = loaded.workdir, loaded.result
    logits = loaded.model.classify(x)["logits"].numpy().astype(np.float64)
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    assert result["num_examples"] == 30
    accuracy = np.mean(logits.argmax(-1) == labels)
    assert result["accuracy"] == pytest.approx(accuracy)
    assert result["accuracy_stderr"] == pytest.approx(math.sqrt(accuracy * (1 - accuracy) / 30))
    bits = -log_probabilities[np.arange(30), labels].mean() / math.log(2)
    assert result["cross_entropy"] == pytest.approx(bits, rel=1e-4)
    assert result["loss"] == pytest.approx(result["cross_entropy"] + result["bits_per_dim"])
    assert result["best"] == result["loss"]
    for part in (f"accuracy {accuracy:.2%} ± ", f"{result['bits_per_dim']:.3f} ± ", "calibration error", "uniform"):
        assert part in result["line"]
    train, test = read_metrics(workdir)
    assert {"loss", "bits_per_dim", "cross_entropy", "accuracy", "gradient_norm"} <= train.keys()
    assert train["loss"] == pytest.approx(train["bits_per_dim"] + train["cross_entropy"], rel=1e-5)
    assert {"loss", "bits_per_dim", "cross_entropy", "accuracy", "calibration_error"} <= test.keys()
    assert (workdir / "figures" / "samples.png").stat().st_size > 500
    # The metrics of an evaluation repeat the result.
    assert evaluation.metrics == ["likelihood", "noise", "reconstruction", "lipschitz", "classification"]
    measured = evaluation.header() | evaluation.classification() | evaluation.likelihood()
    for name in ("accuracy", "accuracy_stderr", "cross_entropy", "calibration_error", "bits_per_dim"):
        assert measured[name] == pytest.approx(result[name], rel=1e-4)


def test_a_classifier_alone(tmp_path, image_config, train, refused):
    """With density weight 0, on couplings with factor-out, no result contains a number of the density."""
    fields = {"model__block": "affine_coupling", "model__inv_1x1_conv": True, "model__factor_out": True}
    fields |= {"model__num_blocks": (1, 1), "hybrid__density_weight": 0.0}
    result = train(image_config(**FIELDS | fields), tmp_path)
    assert result["loss"] == result["cross_entropy"] and "lipschitz_bound" not in result
    lines = read_metrics(tmp_path)
    for names in (*lines, result):
        assert not {"bits_per_dim", "estimator_std"} & names.keys()
    assert result["line"].startswith(f"digits: accuracy {result['accuracy']:.2%} ± ")
    loaded = resflow.load(tmp_path)
    evaluation = training.Evaluation(loaded, data.load(loaded.config.data))
    assert evaluation.metrics == ["classification"]
    assert evaluation.header()["log_det_estimator"] == "exact"
    calls = [evaluation.likelihood, evaluation.noise, evaluation.reconstruction, evaluation.importance_weighted]
    calls.append(functools.partial(evaluation.fid, None))
    calls.append(functools.partial(training.Evaluation, loaded, data.load(loaded.config.data), stderr=0.1))
    calls.append(functools.partial(resflow.training.export_run, tmp_path, tmp_path / "served", stderr=0.1))
    for measure in calls:
        refused("has only a classifier", measure)
