"""MultiscaleFlow: what leaves where, seeds, batch shapes and errors."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tf_resflow as resflow

tfb = tfp.bijectors
Flow = resflow.bijectors.Flow
MultiscaleFlow = resflow.bijectors.MultiscaleFlow
Squeeze2D = resflow.bijectors.Squeeze2D


def scale_by(factor, name):
    return tfb.Scale(tf.constant(factor), name=name)


@pytest.fixture(scope="module")
def linear():
    """Squeeze and double, squeeze and triple, negate: each value tells its way."""
    return MultiscaleFlow(
        [
            Flow([scale_by(2.0, "twice"), Squeeze2D()], name="first"),
            Flow([Squeeze2D(), scale_by(3.0, "thrice")], name="second"),
            Flow([scale_by(-1.0, "minus")], name="third"),
        ],
        [4, 4, 1],
    )


@pytest.fixture(scope="module")
def multiscale():
    estimator = resflow.logdet.RussianRoulette(1, probes="gaussian")
    block = resflow.flows.residual_image_block(log_det=estimator)
    return resflow.flows.image_flow(
        (4, 4, 1), (1, 1), 4, kernels=(1,), num_fc_blocks=0, block=block, factor_out=True
    )


def test_which_channels_leave(linear):
    x = np.arange(1.0, 17.0, dtype="float32").reshape(1, 4, 4, 1)
    squeezed = 2 * Squeeze2D().forward(x).numpy()
    on, first = np.split(squeezed, 2, -1)
    squeezed = 3 * Squeeze2D().forward(on).numpy()
    on, second = np.split(squeezed, 2, -1)
    expected = np.concatenate([first.reshape(1, -1), second.reshape(1, -1), -on.reshape(1, -1)], 1)
    assert expected.shape == (1, 16)
    np.testing.assert_allclose(linear.forward(x), expected)
    np.testing.assert_allclose(linear.inverse(expected), x)
    fldj = 16 * np.log(2) + 8 * np.log(3)
    np.testing.assert_allclose(linear.forward_log_det_jacobian(x, 3), [fldj], rtol=1e-6)
    np.testing.assert_allclose(linear.inverse_log_det_jacobian(expected, 1), [-fldj], rtol=1e-6)


def test_events_of_several_images(linear):
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
    with pytest.raises(ValueError, match="incompatible"):
        linear.forward_event_shape([4, 2, 1])


@pytest.mark.parametrize("batch_shape", [[], [2], [2, 3]])
def test_batch_shapes(batch_shape, linear):
    x = tf.random.stateless_normal([*batch_shape, 4, 4, 1], [0, 1])
    y = linear.forward(x)
    assert y.shape == [*batch_shape, 16]
    back = linear.inverse(tf.identity(y))
    assert back.shape == x.shape
    np.testing.assert_allclose(back, x, rtol=1e-6)


def test_flows_are_in_order_and_variables_unique(multiscale):
    assert [flow.name for flow in multiscale.flows] == ["scale0", "scale1"]
    found = [id(v) for v in multiscale.trainable_variables]
    expected = [id(v) for flow in multiscale.flows for v in flow.trainable_variables]
    assert len(set(found)) == len(found)
    assert set(found) == set(expected)


def test_seed(multiscale):
    x = tf.random.stateless_uniform([3, 4, 4, 1], [0, 1], 0.1, 0.9)

    def fldj(**kwargs):
        return multiscale.forward_log_det_jacobian(tf.identity(x), 3, **kwargs).numpy()

    np.testing.assert_array_equal(fldj(seed=1), fldj(seed=1))
    assert np.all(fldj(seed=1) != fldj(seed=2))
    assert np.all(fldj() != fldj())
    with pytest.raises(ValueError, match="got sed"):
        fldj(sed=1)
    with pytest.raises(ValueError, match="conditional"):
        fldj(conditional_input=x)


def test_flows_and_blocks_of_one_name(tmp_path):
    def flow(seed):
        blocks = [resflow.flows.conv_branch(shape, 4, (1,), seed=seed) for shape in ((2, 2, 4), (2, 2, 2))]
        first, last = [resflow.bijectors.ResidualBlock(b, estimator) for b in blocks]
        return MultiscaleFlow([Flow([Squeeze2D(), first]), Flow([last])], [4, 4, 1])

    estimator = resflow.logdet.RussianRoulette(1, probes="gaussian")
    one, other = flow(1), flow(2)
    path = tf.train.Checkpoint(flow=one).write(str(tmp_path / "flow"))
    tf.train.Checkpoint(flow=other).read(path).assert_consumed()
    x = tf.random.stateless_uniform([3, 4, 4, 1], [0, 1])
    values = [f.forward_log_det_jacobian(tf.identity(x), 3, seed=1) for f in (one, other)]
    np.testing.assert_array_equal(*values)
    changed = one.forward_log_det_jacobian(tf.identity(x), 3, seed=1, flow_1={"seed": 2})
    assert np.all(changed != values[0])


def test_log_det_of_the_forward_pass_is_that_of_its_seed(multiscale):
    x = tf.random.stateless_uniform([3, 4, 4, 1], [0, 1], 0.1, 0.9)
    y = multiscale.forward(x, seed=1)
    ildj = multiscale.inverse_log_det_jacobian(y, 1, seed=1)
    fldj = multiscale.forward_log_det_jacobian(tf.identity(x), 3, seed=1)
    np.testing.assert_allclose(ildj, -fldj, rtol=1e-5)


def test_wrong_arguments(multiscale):
    with pytest.raises(ValueError, match="at least two"):
        MultiscaleFlow([Flow([Squeeze2D()])], [4, 4, 1])
    halves = [Flow([scale_by(2.0, n)], name=n) for n in ("a", "b")]
    with pytest.raises(ValueError, match="3 channels, which cannot be halved"):
        MultiscaleFlow(halves, [4, 4, 3])
    with pytest.raises(ValueError, match="incompatible|compatible"):
        multiscale.forward_event_shape([8, 8, 1])


def test_checkpoint_of_another_architecture_does_not_restore(multiscale, tmp_path):
    path = tf.train.Checkpoint(flow=multiscale).write(str(tmp_path / "flow"))
    options = {"kernels": (1,), "num_fc_blocks": 0, "factor_out": True}
    same = resflow.flows.image_flow((4, 4, 1), (1, 1), 4, seed=1, **options)
    tf.train.Checkpoint(flow=same).read(path).assert_consumed()
    blocks = [
        [m for m in flow.submodules if isinstance(m, resflow.bijectors.ResidualBlock)]
        for flow in (multiscale, same)
    ]
    for one, other in zip(*(sorted(b, key=lambda m: m.name) for b in blocks), strict=True):
        for v, w in zip(one.branch.variables, other.branch.variables, strict=True):
            np.testing.assert_array_equal(v, w)
    other = resflow.flows.image_flow((4, 4, 1), (2, 1), 4, **options)
    with pytest.raises(AssertionError):
        tf.train.Checkpoint(flow=other).read(path).assert_existing_objects_matched()
