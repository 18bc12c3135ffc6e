"""What is read of a checkpoint, and what is not a checkpoint."""

import numpy as np
import pytest

from tf_resflow.interop import published_checkpoint
from tf_resflow.interop.published_checkpoint import read_checkpoint
from tf_resflow.interop.torch_file import StoredObject, read_torch_file


def test_weights_and_averages_and_the_steps_that_the_optimizer_counts(checkpoint_path):
    assert read_checkpoint(checkpoint_path("cifar10")).step == 3
    found = read_checkpoint(checkpoint_path("mnist"))
    assert found.decay == 0.999 and found.step is None
    name = "transforms.1.chain.2.nnet.nnet.1.weight"
    weight, average = found.weights[name], found.averages[name]
    assert weight.shape == average.shape == (2, 64)
    # Three steps of 0.01 in size by Adam, of which the average has taken less than 1 %.
    assert 1e-3 < np.max(np.abs(weight - average)) < 0.03


def test_the_average_with_the_model_in_it(checkpoint_path):
    """The published object refers to the whole model; all of it stays inert."""
    ema = read_torch_file(checkpoint_path("mnist"))["ema"]
    assert ema.path == "resflows.utils.ExponentialMovingAverage"
    module = ema.state["module"]
    assert isinstance(module, StoredObject) and module.path == "resflows.resflow.ResidualFlow"
    assert module.state["activation_fn"] == "swish"


VALID = {"args": {"data": "mnist"}, "state_dict": {"a": np.zeros(1)}}


def test_without_an_average(monkeypatch):
    monkeypatch.setattr(published_checkpoint, "read_torch_file", lambda _: VALID)
    assert read_checkpoint("file.pth").averages is None


@pytest.mark.parametrize(
    "stored, named",
    [
        ([1], "it has no 'args'"),
        ({"state_dict": {}}, "it has no 'args'"),
        ({"args": {"data": "mnist"}}, "it has no 'state_dict'"),
        (VALID | {"state_dict": {"a": [1.0]}}, "'a' in its 'state_dict' is a list"),
        (VALID | {"state_dict": {1: np.zeros(1)}}, "a int in its 'state_dict'"),
        (VALID | {"args": {"data": ["mnist"]}}, "'data' in its 'args' is a list"),
        (VALID | {"optimizer_state_dict": [1]}, "list"),
        (VALID | {"optimizer_state_dict": {"state": {0: {"step": "x"}}}}, "invalid literal"),
    ],
)
def test_no_checkpoint(stored, named, monkeypatch):
    monkeypatch.setattr(published_checkpoint, "read_torch_file", lambda _: stored)
    with pytest.raises(ValueError, match=f"file.pth is not a checkpoint of train_img.py: .*{named}"):
        read_checkpoint("file.pth")
