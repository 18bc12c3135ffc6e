"""Optimizers, compared with Keras's and with NumPy."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_resflow import models


@pytest.mark.parametrize("mode", ["graph", "XLA", "replicas"])
def test_adam_equals_that_of_keras(mode, two_replicas):
    """With any settings and dtypes. Each of 2 replicas has half of the gradient, which it clips."""
    rng = np.random.default_rng(0)
    cosine = keras.optimizers.schedules.CosineDecay(0.3, 4)
    for dtype, options in [
        ("float64", {"learning_rate": cosine, "weight_decay": 0.1, "beta_2": 0.9}),
        ("float32", {"learning_rate": 0.1, "global_clipnorm": 1.0, "beta_1": tf.constant(0.0), "epsilon": 0.01}),
        ("float32", {"learning_rate": 0.1, "weight_decay": tf.Variable(0.1), "use_ema": True}),
        ("float32", {"learning_rate": 0.1, "weight_decay": 0.1, "gradient_accumulation_steps": 2}),
    ]:
        if mode == "replicas" and "gradient_accumulation_steps" in options:
            continue  # not supported by TensorFlow: replicas must not synchronize inside a `tf.cond`
        gradients = rng.normal(size=[4, 3])  # [steps, coordinates]
        expected, average = after_steps(keras.optimizers.Adam, options, dtype, gradients, "eager", two_replicas)
        if mode == "replicas" and "global_clipnorm" in options:
            options = {**options, "global_clipnorm": options["global_clipnorm"] / 2}
        found, other = after_steps(models.Adam, options, dtype, gradients, mode, two_replicas)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        assert np.abs(expected - [1.0, 2.0, 3.0, -2.0, -1.0]).min() > 1e-3
        np.testing.assert_allclose(average, other, rtol=1e-5)


def after_steps(kind, options, dtype, gradients, mode, two_replicas):
    """Returns the weights after steps with these gradients, and their averages with `use_ema`."""
    with two_replicas.scope() if mode == "replicas" else contextlib.nullcontext():
        starts = [1.0, 2.0], [3.0, -2.0], [-1.0]  # two of equal shape
        weights = [keras.Variable(start, dtype=dtype) for start in starts]
        optimizer = kind(**options)
        optimizer.exclude_from_weight_decay(weights[2:])
        optimizer.build(weights)

    def step(gradient):
        gradient = tf.cast(gradient, weights[0].dtype) / (2.0 if mode == "replicas" else 1.0)
        optimizer.apply([gradient[:2], -2.0 * gradient[:2], gradient[2:]])

    if mode != "eager":
        step = tf.function(step, jit_compile=mode == "XLA", autograph=False)
    for gradient in tf.constant(gradients):
        two_replicas.run(step, [gradient]) if mode == "replicas" else step(gradient)
    found = np.concatenate([weight.numpy() for weight in weights])
    optimizer.finalize_variable_values(weights)
    return found, np.concatenate([weight.numpy() for weight in weights])


def test_muon_moves_kernels():
    """A kernel with 60 inputs and 5 outputs changes by a matrix with singular values near 1, times the rate and
    0.2 sqrt(60), and decays. A bias changes as in Adam."""
    generator = np.random.default_rng(0)
    kernel = keras.Variable(generator.normal(size=[3, 2, 10, 5]), dtype="float32", name="kernel")
    bias = keras.Variable(np.zeros(5), dtype="float32", name="bias")
    gradients = [generator.normal(size=v.shape).astype(np.float32) for v in (kernel, bias)]
    optimizer = models.Muon(1e-2, weight_decay=0.3)
    before = kernel.numpy()
    optimizer.apply([tf.constant(gradient) for gradient in gradients], [kernel, bias])
    moved = before * (1 - 0.3 * 1e-2) - kernel.numpy()
    update, gradient = (array.reshape(60, 5) for array in (moved, gradients[0]))
    u, s, v = np.linalg.svd(gradient, full_matrices=False)
    in_the_basis = u.T @ update @ v.T / (1e-2 * 0.2 * np.sqrt(60))
    assert np.all((np.diag(in_the_basis) > 0.6) & (np.diag(in_the_basis) < 1.3))
    np.testing.assert_allclose(in_the_basis, np.diag(np.diag(in_the_basis)), atol=1e-4)
    np.testing.assert_allclose(bias.numpy(), -1e-2 * np.sign(gradients[1]), rtol=1e-4)
    with pytest.raises(ValueError, match="amsgrad=True, which Muon does not support"):
        models.Muon(amsgrad=True).build([kernel])
