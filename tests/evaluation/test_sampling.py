"""Samples of a model."""

import numpy as np
import pytest

import tf_resflow as resflow
from tf_resflow.evaluation import Sampler, sampling


def test_batches_make_the_samples_that_one_call_makes(monkeypatch):
    """The seed has more than 32 bits. All batches and temperatures use one graph."""
    monkeypatch.setattr(sampling, "_BATCH_VALUES", 0)
    monkeypatch.setattr(sampling, "_MIN_BATCH", 4)
    model = resflow.FlowModel(resflow.flows.vector_flow(2, num_blocks=1, hidden=(8,)), event_shape=[2])
    seed, traces, draw = 2**40, [], sampling.sample_latent
    with monkeypatch.context() as patch:
        patch.setattr(sampling, "sample_latent", lambda *args: traces.append(args) or draw(*args))
        batches = list(Sampler(model)(11, seed=seed, temperatures=[1.0, 0.5, 0.0]))
    assert len(traces) == 1 and [len(batch) for batch in batches] == [4, 4, 3] * 3
    ones, halves, zeros = np.concatenate(batches).reshape(3, 11, 2)
    assert len(np.unique(ones, axis=0)) == 11
    np.testing.assert_allclose(zeros, zeros[:1].repeat(11, axis=0), atol=1e-5)
    assert np.all(np.linalg.norm(halves - zeros, axis=1) < np.linalg.norm(ones - zeros, axis=1))
    np.testing.assert_allclose(ones[:4], model.sample(4, seed), atol=1e-6)
    for fewer in (3, 6):
        drawn = np.concatenate(list(Sampler(model)(fewer, seed=seed)))
        np.testing.assert_allclose(drawn, ones[:fewer], atol=1e-6)


@pytest.mark.parametrize("levels", [None, 8])
def test_samples_that_are_not_finite(refused, levels):
    """Integer data are included, although their samples are always finite."""
    act_norm = resflow.bijectors.ActNorm([2])
    act_norm.shift.assign([np.nan, 0.0])
    model = resflow.FlowModel(resflow.bijectors.Flow([act_norm]), event_shape=[2], levels=levels)
    refused("temperature 7 are NaN or infinite", list, Sampler(model)(4, temperatures=[7.0]))
