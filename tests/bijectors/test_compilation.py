"""What XLA compiles or a SavedModel has agrees with what TensorFlow runs, where random cases do not test it."""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import tf_resflow as resflow

EXACT = resflow.logdet.Exact()


def test_a_saved_model_of_all_kinds_of_members(make_block, make_coupling, density, normal, tmp_path):
    members = [resflow.bijectors.ActNorm([2]), make_block("a"), tfp.bijectors.Scale(2.0)]
    members += [resflow.bijectors.InvertibleConv1x1(2), make_coupling("affine"), make_coupling("additive")]
    members[0].shift.assign([0.5, -0.5])
    distribution = density(resflow.bijectors.Flow(members))
    seed_spec = tf.TensorSpec([2], tf.int32)

    @tf.function(input_signature=[tf.TensorSpec([None, 2]), seed_spec], autograph=False)
    def log_prob(x, seed):
        return {"log_prob": distribution.log_prob(x, bijector_kwargs={"seed": seed})}

    @tf.function(input_signature=[tf.TensorSpec([], tf.int32), seed_spec], autograph=False)
    def sample(num, seed):
        return {"x": distribution.sample(num, seed=seed)}

    server = tf.Module()
    server.density = distribution
    tf.saved_model.save(server, str(tmp_path), signatures={"log_prob": log_prob, "sample": sample})
    loaded = tf.saved_model.load(str(tmp_path))
    seeds = [tf.constant([1, i]) for i in range(2)]
    x = normal([5, 2])
    values = [loaded.signatures["log_prob"](x=x, seed=seed)["log_prob"] for seed in seeds]
    eager = distribution.log_prob(x, bijector_kwargs={"seed": seeds[0]})
    np.testing.assert_allclose(values[0], eager, rtol=1e-5)
    assert np.any(values[0] != values[1])  # an example may draw the same probes twice
    x = loaded.signatures["sample"](num=tf.constant(4), seed=seeds[1])["x"]
    assert x.shape == [4, 2]
    np.testing.assert_allclose(x, distribution.sample(4, seed=seeds[1]), atol=1e-5)
    assert np.all(x != loaded.signatures["sample"](num=tf.constant(4), seed=seeds[0])["x"])


def test_second_derivatives_by_xla(make_block, density, normal):
    block = make_block("block", EXACT, dtype="float64")
    distribution = density(block, dtype="float64")

    def second_derivative(x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as tape:
                tape.watch(x)
                value = distribution.log_prob(x)
            gradient = tape.gradient(value, x)
        return gradient, outer.gradient(gradient, [x, *block.trainable_variables], unconnected_gradients="zero")

    x = normal([4, 2], 0, "float64")
    compiled = tf.function(second_derivative, autograph=False, jit_compile=True)
    plain, compiled = (tf.nest.flatten(function(x)) for function in (second_derivative, compiled))
    assert len(plain) >= 5
    for one, other in zip(plain, compiled, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)


def test_by_xla_no_warning_is_printed_and_solve_tells(make_block, capfd):
    block = make_block("stubborn", EXACT, resflow.solvers.FixedPoint(max_iterations=2))
    y = tf.ones([3, 2])
    capfd.readouterr()
    run = tf.function(lambda: (block.inverse(y), block.solve(y).converged), autograph=False, jit_compile=True)
    _, converged = run()
    assert "stubborn" not in capfd.readouterr().err and not np.any(converged)
