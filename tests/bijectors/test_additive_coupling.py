"""The additive coupling: where it starts, and that it keeps volumes."""

import numpy as np
import tensorflow as tf

import tf_resflow as resflow


def test_it_starts_as_the_identity():
    network = resflow.flows.coupling_network((3, 2, 4), 5, num_parameters=1)
    coupling = resflow.bijectors.AdditiveCoupling(network)
    x = tf.random.stateless_normal([5, 3, 2, 4], [0, 1])
    np.testing.assert_array_equal(coupling.forward(x), x)


def test_it_keeps_volumes(make_coupling):
    coupling = make_coupling("additive", (3, 2, 4))
    x = tf.random.stateless_normal([5, 3, 2, 4], [0, 1])
    y = coupling.forward(x)
    assert np.max(np.abs(y - x)) > 1e-2
    np.testing.assert_array_equal(coupling.forward_log_det_jacobian(x, 3), np.zeros(5))
    np.testing.assert_array_equal(coupling.inverse_log_det_jacobian(tf.identity(y), 3), np.zeros(5))
