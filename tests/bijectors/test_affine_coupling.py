"""The scale of the affine coupling: where it starts, and its bounds."""

import keras
import numpy as np
import tensorflow as tf

import tf_resflow as resflow

AffineCoupling = resflow.bijectors.AffineCoupling


def test_it_starts_near_the_identity():
    coupling = AffineCoupling(resflow.flows.coupling_network((3, 2, 4), 5))
    x = tf.random.stateless_normal([5, 3, 2, 4], [0, 1])
    scale = 1 / (1 + np.exp(-2.0))
    expected = np.concatenate([x[..., :2], scale * x[..., 2:]], -1)
    np.testing.assert_allclose(coupling.forward(x), expected, rtol=1e-6)
    fldj = coupling.forward_log_det_jacobian(tf.identity(x), 3)
    np.testing.assert_allclose(fldj, np.full(5, 12 * np.log(scale)), rtol=1e-5)


def test_the_scale_is_bounded():
    """Logits of +-60 are no overflow: the scale tends to 1 and its logarithm to the logit, less the 2."""
    network = keras.Sequential([keras.Input([1]), keras.layers.Dense(2, kernel_initializer="zeros")])
    coupling = AffineCoupling(network)
    x = tf.constant([[0.5, 1.0]])
    for logit, log_scale in ((60.0, 0.0), (-60.0, -58.0)):
        network.layers[-1].bias.assign([0.0, logit])
        np.testing.assert_allclose(coupling.forward(tf.identity(x))[0, 1], np.exp(log_scale), rtol=1e-5)
        fldj = coupling.forward_log_det_jacobian(tf.identity(x), 1)
        np.testing.assert_allclose(fldj, [log_scale], atol=1e-5)
        back = coupling.inverse(coupling.forward(tf.identity(x)) + 0.0)
        np.testing.assert_allclose(back, x, rtol=1e-5)
