"""The norms against singular values, closed forms and maximization in NumPy."""

import itertools

import keras
import numpy as np
import pytest
import scipy.linalg
import tensorflow as tf

import tf_resflow.layers as layers
from tf_resflow.layers import band_matrices, linear_operators, operator_norms
from tf_resflow.layers.linear_operators import ConvolutionOperator

TIGHT = {"tolerance": 1e-7, "max_iterations": 6000}


def explicit_matrix(kernel, height, width):
    """The matrix [outputs, inputs] of the zero-padded convolution, tap by tap."""
    kh, kw, inputs, outputs = kernel.shape
    matrix = np.zeros((height, width, outputs, height, width, inputs))
    for i, j, a, b in itertools.product(range(height), range(width), range(kh), range(kw)):
        row, column = i + a - kh // 2, j + b - kw // 2
        if 0 <= row < height and 0 <= column < width:
            matrix[i, j, :, row, column, :] = kernel[a, b].T
    return matrix.reshape(height * width * outputs, -1)


def dense(kernel, domain, codomain, dtype="float64"):
    layer = layers.LipschitzDense(
        kernel.shape[1],
        domain=domain,
        codomain=codomain,
        dtype=dtype,
        kernel_initializer=keras.initializers.Constant(kernel),
    )
    layer.build((None, kernel.shape[0]))
    return layer


def convolution(kernel, image_size, domain=2, codomain=2, dtype="float32"):
    layer = layers.LipschitzConv2D(
        kernel.shape[3],
        kernel.shape[:2],
        domain=domain,
        codomain=codomain,
        dtype=dtype,
        kernel_initializer=keras.initializers.Constant(kernel),
    )
    layer.build((None, *image_size, kernel.shape[2]))
    return layer


def spectral_norm(matrix):
    """The largest singular value, by the smaller of M'M and MM', which takes less time than the SVD."""
    gram = matrix.T @ matrix if matrix.shape[0] > matrix.shape[1] else matrix @ matrix.T
    return np.sqrt(np.linalg.eigvalsh(gram)[-1])


@pytest.fixture
def fourier(monkeypatch):
    """Every convolution counts as too large for eigenvalues."""
    monkeypatch.setattr(linear_operators, "_MAX_GRAM_SIZE", 0)


def p_norm(x, p, axis=0):
    return np.linalg.norm(x, ord=p, axis=axis)


def brute_force(matrix, p, q, starts=400, steps=300):
    """max ||M v||_q / ||v||_p for a [outputs, inputs] matrix, by projected gradient ascent."""
    v = np.random.default_rng(0).normal(size=(matrix.shape[1], starts))

    def ratio(v):
        return p_norm(matrix @ v, q) / p_norm(v, p)

    rate = np.ones(starts)
    for _ in range(steps):
        w, best = matrix @ v, ratio(v)
        up = matrix.T @ (np.sign(w) * np.abs(w) ** (q - 1)) / p_norm(w, q) ** q
        down = np.sign(v) * np.abs(v) ** (p - 1) / p_norm(v, p) ** p
        trial = v + rate * (up - down)
        better = ratio(trial) > best
        v = np.where(better, trial / p_norm(trial, p), v)
        rate = np.where(better, rate * 1.5, rate / 2)
    return ratio(v).max()


@pytest.mark.parametrize(
    ("shape", "image_size"),
    [((1, 1, 3, 5), (8, 8)), ((3, 3, 3, 4), (5, 7)), ((3, 1, 4, 2), (8, 8)), ((5, 5, 1, 3), (5, 7))],
)
def test_convolution_norm_is_the_largest_singular_value(image_size, shape):
    kernel = np.random.default_rng(1).normal(size=shape).astype("float32")
    layer = convolution(kernel, image_size)
    layer.update_norm(**TIGHT)
    singular = spectral_norm(explicit_matrix(kernel, *image_size))
    np.testing.assert_allclose(layer.norm_estimate(), singular, rtol=1e-4)


