"""Surrogate posteriors: their structure, their density against the change of variables, and all that TFP does."""

import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tf_resflow as resflow

tfb, tfd = tfp.bijectors, tfp.distributions
SMALL = {"num_blocks": 1, "affine_layers": 1, "hidden": (6,)}


def surrogate_of(event_shape, **options):
    return resflow.vi.flow_surrogate_posterior(event_shape, **{**SMALL, **options})


def log_prob_by_jacobian(surrogate, z, entries):
    """log q(f(z)) from the dense Jacobian of the whole map on vectors, of some entries of an event."""
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
    """A triangular matrix has four entries, and three coordinates, those on which the density is."""
    event_shape, constraint = STRUCTURES[structure]
    surrogate = surrogate_of(event_shape, constraining_bijector=constraint, dtype="float64")
    tf.nest.assert_same_structure(
        surrogate.event_shape, tf.nest.map_structure(lambda _: 0, surrogate.dtype), expand_composites=False
    )
    x, log_prob = surrogate.experimental_sample_and_log_prob(5, seed=[1, 2])
    z = surrogate.distribution.sample(5, seed=[1, 2])
    expected = log_prob_by_jacobian(surrogate, z, [0, 2, 3] if structure == "triangular" else slice(None))
    np.testing.assert_allclose(log_prob, expected, rtol=1e-9)
    # A density that was not drawn is that of the inverse.
    given = surrogate.log_prob(tf.nest.map_structure(tf.identity, x))
    np.testing.assert_allclose(given, expected, rtol=1e-9)


def test_batch_shape_base_and_seed():
    student = lambda loc, scale: tfd.StudentT(3.0, loc, scale)  # noqa: E731
    surrogate = surrogate_of([2], batch_shape=[3], base_distribution=student, seed=4)
    assert surrogate.batch_shape == [3] and surrogate.event_shape == [2]
    x = surrogate.sample(5, seed=[1, 2])
    assert x.shape == [5, 3, 2] and surrogate.log_prob(x).shape == [5, 3]
    z = surrogate.bijector.inverse(tf.identity(x))
    base = tf.reduce_sum(tfd.StudentT(3.0, 0.0, 1.0).log_prob(z), -1)
    expected = base - surrogate.bijector.forward_log_det_jacobian(z, 1)
    np.testing.assert_allclose(surrogate.log_prob(tf.identity(x)), expected, rtol=1e-4, atol=1e-5)
    one, same, other = (surrogate_of([2], seed=seed).sample(seed=[1, 2]) for seed in (4, 4, 5))
    np.testing.assert_array_equal(one, same)
    assert np.all(one != other)


def test_an_unknown_shape_is_refused():
    with pytest.raises(ValueError, match="not fully defined"):
        surrogate_of([None])


@pytest.mark.parametrize("size, training", [(3, False), (20, True)])
def test_gradients_in_an_autobatched_joint_distribution(size, training):
    """It maps over the batch by `tf.vectorized_map`, which loses the gradients that operations register.

    In a training step, whose networks it cannot pass, that map itself.
    """
    flow = resflow.flows.vector_flow(
        size, 1, (4,), coefficient=0.9, log_det_estimator=resflow.logdet.Exact(), seed=1
    )
    for variable in flow.trainable_variables:
        variable.assign_add(tf.random.stateless_normal(variable.shape, [0, len(variable.shape)], stddev=0.3))
    base = tfd.MultivariateNormalDiag(tf.zeros(size))
    density = tfd.TransformedDistribution(base, tfp.bijectors.Invert(flow))

    @tfd.JointDistributionCoroutineAutoBatched
    def joint():
        yield tfd.JointDistributionCoroutineAutoBatched.Root(density)

    def log_prob(x, networks):
        return density.log_prob(x, bijector_kwargs={"networks": networks})

    def mapped(x, networks):
        return tf.vectorized_map(lambda x: log_prob(x, networks), x) if training else joint.log_prob(x)

    @tf.function(autograph=False)
    def gradients(log_prob, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(log_prob(x, resflow.bijectors.Networks(flow, training=training)))
        return [loss, *tape.gradient(loss, [x, *flow.trainable_variables])]

    x = tf.random.stateless_normal([3, size], [0, 1])
    found, expected = (gradients(function, x) for function in (mapped, log_prob))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert len(expected) > 5 and all(np.any(value != 0) for value in expected)


def test_a_dynamic_batch_a_copy_and_a_saved_model(tmp_path):
    surrogate = surrogate_of({"a": [2], "b": []})
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
