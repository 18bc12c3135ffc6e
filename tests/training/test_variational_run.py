"""Runs with variational dequantization, of images given their label."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow
from tf_resflow import data, training
from tf_resflow.training import loop
from tf_resflow.training.evaluation_table import table
from tf_resflow.training.report import Report

IMAGES = {
    "data__name": "digits",
    "model__kind": "image",
    "model__condition": "label",
    "model__num_blocks": (1,),
    "model__width": 4,
    "model__num_fc_blocks": 0,
    "model__kernels": (3, 1),
    "model__dequantization": "variational",
    "model__dequantization_blocks": 1,
    "model__dequantization_width": 4,
    "train__batch_size": 32,
    "train__ema_momentum": 0.5,
    "train__checkpoint_every": 2,
    "train__log_every": 2,
    "train__eval_every": 4,
    "eval__num_examples": 30,
    "eval__batch_size": 20,
}
EXACT = resflow.logdet.Exact()


@pytest.fixture(scope="module")
def runs(tmp_path_factory, make_config, forget_the_end):
    """A run of 4 steps, which is not evaluated, and one that goes on from its checkpoint after 2."""
    directory = tmp_path_factory.mktemp("variational")
    config = make_config(**IMAGES, train__steps=4)
    scores = {"bits_per_dim": 0.0, "bits_per_dim_stderr": 0.0, "num_examples": 30}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Report, "figures", lambda self, directory: {})
        with patch.context() as first:
            first.setattr(Report, "scores", lambda self, split=None: scores)
            loop.train(config, directory / "whole", progress=False)
        after_2 = shutil.copytree(directory / "whole", directory / "resumed")
        forget_the_end(after_2, 4)
        return directory, loop.train(config, after_2, progress=False)


@pytest.fixture(scope="module")
def run(runs):
    return runs[0] / "resumed", runs[1]


def test_a_resumed_run_is_an_uninterrupted_one(runs):
    models = [resflow.load(runs[0] / name).model for name in ("whole", "resumed")]
    for whole, resumed in zip(*(model.trainable_weights for model in models), strict=True):
        np.testing.assert_allclose(resumed, whole, rtol=1e-5, atol=1e-6)
    assert len(models[0].dequantizer.trainable_weights) > 10


def test_scores_say_their_bound(run):
    loaded = resflow.load(run[0])
    evaluation = training.Evaluation(loaded, data.load(loaded.config.data), log_det="exact")
    result = evaluation.header() | evaluation.likelihood() | evaluation.importance_weighted(4)
    assert result["dequantization"] == run[1]["dequantization"] == "variational"
    assert (result["bound"], result["importance_weighted"]["bound"]) == ("elbo", "importance_weighted")
    assert result["importance_weighted"]["bits_per_dim"] < result["bits_per_dim"]
    assert abs(result["bits_per_dim"] - run[1]["bits_per_dim"]) < 0.05  # by other estimators
    text = table(result)
    assert "variational dequantization" in text and "evidence lower bound" in text
    assert json.loads((run[0] / "result.json").read_text())["dequantization"] == "variational"


def test_served(run, tmp_path):
    """log_prob has the density of the noise in it, and samples are as without."""
    path = resflow.serving.export_run(
        run[0], tmp_path, num_samples=2, log_det="exact", signatures=["serving_default"]
    )
    served, model = tf.saved_model.load(str(path)).signatures, resflow.load(run[0]).model
    x = tf.constant(np.random.default_rng(0).integers(0, 17, [3, 8, 8, 1]), tf.uint8)
    labels = tf.constant([1, 2, 3])
    found = served["serving_default"](x=x, condition=labels)["log_prob"]
    samples = resflow.models.LogProbSamples(model, EXACT, num_samples=2, common=True)
    expected = np.mean(samples((x, labels), tf.bitcast(tf.constant(0, tf.int64), tf.int32)), axis=0)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    drawn = model.sample(2, 1, condition=3)
    assert drawn.shape == (2, 8, 8, 1) and drawn.dtype == tf.uint8
    assert "learned" in (path / "MODEL_CARD.md").read_text()


def test_what_does_not_fit_is_said_at_once(tmp_path, make_config):
    config = make_config(model__dequantization="variational")
    with pytest.raises(ValueError, match="'variational', but the data of '8gaussians' are continuous"):
        loop.train(config, tmp_path / "run", progress=False)
    assert not list((tmp_path / "run").glob("*.json"))
