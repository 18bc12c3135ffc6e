"""Blocks and flows inside TFP's own bijectors and distributions."""

import warnings

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tf_resflow as resflow

tfb = tfp.bijectors
tfd = tfp.distributions
EXACT = resflow.logdet.Exact()


@pytest.fixture(scope="module")
def blocks(make_block):
    """Returns two blocks with the same architecture and different parameters."""
    estimator = resflow.logdet.RussianRoulette(probes="gaussian")
    return [make_block("first", estimator, seed=1), make_block("second", estimator, seed=2)]


def test_cdf_of_one_coordinate(make_block):
    """Compares the CDF of a decreasing flow, on events [1] and [], with the integral of the density."""
    act_norm = resflow.bijectors.ActNorm([1])
    act_norm.log_scale.assign([0.3])
    block, other = (make_block(name, EXACT, size=1, condition_size=1) for name in ("block", "other"))
    network = resflow.flows.networks.autoregressive_network([1], (4,), condition_size=1, seed=1)
    for variable in network.trainable_variables:
        variable.assign(tf.random.stateless_normal(variable.shape, [1, 2], stddev=0.3))
    affine = resflow.bijectors.AffineAutoregressive(network)
    members = [
        resflow.bijectors.Normalize([0.5], [2.0]),
        block,
        act_norm,
        affine,
        tfb.Scale(-0.7),
        tfb.Chain([other]),
    ]
    flow = resflow.bijectors.Flow(members)
    vector = tfd.TransformedDistribution(tfd.Independent(tfd.Normal([0.2], 1.0), 1), tfb.Invert(flow))
    flow = resflow.bijectors.Flow([tfb.Reshape([1], []), *members, tfb.Invert(tfb.Reshape([1], []))])
    scalar = tfd.TransformedDistribution(tfd.Normal(0.2, 1.0), tfb.Invert(flow))
    kwargs = {"bijector_kwargs": {"seed": 1, "condition": tf.constant([0.4])}}
    grid, points = np.linspace(-25.0, 25.0, 2001, dtype="float32"), slice(800, 1200, 50)
    prob = scalar.prob(grid, **kwargs).numpy().astype("float64")
    expected = np.concatenate([[0.0], np.cumsum((prob[1:] + prob[:-1]) / 2)]) * (grid[1] - grid[0])
    np.testing.assert_allclose(expected[-1], 1.0, atol=1e-4)
    for distribution, x in ((scalar, grid[points]), (vector, grid[points, np.newaxis])):
        for method, value in (("cdf", expected[points]), ("survival_function", 1 - expected[points])):
            np.testing.assert_allclose(getattr(distribution, method)(x, **kwargs), value, atol=2e-4)
            log = getattr(distribution, f"log_{method}")(x, **kwargs)
            np.testing.assert_allclose(np.exp(log), value, atol=2e-4)
    # Independent bases have no quantile.
    quantile = scalar.quantile(expected[points].astype("float32"), **kwargs)
    np.testing.assert_allclose(quantile, grid[points], atol=1e-2)


def unseeded(call, *args):
    """Returns the messages of the warnings about estimates without a seed."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(*args)
    kind = resflow.logdet.UnseededEstimateWarning
    return [str(warning.message) for warning in caught if issubclass(warning.category, kind)]


@pytest.fixture
def first_estimate(monkeypatch):
    """Makes the next estimate the first one of the process."""
    return lambda: monkeypatch.setattr(resflow.logdet.estimators, "_has_warned", False)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("kwargs", [{}, {"seed": 1}])  # a seed of log_prob does not reach the bijector
def test_a_missing_seed_issues_one_warning_per_process(graph, kwargs, blocks, normal, first_estimate):
    """The first estimate warns, except with exact log-determinants or a seed set in the distribution."""

    def log_prob(block, **options):
        base = tfd.MultivariateNormalDiag(tf.zeros(2))
        density = tfd.TransformedDistribution(base, tfb.Invert(block), **options)
        function = lambda x: density.log_prob(x, **kwargs)  # noqa: E731
        return (tf.function(function, autograph=False) if graph else function)(normal([4, 2]))

    first_estimate()
    (message,) = unseeded(lambda: [log_prob(blocks[0]) for _ in range(2)])
    assert "block 'first'" in message and 'bijector_kwargs={"seed": 1}' in message and "logdet.Exact()" in message
    first_estimate()
    assert unseeded(log_prob, resflow.bijectors.with_log_det_estimator(blocks[0], EXACT)) == []
    if not kwargs:
        seeded = {"kwargs_split_fn": lambda kwargs: ({}, {"seed": 1})}
        assert unseeded(lambda: np.testing.assert_array_equal(*(log_prob(blocks[0], **seeded) for _ in "ab"))) == []


def test_a_seed_or_a_value_without_log_det_issues_no_warning(blocks, normal, first_estimate):
    chain, x = tfb.Chain([blocks[1], blocks[0]]), normal([4, 2])
    flow = resflow.bijectors.Flow([tfb.Scale(2.0), chain])
    calls = [
        lambda: chain.forward_log_det_jacobian(x, 1, first={"seed": 1}, second={"seed": 2}),
        lambda: flow.forward_log_det_jacobian(x, 1, seed=1),
        lambda: flow.forward_log_det_jacobian(tf.identity(x), 1, seed=None),  # which asks for fresh random numbers
        lambda: flow.inverse(flow.forward(tf.identity(x))),
    ]
    first_estimate()
    assert [message for call in calls for message in unseeded(call)] == []
    assert len(unseeded(chain.forward_log_det_jacobian, tf.identity(x), 1)) == 1
