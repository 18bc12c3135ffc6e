"""Self-attention, centering and gates: Lipschitz constants, derivatives, blocks of sets, and saving."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow
from tf_resflow.layers.attention import AttentionOperation, attention_slope

layers = resflow.layers


def jacobians(function, x):
    """Returns `[batch, size, size]`."""
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = function(x)
    size = x.shape[1:].num_elements()
    return tf.reshape(tape.batch_jacobian(y, x), [-1, size, size])


def norms(function, x):
    return tf.linalg.norm(jacobians(function, x), ord=2, axis=(1, 2))


@pytest.mark.parametrize(("num", "size", "heads"), [(1, 3, 1), (2, 1, 1), (4, 2, 2), (7, 4, 2), (26, 1, 1)])
def test_no_slope_exceeds_the_constant(num, size, heads):
    """Searches by gradient ascent from 12 random sets of different scales, and for different sharpness.

    For two positions, the search finds a slope of 1.60 before the division by 2.30.
    """
    layer = layers.L2SelfAttention(heads, dtype="float64")
    layer.build([None, num, size])
    layer.logits.assign(np.linspace(-1.0, 2.0, heads) if heads > 1 else [0.5])
    scales = np.repeat([0.3, 1.0, 2.0, 4.0], 3)[:, np.newaxis, np.newaxis]
    x = tf.Variable(scales * np.random.default_rng(0).normal(size=[12, num, size]))
    optimizer, largest = keras.optimizers.Adam(0.05), 0.0

    @tf.function(autograph=False)
    def ascend():
        with tf.GradientTape() as tape:
            found = norms(layer, tf.convert_to_tensor(x))
        optimizer.apply([-tape.gradient(found, x)], [x])
        return tf.reduce_max(found)

    optimizer.build([x])
    for _ in range(60):
        largest = max(largest, float(ascend()))
    assert largest <= 1 + 1e-9
    if num == 2:
        assert largest > 1.59 / attention_slope(2)


def test_the_bound_is_below_that_of_kim_et_al():
    """`c exp(c + 1) = N - 1` is solved by bisection. One position has the slope 1. Fewer positions have less."""
    assert attention_slope(1) == 1.0
    assert np.all(np.diff([attention_slope(num) for num in range(1, 2000)]) > 0)
    for num in (2, 5, 23, 24, 100, 10_000):
        low, high = 0.0, 20.0
        for _ in range(80):
            c = (low + high) / 2
            low, high = (c, high) if c * np.exp(c + 1) < num - 1 else (low, c)
        assert np.sqrt(np.sqrt(num)) + 2 * c < attention_slope(num) < np.sqrt(num) * (4 * c + 1)


def test_derivatives():
    """The derivative along a direction is that of a tape, and far positions lose no precision in float32."""
    x, v = np.random.default_rng(0).normal(size=[2, 3, 5, 4])
    operation, weights = AttentionOperation("float64", 2, 5), [tf.constant([0.5, 2.0], tf.float64)]
    scale = 1.0 / attention_slope(5)
    y, change = operation.jvp([tf.constant(x)], [tf.constant(v)], weights)
    apply = lambda x: operation([x], weights)  # noqa: E731
    expected = tf.linalg.matvec(jacobians(apply, tf.constant(x)), v.reshape([3, 20]))
    np.testing.assert_allclose(tf.reshape(change, [3, 20]), expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(y, apply(tf.constant(x)), rtol=1e-12)
    distance = np.sum((x[0, :, np.newaxis, :2] - x[0, np.newaxis, :, :2]) ** 2, axis=-1)
    kernel = np.exp(-0.25 * distance)
    expected = scale * (kernel / kernel.sum(axis=1, keepdims=True)) @ x[0, :, :2]
    np.testing.assert_allclose(y[0, :, :2], expected, rtol=1e-10)
    single = AttentionOperation("float32", 2, 5)
    shifted = single([tf.constant(x + 1000.0, tf.float32)], [tf.constant([0.5, 2.0])]) - 1000.0 * scale
    np.testing.assert_allclose(shifted, y, atol=1e-3)


def make_branch(dtype="float64"):
    options = {"coefficient": 0.95, "dtype": dtype}
    return keras.Sequential(
        [
            keras.Input([3, 2], dtype=dtype),
            layers.LipschitzDense(6, **options),
            layers.Centering(dtype=dtype),
            layers.L2SelfAttention(2, dtype=dtype),
            layers.Centering(axis=1, dtype=dtype),
            layers.Gate(dtype=dtype),
            layers.LipschitzDense(2, **options),
        ]
    )


@pytest.mark.parametrize("kind", [resflow.bijectors.ResidualBlock, resflow.bijectors.MonotoneBlock])
def test_blocks_of_sets(kind, tmp_path):
    """Compares log-determinants, their gradients and the bounds with dense Jacobians. The block is saved."""
    branch, x = make_branch(), tf.constant(np.random.default_rng(1).normal(size=[4, 3, 2]))
    for variable in branch.trainable_variables:
        variable.assign(3.0 * variable + 0.5)
    layers.converge_norms(branch)
    bound = float(layers.lipschitz_constant(branch, certified=True))
    assert float(tf.reduce_max(norms(branch, x))) < bound < 0.96 * layers.lipschitz_constant(branch) / 0.9
    for estimator in ("exact", resflow.logdet.PowerSeries(40, probes="basis")):
        block = kind(branch, estimator)
        with tf.GradientTape(persistent=True) as tape:
            y = block.forward(x)
            log_det = block.forward_log_det_jacobian(tf.identity(x), 2, seed=0)
            is_monotone = kind is not resflow.bijectors.ResidualBlock
            jacobian = jacobians(branch, (x + y) / np.sqrt(2.0) if is_monotone else x)
            expected = tf.linalg.slogdet(np.eye(6) + jacobian)[1]
            if is_monotone:
                expected = tf.linalg.slogdet(np.eye(6) - jacobian)[1] - expected
        np.testing.assert_allclose(log_det, expected, rtol=1e-3, atol=1e-4)
        variables = [variable.value for variable in branch.trainable_variables]
        for one, other in zip(
            *(tape.gradient(value, variables, None, "zero") for value in (log_det, expected)), strict=True
        ):
            np.testing.assert_allclose(one, other, rtol=2e-2, atol=1e-3)
        np.testing.assert_allclose(block.inverse(tf.identity(y)), x, atol=1e-6)
    np.testing.assert_allclose(block.forward(x[:, ::-1]), y[:, ::-1], rtol=1e-9, atol=1e-12)
    model = resflow.FlowModel(resflow.bijectors.Flow([block]), [3, 2])
    model.save(tmp_path / "model.keras")
    loaded = resflow.load(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.flow.forward(x), y, rtol=1e-6)


def test_centering_and_gates():
    x = tf.constant(np.random.default_rng(0).normal(size=[2, 3, 4]), tf.float32)
    np.testing.assert_allclose(layers.Centering()(x), x - np.mean(x, axis=-1, keepdims=True), atol=1e-6)
    np.testing.assert_allclose(layers.Centering(1)(x), x - np.mean(x, axis=1, keepdims=True), atol=1e-6)
    gate = layers.Gate()
    np.testing.assert_allclose(gate(x), 0.5 * x, rtol=1e-6)
    gate.logits.assign([-1e9, 0.0, 1.0, 1e9])
    np.testing.assert_allclose(gate(x), x * [0.0, 0.5, 1 / (1 + np.exp(-1)), 1.0], rtol=1e-6)


def test_sets_of_any_size():
    """A flow without attention has the log-determinant of its Jacobian for any number of points."""
    x = keras.Input([None, 2], dtype="float64")
    options = {"coefficient": 0.95, "dtype": "float64"}
    inner = layers.Centering(axis=-2, dtype="float64")(layers.LipschitzDense(6, **options)(x))
    branch = keras.Model(x, layers.LipschitzDense(2, **options)(layers.CPila(dtype="float64")(inner)))
    flow = resflow.bijectors.Flow([resflow.bijectors.ResidualBlock(branch, "exact")])
    layers.converge_norms(flow)
    assert layers.program.bind(branch).program.supports_jvp
    for num in (1, 3, 7):
        values, direction = np.random.default_rng(num).normal(size=[2, 4, num, 2])
        values = tf.constant(values)
        model = resflow.FlowModel(flow, [num, 2])
        log_det = flow.forward_log_det_jacobian(tf.identity(values), 2)
        dense = jacobians(flow.forward, values)
        np.testing.assert_allclose(log_det, tf.linalg.slogdet(dense)[1], rtol=1e-5, atol=1e-6)
        assert model.sample(2, seed=0).shape == [2, num, 2]
        _, change = layers.program.bind(branch).value_and_jvp([values], tf.constant(direction))
        expected = tf.linalg.matvec(jacobians(branch, values), direction.reshape([4, -1]))
        np.testing.assert_allclose(tf.reshape(change, [4, -1]), expected, rtol=1e-6, atol=1e-9)


def test_wrong_shapes(refused):
    for axis in (0, -3, 3, 1.5, None):
        refused(f"Got axis={axis} for inputs of shape .None, 3, 4.", layers.Centering(axis).build, (None, 3, 4))
    attention = layers.L2SelfAttention(2)
    for shape in ([None, None, 4], [None, 3, 3], [None, 4]):
        refused("with a known num and features divisible by num_heads = 2", attention.build, shape)
