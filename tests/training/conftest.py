"""Fixtures for tests that train runs."""

import functools

import pytest

from tf_resflow.training import loop, report
from tf_resflow.training.report import Report

IMAGES = {"data__name": "digits", "model__kind": "image", "model__num_blocks": (1,), "model__width": 4}
IMAGES |= {"model__num_fc_blocks": 0, "model__kernels": (3, 1), "model__whiten": True}
IMAGES |= {"train__steps": 2, "train__batch_size": 32, "train__eval_every": 2, "train__log_every": 2}
IMAGES |= {"eval__num_examples": 30, "eval__batch_size": 20, "eval__num_samples": 20}


@pytest.fixture(scope="session", autouse=True)
def few_points():
    """Limits figures of 2-D densities to 500 points instead of 20,000."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "_NUM_FIGURE_POINTS", 500)
        yield


@pytest.fixture(scope="session")
def train():
    """Returns `training.train` without progress bars."""
    return functools.partial(loop.train, progress=False)


@pytest.fixture(scope="session")
def image_config(make_config):
    """Returns a function of config fields to the config of a tiny model of digits."""
    return lambda **fields: make_config(**IMAGES | fields)


@pytest.fixture(scope="session")
def train_without_steps(train):
    """Returns `train` with empty steps: the model is initialized on its data and evaluated."""

    def train_without_steps(config, workdir):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "_compiled_step", lambda *_: lambda batch, seed: {"loss": 0.0})
            return train(config, workdir)

    return train_without_steps


@pytest.fixture
def no_figures(monkeypatch):
    monkeypatch.setattr(Report, "figures", lambda self, directory: {})


@pytest.fixture
def set_step(monkeypatch):
    """Replaces the compiled step with a function of the model, a batch and the step number."""

    def set_step(step):
        def compiled(strategy, model, average, jit):
            def take_step(batch, seed):
                metrics = step(model, batch, int(seed[1]))
                average.update()
                return metrics

            return take_step

        monkeypatch.setattr(loop, "_compiled_step", compiled)

    return set_step
