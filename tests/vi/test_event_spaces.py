"""Surrogates on the event spaces of TFP's distributions, by the bijector that TFP has for each."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tf_resflow as resflow

tfb, tfd = tfp.bijectors, tfp.distributions
TRIL = np.array([[1.0, 0.0], [0.5, 2.0]], np.float32)
STRICT = {"validate_args": True}


@tfd.JointDistributionCoroutine
def coroutine():
    rate = yield tfd.JointDistributionCoroutine.Root(tfd.Gamma(2.0, 1.0))
    yield tfd.Dirichlet(rate[..., tf.newaxis] * tf.ones(3))


PARTS = {"a": tfd.Gamma(2.0, 1.0), "b": lambda a: tfd.Uniform(0.0, 1.0 + a)}
# One for each kind of constraint, of events, of batches and of parts.
TARGETS = {
    "simplex": lambda: tfd.Dirichlet(tf.ones(3), **STRICT),
    "covariances": lambda: tfd.WishartTriL(3.0, TRIL, **STRICT),
    "batch": lambda: tfd.BatchReshape(tfd.Gamma([2.0, 3.0], 1.0), [2, 1], **STRICT),
    "tuple": lambda: coroutine,
    "dict": lambda: tfd.JointDistributionNamed(PARTS, **STRICT),
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


@pytest.mark.parametrize("kind", [tfd.JointDistributionNamed, tfd.JointDistributionSequential])
def test_a_surrogate_trains_its_own_variables_only(kind):
    """A bijector that holds variables of the joint is refused, and they are named. The remedy is accepted."""
    flow = tfb.Invert(resflow.flows.vector_flow(2, num_blocks=1, hidden=(4,)))
    scale = tfp.util.TransformedVariable(2.0, tfb.Exp(), name="of_a_nested_bijector")
    chain = tfb.Chain([tfb.Softplus(), tfb.Chain([tfb.Shift(0.5), tfb.Scale(scale)])])
    parts = [
        tfd.TransformedDistribution(tfd.MultivariateNormalDiag(tf.zeros(2)), flow),
        tfd.TransformedDistribution(tfd.Normal(0.0, 1.0), chain),
        tfd.Uniform(0.0, tf.Variable(3.0, name="of_the_support")),
        tfd.Normal(0.0, 1.0),
    ]
    is_named = kind is tfd.JointDistributionNamed
    joint = kind({f"part{i}": part for i, part in enumerate(parts)} if is_named else parts)
    options = {"num_blocks": 1, "hidden": (4,), "affine_layers": 0}
    with pytest.raises(ValueError, match="trainable variables.*one bijector for each part") as error:
        constraint = joint.experimental_default_event_space_bijector()
        resflow.vi.flow_surrogate_posterior(joint.event_shape, constraining_bijector=constraint, **options)
    assert all(variable.name in str(error.value) for variable in joint.trainable_variables)
    remedy = [None, tfb.Softplus(), tfb.Sigmoid(0.0, 3.0), None]
    surrogate = resflow.vi.flow_surrogate_posterior(
        joint.event_shape, constraining_bijector=tf.nest.pack_sequence_as(joint.event_shape, remedy), **options
    )
    own = resflow.vi.flow_surrogate_posterior([5], **options).trainable_variables
    assert [variable.shape for variable in surrogate.trainable_variables] == [variable.shape for variable in own]
    x, log_prob = surrogate.experimental_sample_and_log_prob(3, seed=[1, 2])
    assert np.all(np.isfinite(log_prob)) and np.all(np.isfinite(joint.log_prob(x)))
