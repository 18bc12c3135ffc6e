"""log|det(I + J)| of small matrices without row exchanges: values and derivatives compared with NumPy."""

import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow

pytestmark = pytest.mark.quick


def matrices(size, order, norm, num=20):
    """Returns random J `[num, size, size]` with this induced norm."""
    j = np.random.default_rng(size).normal(size=[num, size, size])
    return norm * j / np.linalg.norm(j, order, axis=(1, 2), keepdims=True)


def log_det(j):
    """Returns the result of `Exact` for a branch that is linear in example n, with the Jacobian j[n]."""
    x = tf.zeros(j.shape[:2], j.dtype)
    return resflow.logdet.Exact()(lambda x: tf.linalg.matvec(j, x), x)[1]


def value_and_gradient(j):
    with tf.GradientTape() as tape:
        tape.watch(j)
        value = log_det(j)
    return value, tape.gradient(value, j)


CASES = [(1, "float32", False), (3, "float64", True), (16, "float32", False), (17, "float64", False)]


@pytest.mark.parametrize(("size", "dtype", "compiled"), [*CASES, (17, "float32", True)])
def test_value_and_gradient(size, dtype, compiled):
    """The gradient of log|det A| is the transposed inverse. One of three norms of J is close to 1."""
    j = np.concatenate([matrices(size, order, 0.99) for order in (1, 2, np.inf)])
    function = tf.function(value_and_gradient, autograph=False, jit_compile=True)
    value, gradient = (function if compiled else value_and_gradient)(tf.constant(j, dtype))
    tolerance = 1e-4 if dtype == "float32" else 1e-11
    np.testing.assert_allclose(value, np.linalg.slogdet(np.eye(size) + j)[1], rtol=tolerance, atol=tolerance)
    expected = np.linalg.inv(np.eye(size) + j).transpose(0, 2, 1)
    largest = np.abs(expected.reshape(3, -1)).max(axis=1).repeat(20)[:, np.newaxis, np.newaxis]  # of each norm
    assert np.all(np.abs(gradient - expected) <= tolerance * (10 * np.abs(expected) + largest))


def test_small_pivots():
    """If -J is close to a rotation or the identity, pivots are close to 1 - L, or the determinant is tiny."""
    turn = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    j = np.stack([-0.999 * turn, -0.999 * np.eye(3), -0.999 * turn @ turn, 0.999 * turn])
    expected = np.linalg.slogdet(np.eye(3) + j)[1]
    np.testing.assert_allclose(log_det(tf.constant(j)), expected, rtol=1e-10)


def test_second_and_third_derivatives():
    """The derivatives of log|det(A + t K)| are tr(B), -tr(B^2) and 2 tr(B^3), with A = I + J, B = A^-1 K."""
    j, k = matrices(5, 2, 0.9), matrices(5, 1, 0.9)

    def derivatives(t):
        with tf.GradientTape() as third, tf.GradientTape() as second, tf.GradientTape() as first:
            for tape in (first, second, third):
                tape.watch(t)
            one = first.gradient(log_det(j + t[:, tf.newaxis, tf.newaxis] * k), t)
            two = second.gradient(one, t)
        return one, two, third.gradient(two, t)

    compiled = tf.function(derivatives, autograph=False, jit_compile=True)
    b = np.linalg.solve(np.eye(5) + j, k)
    powers = [b, -b @ b, 2 * b @ b @ b]
    for found, power in zip(compiled(tf.zeros([20], tf.float64)), powers, strict=True):
        np.testing.assert_allclose(found, np.trace(power, axis1=1, axis2=2), rtol=1e-9, atol=1e-11)
