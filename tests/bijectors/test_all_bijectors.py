"""All bijectors: round trip, shapes, and the log-determinant compared with the Jacobian."""

import copy
import json
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tf_resflow as resflow

tfb = tfp.bijectors
EXACT = resflow.logdet.Exact()
DTYPE = "float64"


def uniform(shape):
    return tf.random.stateless_uniform(shape, [3, 4], 0.05, 0.95, DTYPE)


def moved(bijector):
    """Returns the bijector after a change of its variables."""
    for seed, variable in enumerate(bijector.trainable_variables):
        variable.assign_add(0.3 * tf.random.stateless_normal(variable.shape, [2, seed], dtype=DTYPE))
    return bijector


def act_norm(*args):
    return moved(resflow.bijectors.ActNorm(*args, dtype=DTYPE))


def dct_conv(*shape):
    return moved(resflow.bijectors.DCTConv(shape, DTYPE))


def residual(make_block):
    return make_block("r", EXACT, size=3, dtype=DTYPE)


def stock_flow(block, coupling):
    scale = tfb.Scale(tf.constant([0.5, -2.0, 1.5], DTYPE))
    tail = tfb.Chain([tfb.Permute([2, 0, 1]), tfb.SinhArcsinh(tf.constant(0.3, DTYPE))])
    return resflow.bijectors.Flow([coupling, scale, block, tail])


def monotone():
    branch = resflow.flows.dense_branch([3], (4,), coefficient=0.8, dtype=DTYPE)
    return resflow.bijectors.MonotoneBlock(branch, EXACT)


def autoregressive():
    network = resflow.flows.autoregressive_network(3, (4,), reverse=True, dtype=DTYPE)
    return moved(resflow.bijectors.AffineAutoregressive(network, reverse=True))


def multiscale():
    """Returns a flow with both splits, both parts, 1x1 convolutions and a squeeze."""
    options = {"num_blocks": (2, 2), "width": 4, "kernels": (3, 1), "num_fc_blocks": 0, "factor_out": True}
    block = resflow.flows.coupling_image_block()
    flow = moved(resflow.flows.image_flow((4, 4, 1), **options, block=block, inv_1x1_conv=True, dtype=DTYPE))
    resflow.bijectors.initialize(flow, uniform([8, 4, 4, 1]))
    return flow


# name: (constructor from the fixtures make_block and make_coupling, event shape, output shape)
CASES = {
    "act_norm_vector": (lambda b, c: act_norm([3]), [3], [3]),
    "act_norm_channels": (lambda b, c: act_norm([2, 2, 3]), [2, 2, 3], [2, 2, 3]),
    "act_norm_elements": (lambda b, c: act_norm([2, 2, 3], False), [2, 2, 3], [2, 2, 3]),
    "squeeze_2d": (lambda b, c: resflow.bijectors.Squeeze2D(), [4, 2, 3], [2, 1, 12]),
    "logit": (lambda b, c: resflow.bijectors.Logit(0.05), [], []),
    "normalize": (lambda b, c: resflow.bijectors.Normalize([1.0, -2.0], [0.5, 3.0], DTYPE), [2], [2]),
    "whiten": (lambda b, c: resflow.bijectors.Whiten([1.0, -2.0], [[2.0, 0.9], [0.9, 0.5]], DTYPE), [2], [2]),
    "dct_conv": (lambda b, c: dct_conv(3, 2, 2), [3, 2, 2], [3, 2, 2]),
    "residual_block": (lambda b, c: residual(b), [3], [3]),
    "monotone_block": (lambda b, c: monotone(), [3], [3]),
    "stock_bijectors": (lambda b, c: stock_flow(residual(b), c(shape=(3,), dtype=DTYPE)), [3], [3]),
    "multiscale_flow": (lambda b, c: multiscale(), [4, 4, 1], [16]),
    "invertible_conv_1x1": (lambda b, c: moved(resflow.bijectors.InvertibleConv1x1(3, 1, DTYPE)), [3], [3]),
    "additive_coupling": (lambda b, c: c("additive", (3,), dtype=DTYPE), [3], [3]),
    "affine_autoregressive": (lambda b, c: autoregressive(), [3], [3]),
    "affine_coupling": (lambda b, c: c("affine", (3, 2, 4), swap=True, dtype=DTYPE), [3, 2, 4], [3, 2, 4]),
    "spline_coupling": (lambda b, c: c("spline", (3, 2, 4), swap=True, dtype=DTYPE), [3, 2, 4], [3, 2, 4]),
    "spline_checkerboard": (lambda b, c: c("spline", (3, 2, 1), "checkerboard", dtype=DTYPE), [3, 2, 1], [3, 2, 1]),
    "checkerboard": (lambda b, c: c("affine", (3, 2, 1), "checkerboard", True, dtype=DTYPE), [3, 2, 1], [3, 2, 1]),
}