@pytest.mark.parametrize("image_size", [(4, 5), (2, 1)])
@pytest.mark.parametrize("shape", [(3, 3, 4, 6), (3, 3, 6, 4), (3, 1, 4, 2), (5, 5, 1, 3)])
def test_bound_of_a_convolution_is_its_norm(image_size, shape):
    kernel = np.random.default_rng(1).normal(size=shape) + 0.5
    singular = spectral_norm(explicit_matrix(kernel, *image_size))
    layer = convolution(kernel, image_size, dtype="float64")
    in_graph = tf.function(layer.norm_bound, autograph=False).get_concrete_function()
    assert not any("PyFunc" in operation.type for operation in in_graph.graph.get_operations())  # it can be served
    for bound in (layer.norm_bound(), in_graph()):
        assert bound.dtype == tf.float64
        assert singular <= bound <= singular * (1 + 2e-9)


@pytest.mark.parametrize("shape", [(3, 5, 2, 3), (5, 3, 3, 2)])
def test_gram_matrix_of_the_smaller_side(shape):
    kernel = np.random.default_rng(2).normal(size=shape)
    matrix = explicit_matrix(kernel, 4, 5)
    gram = matrix.T @ matrix if shape[2] < shape[3] else matrix @ matrix.T
    operator = ConvolutionOperator(shape, (4, 5))
    np.testing.assert_allclose(operator.gram(tf.constant(kernel)), gram, atol=1e-12)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("channels", [(1, 2), (3, 3), (3, 16), (8, 4)])
def test_fourier_bound_is_above_and_close(fourier, channels, seed):
    kernel = np.random.default_rng(seed).normal(size=(3, 3, *channels))
    singular = spectral_norm(explicit_matrix(kernel, 8, 8))
    bound = convolution(kernel, (8, 8), dtype="float64").norm_bound()
    assert singular <= bound <= singular * (1.1 if min(channels) >= 3 else 1.2)


@pytest.mark.parametrize("image_size", [(1, 1), (2, 3), (1, 4), (3, 3)])
def test_fourier_bound_where_the_image_is_smaller_than_the_kernel(fourier, image_size):
    kernel = np.random.default_rng(2).normal(size=(5, 5, 2, 3))
    singular = spectral_norm(explicit_matrix(kernel, *image_size))
    layer = convolution(kernel, image_size, dtype="float64")
    layer.update_norm(**TIGHT)
    np.testing.assert_allclose(layer.norm_estimate(), singular, rtol=1e-6)
    assert singular <= layer.norm_bound() <= (1 + 1e-8 if image_size == (1, 1) else 2) * singular


def test_fourier_bound_of_a_constant_kernel_is_attained_in_the_limit(fourier):
    kernel = np.ones((3, 3, 1, 1))
    bounds = [convolution(kernel, (n, n), dtype="float64").norm_bound() for n in (4, 20)]
    np.testing.assert_allclose(bounds, 9.0, rtol=1e-8)
    singular = spectral_norm(explicit_matrix(kernel, 16, 16))
    assert 0.95 * 9 < singular < 9


@pytest.mark.parametrize("size", [20, 64])
def test_bound_on_a_larger_image(size):
    """The norm of a constant kernel on n x n is (1 + 2 cos(pi / (n + 1)))^2."""
    bound = convolution(np.ones((3, 3, 1, 1)), (size, size), dtype="float64").norm_bound()
    norm = (1 + 2 * np.cos(np.pi / (size + 1))) ** 2
    assert norm <= bound <= norm * (1 + 1e-8)


def test_an_image_too_large_for_a_factorization_has_its_fourier_bound():
    bound = convolution(np.ones((3, 3, 1, 1)), (66, 66), dtype="float64").norm_bound()
    np.testing.assert_allclose(bound, 9.0, rtol=1e-8)


@pytest.mark.parametrize("gap", [1e-1, 1e-9])
def test_the_bound_of_close_eigenvalues(gap):
    """Of a rotated diagonal matrix in blocks of 3, a third of whose eigenvalues are near the largest."""
    generator = np.random.default_rng(0)
    diagonal = np.stack([rotated(generator, [1.0, 2.0, 3.0 - gap * i]) for i in range(40)])
    below = np.zeros((39, 3, 3))
    bound = band_matrices.eigenvalue_bound(diagonal, below)
    assert 3.0 <= bound <= 3.0 * (1 + 1e-6)


