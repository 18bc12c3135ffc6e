"""Layers on events with several positions, in a process of their own: TensorFlow's oneDNN kernels may crash it."""

POSITIONS = """
import keras
import numpy as np
import tensorflow as tf
from tf_resflow import layers, logdet
from tf_resflow.layers.masked_dense import MaskedDense

STEP = 1e-6
generator = np.random.default_rng(0)


def dense_layers(kind, channels):
    sizes = 4, channels
    if kind == "LipschitzDense":
        return [layers.LipschitzDense(size, 0.9) for size in sizes]
    if kind == "Dense":
        small = keras.initializers.RandomNormal(0, 0.2)
        return [keras.layers.Dense(size, kernel_initializer=small) for size in sizes]
    if kind == "LipschitzConv2D":
        return [layers.LipschitzConv2D(size, 1, 0.9) for size in sizes]
    degrees = np.arange(channels), np.arange(4), np.arange(channels)
    small = keras.initializers.RandomNormal(0, 0.2)
    return [MaskedDense(degrees[i], degrees[i + 1], small) for i in range(2)]


def matrix(layer):
    kernel = layer.scaled_kernel() if hasattr(layer, "scaled_kernel") else layer.kernel
    kernel = np.float64(kernel)
    if isinstance(layer, MaskedDense):
        kernel = kernel * np.less_equal.outer(layer.input_degrees, layer.output_degrees)
    return kernel.reshape(kernel.shape[-2:])


def attention(x, num_heads):
    heads = []
    for part in np.split(x, num_heads, axis=-1):
        kernel = np.exp(-np.sum((part[:, np.newaxis] - part) ** 2, axis=-1))
        heads.append(kernel @ part / np.sum(kernel, axis=-1, keepdims=True))
    return np.concatenate(heads, axis=-1) / layers.attention.attention_slope(len(x))


def reference(branch, middle):
    first, last = (matrix(layer) for layer in (branch.layers[0], branch.layers[-1]))
    return lambda x: middle(x @ first) @ last


def jacobian(function, x):
    columns = []
    for direction in np.eye(x.size):
        step = STEP * direction.reshape(x.shape)
        columns.append((function(x + step) - function(x - step)).ravel() / (2 * STEP))
    return np.stack(columns, axis=1)


def log_abs_det(matrix):
    return np.linalg.slogdet(np.eye(len(matrix)) + matrix)[1]


def check(kind, shape, num_heads):
    print(kind, shape, num_heads, flush=True)
    first, last = dense_layers(kind, shape[-1])
    if num_heads:
        middle, function = layers.L2SelfAttention(num_heads), lambda h: attention(h, num_heads)
    else:
        middle, function = keras.layers.Activation("tanh"), np.tanh
    branch = keras.Sequential([keras.Input(shape), first, middle, last])
    layers.converge_norms(branch)
    g = reference(branch, function)
    x, direction = generator.normal(size=[2, *shape])
    expected = jacobian(g, x)
    given = tf.constant(x[np.newaxis], tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(given)
        y, log_det = logdet.Exact()(branch, given)
    gradient = tape.gradient(log_det, given)
    np.testing.assert_allclose(y[0], x + g(x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(log_det, [log_abs_det(expected)], rtol=1e-3, atol=1e-3)
    change = [log_abs_det(jacobian(g, x + sign * 1e-3 * direction)) for sign in (1, -1)]
    np.testing.assert_allclose(np.sum(gradient * direction), (change[0] - change[1]) / 2e-3, rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(logdet.Exact().jacobian(branch, given)[0], expected, atol=1e-4)
    ratio = logdet.Exact().log_det_ratio(branch, given)
    np.testing.assert_allclose(ratio, [log_abs_det(-expected) - log_abs_det(expected)], rtol=1e-3, atol=1e-3)
    power_series = logdet.PowerSeries(3, probes="basis")(branch, given)[1]
    powers = [np.trace(np.linalg.matrix_power(expected, k)) / k for k in (1, 2, 3)]
    np.testing.assert_allclose(power_series, [powers[0] - powers[1] + powers[2]], rtol=1e-3, atol=1e-3)
    rows = generator.normal(size=[256, *shape])
    values = tf.function(branch, [tf.TensorSpec([None, *shape])], autograph=False)
    assert values.get_concrete_function().output_shapes == [None, *shape]
    for found in (branch(rows), values(tf.constant(rows, tf.float32))):
        np.testing.assert_allclose(found[255], g(rows[255]), rtol=1e-4, atol=1e-5)


for kind in ("LipschitzDense", "Dense", "MaskedDense"):
    for shape in ([64, 4], [64, 1], [1, 64, 1], [1, 64, 4], [8, 8, 1], [1, 1, 64, 1], [4, 4, 4, 1]):
        check(kind, shape, 0)
for shape in ([1, 64, 4], [64, 1, 1], [8, 8, 1]):
    check("LipschitzConv2D", shape, 0)
for num_heads in (1, 2):
    check("LipschitzDense", [32, 1], num_heads)
    check("LipschitzDense", [64, 4], num_heads)
print("finished")
"""


def test_log_determinants_of_one_row(process):
    """Compares values, Jacobians and estimates with NumPy. An earlier version ended the process with signal 11."""
    done = process("-c", POSITIONS)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    assert done.stdout.endswith("finished\n")
