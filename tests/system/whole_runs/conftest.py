import json

import numpy as np
import tensorflow as tf

import tf_resflow as resflow
from tests.training.conftest import image_config, train, train_without_steps  # noqa: F401
from tf_resflow import data


class WholeRun:
    """The workdir and the result of a training, and the loaded run with its data."""

    def __init__(self, workdir, result):
        self.workdir, self.result, self.run = workdir, result, resflow.load(workdir)
        self.model, self.data = self.run.model, data.load(self.run.config.data)

    def pairs(self, split, num=None):
        batches = self.data.eval_batches(split, 20, num, labels=True)
        return [np.concatenate(parts) for parts in zip(*batches, strict=True)]

    def figures(self):
        return {path.name for path in (self.workdir / "figures").iterdir()}

    def export(self, folder, **options):
        """Returns the folder of an export, its signatures, its signatures.json and its README.md."""
        path = resflow.serving.export_run(self.workdir, folder, **options)
        described = json.loads((path / "signatures.json").read_text())
        return path, tf.saved_model.load(str(path)).signatures, described, (path / "README.md").read_text()
