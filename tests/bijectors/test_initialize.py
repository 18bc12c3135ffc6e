"""Data-dependent initialization, in order, at any depth."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tf_resflow as resflow

tfb = tfp.bijectors
Flow = resflow.bijectors.Flow
ActNorm = resflow.bijectors.ActNorm
initialize = resflow.bijectors.initialize


@pytest.fixture
def batch():
    return (5.0 + 3.0 * np.random.default_rng(0).normal(size=[64, 2])).astype("float32")


def test_every_act_norm_normalises_what_reaches_it(make_branch, counting_exact, batch):
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
    """Members side by side, each on two of the coordinates."""
    return tfb.Chain([tfb.Invert(tfb.Split(len(members))), tfb.JointMap(list(members)), tfb.Split(len(members))])


def test_a_joint_map(batch):
    parts = {"a": ActNorm([2], name="a"), "b": ActNorm([2], name="b")}
    latent = initialize(tfb.JointMap(parts), {"a": batch, "b": 7 * batch})
    np.testing.assert_allclose(np.std([latent["a"], latent["b"]], axis=1), np.ones([2, 2]), rtol=1e-4)


def two_scales(act):
    image = [Flow([act([4, 4, 1]), resflow.bijectors.Squeeze2D()], name="large")]
    return resflow.bijectors.MultiscaleFlow([*image, Flow([tfb.Scale(3.0)], name="small")], [4, 4, 1])


ENDS_IN_ACT_NORMS = {  # what is applied last, to data of 16 coordinates or what the map makes of them, is ActNorms
    "inverted_twice": lambda act, block: tfb.Invert(tfb.Invert(act([16]))),
    "member_of_flow": lambda act, block: Flow([act([16]), block(), tfb.Invert(act([16]))]),
    "member_of_chain": lambda act, block: tfb.Chain([tfb.Invert(act([16])), tfb.Scale(4.0)]),
    "inverted_flow": lambda act, block: tfb.Invert(Flow([act([16]), block(), tfb.Invert(act([16]))])),
    "inverted_chain": lambda act, block: tfb.Invert(tfb.Chain([tfb.Chain([tfb.Scale(4.0)]), act([16])])),
    "side_by_side": lambda act, block: split(act([8]), tfb.Invert(act([8]))),
    "inverted_side_by_side": lambda act, block: tfb.Invert(split(act([8]), tfb.Invert(act([8])))),
    "blockwise": lambda act, block: tfb.Blockwise([tfb.Invert(act([4])), act([12])], [4, 12]),
    "inverted_multiscale": lambda act, block: tfb.Invert(two_scales(act)),
}


@pytest.mark.parametrize("name", ENDS_IN_ACT_NORMS)
def test_the_map_through_which_the_data_pass_normalizes(name, make_block):
    names = iter("abcd")
    flow = ENDS_IN_ACT_NORMS[name](lambda shape: ActNorm(shape, name=next(names)), lambda: make_block(size=16))
    x = (5.0 + 3.0 * np.random.default_rng(0).normal(size=[64, 16])).astype("float32")
    latent = initialize(flow, x)
    np.testing.assert_allclose(latent, flow.forward(x), atol=1e-4)
    y = np.reshape(latent, [-1, latent.shape[-1]])
    np.testing.assert_allclose(y.mean(0), 0.0, atol=1e-4)
    np.testing.assert_allclose(y.var(0), 1.0, atol=1e-3)


def test_conditional_blocks_and_seed(make_block, batch):
    flow = Flow([make_block(condition_size=1), ActNorm([2])])
    kwargs = {"seed": 1, "conditional_input": np.linspace(-1.0, 1.0, 64, dtype="float32")[:, np.newaxis]}
    latent = initialize(flow, batch, **kwargs)
    np.testing.assert_allclose(np.var(latent, 0), 1.0, atol=1e-4)
    np.testing.assert_allclose(latent, flow.forward(batch, **kwargs), atol=1e-5)


def test_refusals(batch, two_replicas, refused):
    flow = Flow([tfb.FillTriangular(), tfb.TransformDiagonal(ActNorm([2], name="hidden"))])
    message = "inputs of hidden inside of .*TransformDiagonal"
    refused(message, initialize, flow, np.ones([4, 3], "float32"))
    act_norm, wrong = ActNorm([2]), batch.copy()
    wrong[3, 1] = np.nan
    refused("NaN or infinite", initialize, act_norm, wrong)
    np.testing.assert_array_equal(act_norm.shift, 0.0)
    with two_replicas.scope():
        act_norm = ActNorm([2])
        initialize(act_norm, batch)
    np.testing.assert_allclose(act_norm.shift, -batch.mean(0), rtol=1e-5)
