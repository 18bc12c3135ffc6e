"""The Schatten norm against singular values, and layers whose coefficient it makes a theorem."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_resflow import bijectors, layers, logdet
from tf_resflow.layers.linear_operators import ConvolutionOperator
from tf_resflow.layers.schatten_norms import SchattenNorm

ORDER = 128


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def orthogonal(shape):
    q, _ = np.linalg.qr(normal((max(shape), max(shape))))
    return q[: shape[0], : shape[1]]


def schatten(matrix):
    s = np.linalg.svd(matrix, compute_uv=False)
    return s.max() * np.sum((s / s.max()) ** ORDER) ** (1 / ORDER)


def explicit_matrix(kernel, height, width):
    """The matrix [outputs, inputs] of the zero-padded convolution, one unit image for each column."""
    basis = np.eye(height * width * kernel.shape[2]).reshape(-1, height, width, kernel.shape[2])
    return tf.reshape(tf.nn.conv2d(basis, kernel, 1, "SAME"), [basis.shape[0], -1]).numpy().T


def layer_of(kernel, image_size=None, dtype="float64", **kwargs):
    """A layer with this kernel, which no one updates."""
    make = {"normalization": "schatten", "dtype": dtype, **kwargs}
    if image_size is None:
        layer = layers.LipschitzDense(kernel.shape[1], **make)
        layer.build((None, kernel.shape[0]))
    else:
        layer = layers.LipschitzConv2D(kernel.shape[3], kernel.shape[:2], **make)
        layer.build((None, *image_size, kernel.shape[2]))
    layer.built = True
    layer.kernel.assign(kernel)
    return layer


def checkerboard(shape):
    rows, columns = np.indices(shape[:2])
    return (-1.0) ** (rows + columns)[..., None, None] * np.ones(shape)


CONVOLUTIONS = {
    "of all pixels": (normal((3, 3, 2, 8)), (4, 5)),
    "thin outputs": (normal((5, 3, 9, 1)), (6, 6)),
    "of frequencies": (normal((3, 3, 5, 9)), (7, 6)),
    "of frequencies, thin outputs": (normal((3, 5, 7, 4)), (6, 7)),
    "constant": (np.ones((3, 3, 3, 4)), (9, 9)),
    "alternating": (checkerboard((3, 3, 3, 4)), (9, 9)),
    "smaller image than kernel": (normal((5, 5, 16, 20)), (2, 3)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_has_the_schatten_norm_of_the_operator_or_of_its_symbols(name):
    kernel, (height, width) = CONVOLUTIONS[name]
    operator = ConvolutionOperator(kernel.shape, (height, width))
    matrix = explicit_matrix(kernel, height, width)
    if min(matrix.shape) <= 64:
        expected = schatten(matrix)
    else:
        top, left = (max(0, (k + 1) // 2 - n) for k, n in zip(kernel.shape[:2], (height, width), strict=True))
        live = kernel[top : kernel.shape[0] - top, left : kernel.shape[1] - left]  # taps that stay on the image
        torus = (height + live.shape[0] // 2, width + live.shape[1] // 2)
        symbols = np.fft.fft2(live, torus, axes=(0, 1))
        expected = max(schatten(symbols[i, j]) for i, j in itertools.product(*map(range, torus)))
    found = SchattenNorm(operator, tf.constant(kernel), 2.0, 2.0).estimate()
    np.testing.assert_allclose(found, expected, rtol=1e-11)
    assert found >= np.linalg.norm(matrix, 2)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("kernel", [normal((20, 30)), orthogonal((64, 64)), np.ones((7, 9))])
def test_the_rounded_kernel_meets_the_coefficient(kernel, policy):
    layer = layer_of(kernel, dtype=policy, coefficient=0.9)
    applied = tf.cast(tf.cast(layer.scaled_kernel(), layer.compute_dtype), tf.float64)
    assert 0.95 * 0.9 <= np.linalg.norm(applied, 2) <= 0.9


@pytest.mark.parametrize("size", [None, (4, 5), (9, 9)])
def test_derivatives_against_finite_differences(size):
    """The first and the second, also where the largest singular values are equal."""
    kernel = orthogonal((8, 8)) if size is None else normal((3, 3, 2, 3))
    layer, direction = layer_of(kernel, size), normal(kernel.shape, 1)
    weights = tf.constant(normal(kernel.shape, 2))

    def derivatives(step):
        layer.kernel.assign(kernel + step * direction)
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                value = tf.reduce_sum(weights * layer.scaled_kernel())
            slope = tf.reduce_sum(direction * inner.gradient(value, layer.kernel.value))
        return value, slope, tf.reduce_sum(direction * outer.gradient(slope, layer.kernel.value))

    below, (_, slope, curvature), above = (derivatives(step) for step in (-1e-5, 0.0, 1e-5))
    np.testing.assert_allclose(slope, (above[0] - below[0]) / 2e-5, rtol=1e-6)
    np.testing.assert_allclose(curvature, (above[1] - below[1]) / 2e-5, rtol=1e-5)


def branch_of(**kwargs):
    make = {"normalization": "schatten", "kernel_initializer": keras.initializers.RandomNormal(seed=3), **kwargs}
    convolutions = [layers.LipschitzConv2D(3, 3, **make), layers.LipSwish(), layers.LipschitzConv2D(1, 3, **make)]
    dense = [keras.layers.Flatten(), layers.LipschitzDense(16, **make), keras.layers.Reshape([4, 4, 1])]
    return keras.Sequential([keras.Input([4, 4, 1]), *convolutions, *dense])


def test_a_branch_has_no_state_and_needs_no_updates(tmp_path):
    branch, x = branch_of(), normal((2, 4, 4, 1)).astype("float32")
    assert branch.non_trainable_variables == []
    expected = branch(x)
    before = [variable.numpy() for variable in branch.variables]
    assert layers.update_norms(branch, 1e-9, 1000) == 0
    layers.converge_norms(branch)
    for variable, value in zip(branch.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    branch.save(tmp_path / "branch.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "branch.keras")(x), expected)
    module = tf.Module()
    module.branch = branch
    module.call = tf.function(branch, [tf.TensorSpec([None, 4, 4, 1])])
    tf.saved_model.save(module, tmp_path / "saved")
    loaded = tf.saved_model.load(tmp_path / "saved")
    np.testing.assert_allclose(loaded.call(x), expected, rtol=1e-5, atol=1e-6)


def test_a_loop_that_knows_nothing_of_norms_trains_an_invertible_block():
    """100 steps toward a large Jacobian; the certificate holds after each tenth."""
    branch = branch_of()
    block = bijectors.ResidualBlock(branch, logdet.Exact())
    optimizer, x = keras.optimizers.Adam(0.05), tf.constant(normal((8, 4, 4, 1)), tf.float32)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(tf.square(branch(x)))
        variables = branch.trainable_variables
        optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)

    for _ in range(10):
        for _ in range(10):
            step()
        assert layers.lipschitz_constant(branch, certified=True) <= block.lipschitz_constant * (1 + 1e-6)
    assert all(layer.norm_estimate() > layer.coefficient for layer in layers.lipschitz_layers(branch))


def test_two_replicas_equal_one(two_replicas):
    """Plain gradient descent by the sum over replicas: on two halves of a batch, or on the whole."""
    batches = [normal((4, 4, 4, 1), seed).astype("float32") for seed in (1, 2)]

    def trained(strategy, inputs):
        with strategy.scope():
            branch = branch_of()
            optimizer = keras.optimizers.SGD(0.5)
            optimizer.build(branch.trainable_variables)

        @tf.function
        def step(x):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(tf.square(branch(x))) / 8
            optimizer.apply(tape.gradient(loss, branch.trainable_variables), branch.trainable_variables)
            layers.update_norms(branch)

        for _ in range(3):
            strategy.run(step, args=(inputs,))
        return [variable.numpy() for variable in branch.trainable_variables]

    data = iter(map(tf.constant, batches))
    halves = two_replicas.experimental_distribute_values_from_function(lambda _: next(data))
    one = trained(tf.distribute.get_strategy(), tf.constant(np.concatenate(batches)))
    for a, b in zip(trained(two_replicas, halves), one, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "arguments",
    [{"domain": 1}, {"codomain": 4.0}, {"domain": layers.LearnedOrder(), "codomain": 2}],
)
def test_orders_other_than_2_have_no_schatten_norm(arguments):
    with pytest.raises(ValueError, match="bounds the norm 2 -> 2"):
        layers.LipschitzDense(3, normalization="schatten", **arguments)


def test_an_unknown_normalization():
    with pytest.raises(ValueError, match="one of induced, schatten; got 'spectral'"):
        layers.LipschitzConv2D(3, 3, normalization="spectral")
