import os
import subprocess
import sys

import pytest
import tensorflow as tf

from tests.conftest import ROOT
from tests.serving.conftest import export_dir, image_model, images  # noqa: F401

tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})

# Flags of a training that takes seconds.
TOY = ["config=toy2d", "config.data.name=8gaussians", "config.data.num_test=100", "config.model.num_blocks=1"]
TOY += ["config.model.hidden=(8,)", "config.model.norms=(2.0,2.0,2.0)", "config.train.warmup_steps=1"]
TOY += ["config.model.estimator.eval.num_exact_terms=4", "config.train.batch_size=16"]
TOY = [f"--{flag}" for flag in TOY]


@pytest.fixture(scope="session")
def process():
    """Runs Python, or another program, in a process of its own, and returns what it printed and its exit code."""

    def process(*arguments, program=sys.executable, cwd=ROOT, text=True, **options):
        environment = {"TF_CPP_MIN_LOG_LEVEL": "2"} | options.pop("environment", dict(os.environ))
        command = [program, *arguments]
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=text, **options)

    return process
