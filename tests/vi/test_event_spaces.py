"""Surrogates on the event spaces of TFP's distributions, by the bijector that TFP has for each."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tf_resflow as resflow

tfd = tfp.distributions
KERNEL = tfp.math.psd_kernels.MaternOneHalf()
TRIL = np.array([[1.0, 0.0], [0.5, 2.0]], np.float32)
STRICT = {"validate_args": True}


def operator():
    return tf.linalg.LinearOperatorLowerTriangular(TRIL, is_non_singular=True)


@tfd.JointDistributionCoroutine
def coroutine():
    rate = yield tfd.JointDistributionCoroutine.Root(tfd.Gamma(2.0, 1.0))
    yield tfd.Dirichlet(rate[..., tf.newaxis] * tf.ones(3))


# One for each kind of constraint, of events, of batches and of parts.
TARGETS = {
    "reals": lambda: tfd.Normal(0.0, 1.0, **STRICT),
    "positive": lambda: tfd.InverseGamma(2.0, 1.0, **STRICT),
    "interval": lambda: tfd.TruncatedNormal(0.0, 1.0, -1.0, 2.0, **STRICT),
    "simplex": lambda: tfd.Dirichlet(tf.ones(3), **STRICT),
    "relaxed": lambda: tfd.ExpRelaxedOneHotCategorical(0.5, [0.0, 0.5, -1.0], **STRICT),
    "sphere": lambda: tfd.VonMisesFisher([0.6, 0.8], 2.0, **STRICT),
    "correlations": lambda: tfd.LKJ(3, 1.5, **STRICT),
    "factors_of_correlations": lambda: tfd.CholeskyLKJ(3, 1.5, **STRICT),
    "covariances": lambda: tfd.WishartTriL(3.0, TRIL, **STRICT),
    "matrices": lambda: tfd.MatrixNormalLinearOperator(TRIL, operator(), operator(), **STRICT),
    "process": lambda: tfd.GaussianProcess(KERNEL, np.array([[0.0], [1.0], [3.0]], np.float32), **STRICT),
    "sequence": lambda: tfd.MarkovChain(tfd.Gamma(2.0, 1.0), lambda _, x: tfd.Gamma(1.0 + x, 1.0), 3, **STRICT),
    "batch": lambda: tfd.BatchReshape(tfd.Gamma([2.0, 3.0], 1.0), [2, 1], **STRICT),
    "transformed": lambda: tfd.TransformedDistribution(tfd.Gamma(2.0, 1.0), tfp.bijectors.Shift(3.0), **STRICT),
    "tuple": lambda: coroutine,
    "dict": lambda: tfd.JointDistributionNamed(
        {"a": tfd.Gamma(2.0, 1.0), "b": lambda a: tfd.Uniform(0.0, 1.0 + a)}, **STRICT
    ),
    "list": lambda: tfd.JointDistributionSequentialAutoBatched(
        [tfd.Gamma(2.0, 1.0), tfd.Dirichlet(tf.ones(3))], **STRICT
    ),
}


@pytest.mark.parametrize("name", TARGETS)
def test_draws_are_in_the_support(name):
    """The distribution, which validates what it is given, has a density there, and so has the surrogate."""
    target = TARGETS[name]()
    surrogate = resflow.vi.flow_surrogate_posterior(
        target.event_shape,
        constraining_bijector=target.experimental_default_event_space_bijector(),
        num_blocks=1,
        hidden=(4,),
        batch_shape=tf.nest.flatten(target.batch_shape)[0],
    )
    x, log_prob = surrogate.experimental_sample_and_log_prob(3, seed=[1, 2])
    assert log_prob.shape == [3, *surrogate.batch_shape]
    assert np.all(np.isfinite(log_prob)) and np.all(np.isfinite(target.log_prob(x)))
