"""Surrogate posteriors: structure, density by the change of variables, and use with TFP."""

import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tf_resflow as resflow

tfb, tfd = tfp.bijectors, tfp.distributions
SMALL = {"num_blocks": 1, "affine_layers": 1, "hidden": (6,)}


def make_surrogate(event_shape, **options):
    return resflow.vi.flow_surrogate_posterior(event_shape, **{**SMALL, **options})


def log_prob_by_jacobian(surrogate, z, entries):
    """Returns log q(f(z)) from the dense Jacobian of the map from vectors to some entries of an event."""
    with tf.GradientTape() as tape:
        tape.watch(z)
        parts = tf.nest.flatten(surrogate.bijector.forward(z))
        x = tf.concat([tf.reshape(part, [len(z), -1]) for part in parts], -1)
    jacobian = tape.batch_jacobian(x, z).numpy()[:, entries]
    return surrogate.distribution.log_prob(z).numpy() - np.linalg.slogdet(jacobian)[1]


STRUCTURES = {
    "scalar": ([], tfb.Exp()),
    "vector": (tf.TensorShape([3]), None),
    "list": ([[], [2], [1, 2]], [tfb.Softplus(), None, None]),
    "dict": ({"a": tf.constant([2]), "b": np.array([], np.int32)}, {"a": None, "b": tfb.Sigmoid()}),
    "tuple": (collections.namedtuple("Parts", "a b")([2], []), None),
    "triangular": ([2, 2], tfb.FillScaleTriL(diag_bijector=tfb.Exp(), diag_shift=None)),
}


@pytest.mark.parametrize("structure", STRUCTURES)
def test_density_by_the_dense_jacobian(structure):
    """A triangular 2 x 2 matrix has four entries, but the density is over its three free coordinates."""
    event_shape, constraint = STRUCTURES[structure]
    surrogate = make_surrogate(event_shape, constraining_bijector=constraint, dtype="float64")
    parts = tf.nest.map_structure(lambda _: 0, surrogate.dtype)
    tf.nest.assert_same_structure(surrogate.event_shape, parts, expand_composites=False)
    x, log_prob = surrogate.experimental_sample_and_log_prob(5, seed=[1, 2])
    z = surrogate.distribution.sample(5, seed=[1, 2])
    expected = log_prob_by_jacobian(surrogate, z, [0, 2, 3] if structure == "triangular" else slice(None))
    np.testing.assert_allclose(log_prob, expected, rtol=1e-9)
    # The density of given values uses the inverse.
    given = surrogate.log_prob(tf.nest.map_structure(tf.identity, x))
    np.testing.assert_allclose(given, expected, rtol=1e-9)


def test_batch_shape_base_and_seed(refused):
    refused("not fully defined", make_surrogate, [None])
    student = lambda loc, scale: tfd.StudentT(3.0, loc, scale)  # noqa: E731
    surrogate = make_surrogate([2], batch_shape=[3], base_distribution=student, seed=4)
    assert surrogate.batch_shape == [3] and surrogate.event_shape == [2]
    x = surrogate.sample(5, seed=[1, 2])
    assert x.shape == [5, 3, 2] and surrogate.log_prob(x).shape == [5, 3]
    z = surrogate.bijector.inverse(tf.identity(x))
    base = tf.reduce_sum(tfd.StudentT(3.0, 0.0, 1.0).log_prob(z), -1)
    expected = base - surrogate.bijector.forward_log_det_jacobian(z, 1)
    np.testing.assert_allclose(surrogate.log_prob(tf.identity(x)), expected, rtol=1e-4, atol=1e-5)
    one, same, other = (make_surrogate([2], seed=seed).sample(seed=[1, 2]) for seed in (4, 4, 5))
    np.testing.assert_array_equal(one, same)
    assert np.all(one != other)


def test_a_dynamic_batch_a_copy_and_a_saved_model(tmp_path):
    surrogate = make_surrogate({"a": [2], "b": []})
    sample = tf.function(lambda n: surrogate.sample(n, seed=[1, 2]), autograph=False)
    signature = {"a": tf.TensorSpec([None, 2]), "b": tf.TensorSpec([None])}
    module = tf.Module()
    module.surrogate = surrogate
    module.score = tf.function(surrogate.log_prob, autograph=False, input_signature=[signature])
    tf.saved_model.save(module, str(tmp_path))
    served = tf.saved_model.load(str(tmp_path))
    for count in (1, 4):
        x = sample(tf.constant(count))
        assert x["b"].shape == [count]
        np.testing.assert_allclose(served.score(x), surrogate.log_prob(x), rtol=1e-5, atol=1e-5)
    copy = surrogate.copy(name="copy")
    np.testing.assert_allclose(copy.log_prob(x), surrogate.log_prob(x), rtol=1e-6)
    assert copy.trainable_variables[0] is surrogate.trainable_variables[0]


def test_a_surrogate_trains_its_own_variables_only():
    """Constraints with variables of the joint distribution raise an error that names them. The fix works."""
    flow = tfb.Invert(resflow.flows.vector_flow(2, num_blocks=1, hidden=(4,)))
    scale = tfp.util.TransformedVariable(2.0, tfb.Exp(), name="of_a_nested_bijector")
    chain = tfb.Chain([tfb.Softplus(), tfb.Chain([tfb.Shift(0.5), tfb.Scale(scale)])])
    parts = [tfd.TransformedDistribution(tfd.MultivariateNormalDiag(tf.zeros(2)), flow)]
    parts += [tfd.TransformedDistribution(tfd.Normal(0.0, 1.0), chain)]
    parts += [tfd.Uniform(0.0, tf.Variable(3.0, name="of_the_support")), tfd.Normal(0.0, 1.0)]
    joint = tfd.JointDistributionNamed({f"part{i}": part for i, part in enumerate(parts)})
    with pytest.raises(ValueError, match="trainable variables.*one bijector for each part") as error:
        constraint = joint.experimental_default_event_space_bijector()
        make_surrogate(joint.event_shape, constraining_bijector=constraint)
    assert all(variable.name in str(error.value) for variable in joint.trainable_variables)
    remedy = tf.nest.pack_sequence_as(joint.event_shape, [None, tfb.Softplus(), tfb.Sigmoid(0.0, 3.0), None])
    surrogate = make_surrogate(joint.event_shape, constraining_bijector=remedy)
    own = make_surrogate([5]).trainable_variables
    assert [variable.shape for variable in surrogate.trainable_variables] == [variable.shape for variable in own]
    x, log_prob = surrogate.experimental_sample_and_log_prob(3, seed=[1, 2])
    assert np.all(np.isfinite(log_prob)) and np.all(np.isfinite(joint.log_prob(x)))