def jacobian(function, x):
    """Returns the Jacobians `[batch, size, size]` of a function of events, from one copy of x per output."""
    size = x.shape[1:].num_elements()
    copies = tf.repeat(x, size, 0)
    with tf.GradientTape() as tape:
        tape.watch(copies)
        y = tf.reshape(function(copies), [-1, size])
    rows = tape.gradient(y, copies, tf.tile(tf.eye(size, dtype=x.dtype), [len(x), 1]))
    return np.reshape(rows, [len(x), size, size])


@pytest.fixture(scope="module", params=CASES)
def case(request, make_block, make_coupling):
    construct, event_shape, image_shape = CASES[request.param]
    return construct(make_block, make_coupling), uniform([3, *event_shape]), image_shape


def test_event_shapes(case):
    bijector, x, image_shape = case
    event_shape = x.shape[1:]
    assert bijector.forward_event_shape(event_shape) == image_shape
    assert bijector.inverse_event_shape(image_shape) == event_shape
    assert bijector.forward_event_shape_tensor(event_shape).numpy().tolist() == image_shape
    assert bijector.inverse_event_shape_tensor(image_shape).numpy().tolist() == event_shape
    assert bijector.forward_min_event_ndims == event_shape.rank
    assert bijector.inverse_min_event_ndims == len(image_shape)


def test_inverse_and_log_det_match_the_forward_map(case):
    """Tests a graph with unknown batch size and eager mode, with copies so that no cached value is used."""
    bijector, x, image_shape = case
    ndims, close = x.shape.rank - 1, {"rtol": 1e-11, "atol": 1e-11}
    y = bijector.forward(x)
    assert y.shape == [3, *image_shape] and y.dtype == x.dtype
    assert np.max(np.abs(tf.reshape(y, [-1]) - tf.reshape(x, [-1]))) > 1e-3
    _, expected = np.linalg.slogdet(jacobian(bijector.forward, x))

    @tf.function(input_signature=[tf.TensorSpec([None, *x.shape[1:]], x.dtype)])
    def graph(x):
        y = bijector.forward(x)
        assert y.shape[1:] == image_shape
        fldj = bijector.forward_log_det_jacobian(x, ndims)
        return y, bijector.inverse(tf.identity(y)), fldj

    def eager(x):
        back = bijector.inverse(tf.identity(y))
        np.testing.assert_allclose(bijector.forward(tf.identity(back)), y, **close)
        ildj = bijector.inverse_log_det_jacobian(tf.identity(y), len(image_shape))
        np.testing.assert_allclose(np.broadcast_to(ildj, [3]), -expected, **close)
        return y, back, bijector.forward_log_det_jacobian(tf.identity(x), ndims)

    for function in (eager, graph):
        image, back, fldj = function(x)
        np.testing.assert_allclose(image, y, **close)
        np.testing.assert_allclose(back, x, **close)
        np.testing.assert_allclose(np.broadcast_to(fldj, [3]), expected, **close)


def test_config_pickle_and_copy(case):
    """A JSON config restores the bijector with initial values; a pickle and a copy also keep the values."""
    bijector, x, _ = case
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(bijector)))
    built = keras.saving.deserialize_keras_object(config)
    for variable, value in zip(built.variables, bijector.variables, strict=True):
        assert bool(variable.trainable) == bool(value.trainable)
        variable.assign(value)
    for other in (built, pickle.loads(pickle.dumps(bijector)), copy.deepcopy(bijector)):
        assert type(other) is type(bijector) and other.name == bijector.name
        np.testing.assert_array_equal(other.forward(x), bijector.forward(x))
        log_dets = [b.forward_log_det_jacobian(tf.identity(x), x.shape.rank - 1) for b in (other, bijector)]
        np.testing.assert_array_equal(*log_dets)


@pytest.mark.parametrize("shape", [(3, 4, 1), (4, 3, 1)])
def test_sizes_that_cannot_be_squeezed(shape, refused):
    refused("must be multiples of 2", resflow.bijectors.Squeeze2D().forward, tf.zeros([2, *shape]))
