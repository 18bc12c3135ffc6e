import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow
from tests.conftest import ROOT
from tests.serving.conftest import export_dir, export_vectors, exported_vectors, image_model, images, vector_model  # noqa: F401

tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})

# Flags for a training run of a few seconds.
TOY = ["config=toy2d", "config.data.name=8gaussians", "config.data.num_test=100", "config.model.num_blocks=1"]
TOY += ["config.model.hidden=(8,)", "config.model.norms=(2.0,2.0,2.0)", "config.train.warmup_steps=1"]
TOY += ["config.model.estimator.eval.num_exact_terms=4", "config.train.batch_size=16"]
TOY = [f"--{flag}" for flag in TOY]


@pytest.fixture(scope="session")
def float32_model():
    model = resflow.FlowModel(resflow.flows.vector_flow(3, num_blocks=2, hidden=(8,)), [3])
    model.initialize(np.random.default_rng(0).normal(size=[64, 3]).astype("float32"))
    return model


@pytest.fixture(scope="session")
def exported_float32(float32_model, tmp_path_factory):
    """The path of an export of `float32_model` with exact log-densities."""
    options = {"log_det_estimator": resflow.logdet.Exact(), "max_batch": 1000}
    return resflow.serving.export(float32_model, tmp_path_factory.mktemp("exported"), **options)


@pytest.fixture(scope="session")
def process():
    """Runs Python or another program in a separate process, and returns the completed process with its output."""

    def process(*arguments, program=sys.executable, cwd=ROOT, text=True, check=False, **options):
        environment = {"TF_CPP_MIN_LOG_LEVEL": "2"} | options.pop("environment", dict(os.environ))
        command = [program, *arguments]
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=text, **options)
        assert not (check and done.returncode), done.stdout[-2000:] + done.stderr[-3000:]
        return done

    return process