def rotated(generator, eigenvalues):
    basis = np.linalg.qr(generator.normal(size=(3, 3)))[0]
    return basis * eigenvalues @ basis.T


def test_norm_on_a_smaller_image_is_not_above():
    kernel = np.random.default_rng(3).normal(size=(3, 3, 3, 4))
    largest = convolution(kernel, (8, 8), dtype="float64")
    largest.update_norm(**TIGHT)
    for image_size in [(7, 8), (5, 5), (2, 8), (1, 1)]:
        singular = spectral_norm(explicit_matrix(kernel, *image_size))
        assert singular <= largest.norm_estimate() * (1 + 1e-9)


@pytest.mark.parametrize("image_size", [(5, 6), (2, 1)])
@pytest.mark.parametrize("order", [1.0, 2.0, 3.0, np.inf])
def test_closed_forms_of_a_convolution(image_size, order):
    kernel = np.random.default_rng(6).normal(size=(5, 3, 2, 3))
    matrix = explicit_matrix(kernel, *image_size)
    dual = {1.0: np.inf, np.inf: 1.0}.get(order) or order / (order - 1)
    for orders, expected in [
        ((1, order), p_norm(matrix, order, axis=0).max()),
        ((order, np.inf), p_norm(matrix, dual, axis=1).max()),
    ]:
        layer = convolution(kernel, image_size, *orders, dtype="float64")
        np.testing.assert_allclose(layer.norm_estimate(), expected, rtol=1e-10)
        np.testing.assert_allclose(layer.norm_bound(), expected, rtol=1e-8)
        assert layer.norm_bound() >= expected


@pytest.mark.parametrize(
    ("shape", "orders"),
    [
        ((3, 4), (1.2, 2.5)),
        ((5, 2), (3.0, 1.5)),
        ((3, 4), (1.3, 1.3)),
        ((5, 2), (2.0, 4.0)),
        ((3, 4), (3.0, 2.0)),
    ],
)
def test_mixed_norms_of_a_matrix_equal_the_maximum(shape, orders, stored_norms):
    kernel = np.random.default_rng(7).normal(size=shape)
    expected = brute_force(kernel.T, *orders)
    layer = dense(kernel, *orders)
    layer.update_norm(**TIGHT)
    stored_norms()
    np.testing.assert_allclose(layer.norm_estimate(), expected, rtol=1e-4)
    assert expected <= layer.norm_bound() <= 1.5 * expected


@pytest.mark.parametrize(
    ("shape", "orders"),
    [((3, 3, 2, 2), (2.0, 4.0)), ((1, 1, 2, 3), (3.0, 1.5)), ((3, 3, 2, 2), (3.0, 3.0))],
)
def test_mixed_norms_of_a_convolution_equal_the_maximum(shape, orders, stored_norms):
    kernel = np.random.default_rng(8).normal(size=shape)
    expected = brute_force(explicit_matrix(kernel, 3, 2), *orders, steps=1500)
    layer = convolution(kernel, (3, 2), *orders, dtype="float64")
    layer.update_norm(**TIGHT)
    stored_norms()
    np.testing.assert_allclose(layer.norm_estimate(), expected, rtol=1e-3)
    assert expected <= layer.norm_bound() <= 2 * expected


def test_bound_of_learned_orders_equals_that_of_the_same_fixed_ones():
    kernel = np.random.default_rng(9).normal(size=(5, 2))
    learned = [layers.LearnedOrder(p, dtype="float64") for p in (3.0, 1.5)]
    fixed, free = dense(kernel, 3.0, 1.5), dense(kernel, *learned)
    np.testing.assert_allclose(free.norm_bound(), fixed.norm_bound(), rtol=1e-6)
    np.testing.assert_allclose(free.norm_estimate(), fixed.norm_estimate(), rtol=1e-5)


@pytest.mark.parametrize("size", [3, 60])
def test_update_follows_a_crossing_of_singular_values(size, stored_norms):
    """At once, in spite of the default tolerance."""
    q, _ = np.linalg.qr(np.random.default_rng(11).normal(size=(size, size)))
    values = np.linspace(0.5, 1.0, size)
    values[:2] = 2.0, 1.9
    layer = dense(q @ np.diag(values) @ q.T, 2, 2, dtype="float32")
    layer.update_norm(**TIGHT)
    values[:2] = 1.9, 2.0
    layer.kernel.assign(q @ np.diag(values) @ q.T)
    layer.update_norm()
    stored_norms()
    np.testing.assert_allclose(layer.norm_estimate(), 2.0, rtol=1e-5)


