"""MultiscaleFlow: shapes, members, seeds, checkpoints and errors."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tf_resflow as resflow

tfb = tfp.bijectors
Flow = resflow.bijectors.Flow
MultiscaleFlow = resflow.bijectors.MultiscaleFlow
Squeeze2D = resflow.bijectors.Squeeze2D


@pytest.fixture(scope="module")
def linear():
    """Squeeze and double, squeeze and triple, negate: each value tells its way."""
    return MultiscaleFlow(
        [
            Flow([tfb.Scale(2.0, name="twice"), Squeeze2D()], name="first"),
            Flow([Squeeze2D(), tfb.Scale(3.0, name="thrice")], name="second"),
            Flow([tfb.Scale(-1.0, name="minus")], name="third"),
        ],
        [4, 4, 1],
    )


def test_events_of_several_images(linear, refused):
    """An axis of the event before the image: Squeeze2D inside of the flow, and the flow, keep it."""
    tfd = tfp.distributions
    density = tfd.TransformedDistribution(tfd.Sample(tfd.Normal(0.0, 1.0), [5, 16]), tfb.Invert(linear))
    x = density.sample(2, seed=tf.constant([0, 1]))
    assert x.shape == (2, 5, 4, 4, 1) and density.event_shape == [5, 4, 4, 1]
    np.testing.assert_array_equal(density.event_shape_tensor(), [5, 4, 4, 1])
    alone = tfd.TransformedDistribution(tfd.Sample(tfd.Normal(0.0, 1.0), [16]), tfb.Invert(linear))
    expected = tf.reduce_sum(alone.log_prob(tf.identity(x)), 1)
    np.testing.assert_allclose(density.log_prob(tf.identity(x)), expected, rtol=1e-5)
    for shape in ([5, 4, 4, 1], [4, 4, 1]):
        np.testing.assert_array_equal(linear.forward_event_shape_tensor(shape), linear.forward_event_shape(shape))
    halves = [Flow([tfb.Scale(2.0, name=n)], name=n) for n in ("a", "b")]
    refused("compatible", linear.forward_event_shape, [4, 2, 1])
    refused("3 channels, which cannot be halved", MultiscaleFlow, halves, [4, 4, 3])


def of_one_name(seed=0, num=1):
    """Two flows of one name, of blocks of one name."""
    estimator = resflow.logdet.RussianRoulette(1, probes="gaussian")
    shapes = (2, 2, 4), *[(2, 2, 2)] * num
    branches = [resflow.flows.conv_branch(shape, 4, (1,), seed=seed) for shape in shapes]
    first, *last = [resflow.bijectors.ResidualBlock(branch, estimator) for branch in branches]
    return MultiscaleFlow([Flow([Squeeze2D(), first]), Flow(last)], [4, 4, 1])


def test_members_seeds_and_checkpoints(tmp_path, refused):
    flow, other = of_one_name(), of_one_name(seed=1)
    expected = [id(v) for part in flow.flows for v in part.trainable_variables]
    assert sorted(id(v) for v in flow.trainable_variables) == sorted(expected) and len(expected) > 4
    x = tf.random.stateless_uniform([3, 4, 4, 1], [0, 1], 0.1, 0.9)

    def fldj(flow=flow, **kwargs):
        return flow.forward_log_det_jacobian(tf.identity(x), 3, **kwargs).numpy()

    one = fldj(seed=1)
    np.testing.assert_array_equal(fldj(seed=1), one)
    for different in (fldj(seed=2), fldj(seed=1, flow_1={"seed": 2}), fldj(other, seed=1), fldj()):
        assert np.all(different != one)
    y = flow.forward(x, seed=1)
    np.testing.assert_allclose(flow.inverse_log_det_jacobian(y, 1, seed=1), -one, rtol=1e-5)
    refused("got sed", fldj, sed=1)
    refused("conditional", fldj, conditional_input=x)
    path = tf.train.Checkpoint(flow=flow).write(str(tmp_path / "flow"))
    tf.train.Checkpoint(flow=other).read(path).assert_consumed()
    np.testing.assert_array_equal(fldj(other, seed=1), one)
    with pytest.raises(AssertionError):
        tf.train.Checkpoint(flow=of_one_name(num=2)).read(path).assert_existing_objects_matched()
