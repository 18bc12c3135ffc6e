"""Couplings: the parts, one evaluation of the network, conditions, and errors."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special

import tf_resflow as resflow

pytestmark = pytest.mark.quick
AffineCoupling = resflow.bijectors.AffineCoupling
AdditiveCoupling = resflow.bijectors.AdditiveCoupling


def is_mapped(shape, split, swap):
    """Returns a mask of the elements of an event that change."""
    index = np.indices(shape)
    if split == "checkerboard":
        return (index[0] + index[1]) % 2 != swap
    mapped = index[-1] >= shape[-1] // 2
    return mapped[..., ::-1] if swap else mapped


@pytest.mark.parametrize(
    ("kind", "swap", "split", "shape", "condition_size", "batch"),
    [
        ("affine", False, "channels", (4, 3, 2), None, [2, 3]),
        ("affine", False, "channels", (5,), None, [6]),
        ("affine", True, "channels", (5,), 3, [6]),
        ("additive", True, "channels", (5,), None, [3, 2]),
        ("affine", True, "checkerboard", (3, 4, 2), None, []),
        ("additive", False, "checkerboard", (3, 4, 2), 2, [2, 3]),
    ],
)
def test_one_part_is_kept_and_determines_the_map_of_the_other(
    kind, swap, split, shape, condition_size, batch, make_coupling, normal
):
    coupling = make_coupling(kind, shape, split, swap, condition_size=condition_size)
    mapped, count = is_mapped(shape, split, swap), int(np.prod(batch))
    x = normal([count, *shape]).numpy()
    given = x[:, ~mapped].reshape(count, *shape[:-1], -1) if split == "channels" else np.where(mapped, 0.0, x)
    given = tf.constant(given)
    conditions = [] if condition_size is None else [0.3 * normal([count, condition_size], 1)]
    output = coupling.network([given, *conditions] if conditions else given).numpy()
    shift, logits = np.split(output, 2, axis=-1) if kind == "affine" else (output, np.full_like(output, np.inf))
    scale = special.expit(logits + 2)
    if split == "checkerboard":
        shift, scale = shift[:, mapped], scale[:, mapped]
    shift, scale = shift.reshape(count, -1), scale.reshape(count, -1)
    y = x.copy()
    y[:, mapped] = scale * x[:, mapped] + shift
    kwargs = {"condition": tf.reshape(conditions[0], [*batch, -1])} if conditions else {}
    x, y, log_det = (np.reshape(a, [*batch, *a.shape[1:]]) for a in (x, y, np.sum(np.log(scale), -1)))
    np.testing.assert_allclose(coupling.forward(x, **kwargs), y, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(coupling.inverse(y, **kwargs), x, atol=1e-5)
    fldj = coupling.forward_log_det_jacobian(tf.identity(x), len(shape), **kwargs)
    assert fldj.shape == batch
    np.testing.assert_allclose(fldj, log_det, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("split", ["channels", "checkerboard"])
def test_images_of_another_size(split, make_coupling, normal):
    """A convolutional network accepts them, and the checkerboard has the size of the image."""
    small = make_coupling("affine", (2, 2, 2), split)
    channels = 2 if split == "checkerboard" else 1
    large = AffineCoupling(keras.Sequential([keras.Input([3, 5, channels]), *small.network.layers]), split)
    x = normal([2, 3, 5, 2])
    np.testing.assert_allclose(small.forward(x), large.forward(x), atol=1e-6)


def dense(inputs, outputs, **kwargs):
    return keras.Sequential([keras.Input([inputs]), keras.layers.Dense(outputs, **kwargs)])


def test_the_scale_is_bounded():
    """Logits of +-60 do not overflow: the scale tends to 1, or its logarithm to the logit plus 2."""
    network = dense(1, 2, kernel_initializer="zeros")
    coupling = AffineCoupling(network)
    x = tf.constant([[0.5, 1.0]])
    for logit, log_scale in ((60.0, 0.0), (-60.0, -58.0)):
        network.layers[-1].bias.assign([0.0, logit])
        np.testing.assert_allclose(coupling.forward(tf.identity(x))[0, 1], np.exp(log_scale), rtol=1e-5)
        fldj = coupling.forward_log_det_jacobian(tf.identity(x), 1)
        np.testing.assert_allclose(fldj, [log_scale], atol=1e-5)
        back = coupling.inverse(coupling.forward(tf.identity(x)) + 0.0)
        np.testing.assert_allclose(back, x, rtol=1e-5)


def test_invalid_networks_and_inputs(make_coupling, refused):
    three = keras.Model(inputs := [keras.Input([1]) for _ in range(3)], keras.layers.Add()(inputs))
    to_image = r"maps \(2,\) to \(4,\)\..*\[H, W, C\] to \[H, W, 2 C\]"
    refused("split='rows'; .*'channels' or 'checkerboard'", AffineCoupling, dense(2, 4), split="rows")
    refused(r"maps \(2,\) to \(3,\).*\[..., 2 C_b\]", AffineCoupling, dense(2, 3))
    refused(to_image, AffineCoupling, dense(2, 4), split="checkerboard")
    refused(r"one input, or two.* one output", AdditiveCoupling, three)
    refused(r"events of shape \(4, 4, 2\)", make_coupling("affine", (4, 4, 2)).inverse, tf.zeros([4, 2]))
