import json

import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow
from tests.training.conftest import few_points, image_config, train, train_without_steps  # noqa: F401
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


@pytest.fixture(scope="session")
def train_table(make_config, train):  # noqa: F811
    def train_table(path, steps, **fields):
        fields |= {"data__name": "tabular", "data__path": str(path), "train__eval_every": steps}
        fields |= {"train__steps": steps, "train__batch_size": 64, "train__learning_rate": 2e-2}
        workdir = path.parent / "run"
        return WholeRun(workdir, train(make_config(**fields), workdir))

    return train_table


def regression_nats(train_x, train_c, x, c):
    """Returns minus the mean log-density of x given c under the Gaussian linear regression of the training rows."""
    design, of_x = (np.insert(np.float64(part), 0, 1.0, axis=1) for part in (train_c, c))
    slopes = np.linalg.lstsq(design, train_x, rcond=None)[0]
    covariance, error = np.cov((train_x - design @ slopes).T, bias=True), x - of_x @ slopes
    squares = np.sum(error @ np.linalg.inv(covariance) * error, axis=1).mean()
    return 0.5 * (squares + np.linalg.slogdet(2 * np.pi * covariance)[1])
