"""Affine autoregressive layers: comparison with NumPy in both orders, conditions, and errors."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow

pytestmark = pytest.mark.quick
AffineAutoregressive = resflow.bijectors.AffineAutoregressive


def make(size, reverse, condition_size, generator):
    """Returns a layer with random weights."""
    options = {"reverse": reverse, "condition_size": condition_size, "dtype": "float64"}
    network = resflow.flows.autoregressive_network(size, (7, 6), **options)
    for variable in network.trainable_variables:
        variable.assign(generator.normal(size=variable.shape))
    return AffineAutoregressive(network, reverse)


@pytest.mark.parametrize(
    ("size", "reverse", "condition_size"), [(1, False, 2), (2, True, None), (5, False, None), (5, True, 2)]
)
def test_each_coordinate_is_mapped_given_earlier_ones(size, reverse, condition_size):
    """Maps one coordinate after another, with the network at points whose later coordinates are noise."""
    generator = np.random.default_rng(size)
    layer = make(size, reverse, condition_size, generator)
    x = generator.normal(size=[3, 4, size])
    kwargs = {} if condition_size is None else {"condition": generator.normal(size=[4, condition_size])}
    y, log_det = np.zeros_like(x), 0.0
    for i in range(size):
        later = np.arange(size) <= i if reverse else np.arange(size) >= i
        given = np.where(later, generator.normal(size=x.shape), x).reshape(-1, size)
        rows = [np.broadcast_to(c, [3, *c.shape]).reshape(12, -1) for c in kwargs.values()]
        shift, r = np.split(layer.network([given, *rows] if rows else given).numpy().reshape(3, 4, -1), 2, axis=-1)
        log_scale = 2 * np.tanh(r[..., i] / 2)
        y[..., i] = np.exp(log_scale) * x[..., i] + shift[..., i]
        log_det = log_det + log_scale
    np.testing.assert_allclose(layer.forward(x, **kwargs), y, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(layer.forward_log_det_jacobian(x, 1, **kwargs), log_det, atol=1e-10)
    inverse = tf.function(lambda y: (layer.inverse(y, **kwargs), layer.inverse_log_det_jacobian(y, 1, **kwargs)))
    for found, expected in zip(inverse(tf.constant(y)), (x, -log_det), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8)
    order = range(size)[:: -1 if reverse else 1]
    for place, i in enumerate(order):  # each coordinate depends on all earlier ones
        others = [layer.forward(x + np.eye(size)[j], **kwargs) for j in order[:place]]
        assert all(np.max(np.abs(other[..., i] - y[..., i])) > 1e-3 for other in others)
    if condition_size:
        other = layer.forward(x, condition=-kwargs["condition"])
        assert np.all(np.max(np.abs(other - y), axis=(0, 1)) > 1e-3)  # including the first coordinate


def test_the_inverse_does_not_overflow_before_it_ends():
    """Coordinates that are not computed yet are zero. In a steep layer, other values would overflow."""
    generator = np.random.default_rng(0)
    network = resflow.flows.autoregressive_network(64, (64,))
    for variable in network.trainable_variables:
        variable.assign(10.0 * generator.normal(size=variable.shape))
    layer = AffineAutoregressive(network)
    x = layer.inverse(tf.constant(layer.forward(generator.normal(size=[2, 64]).astype("float32"))))
    assert np.all(np.isfinite(x[:, :8]))


@pytest.mark.parametrize(("width", "condition_size"), [(1, None), (2, 1), (5, None), (40, 1)])
def test_narrow_networks_see_all_coordinates(width, condition_size):
    """The output depends on each coordinate except the last one in the order."""
    options = {"condition_size": condition_size, "reverse": True, "dtype": "float64"}
    network = resflow.flows.autoregressive_network(20, (width, width), **options)
    for variable in network.trainable_variables:
        variable.assign(np.abs(np.random.default_rng(width).normal(size=variable.shape)))
    x = tf.constant(np.random.default_rng(width).normal(size=[1, 20]))
    with tf.GradientTape() as tape:
        tape.watch(x)
        output = network(x if condition_size is None else [x, tf.ones([1, 1], tf.float64)])
    seen = np.any(tape.jacobian(output, x)[0, :, 0].numpy() != 0, axis=0)
    assert seen.tolist() == [False, *19 * [True]]


def test_invalid_networks(refused):
    """This includes a network with a kernel of zeros, which does not depend on its input yet."""
    free = keras.Sequential([keras.Input([3]), keras.layers.Dense(6, kernel_initializer="zeros")])
    masked = resflow.flows.autoregressive_network(3, (8,))
    short = keras.Sequential([keras.Input([3]), keras.layers.Dense(5)])
    refused("for coordinate 0 depends on coordinate 0.*autoregressive_network", AffineAutoregressive, free)
    refused("reverse=True.*for coordinate 1 depends on coordinate 0", AffineAutoregressive, masked, reverse=True)
    refused(r"\(3,\) to \(5,\); .*must map \[D\] to \[2 D\]", AffineAutoregressive, short)
