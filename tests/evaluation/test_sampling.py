"""Samples of a model, and interpolation between examples."""

import keras
import numpy as np
import pytest
import tensorflow_probability as tfp

import tf_resflow as resflow
from tf_resflow.evaluation import Sampler, interpolate, sampling


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


def test_a_batch_is_decoded_in_parts_that_move_the_bar(monkeypatch):
    """Decodes at most 2^14 values or 32 examples at a time. Later calls of a sampler reuse its graphs."""
    flow = resflow.bijectors.Flow([resflow.bijectors.ActNorm([1])])
    tracked, traces, flow_input = [], [], sampling.flow_input
    monkeypatch.setattr(sampling, "track", lambda items, name: tracked.append((name, len(items))) or items)
    monkeypatch.setattr(sampling, "flow_input", lambda *args: traces.append(args) or flow_input(*args))
    sampler = Sampler(resflow.FlowModel(flow, (32, 32, 1), levels=256))
    assert [len(part) for part in sampler(70)] == [32, 32, 6]
    assert [len(part) for part in sampler(140)] == [32, 32, 32, 32, 12]
    assert tracked == [("samples", 3), ("samples", 5)] and len(traces) <= 2


@pytest.mark.parametrize("levels", [None, 8])
def test_samples_that_are_not_finite(refused, levels):
    """Integer data are included, although their samples are always finite."""
    act_norm = resflow.bijectors.ActNorm([2])
    act_norm.shift.assign([np.nan, 0.0])
    model = resflow.FlowModel(resflow.bijectors.Flow([act_norm]), event_shape=[2], levels=levels)
    refused("temperature 7 are NaN or infinite", list, Sampler(model)(4, temperatures=[7.0]))


MEAN = np.array([2.0, -1.0])
B = np.array([[1.0, -0.5], [0.0, 2.0], [0.5, 0.5]])


def linear_model():
    """Builds z = 1.5 x with the base mean MEAN, so x = (MEAN + mixture of (1.5 x_i - MEAN)) / 1.5."""
    flow = resflow.bijectors.Flow([tfp.bijectors.Scale(np.float32(1.5))])
    base = tfp.distributions.MultivariateNormalDiag(MEAN.astype(np.float32), [1.0, 1.0])
    return resflow.FlowModel(flow, [2], base=base)


def conditional_model(**kwargs):
    """Builds z = 1.5 x + B' c, so x = (z - B' c) / 1.5."""
    x, c = keras.Input([2]), keras.Input([3])
    dense, of_c = resflow.layers.LipschitzDense(2, 0.9), keras.layers.Dense(2)
    branch = keras.Model([x, c], keras.layers.Add()([dense(x), of_c(c)]))
    dense.kernel.assign(0.5 * np.eye(2))
    of_c.kernel.assign(B)
    flow = resflow.bijectors.Flow([resflow.bijectors.ResidualBlock(branch, has_condition=True)])
    return resflow.FlowModel(flow, [2], **kwargs)


@pytest.mark.parametrize("kind", ["none", "real", "labels"])
def test_pairs_and_corners(kind):
    """Points have the mean of real conditions weighted by squares, or the label of the nearest example."""
    generator, labels = np.random.default_rng(4), kind == "labels"
    x = generator.normal(size=[4, 2]).astype(np.float32)
    given = np.array([2, 0, 1, 1]) if labels else generator.normal(size=[4, 3])
    c = np.eye(3)[given] if labels else given
    if kind == "none":
        model, c, mean = linear_model(), np.zeros([4, 3]), MEAN
    else:
        model, mean = conditional_model(**({"num_classes": 3} if labels else {"condition_shape": [3]})), np.zeros(2)
    z = 1.5 * x + c @ B - mean

    def expected(weights):
        squares = np.square(weights)
        between = c[np.argmax(squares)] if labels else squares @ c
        return (np.dot(weights, z) + mean - between @ B) / 1.5

    pairs, square = np.array([[0, 2], [1, 3]]), np.arange(4)[np.newaxis]
    paths, (square,) = (
        interpolate(model, x[rows], num=4, seed=0, condition=None if kind == "none" else given[rows])
        for rows in (pairs, square)
    )
    assert paths.shape == (2, 4, 2) and square.shape == (4, 4, 2)
    for i, phi in enumerate(np.linspace(0, np.pi / 2, 4)):
        for k in range(2):
            weights = np.zeros(4)
            weights[[k, k + 2]] = np.cos(phi), np.sin(phi)
            np.testing.assert_allclose(paths[k, i], expected(weights), atol=1e-5)
        for j, psi in enumerate(np.linspace(0, np.pi / 2, 4)):
            weights = np.outer([np.cos(phi), np.sin(phi)], [np.cos(psi), np.sin(psi)]).ravel()
            np.testing.assert_allclose(square[i, j], expected(weights), atol=1e-5)


def test_batches_of_paths_are_those_of_one_call(monkeypatch):
    ends = np.random.default_rng(3).normal(size=[3, 2, 2]).astype(np.float32)
    whole = interpolate(linear_model(), ends, num=5, seed=2**40)
    monkeypatch.setattr(sampling, "_PART_VALUES", 0)
    monkeypatch.setattr(sampling, "_MIN_PART", 4)
    parts = interpolate(linear_model(), ends, num=5, seed=2**40)
    np.testing.assert_allclose(parts, whole, atol=1e-6)


def test_conditions_that_do_not_fit_are_refused(refused):
    x, model, options = np.zeros([1, 2, 2], np.float32), conditional_model(num_classes=3), {"num": 2, "seed": 0}
    refused("Give condition=, .* a label 0, ..., 2", interpolate, model, x, **options)
    refused("Leave out condition=", interpolate, linear_model(), x, **options, condition=[[1, 1]])
    refused("3 examples. Give 2 for a path", interpolate, linear_model(), np.zeros([1, 3, 2]), **options)
