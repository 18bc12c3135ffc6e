"""Surrogates on the event spaces of TFP's distributions, by the bijector that TFP has for each."""

import inspect

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tf_resflow as resflow

tfd = tfp.distributions
NAMES = [
    name
    for name in dir(tfd)
    if inspect.isclass(getattr(tfd, name)) and issubclass(getattr(tfd, name), tfd.Distribution)
]
KERNEL = tfp.math.psd_kernels.MaternOneHalf()
POINTS = {"index_points": np.array([[0.0], [1.0], [3.0]], np.float32)}
OBSERVED = {"observation_index_points": np.array([[2.0]], np.float32), "observations": [0.5]}
TRIL = np.array([[1.0, 0.0], [0.5, 2.0]], np.float32)

LEFT_OUT = {
    "its events are discrete": """
        Bernoulli BetaBinomial Binomial Categorical DeterminantalPointProcess DirichletMultinomial Empirical
        FiniteDiscrete Geometric Inflated Multinomial NegativeBinomial OneHotCategorical OrderedLogistic
        PlackettLuce Poisson PoissonLogNormalQuadratureCompound ProbitBernoulli QuantizedDistribution Skellam
        StoppingRatioLogistic ZeroInflatedNegativeBinomial Zipf""",
    "its events have no coordinate": "Deterministic VectorDeterministic",
    "it is an abstract class": "AutoCompositeTensorDistribution Distribution JointDistribution",
    "TFP has no bijector for it": "BatchConcat Mixture MixtureSameFamily",
    "TFP's bijector for it is one of other events, of the parts": "Blockwise",
    "TFP does not know the shape of its events": "Autoregressive",
    "it is a network of tf_keras": "PixelCNN",
}


def operator():
    return tf.linalg.LinearOperatorLowerTriangular(TRIL, is_non_singular=True)


@tfd.JointDistributionCoroutine
def coroutine():
    rate = yield tfd.JointDistributionCoroutine.Root(tfd.Gamma(2.0, 1.0))
    yield tfd.Dirichlet(rate[..., tf.newaxis] * tf.ones(3))


