"""Data-dependent initialization, in order, at any depth."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tf_resflow as resflow

tfb = tfp.bijectors
Flow = resflow.bijectors.Flow
ActNorm = resflow.bijectors.ActNorm


@pytest.fixture
def batch():
    return (5.0 + 3.0 * np.random.default_rng(0).normal(size=[64, 2])).astype("float32")


def outputs(bijectors, x):
    """The output of each bijector, in order."""
    for bijector in bijectors:
        x = bijector.forward(tf.identity(x))
        yield bijector, x.numpy()


def test_every_act_norm_normalises_what_reaches_it(make_block, batch):
    flow = Flow(
        [
            ActNorm([2], name="one"),
            make_block(),
            ActNorm([2], name="two"),
            tfb.Scale(4.0),
            ActNorm([2], name="three"),
        ]
    )
    latent = resflow.bijectors.initialize(flow, batch)
    for bijector, y in outputs(flow.bijectors, batch):
        if isinstance(bijector, ActNorm):
            np.testing.assert_allclose(y.mean(0), 0.0, atol=1e-5)
            np.testing.assert_allclose(y.var(0), 1.0, atol=1e-4)
    np.testing.assert_allclose(latent, y, atol=1e-5)


def test_chains_and_nested_flows(batch):
    first, second = ActNorm([2], name="first"), ActNorm([2], name="second")
    # A stock Chain applies its list backwards.
    chain = tfb.Chain([Flow([second], name="inner"), tfb.Scale(4.0), first])
    resflow.bijectors.initialize(chain, batch)
    np.testing.assert_allclose(first.shift, -batch.mean(0), rtol=1e-5)
    np.testing.assert_allclose(first.log_scale, -np.log(batch.std(0)), rtol=1e-4)
    np.testing.assert_allclose(second.log_scale, -np.log([4.0, 4.0]), rtol=1e-4)


def split(*members):
    """Members side by side, each on two of the coordinates."""
    return tfb.Chain([tfb.Invert(tfb.Split(len(members))), tfb.JointMap(list(members)), tfb.Split(len(members))])


@pytest.mark.parametrize("kind", [list, dict])
def test_a_joint_map(kind, batch):
    parts = {"a": ActNorm([2], name="a"), "b": ActNorm([2], name="b")}
    given = {"a": batch, "b": 7 * batch}
    if kind is list:
        parts, given = list(parts.values()), list(given.values())
    latent = tf.nest.flatten(resflow.bijectors.initialize(tfb.JointMap(parts), given))
    np.testing.assert_allclose(np.std(latent, axis=1), np.ones([2, 2]), rtol=1e-4)


def two_scales():
    image = [Flow([ActNorm([4, 4, 1], name="a"), resflow.bijectors.Squeeze2D()], name="large")]
    return resflow.bijectors.MultiscaleFlow([*image, Flow([tfb.Scale(3.0)], name="small")], [4, 4, 1])


ENDS_IN_ACT_NORMS = {  # what is applied last, to data of 16 coordinates or what the map makes of them, is ActNorms
    "inverted": lambda act, block: tfb.Invert(act([16])),
    "inverted_twice": lambda act, block: tfb.Invert(tfb.Invert(act([16]))),
    "member_of_flow": lambda act, block: Flow([act([16]), block(), tfb.Invert(act([16]))]),
    "member_of_chain": lambda act, block: tfb.Chain([tfb.Invert(act([16])), tfb.Scale(4.0)]),
    "inverted_flow": lambda act, block: tfb.Invert(Flow([act([16]), block(), tfb.Invert(act([16]))])),
    "inverted_chain": lambda act, block: tfb.Invert(tfb.Chain([tfb.Chain([tfb.Scale(4.0)]), act([16])])),
    "side_by_side": lambda act, block: split(act([8]), tfb.Invert(act([8]))),
    "inverted_side_by_side": lambda act, block: tfb.Invert(split(act([8]), tfb.Invert(act([8])))),
    "blockwise": lambda act, block: tfb.Blockwise([tfb.Invert(act([4])), act([12])], [4, 12]),
    "inverted_multiscale": lambda act, block: tfb.Invert(two_scales()),
}


@pytest.mark.parametrize("name", ENDS_IN_ACT_NORMS)
def test_the_map_through_which_the_data_pass_normalizes(name, make_block):
    names = iter("abcd")
    flow = ENDS_IN_ACT_NORMS[name](lambda shape: ActNorm(shape, name=next(names)), lambda: make_block(size=16))
    x = (5.0 + 3.0 * np.random.default_rng(0).normal(size=[64, 16])).astype("float32")
    latent = resflow.bijectors.initialize(flow, x)
    np.testing.assert_allclose(latent, flow.forward(x), atol=1e-4)
    y = np.reshape(latent, [-1, latent.shape[-1]])
    np.testing.assert_allclose(y.mean(0), 0.0, atol=1e-4)
    np.testing.assert_allclose(y.var(0), 1.0, atol=1e-3)


def test_an_act_norm_out_of_reach_is_told(batch):
    hidden = tfb.TransformDiagonal(ActNorm([2], name="hidden"))
    flow = Flow([tfb.FillTriangular(), hidden])
    with pytest.raises(ValueError, match=r"reaches hidden inside of .*TransformDiagonal"):
        resflow.bijectors.initialize(flow, np.ones([4, 3], "float32"))


def test_multiscale_flow():
    options = {"kernels": (1,), "num_fc_blocks": 0, "factor_out": True}
    flow = resflow.flows.image_flow((4, 4, 1), (1, 1), 4, **options)
    x = tf.random.stateless_uniform([32, 4, 4, 1], [0, 1], 0.05, 0.95)
    latent = resflow.bijectors.initialize(flow, x)
    np.testing.assert_allclose(latent, flow.forward(tf.identity(x)), atol=1e-5)
    # Both scales end with an ActNorm, the first one's on one channel, before the squeeze.
    for y in (flow.flows[0].forward(x), tf.reshape(latent[:, 8:], [-1, 2])):
        assert abs(np.mean(y)) < 1e-5
        assert abs(np.var(y) - 1.0) < 1e-4


def test_conditional_blocks_and_seed(make_block, batch):
    flow = Flow([make_block(condition_size=1), ActNorm([2])])
    condition = np.linspace(-1.0, 1.0, 64, dtype="float32")[:, np.newaxis]
    latent = resflow.bijectors.initialize(flow, batch, seed=1, conditional_input=condition)
    np.testing.assert_allclose(np.var(latent, 0), 1.0, atol=1e-4)
    expected = flow.forward(batch, seed=1, conditional_input=condition)
    np.testing.assert_allclose(latent, expected, atol=1e-5)


def test_no_log_det_is_computed(make_branch, counting_exact, batch):
    block = resflow.bijectors.ResidualBlock(make_branch(), counting_exact, name="block")
    resflow.bijectors.initialize(Flow([block, ActNorm([2])]), batch)
    assert counting_exact.count == 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_data_that_is_not_finite(value, batch):
    act_norm = ActNorm([2])
    batch[3, 1] = value
    with pytest.raises(ValueError, match="NaN or infinite"):
        resflow.bijectors.initialize(act_norm, batch)
    np.testing.assert_array_equal(act_norm.shift, 0.0)


def test_inside_of_a_replica(two_replicas, batch):
    with two_replicas.scope():
        act_norm = ActNorm([2])
        resflow.bijectors.initialize(act_norm, batch)
    np.testing.assert_allclose(act_norm.shift, -batch.mean(0), rtol=1e-5)
    with pytest.raises(RuntimeError, match="outside of strategy.run"):
        two_replicas.run(lambda: resflow.bijectors.initialize(act_norm, batch))
