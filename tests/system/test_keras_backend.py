"""A Keras backend other than TensorFlow is an error, whether the environment or the file of Keras sets it."""

import importlib
import os
import pathlib
import subprocess
import sys

import pytest

import tf_resflow

ROOT = pathlib.Path(__file__).parents[2]


def test_in_the_environment():
    command = [sys.executable, "-c", "import tf_resflow"]
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "ImportError: tf_resflow needs Keras on TensorFlow, but the backend is 'jax'" in done.stderr


def test_in_the_file(monkeypatch):
    monkeypatch.setattr("keras.config.backend", lambda: "torch")
    with pytest.raises(ImportError, match="the backend is 'torch'.*keras.json"):
        importlib.reload(tf_resflow.layers)
