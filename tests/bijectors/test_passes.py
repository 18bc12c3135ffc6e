"""Passes through a flow: the values after each scale, solver diagnostics, and initialization from data."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tf_resflow as resflow

tfb = tfp.bijectors
tfd = tfp.distributions
Flow = resflow.bijectors.Flow
MultiscaleFlow = resflow.bijectors.MultiscaleFlow
Squeeze2D = resflow.bijectors.Squeeze2D
ActNorm = resflow.bijectors.ActNorm
forward_features = resflow.bijectors.forward_features
initialize = resflow.bijectors.initialize
inverse_with_solutions = resflow.bijectors.inverse_with_solutions


def test_which_values_are_features():
    """Features have all channels, with or without factoring out, in flows that double, triple and negate."""
    x = np.arange(1.0, 17.0, dtype="float32").reshape(1, 4, 4, 1)

    def squeeze(x):
        """Moves each 2 x 2 patch of [1, H, W, C] to channels."""
        _, h, w, c = x.shape
        x = x.reshape(1, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 5, 2, 4)
        return x.reshape(1, h // 2, w // 2, 4 * c)

    first = [tfb.Scale(2.0, name="twice"), Squeeze2D(name="first_squeeze")]
    second = [tfb.Scale(3.0, name="thrice"), Squeeze2D(name="second_squeeze")]
    last = [tfb.Scale(-1.0, name="minus")]
    after_first = 2 * squeeze(x)
    flows = [Flow(members, name=f"flow{i}") for i, members in enumerate((first, second, last))]
    flow = MultiscaleFlow(flows, [4, 4, 1])
    latent, log_det, features = forward_features(flow, x)
    after_second = 3 * squeeze(after_first[..., :2])
    for feature, expected in zip(features, [after_first, after_second, -after_second[..., :4]], strict=True):
        np.testing.assert_array_equal(feature, expected)
    left = [after_first[..., 2:], after_second[..., 4:], -after_second[..., :4]]
    np.testing.assert_array_equal(latent, np.concatenate([part.reshape(1, -1) for part in left], 1))
    np.testing.assert_allclose(log_det, 16 * np.log(2) + 8 * np.log(3), rtol=1e-6)
    assert flow.feature_shapes((4, 4, 1)) == [(2, 2, 4), (1, 1, 8), (1, 1, 4)]

    flow = Flow([resflow.bijectors.ActNorm([4, 4, 1]), *first, *second, *last])
    latent, log_det, features = forward_features(flow, x)
    assert flow.feature_shapes((4, 4, 1)) == [(2, 2, 4), (1, 1, 16), (1, 1, 16)]
    for feature, expected in zip(features, [after_first, 3 * squeeze(after_first)] + [latent], strict=True):
        np.testing.assert_array_equal(feature, expected)
    np.testing.assert_array_equal(latent, -3 * squeeze(after_first))
    np.testing.assert_allclose(log_det, 16 * np.log(6), rtol=1e-6)


def test_which_squeezes_end_a_scale():
    """A squeeze before all trained members does not; two of the same name both do. A vector has one feature."""
    squeeze, norm = Squeeze2D(), resflow.bijectors.ActNorm((4, 4, 4))
    assert Flow([squeeze, norm, squeeze, Squeeze2D()]).feature_shapes((8, 8, 1)) == [(2, 2, 16), (1, 1, 64)]
    flow = resflow.flows.vector_flow(2, 2, (4,))
    latent, _, (feature,) = forward_features(flow, np.ones([3, 2], "float32"), seed=1)
    np.testing.assert_array_equal(feature, latent)
    assert flow.feature_shapes([2]) == [(2,)]


@pytest.mark.parametrize("factor_out", [False, True])
def test_each_g_is_evaluated_once_and_a_series_only_for_the_log_det(factor_out, counter, counting_exact, normal):
    """This holds eagerly and in a graph."""

    def block(name, channels):
        conv = resflow.flows.conv_branch((1, 1, channels), 4, kernels=(1, 1))
        branch = keras.Sequential([keras.Input([1, 1, channels]), counter, conv])
        return resflow.bijectors.ResidualBlock(branch, counting_exact, name=name)

    first = [resflow.bijectors.ActNorm([2, 2, 1]), Squeeze2D(), block("a", 4), tfb.Scale(2.0)]
    if factor_out:
        second = Flow([block("b", 2)], name="second")
        flow = MultiscaleFlow([Flow(first, name="first"), second], [2, 2, 1])
    else:
        flow = Flow([*first, Flow([block("b", 4)], name="inner")])
    x = normal([3, 2, 2, 1])
    expected = forward_features(flow, x)
    assert counter.take() == counting_exact.take() == 2
    for log_det in (True, False):
        counter.take(), counting_exact.take()
        found = tf.function(forward_features, autograph=False)(flow, x, log_det)
        assert counter.take() == 2 and counting_exact.take() == (2 if log_det else 0)
        assert (found.log_det is not None) is log_det
        for one, other in zip((found.latent, *found.features), (expected.latent, *expected.features), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("compiled", [False, True])
def test_the_solutions_of_an_inverse_start_with_the_last_block(compiled, normal):
    """The solver of the first block stops at an error of 0.1^5 |z|; the other one meets its tolerance."""
    blocks, z = [], normal([4, 2])
    for slope, limit in ((0.1, 5), (0.5, 50)):
        branch = keras.Sequential([keras.Input([2]), resflow.layers.LipschitzDense(2, 0.9)])
        branch.layers[0].kernel.assign(slope * np.eye(2))
        solver = resflow.solvers.FixedPoint(max_iterations=limit)
        blocks.append(resflow.bijectors.ResidualBlock(branch, inverse_solver=solver, name=f"slope{slope}"))
    inverse = tf.function(inverse_with_solutions, autograph=False) if compiled else inverse_with_solutions
    x, (last, first) = inverse(Flow(blocks), z)
    np.testing.assert_allclose(x, z / 1.1 / 1.5, rtol=1e-4)
    np.testing.assert_allclose(last.root, z / 1.5, rtol=1e-5)
    np.testing.assert_array_equal(last.converged, [True] * 4)
    np.testing.assert_array_equal(first.converged, [False] * 4)
    assert np.all(last.num_iterations.numpy() > 10) and np.all(first.num_iterations == 5)


@pytest.mark.parametrize("kind", [resflow.bijectors.ResidualBlock, resflow.bijectors.MonotoneBlock])
def test_the_tolerance_applies_only_to_the_default_solver(kind, make_branch, normal):
    block = kind(make_branch())
    own = block.copy(inverse_solver=resflow.solvers.Anderson())
    counts = []
    for given, atol in ((block, 0.0), (block, 0.1), (own, 0.1), (own, 0.0)):
        x, (solution,) = inverse_with_solutions(Flow([given]), normal([4, 2]), atol=atol)
        counts.append(int(np.max(solution.num_iterations)))
    assert counts[1] < counts[0] == counts[2] == counts[3]


@pytest.fixture
def batch():
    return (5.0 + 3.0 * np.random.default_rng(0).normal(size=[64, 2])).astype("float32")


def test_every_act_norm_normalizes_its_input(make_branch, counting_exact, batch):
    block = resflow.bijectors.ResidualBlock(make_branch(), counting_exact, name="block")
    act_norms = [ActNorm([2], name=name) for name in ("one", "two", "three")]
    flow = Flow([act_norms[0], block, act_norms[1], tfb.Scale(4.0), act_norms[2]])
    latent, y = initialize(flow, batch), batch
    assert counting_exact.take() == 0  # no log-determinant
    for bijector in flow.bijectors:
        y = bijector.forward(tf.identity(y)).numpy()
        if isinstance(bijector, ActNorm):
            np.testing.assert_allclose(y.mean(0), 0.0, atol=1e-5)
            np.testing.assert_allclose(y.var(0), 1.0, atol=1e-4)
    np.testing.assert_allclose(latent, y, atol=1e-5)


def split(*members):
    """Applies members side by side, each to an equal part of the coordinates."""
    return tfb.Chain([tfb.Invert(tfb.Split(len(members))), tfb.JointMap(list(members)), tfb.Split(len(members))])


def test_a_joint_map(batch):
    parts = {"a": ActNorm([2], name="a"), "b": ActNorm([2], name="b")}
    latent = initialize(tfb.JointMap(parts), {"a": batch, "b": 7 * batch})
    np.testing.assert_allclose(np.std([latent["a"], latent["b"]], axis=1), np.ones([2, 2]), rtol=1e-4)


ENDS_IN_ACT_NORMS = {  # maps of 16 coordinates that end in ActNorms
    "inverted_twice": lambda act, block: tfb.Invert(tfb.Invert(act([16]))),
    "member_of_flow": lambda act, block: Flow([act([16]), block(), tfb.Invert(act([16]))]),
    "member_of_chain": lambda act, block: tfb.Chain([tfb.Invert(act([16])), tfb.Scale(4.0)]),
    "inverted_flow": lambda act, block: tfb.Invert(Flow([act([16]), block(), tfb.Invert(act([16]))])),
    "inverted_chain": lambda act, block: tfb.Invert(tfb.Chain([tfb.Chain([tfb.Scale(4.0)]), act([16])])),
    "side_by_side": lambda act, block: split(act([8]), tfb.Invert(act([8]))),
    "inverted_side_by_side": lambda act, block: tfb.Invert(split(act([8]), tfb.Invert(act([8])))),
    "blockwise": lambda act, block: tfb.Blockwise([tfb.Invert(act([4])), act([12])], [4, 12]),
}


@pytest.mark.parametrize("name", ENDS_IN_ACT_NORMS)
def test_the_map_through_which_the_data_pass_normalizes(name, make_block, refused):
    """A Flow says that the map is from data to latent. Without it, a TFP bijector that inverts is refused."""
    names = iter("abcd")
    bijector = ENDS_IN_ACT_NORMS[name](lambda shape: ActNorm(shape, name=next(names)), lambda: make_block(size=16))
    x = (5.0 + 3.0 * np.random.default_rng(0).normal(size=[64, 16])).astype("float32")
    if name not in ("inverted_twice", "member_of_flow"):
        refused(
            "applies the inverse of .* latent to data. Pass the flow itself, or the",
            initialize,
            bijector,
            x,
        )
    flow = Flow([bijector], name="outer")
    latent = initialize(flow, x)
    np.testing.assert_allclose(latent, flow.forward(x), atol=1e-4)
    y = np.reshape(latent, [-1, latent.shape[-1]])
    np.testing.assert_allclose(y.mean(0), 0.0, atol=1e-4)
    np.testing.assert_allclose(y.var(0), 1.0, atol=1e-3)


DENSITIES = {  # of events [2], with ActNorms next to the base and next to the data
    "transformed": lambda base, flow: tfd.TransformedDistribution(base, tfb.Invert(flow)),
    "in_a_chain": lambda base, flow: tfd.TransformedDistribution(base, tfb.Chain([tfb.Exp(), tfb.Invert(flow)])),
    "twice": lambda base, flow: tfd.TransformedDistribution(
        tfd.TransformedDistribution(base, tfb.Invert(flow)), tfb.Invert(Flow([ActNorm([2], name="outer")]))
    ),
    "independent": lambda base, flow: tfd.Independent(
        tfd.TransformedDistribution(tfd.BatchBroadcast(base, [3]), tfb.Invert(flow)), 1
    ),
    "sample": lambda base, flow: tfd.Sample(tfd.TransformedDistribution(base, tfb.Invert(flow)), [3]),
    "forgotten_invert": lambda base, flow: tfd.TransformedDistribution(base, flow),
}


@pytest.mark.parametrize("kind", DENSITIES)
def test_a_density_is_initialized_from_its_data(kind, make_block, recwarn):
    """The latents have mean 0 and variance 1, so the log-density is that of a normal, minus a log-determinant."""
    flow = Flow([ActNorm([2], name="first"), make_block("block"), ActNorm([2], name="last")])
    density = DENSITIES[kind](tfd.MultivariateNormalDiag(tf.zeros(2)), flow)
    shape = [64, 3, 2] if kind in ("independent", "sample") else [64, 2]
    x = np.exp(2.0 + 0.5 * np.random.default_rng(0).normal(size=shape)).astype("float32")
    latent = initialize(density, x)
    rows = np.reshape(latent, [-1, 2])
    np.testing.assert_allclose(rows.mean(0), 0.0, atol=1e-4)
    np.testing.assert_allclose(rows.var(0), 1.0, atol=1e-3)
    distribution = density.distribution if kind in ("independent", "sample", "twice") else density
    bijector = tfb.Chain([density.bijector, distribution.bijector]) if kind == "twice" else distribution.bijector
    np.testing.assert_allclose(bijector.inverse(tf.constant(x)), latent, atol=1e-3)
    warned = any("tfb.Invert was forgotten" in str(warning.message) for warning in recwarn)
    assert warned == (kind == "forgotten_invert")


def test_densities_without_or_with_hidden_act_norms(batch, refused):
    normal = tfd.MultivariateNormalDiag(tf.zeros(2), [3.0, 3.0])
    np.testing.assert_array_equal(initialize(normal, batch), batch)
    density = tfd.TransformedDistribution(tfd.BatchBroadcast(normal, [2]), tfb.Invert(ActNorm([2])))
    mixture = tfd.MixtureSameFamily(tfd.Categorical([0.0, 0.0]), density)
    refused("cannot follow data through .*MixtureSameFamily.* or its flow", initialize, mixture, batch)
    for wrong in ((batch, ActNorm([2])), (batch, normal), (tfb.Exp(), ActNorm([2])), (None, batch)):
        refused(r"Call initialize\(flow, batch\)", initialize, *wrong)
    for wrong in (["a", "b"], [[1, 2], [3, 4]]):
        refused("has the dtype (string|int32)", initialize, tfb.Exp(), wrong)


def test_batches_without_statistics(batch, refused):
    """Nothing is assigned. A constant coordinate or a second call gives a warning."""
    act_norm = ActNorm([2])
    logit = Flow([tfb.Scale(1.0), resflow.bijectors.Logit(), act_norm])
    for flow, wrong, message in (
        (act_norm, batch[:0], r"has 0 examples of shape \(2,\), but needs at least two that differ"),
        (act_norm, batch[:1], "has 1 examples of shape"),
        (act_norm, batch[[4, 4, 4]], "has 3 examples.* that differ. Give 64"),
        (
            logit,
            16 * np.random.default_rng(0).uniform(size=[9, 2]),
            r"to NaN or infinity. Its Logit needs .*\[0, 1\]",
        ),
    ):
        refused(message, initialize, flow, wrong.astype("float32"))
        np.testing.assert_array_equal(act_norm.variables, np.zeros([2, 2]))
    batch[:, 1] = 7.0
    with pytest.warns(UserWarning, match="1 of 2 coordinates .* constant, such as number 1.* or add noise"):
        initialize(act_norm, batch)
    with pytest.warns(UserWarning, match="replaces the values of act_norm, .* To train again, build a new flow"):
        initialize(act_norm, batch**2)


def test_conditional_blocks_and_seed(make_block, batch):
    flow = Flow([make_block(condition_size=1), ActNorm([2])])
    kwargs = {"seed": 1, "condition": np.linspace(-1.0, 1.0, 64, dtype="float32")[:, np.newaxis]}
    latent = initialize(flow, batch, **kwargs)
    np.testing.assert_allclose(np.var(latent, 0), 1.0, atol=1e-4)
    np.testing.assert_allclose(latent, flow.forward(batch, **kwargs), atol=1e-5)


def test_refusals(make_block, batch, two_replicas, refused):
    """The members of a tfb.TransformDiagonal are not known."""
    hidden = tfb.TransformDiagonal(make_block("hidden"))
    for flow in (hidden, Flow([tfb.Scale(2.0), tfb.Invert(tfb.Chain([tfb.Invert(hidden)]))])):
        refused("cannot reach hidden inside", inverse_with_solutions, flow, tf.eye(2, batch_shape=[4]))
    flow = Flow([tfb.FillTriangular(), tfb.TransformDiagonal(ActNorm([2], name="hidden"))])
    refused(
        "initialize cannot reach hidden inside .*TransformDiagonal", initialize, flow, np.eye(4, 3, dtype="float32")
    )
    act_norm, wrong = ActNorm([2]), batch.copy()
    wrong[3, 1] = np.nan
    refused("NaN or infinite", initialize, act_norm, wrong)
    np.testing.assert_array_equal(act_norm.shift, 0.0)
    with two_replicas.scope():
        act_norm = ActNorm([2])
        initialize(act_norm, batch)
    np.testing.assert_allclose(act_norm.shift, -batch.mean(0), rtol=1e-5)
