"""Every bijector: round trip, shapes, and the log-determinant against the autodiff Jacobian's."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tf_resflow as resflow

tfb = tfp.bijectors
EXACT = resflow.logdet.Exact()
BATCH = 3


def act_norm(dtype, event_shape, per_channel=True):
    bijector = resflow.bijectors.ActNorm(event_shape, per_channel, dtype=dtype)
    for seed, variable in enumerate([bijector.log_scale, bijector.shift]):
        variable.assign(0.5 * tf.random.stateless_normal(variable.shape, [1, seed], dtype=dtype))
    return bijector


def stock_flow(dtype, make_block):
    blocks = [make_block(name, EXACT, size=3, seed=i, dtype=dtype) for i, name in enumerate("ab")]
    scale = tfb.Scale(tf.constant([0.5, -2.0, 1.5], dtype))
    tail = tfb.Chain([tfb.Permute([2, 0, 1]), tfb.SinhArcsinh(tf.constant(0.3, dtype))])
    return resflow.bijectors.Flow([blocks[0], scale, blocks[1], tail])


def monotone(dtype):
    branch = resflow.flows.dense_branch([3], (4,), coefficient=0.8, dtype=dtype)
    return resflow.bijectors.MonotoneBlock(branch, EXACT)


def multiscale(dtype):
    options = {"num_blocks": (1, 1), "width": 4, "kernels": (3,), "num_fc_blocks": 0}
    block = resflow.flows.residual_image_block(log_det=EXACT)
    flow = resflow.flows.image_flow((4, 4, 1), **options, block=block, factor_out=True, dtype=dtype)
    resflow.bijectors.initialize(flow, uniform([8, 4, 4, 1], dtype))
    return flow


def conv_1x1(dtype):
    bijector = resflow.bijectors.InvertibleConv1x1(3, seed=1, dtype=dtype)
    noise = tf.random.stateless_normal([3, 3], [1, 2], stddev=0.5, dtype=dtype)
    bijector.lower_upper.assign(bijector.lower_upper + noise)
    return bijector


def coupling_flow(dtype):
    """Both splits, both parts, 1x1 convolutions, a squeeze and fully connected couplings."""
    options = {"num_blocks": (2, 2), "width": 4, "kernels": (3, 1), "num_fc_blocks": 2, "fc_width": 4}
    block = resflow.flows.coupling_image_block()
    flow = resflow.flows.image_flow((4, 4, 1), **options, block=block, inv_1x1_conv=True, dtype=dtype)
    for seed, variable in enumerate(flow.trainable_variables):
        noise = tf.random.stateless_normal(variable.shape, [2, seed], stddev=0.1, dtype=dtype)
        variable.assign(variable + noise)
    return flow


def uniform(shape, dtype):
    return tf.random.stateless_uniform(shape, [3, 4], 0.05, 0.95, dtype)


# name: (constructor from a dtype and the fixtures make_block, make_coupling; event shape; shape of its image)
CASES = {
    "act_norm_vector": (lambda d, b, c: act_norm(d, [3]), [3], [3]),
    "act_norm_channels": (lambda d, b, c: act_norm(d, [2, 2, 3]), [2, 2, 3], [2, 2, 3]),
    "act_norm_elements": (lambda d, b, c: act_norm(d, [2, 2, 3], False), [2, 2, 3], [2, 2, 3]),
    "squeeze_2d": (lambda d, b, c: resflow.bijectors.Squeeze2D(), [4, 2, 3], [2, 1, 12]),
    "logit": (lambda d, b, c: resflow.bijectors.Logit(0.05), [], []),
    "normalize": (lambda d, b, c: resflow.bijectors.Normalize([1.0, -2.0], [0.5, 3.0], d), [2], [2]),
    "residual_block": (lambda d, b, c: b("r", EXACT, size=3, dtype=d), [3], [3]),
    "monotone_block": (lambda d, b, c: monotone(d), [3], [3]),
    "flow_with_stock_bijectors": (lambda d, b, c: stock_flow(d, b), [3], [3]),
    "multiscale_flow": (lambda d, b, c: multiscale(d), [4, 4, 1], [16]),
    "invertible_conv_1x1": (lambda d, b, c: conv_1x1(d), [3], [3]),
    "additive_coupling": (lambda d, b, c: c("additive", (3,), dtype=d), [3], [3]),
    "affine_coupling": (lambda d, b, c: c("affine", (3,), swap=True, dtype=d), [3], [3]),
    "affine_channels": (lambda d, b, c: c("affine", (2, 3, 4), dtype=d), [2, 3, 4], [2, 3, 4]),
    "affine_checkerboard": (
        lambda d, b, c: c("affine", (3, 2, 1), "checkerboard", swap=True, dtype=d),
        [3, 2, 1],
        [3, 2, 1],
    ),
    "coupling_flow": (lambda d, b, c: coupling_flow(d), [4, 4, 1], [2, 2, 4]),
}


FLOAT32_ONLY = pytest.mark.parametrize("case", [(name, "float32") for name in CASES], ids=CASES, indirect=True)


@pytest.fixture(
    scope="module",
    params=[(c, d) for c in CASES for d in ("float32", "float64")],
    ids="-".join,
)
def case(request, make_block, make_coupling):
    name, dtype = request.param
    construct, event_shape, image_shape = CASES[name]
    x = uniform([BATCH, *event_shape], dtype)
    return construct(dtype, make_block, make_coupling), x, image_shape


def test_forward_and_inverse_undo_each_other(case):
    bijector, x, image_shape = case
    y = bijector.forward(x)
    assert y.shape == [BATCH, *image_shape]
    assert y.dtype == x.dtype
    assert np.max(np.abs(tf.reshape(y, [-1]) - tf.reshape(x, [-1]))) > 1e-3
    tolerance = {"float32": 1e-5, "float64": 1e-11}[x.dtype.name]
    # Copies, so that nothing is found in the cache.
    back = bijector.inverse(tf.identity(y))
    np.testing.assert_allclose(back, x, atol=tolerance, rtol=tolerance)
    np.testing.assert_allclose(bijector.forward(tf.identity(back)), y, atol=tolerance * 10)


@FLOAT32_ONLY
def test_event_shapes(case):
    bijector, x, image_shape = case
    event_shape = x.shape[1:]
    assert bijector.forward_event_shape(event_shape) == image_shape
    assert bijector.inverse_event_shape(image_shape) == event_shape
    assert bijector.forward_event_shape_tensor(event_shape).numpy().tolist() == image_shape
    assert bijector.inverse_event_shape_tensor(image_shape).numpy().tolist() == event_shape
    assert bijector.forward_min_event_ndims == event_shape.rank
    assert bijector.inverse_min_event_ndims == len(image_shape)


@FLOAT32_ONLY
def test_unknown_batch_size(case):
    bijector, x, image_shape = case
    ndims = x.shape.rank - 1

    @tf.function(input_signature=[tf.TensorSpec([None, *x.shape[1:]], x.dtype)])
    def call(x):
        y = bijector.forward(x)
        assert y.shape[1:] == image_shape
        fldj = bijector.forward_log_det_jacobian(x, ndims)
        return y, bijector.inverse(tf.identity(y)), fldj

    y, back, fldj = call(x)
    np.testing.assert_allclose(y, bijector.forward(x), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(back, x, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(fldj, bijector.forward_log_det_jacobian(x, ndims), rtol=1e-5, atol=1e-5)


def test_log_det_is_that_of_the_jacobian(case):
    bijector, x, image_shape = case
    _, expected = np.linalg.slogdet(_jacobian(bijector, x))
    tolerance = {"float32": 2e-5, "float64": 1e-11}[x.dtype.name]
    ndims = x.shape.rank - 1
    fldj = bijector.forward_log_det_jacobian(tf.identity(x), ndims)
    np.testing.assert_allclose(np.broadcast_to(fldj, [BATCH]), expected, atol=tolerance)
    y = tf.identity(bijector.forward(x))
    ildj = bijector.inverse_log_det_jacobian(y, len(image_shape))
    np.testing.assert_allclose(np.broadcast_to(ildj, [BATCH]), -expected, atol=tolerance)


def _jacobian(bijector, x):
    """`[BATCH, outputs, inputs]`: each copy of an example tells the gradient of one of its outputs."""
    size = x.shape[1:].num_elements()
    copies = tf.repeat(x, size, 0)
    with tf.GradientTape() as tape:
        tape.watch(copies)
        y = tf.reshape(bijector.forward(copies), [-1, size])
    rows = tape.gradient(y, copies, tf.tile(tf.eye(size, dtype=x.dtype), [BATCH, 1]))
    return tf.reshape(rows, [BATCH, size, size])
