"""Runs resflow-sample in this process, on a run with a 2-D density."""

import functools

import numpy as np
import pytest

import tf_resflow as resflow
from tf_resflow.cli import sample as command


@pytest.fixture
def sample(run_on_plane):
    return functools.partial(run_on_plane, command)


def test_several_temperatures(sample, tmp_path):
    """Rows share their latents: samples move away from the common point of temperature 0 in proportion to it."""
    sample(tmp_path / "a.npy", "--num=5", "--temperature=0,0.001,0.002")
    center, near, far = np.load(tmp_path / "a.npy").astype(np.float64).reshape(3, 5, 2)
    np.testing.assert_allclose(center, np.repeat(center[:1], 5, axis=0), atol=1e-5)
    np.testing.assert_allclose(far - center, 2 * (near - center), rtol=0.1, atol=1e-4)


def test_what_is_refused_before_the_model_is_built(sample, tmp_path, monkeypatch):
    monkeypatch.setattr(resflow, "load", None)
    for output, argument, message in (
        ("a.png", f"--num={10**9}", "too many for a picture"),
        ("a.txt", "--num=3", "should end in .png or .npy"),
        ("a.npy", "--condition=1", "a model without a condition: leave out"),
    ):
        with pytest.raises(ValueError, match=message):
            sample(tmp_path / output, argument)