# The arguments of those whose parameters TFP does not describe completely.
ARGUMENTS = {
    "BatchBroadcast": lambda: (tfd.Gamma(2.0, 1.0), [2]),
    "BatchReshape": lambda: (tfd.Gamma([2.0, 3.0], 1.0), [2, 1]),
    "Bates": lambda: (3.0,),
    "CholeskyLKJ": lambda: (3, 1.5),
    "ContinuousBernoulli": lambda: (0.5,),
    "ExpGamma": lambda: (2.0, 1.0),
    "ExpInverseGamma": lambda: (2.0, 1.0),
    "ExpRelaxedOneHotCategorical": lambda: (0.5, [0.0, 0.5, -1.0]),
    "FlatDirichlet": lambda: ([3],),
    "Gamma": lambda: (2.0, 1.0),
    "GaussianProcess": lambda: (KERNEL, POINTS["index_points"]),
    "GaussianProcessRegressionModel": lambda: (KERNEL, POINTS["index_points"], *OBSERVED.values()),
    "HiddenMarkovModel": lambda: (
        tfd.Categorical([0.0, 1.0]),
        tfd.Categorical([[0.0, 1.0], [1.0, 0.0]]),
        tfd.Gamma([1.0, 2.0], 1.0),
        3,
    ),
    "Independent": lambda: (tfd.Gamma([2.0, 3.0], 1.0), 1),
    "InverseGamma": lambda: (2.0, 1.0),
    "JointDistributionCoroutine": lambda: (coroutine.model,),
    "JointDistributionCoroutineAutoBatched": lambda: (coroutine.model,),
    "JointDistributionNamed": lambda: ({"a": tfd.Gamma(2.0, 1.0), "b": lambda a: tfd.Uniform(0.0, 1.0 + a)},),
    "JointDistributionNamedAutoBatched": lambda: ({"a": tfd.Gamma(2.0, 1.0), "b": tfd.Dirichlet(tf.ones(3))},),
    "JointDistributionSequential": lambda: ([tfd.Gamma(2.0, 1.0), lambda a: tfd.Uniform(0.0, 1.0 + a)],),
    "JointDistributionSequentialAutoBatched": lambda: ([tfd.Gamma(2.0, 1.0), tfd.Dirichlet(tf.ones(3))],),
    "LKJ": lambda: (3, 1.5),
    "LambertWDistribution": lambda: (tfd.Normal(0.0, 1.0), 0.0, 1.0, 0.5),
    "LinearGaussianStateSpaceModel": lambda: (
        3,
        TRIL,
        tfd.MultivariateNormalDiag([0.0, 0.0]),
        TRIL[:1],
        tfd.MultivariateNormalDiag([0.0]),
        tfd.MultivariateNormalDiag([0.0, 0.0]),
    ),
    "MarkovChain": lambda: (tfd.Gamma(2.0, 1.0), lambda _, x: tfd.Gamma(1.0 + x, 1.0), 3),
    "Masked": lambda: (tfd.Gamma(2.0, 1.0), True),
    "MatrixNormalLinearOperator": lambda: (TRIL, operator(), operator()),
    "MatrixTLinearOperator": lambda: (3.0, TRIL, operator(), operator()),
    "MultivariateNormalDiag": lambda: ([0.0, 1.0],),
    "MultivariateNormalDiagPlusLowRank": lambda: ([0.0, 1.0],),
    "MultivariateNormalDiagPlusLowRankCovariance": lambda: ([0.0, 1.0], [1.0, 2.0], TRIL),
    "MultivariateNormalFullCovariance": lambda: ([0.0, 1.0], TRIL @ TRIL.T),
    "MultivariateNormalLinearOperator": lambda: ([0.0, 1.0], operator()),
    "MultivariateNormalTriL": lambda: ([0.0, 1.0], TRIL),
    "MultivariateStudentTLinearOperator": lambda: (3.0, [0.0, 1.0], operator()),
    "NormalInverseGaussian": lambda: (0.0, 1.0, 2.0, 0.5),
    "PERT": lambda: (1.0, 2.0, 4.0),
    "PowerSpherical": lambda: ([0.6, 0.8], 2.0),
    "RelaxedBernoulli": lambda: (0.5, 1.0),
    "RelaxedOneHotCategorical": lambda: (0.5, [0.0, 0.5, -1.0]),
    "Sample": lambda: (tfd.Gamma(2.0, 1.0), [2]),
    "SphericalUniform": lambda: (3,),
    "StudentTProcess": lambda: (3.0, KERNEL, POINTS["index_points"]),
    "StudentTProcessRegressionModel": lambda: (3.0, KERNEL, POINTS["index_points"], *OBSERVED.values()),
    "TransformedDistribution": lambda: (tfd.Gamma(2.0, 1.0), tfp.bijectors.Shift(3.0)),
    "TruncatedCauchy": lambda: (0.0, 1.0, -1.0, 2.0),
    "TruncatedNormal": lambda: (0.0, 1.0, -1.0, 2.0),
    "VariationalGaussianProcess": lambda: (KERNEL, POINTS["index_points"], [[0.5]], [0.0], [[1.0]], None, 0.5),
    "VonMisesFisher": lambda: ([0.6, 0.8], 2.0),
    "WishartLinearOperator": lambda: (3.0, operator()),
    "WishartTriL": lambda: (3.0, TRIL),
}


def distribution(name):
    """One with these arguments, or with the least that TFP asks for: its constraints of zeros."""
    cls = getattr(tfd, name)
    if name in ARGUMENTS:
        return cls(*ARGUMENTS[name](), validate_args=True)
    shape = tf.TensorShape([3] if name == "Dirichlet" else [])
    signature, arguments = inspect.signature(cls.__init__).parameters, {}
    for parameter, properties in cls.parameter_properties().items():
        if signature[parameter].default is inspect.Parameter.empty:
            constraint = properties.default_constraining_bijector_fn()
            zeros = tf.zeros(constraint.inverse_event_shape(properties.shape_fn(shape)))
            arguments[parameter] = constraint.forward(zeros)
    return cls(**arguments, validate_args=True)


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(" ".join(LEFT_OUT.values()).split())))
def test_draws_are_in_the_support(name):
    """The distribution, which validates what it is given, has a density there, and so has the surrogate."""
    target = distribution(name)
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


def test_those_left_out_exist():
    assert set(" ".join(LEFT_OUT.values()).split()) <= set(NAMES)
