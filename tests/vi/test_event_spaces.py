"""Surrogates on the event spaces of TFP's distributions, by the bijector that TFP has for each."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tf_resflow as resflow

tfb, tfd = tfp.bijectors, tfp.distributions
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


def trainable(value):
    return tf.Variable(value, name=f"of_the_prior_{value}")


def of_flow():
    flow = resflow.flows.vector_flow(2, num_blocks=1, hidden=(4,))
    return tfd.TransformedDistribution(tfd.MultivariateNormalDiag(tf.zeros(2)), tfb.Invert(flow))


def of_nested_bijectors(trains=True):
    scale = tfp.util.TransformedVariable(2.0, tfb.Exp(), trainable=trains, name="of_the_prior_scale")
    chain = tfb.Chain([tfb.Softplus(), tfb.Chain([tfb.Shift(0.5), tfb.Scale(scale)])])
    return tfd.TransformedDistribution(tfd.Normal(0.0, 1.0), chain)


# A distribution, a constant one of the same support, the bijector of that, and if the bijector of the first trains.
PRIORS = [
    (of_flow, lambda: tfd.MultivariateNormalDiag(tf.zeros(2)), lambda: None, True),
    (of_nested_bijectors, lambda: tfd.Gamma(2.0, 1.0), tfb.Softplus, True),
    (lambda: tfd.Uniform(0.0, trainable(3.0)), lambda: tfd.Uniform(0.0, 3.0), lambda: tfb.Sigmoid(0.0, 3.0), True),
    (lambda: of_nested_bijectors(trains=False), lambda: tfd.Gamma(2.0, 1.0), tfb.Exp, False),
    (lambda: tfd.Normal(0.0, trainable(1.5)), lambda: tfd.Normal(0.0, 1.0), lambda: None, False),
    (lambda: tfd.LogNormal(trainable(0.5), 1.0), lambda: tfd.LogNormal(0.0, 1.0), tfb.Exp, False),
    (lambda: tfd.Dirichlet(tf.ones(3)), lambda: tfd.Dirichlet(tf.ones(3)), tfb.SoftmaxCentered, False),
]


def joint_of(kind, parts):
    """A joint distribution of independent parts."""
    if kind == "dict":
        return tfd.JointDistributionNamed({f"part{i}": part for i, part in enumerate(parts)})
    if kind == "coroutine":

        def model():
            for part in parts:
                yield tfd.JointDistributionCoroutine.Root(part)

        return tfd.JointDistributionCoroutine(model)
    return (tfd.JointDistributionSequential if kind == "list" else tfd.JointDistributionSequentialAutoBatched)(
        parts
    )


@pytest.mark.parametrize("kind", ["dict", "list", "batched", "coroutine"])
@pytest.mark.parametrize("seed", range(2))
def test_a_surrogate_trains_its_own_variables_only(kind, seed):
    """A bijector that holds variables of the joint is refused, and they are named. The remedies serve."""
    options = {"num_blocks": 1, "hidden": (4,), "affine_layers": 0}
    num = len(resflow.vi.flow_surrogate_posterior([3], **options).trainable_variables)
    generator = np.random.default_rng([seed, len(kind)])
    chosen = [PRIORS[i] for i in generator.choice(len(PRIORS), 3, replace=False)]
    parts = [make() for make, *_ in chosen]
    joint, constant = joint_of(kind, parts), joint_of(kind, [make() for _, make, *_ in chosen])
    used = {
        variable.name
        for part, (*_, trains) in zip(parts, chosen, strict=True)
        for variable in part.trainable_variables
        if trains
    }
    of_joint = joint.experimental_default_event_space_bijector()
    held = {variable.name for variable in of_joint.trainable_variables}  # also those of a joint that it holds
    assert used <= held
    of_parts = tf.nest.pack_sequence_as(joint.event_shape, [make() for *_, make, _ in chosen])
    accepted = [of_parts, constant.experimental_default_event_space_bijector()]
    if held:
        with pytest.raises(ValueError, match="trainable variables.*one bijector for each part") as error:
            resflow.vi.flow_surrogate_posterior(joint.event_shape, constraining_bijector=of_joint, **options)
        assert all(name in str(error.value) for name in held)
    else:
        accepted.append(of_joint)
    for constraint in accepted:
        surrogate = resflow.vi.flow_surrogate_posterior(
            joint.event_shape, constraining_bijector=constraint, **options
        )
        assert len(surrogate.trainable_variables) == num
        owned = {id(variable) for part in parts for variable in part.trainable_variables}
        assert owned.isdisjoint(map(id, surrogate.trainable_variables))
        x, log_prob = surrogate.experimental_sample_and_log_prob(3, seed=[1, 2])
        assert np.all(np.isfinite(log_prob)) and np.all(np.isfinite(constant.log_prob(x)))
