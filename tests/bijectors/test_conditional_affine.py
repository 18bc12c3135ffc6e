"""The conditional affine map: values and log-determinants compared with NumPy, gradients, and invalid inputs."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tf_resflow as resflow

GENERATOR = np.random.default_rng(0)
KERNEL, BIAS = GENERATOR.normal(size=[2, 9]), GENERATOR.normal(size=9)
C, X = GENERATOR.normal(size=[4, 2]), GENERATOR.normal(size=[5, 4, 3])


@pytest.fixture(scope="module")
def affine():
    dense = keras.layers.Dense(9, dtype="float64")
    network = keras.Sequential([keras.Input([2], dtype="float64"), dense])
    dense.set_weights([KERNEL, BIAS])
    return resflow.bijectors.ConditionalAffine(network)


def shifts_and_matrices(c):
    """Returns the shift and matrix of each condition, with entries in the order of TFP's `fill_triangular`."""
    output = c @ KERNEL + BIAS
    rows, columns = np.tril_indices(3)
    places = tfp.math.fill_triangular(np.arange(6.0)).numpy()[rows, columns].astype(int)
    matrices = np.zeros([len(c), 3, 3])
    matrices[:, rows, columns] = output[:, 3:][:, places]
    diagonal = np.arange(3)
    matrices[:, diagonal, diagonal] = np.exp(matrices[:, diagonal, diagonal])
    return output[:, :3], matrices


@pytest.mark.parametrize("how", ["eager", "xla"])
def test_values_and_log_determinants(affine, how):
    """Conditions [4, 2] broadcast to values [5, 4, 3]. The inverse gets a copy, so that nothing is cached."""

    def evaluate(x, c):
        y = affine.forward(x, condition=c)
        log_det = affine.forward_log_det_jacobian(x, 1, condition=c)
        other = tf.identity(y)
        back = affine.inverse(other, condition=c)
        return y, log_det, back, affine.inverse_log_det_jacobian(other, 1, condition=c)

    if how != "eager":
        evaluate = tf.function(evaluate, autograph=False, jit_compile=True)
    y, log_det, back, inverse_log_det = evaluate(tf.constant(X), tf.constant(C))
    shifts, matrices = shifts_and_matrices(C)
    expected = np.linalg.slogdet(matrices)[1]
    np.testing.assert_allclose(y, np.einsum("bij,abj->abi", matrices, X) + shifts, rtol=1e-10)
    np.testing.assert_allclose(back, X, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(log_det, np.tile(expected, [5, 1]), rtol=1e-10)
    np.testing.assert_allclose(inverse_log_det, np.tile(-expected, [5, 1]), rtol=1e-10)


def test_gradients_of_batches_of_unknown_size(affine):
    """The gradient of all values and log-determinants in the kernel is the same in XLA and in eager mode."""

    def gradient(x, c):
        with tf.GradientTape() as tape:
            y = affine.forward(x, condition=c)
            total = tf.reduce_sum(y) + tf.reduce_sum(affine.forward_log_det_jacobian(x, 1, condition=c))
        return tape.gradient(total, affine.network.trainable_variables[0].value)

    sizes = [tf.TensorSpec([None, size], "float64") for size in (3, 2)]
    compiled = tf.function(gradient, sizes, autograph=False, jit_compile=True)
    np.testing.assert_allclose(compiled(X[0], C), gradient(X[0], C), rtol=1e-9)


def test_invalid_inputs(affine, refused):
    for units in (6, 1):
        network = keras.Sequential([keras.Input([2]), keras.layers.Dense(units)])
        message = f"maps \\(2,\\) to \\({units},\\).*5 for two"
        refused(message, resflow.bijectors.ConditionalAffine, network)
    network = keras.Model(c := keras.Input([2]), keras.layers.Lambda(lambda c: c, (None,))(c))
    refused(r"\[\(2,\)\] to \(None, None\).*known size", resflow.bijectors.ConditionalAffine, network)