def block_diagonal(*sizes, largest):
    """Block diagonal, with a block for each size, whose largest singular values are given."""
    rng, parts = np.random.default_rng(13), []
    for size, value in zip(sizes, largest, strict=True):
        part = rng.normal(size=(size, size))
        parts.append(value * part / np.linalg.norm(part, 2))
    return scipy.linalg.block_diag(*parts)


@pytest.mark.parametrize(("size", "image_size"), [(1, None), (20, None), (60, None), (1, (2, 3)), (20, (2, 3))])
def test_update_leaves_a_space_that_the_kernel_maps_to_itself(size, image_size):
    before, after = (block_diagonal(size, size, largest=pair) for pair in ((2.0, 1.0), (2.0, 5.0)))
    if image_size:  # the blocks act on channels, and the taps beside the middle are small
        around = 1e-3 * np.ones((3, 1, 1, 1))
        around[1] = 1.0
        before, after = around * before, around * after
        layer = convolution(before, image_size)
    else:
        layer = dense(before, 2, 2, "float32")
    layer.update_norm(**TIGHT)
    layer.kernel.assign(after)
    for _ in range(20):  # the default, as after a step of training
        layer.update_norm()
    matrix = explicit_matrix(after, *image_size) if image_size else after
    np.testing.assert_allclose(layer.norm_estimate(), np.linalg.norm(matrix, 2), rtol=1e-3)


def test_many_fresh_starts_find_the_largest_of_the_local_maxima():
    """Within 1 % of the best of 100 random starts of 100 steps."""
    rng = np.random.default_rng(14)
    cases = [(2.0, 4.0, 2, 40), (4.0, 4.0, 40, 40), (4.0, 2.0, 40, 2)]
    for p, q, inputs, outputs in cases:
        kernel = rng.normal(size=(inputs, outputs))
        layer = dense(kernel, p, q)
        layer.kernel.assign(kernel[::-1])
        layers.converge_norms(layer)
        assert layer.norm_estimate() >= 0.99 * best_of_random_starts(kernel[::-1].T, p, q)


def best_of_random_starts(matrix, p, q, num=100, steps=100):
    """The largest ||W v||_q / ||v||_p that the power method finds, W acting on columns."""

    def dual(x, order):
        y = np.sign(x) * np.abs(x) ** (order - 1)
        return y / np.linalg.norm(y, order / (order - 1), axis=0)

    v = np.random.default_rng(15).normal(size=(matrix.shape[1], num))
    for _ in range(steps):
        v = dual(matrix.T @ dual(matrix @ v, q), p / (p - 1))
    return np.max(np.linalg.norm(matrix @ v, q, axis=0) / np.linalg.norm(v, p, axis=0))


def test_fixed_number_of_iterations_and_early_stop():
    kernel = np.random.default_rng(12).normal(size=(80, 80))
    layer = dense(kernel, 2, 2)
    assert layer.update_norm(tolerance=0.0, max_iterations=24) == 24
    layer.update_norm(**TIGHT)
    assert layer.update_norm(tolerance=1e-2) == 6
    mixed = dense(kernel, 3.0, 1.5)
    assert mixed.update_norm(tolerance=0.0, max_iterations=5) == 5


def test_leading_eigenvector_by_xla():
    """Of two matrices, and of zeros."""
    x = np.random.default_rng(0).normal(size=[2, 64, 64])
    x[:, :, 0] *= 2.0
    gram = np.concatenate([x @ x.transpose(0, 2, 1), np.zeros([1, 64, 64])]).astype("float32")
    found = tf.function(operator_norms._leading_eigenvector, jit_compile=True)(gram)
    _, vectors = np.linalg.eigh(gram)
    np.testing.assert_allclose(np.abs(np.sum(found * vectors[..., -1], -1)), [1.0, 1.0, 0.0], atol=1e-4)
