"""Tests that the commands accept the released models, and that the models have their published scores."""

import json

import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow
from tf_resflow.training.workdir import open_workdir


@pytest.mark.parametrize("name", ["digits", "pinwheel"])  # their data are available offline
def test_score(name, call, tmp_path):
    """The score is reproduced, because the seed and the examples are the same as after training."""
    output = tmp_path / "score.json"
    done = call("bin/evaluate.py", f"--workdir=pretrained:{name}", "--metrics=likelihood", f"--output={output}")
    assert done.code == 0, done.output
    files = open_workdir(f"pretrained:{name}")
    result = json.loads(files.result.read_text())
    score, unit = json.loads(output.read_text()), "bits_per_dim" if "bits_per_dim" in result else "nats"
    assert score[unit] == pytest.approx(result[unit], abs=2e-4)
    assert score["step"] == result["step"] and score["num_examples"] == result["num_examples"]


def test_mnist(call, tmp_path):
    """Samples have a high likelihood, and the same images with permuted rows have a low likelihood."""
    path = tmp_path / "images.npy"
    assert call("bin/sample.py", "--workdir=pretrained:mnist", f"--output={path}", "--num=16").code == 0
    images, rows = np.load(path), np.random.default_rng(0).permutation(28)
    model = resflow.load("mnist").model
    bits = [-model.log_prob(x, seed=0).numpy().mean() / (784 * np.log(2)) for x in (images, images[:, rows])]
    assert bits[0] < 1.4 < 1.6 < bits[1]


def test_the_other_commands(call, tmp_path):
    workdir = "--workdir=pretrained:pinwheel"
    assert call("bin/sample.py", workdir, f"--output={tmp_path / 's.npy'}", "--num=20").code == 0
    assert np.load(tmp_path / "s.npy").shape == (20, 2)
    arguments = ["--num_samples=30", "--log_det_estimator=power_series", "--max_batch=4"]
    arguments += [f"--export_dir={tmp_path}", "--signatures=serving_default,sample"]
    done = call("bin/export.py", workdir, *arguments)
    assert done.code == 0 and f"\n{tmp_path / '1'}: " in f"\n{done.output}"
    served = tf.saved_model.load(str(tmp_path / "1")).signatures
    x = served["sample"](num=tf.constant(4), seed=tf.constant(0, tf.int64), temperature=tf.constant(1.0))["x"]
    assert x.shape == (4, 2) and sorted(served) == ["sample", "serving_default"]
    with pytest.raises(tf.errors.InvalidArgumentError, match="at most 4 examples"):
        served["serving_default"](x=tf.zeros([5, 2]))
    result, run = served["serving_default"](x=x), resflow.load("pinwheel")
    error = np.abs(result["log_prob"] - run.model.log_prob(x, evaluation=True))
    assert np.all(error < 6 * result["log_prob_stderr"] + 0.01)
