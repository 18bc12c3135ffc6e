"""Compares norms with singular values, closed forms, and maximization in NumPy."""

import functools
import itertools

import keras
import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import scipy.sparse.linalg
import tensorflow as tf

from tests.layers.matrices import layer_of, matrix_of, singular_values
from tf_resflow import layers
from tf_resflow.layers import linear_operators
from tf_resflow.layers.linear_operators import Axis, ConvolutionOperator, MatrixOperator
from tf_resflow.layers.lipschitz_layer import scaled_stack
from tf_resflow.layers.power_norm import PowerNorm

TIGHT = {"tolerance": 1e-7, "max_iterations": 6000}


def random_kernel(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape)


def brute_force(matrix, p, q):
    """Returns max ||M v||_q / ||v||_p of an [outputs, inputs] matrix by quasi-Newton ascent from 60 starts."""

    def loss(v):
        return -np.linalg.norm(matrix @ v, q) / np.linalg.norm(v, p)

    return max(-scipy.optimize.minimize(loss, v).fun for v in random_kernel(60, matrix.shape[1], seed=0))


@pytest.mark.parametrize(
    ("shape", "image_size"),
    [((3, 3, 4, 6), (4, 5)), ((3, 3, 6, 4), (2, 1)), ((5, 3, 1, 3), (6, 7)), ((1, 1, 3, 5), (8, 8))],
)
def test_norm_of_a_convolution_and_its_bound_are_the_largest_singular_value(image_size, shape):
    kernel = random_kernel(*shape) + 0.5
    singular = singular_values(matrix_of(kernel, image_size))[0]
    layer = layer_of(kernel, image_size)
    layers.update_norms(layer, **TIGHT)
    np.testing.assert_allclose(layer.norm_estimate(), singular, rtol=1e-6)
    in_graph = tf.function(layer.norm_bound, autograph=False).get_concrete_function()
    assert not any("PyFunc" in operation.type for operation in in_graph.graph.get_operations())  # it can be served
    for bound in (layer.norm_bound(), in_graph()):
        assert bound.dtype == tf.float64
        assert singular <= bound <= singular * (1 + 2e-9)


def geometries(padding):
    """Yields strides, sizes of kernels, and sizes of images, some smaller than the kernel or the stride."""
    strides_and_sizes = [
        *itertools.product([(1, 1), (2, 2), (3, 3), (2, 1)], [(4, 5), (7, 6)]),
        ((3, 3), (2, 3)),
    ]
    for (strides, image_size), taps in itertools.product(strides_and_sizes, range(1, 5)):
        if padding == "same" or taps <= min(image_size):
            yield strides, (taps, max(1, taps - strides[0] % 2)), image_size


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_a_convolution_with_strides_equals_its_matrix(padding):
    """Compares the value, the derivatives in the input, the norm, and its bound. Weights are those of Keras."""
    for strides, taps, image_size in geometries(padding):
        kernel = random_kernel(*taps, 2, 3)
        options = {"strides": strides, "padding": padding}
        layer = layer_of(kernel, image_size, coefficient=1e3, **options)
        matrix = matrix_of(kernel, image_size, **options)
        x, v = tf.constant(random_kernel(2, 1, *image_size, 2))
        keras_layer = keras.layers.Conv2D(3, taps, dtype="float64", **options)
        keras_layer.build([None, *image_size, 2])
        keras_layer.set_weights([kernel, np.zeros(3)])
        network = keras.Sequential([keras.Input([*image_size, 2], dtype="float64"), layer])
        assert network.output_shape == keras_layer.compute_output_shape((None, *image_size, 2))
        np.testing.assert_allclose(layer(x), keras_layer(x), rtol=1e-9, atol=1e-9)
        y, tangent = layers.program.bind(network).value_and_jvp([x], v)
        np.testing.assert_allclose(np.ravel(y), matrix @ np.ravel(x), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(np.ravel(tangent), matrix @ np.ravel(v), rtol=1e-9, atol=1e-9)
        with tf.GradientTape() as tape:
            tape.watch(x)
            objective = tf.reduce_sum(y * layer(x))
        np.testing.assert_allclose(np.ravel(tape.gradient(objective, x)), matrix.T @ np.ravel(y), rtol=1e-9)
        singular = singular_values(matrix)[0]
        layers.update_norms(layer)
        case = f"{options} {taps} {image_size}"
        assert singular / 1.001 <= layer.norm_estimate() <= singular * (1 + 1e-9), case
        assert singular <= layer.norm_bound() <= singular * (1 + 2e-9), case


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_no_norm_for_a_smaller_image_is_larger_if_a_call_accepts_it(padding):
    """Orders do not matter, because the matrix for a smaller image is a block of the larger one."""
    is_larger = set()
    for pixels, taps, stride in itertools.product(range(1, 9), range(1, 6), range(1, 5)):
        if padding == "valid" and taps > pixels:
            continue
        fewest = Axis(pixels, taps, stride, padding).fewest_pixels
        kernel = random_kernel(taps, 1, 1, 1)
        options = {"strides": (stride, 1), "padding": padding}
        norm, *smaller = (
            np.linalg.norm(matrix_of(kernel, (size, 1), **options), 2)
            for size in range(pixels, 0 if padding == "same" else taps - 1, -1)
        )
        assert max([0.0, *smaller[: pixels - fewest]]) <= norm * (1 + 1e-12), (pixels, taps, stride)
        if max([0.0, *smaller]) > norm * (1 + 1e-12):
            is_larger.add((taps, stride))
    assert bool(is_larger) == (padding == "same")


@pytest.mark.parametrize(
    ("shape", "image_size", "strides", "most"),
    [
        ((3, 3, 1, 2), (8, 8), 1, 1.2),
        ((3, 3, 3, 16), (8, 8), 1, 1.1),
        ((3, 3, 8, 4), (8, 8), 1, 1.1),
        ((3, 3, 8, 4), (15, 16), 2, 1.1),
        ((5, 5, 2, 3), (1, 1), 1, 1 + 1e-8),
        ((5, 5, 2, 3), (2, 3), 1, 2),
        ((5, 5, 2, 3), (1, 4), 1, 2),
    ],
)
def test_fourier_bound_is_above_and_close(monkeypatch, shape, image_size, strides, most):
    """Includes images that are smaller than the kernel."""
    monkeypatch.setattr(linear_operators, "_MAX_GRAM_SIZE", 0)  # makes every convolution too large for eigenvalues
    kernel = random_kernel(*shape)
    singular = singular_values(matrix_of(kernel, image_size, strides=(strides, strides)))[0]
    assert singular <= layer_of(kernel, image_size, strides=strides).norm_bound() <= singular * most


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_fourier_bounds_of_small_images_with_strides(padding, monkeypatch):
    """The taps of a difference cancel if they wrap around on a torus that is too small."""
    monkeypatch.setattr(linear_operators, "_MAX_GRAM_SIZE", 0)
    for pixels, taps, stride in itertools.product(range(1, 6), range(1, 6), range(1, 4)):
        if padding == "valid" and taps > pixels:
            continue
        kernel = random_kernel(taps, 1, 1, 1)
        options = {"strides": (stride, 1), "padding": padding}
        operator = ConvolutionOperator(kernel.shape, (pixels, 1), **options)
        for signed in (kernel, kernel - kernel[::-1]):
            norm = np.linalg.norm(matrix_of(signed, (pixels, 1), **options), 2)
            bound = operator.spectral_bound(tf.constant(signed))
            assert norm * (1 - 1e-12) <= bound <= 2 * norm, (pixels, taps, stride)


@pytest.mark.parametrize(
    ("image_size", "options"),
    [
        ((5, 6), {}),
        ((2, 1), {}),
        ((5, 6), {"strides": (2, 3)}),
        ((1, 2), {"strides": (4, 3)}),
        ((7, 4), {"strides": (2, 1), "padding": "valid"}),
        ((7, 5), {"strides": (6, 3), "padding": "valid"}),
    ],
)
@pytest.mark.parametrize("order", [1.0, 3.0, np.inf])
def test_closed_forms_of_a_convolution(image_size, order, options):
    kernel = random_kernel(5, 3, 2, 3)
    matrix = matrix_of(kernel, image_size, **options)
    dual = {1.0: np.inf, np.inf: 1.0}.get(order) or order / (order - 1)
    columns, rows = np.linalg.norm(matrix, order, 0).max(), np.linalg.norm(matrix, dual, 1).max()
    for orders, expected in [((1, order), columns), ((order, np.inf), rows)]:
        layer = layer_of(kernel, image_size, *orders, **options)
        np.testing.assert_allclose(layer.norm_estimate(), expected, rtol=1e-10)
        np.testing.assert_allclose(layer.norm_bound(), expected, rtol=1e-8)
        assert layer.norm_bound() >= expected


@pytest.mark.parametrize(
    ("shape", "image_size", "orders", "options"),
    [
        ((3, 4), None, (1.3, 1.3), {}),
        ((5, 2), None, (3.0, 1.5), {}),
        ((3, 3, 2, 2), (3, 2), (2.0, 4.0), {}),
        ((1, 1, 2, 3), (3, 2), (3.0, 1.5), {}),
        ((3, 2, 1, 2), (5, 2), (4.0, 4.0), {"strides": (2, 1)}),
        ((2, 2, 1, 3), (4, 3), (3.0, 1.5), {"strides": (2, 2), "padding": "valid"}),
    ],
)
def test_mixed_norms_equal_the_maximum(shape, image_size, orders, options, stored_norms):
    kernel = random_kernel(*shape, seed=8)
    expected = brute_force(matrix_of(kernel, image_size, **options), *orders)
    layer = layer_of(kernel, image_size, *orders, **options)
    layers.update_norms(layer, **TIGHT)
    stored_norms()
    np.testing.assert_allclose(layer.norm_estimate(), expected, rtol=1e-3 if image_size else 1e-4)
    assert expected <= layer.norm_bound() <= (2 if image_size else 1.5) * expected


@pytest.mark.parametrize("order", [1.5, 3.0])
@pytest.mark.parametrize("shape", [(2, 8), (8, 2)])
def test_the_interpolated_bound_is_tight_for_ones(order, shape):
    """The norm of a matrix of ones is n^(1 - 1/p) m^(1/p), which equals the Riesz-Thorin bound."""
    layer = layers.LipschitzDense(shape[1], 1e3, domain=order, codomain=order)
    layer.build((None, shape[0]))
    layer.kernel.assign(np.ones(shape))
    assert float(layer.norm_bound()) == pytest.approx(
        shape[0] ** (1 - 1 / order) * shape[1] ** (1 / order), rel=1e-6
    )


def test_norms_of_learned_orders_equal_those_of_the_same_fixed_ones():
    kernel, v = tf.constant(random_kernel(5, 2)), tf.constant(random_kernel(3, 5))
    for orders in ((3.0, 1.5), (1.5, 3.0)):
        operator = MatrixOperator((5, 2))
        fixed = PowerNorm(operator, *orders)
        learned = PowerNorm(operator, *map(tf.constant, orders))
        np.testing.assert_allclose(learned.bound(kernel), fixed.bound(kernel), rtol=1e-6)
        np.testing.assert_allclose(learned.estimate(kernel, v), fixed.estimate(kernel, v), rtol=1e-6)


def block_diagonal(size, largest):
    """Returns two blocks of equal size with the given largest singular values."""
    one, other = random_kernel(2, size, size, seed=13)
    blocks = [value * part / np.linalg.norm(part, 2) for value, part in zip(largest, (one, other), strict=True)]
    return scipy.linalg.block_diag(*blocks)


def with_singular_values(values, seed=15):
    size = len(values)
    left, right = (np.linalg.qr(matrix)[0] for matrix in random_kernel(2, size, size, seed=seed))
    return left * values @ right


def changes(size):
    """Yields names and pairs of kernels. In the second, a singular value that was not the largest one is.

    All other singular values are random, equal, nearly equal to the largest one, or zero.
    """
    rng = np.random.default_rng(size)
    spectra = {
        "random": np.sort(np.linalg.svd(rng.normal(size=[size, size]), compute_uv=False))[::-1],
        "equal": np.ones(size),
        "nearly equal": 1.0 - 1e-3 * np.arange(size) / size,
        "rank one": (np.arange(size) == 0).astype(float),
    }
    for name, values in spectra.items():
        for place in (1, size // 2, size - 1):
            for growth in (0.003, 0.01, 0.03, 0.1, 0.3, 3.0):
                grown = np.where(np.arange(size) == place, (1.0 + growth) * values[0], values)
                yield f"{name}, {place}, {growth}", with_singular_values(values), with_singular_values(grown)
    for place in range(0, size, max(1, size // 8)):
        grown = np.where(np.arange(size) == place, 1.01, 1.0)
        yield f"diagonal, {place}", np.eye(size), np.diag(grown)
    yield "blocks", block_diagonal(size // 2, (2.0, 1.0)), block_diagonal(size // 2, (2.0, 10.0))


@pytest.mark.parametrize("size", [2, 8, 64])
def test_one_search_finds_a_singular_value_that_overtakes_the_stored_one(size):
    """After one update in a graph or in eager mode, and in a call without an update."""
    layer = layer_of(np.eye(size), coefficient=0.9, dtype="float32")
    update = tf.function(functools.partial(layers.update_norms, layer), autograph=False)
    stored = tf.function(lambda: scaled_stack([layer], stored=True)[0], autograph=False)
    call = tf.function(layer.scaled_kernel, autograph=False)
    for name, before, after in changes(size):
        layer.kernel.assign(before)
        layers.converge_norms(layer)
        vector = layer.vector.numpy()
        layer.kernel.assign(after)
        scaled = [call().numpy(), layer.scaled_kernel().numpy()]
        for search in (update, functools.partial(layers.update_norms, layer)):
            layer.vector.assign(vector)
            search()
            scaled.append(stored().numpy())
        norms = [np.linalg.norm(kernel.astype("float64"), 2) for kernel in scaled]
        assert max(norms) <= 0.9 * 1.0006, (name, norms)
        assert min(norms) >= 0.9 * (1 - 1e-5), (name, norms)


@pytest.mark.parametrize(("size", "image_size"), [(66, None), (130, None), (20, (2, 3)), (6, (4, 4))])
def test_one_search_of_a_larger_operator_finds_values_that_grow_by_a_third(size, image_size):
    """Smaller growth can take several searches. Kernels of convolutions act on channels, except small taps."""
    around = 1e-3 * np.ones((3, 1, 1, 1))
    around[1] = 1.0
    make = (lambda kernel: around * kernel) if image_size else (lambda kernel: kernel)
    layer = layer_of(make(np.eye(size)), image_size, coefficient=0.9, dtype="float32")
    update = tf.function(functools.partial(layers.update_norms, layer), autograph=False)
    call = tf.function(layer.scaled_kernel, autograph=False)
    for name, before, after in changes(size):
        growth = float(name.split(", ")[2]) if name.count(",") == 2 else 1.0
        if name.startswith("nearly") or growth < 0.3 and name.startswith("random"):
            continue
        layer.kernel.assign(make(before))
        layers.converge_norms(layer)
        layer.kernel.assign(make(after))
        scaled = [call().numpy()]
        update()
        scaled.append(scaled_stack([layer], stored=True)[0].numpy())
        norms = [singular_values(matrix_of(kernel, image_size))[0] for kernel in scaled]
        assert max(norms) <= 0.9 * 1.003, (name, norms)


@pytest.mark.parametrize("orders", [(1.2, 1.2), (4.0, 4.0), (3.0, 1.5), (1.5, 3.0)])
def test_one_search_of_other_orders_finds_the_largest_local_maximum(orders):
    """An update in a graph follows each of ten new kernels. A quasi-Newton method has 60 starts for each."""
    layer = layer_of(random_kernel(8, 10), None, *orders, coefficient=0.9, dtype="float32")
    update = tf.function(functools.partial(layers.update_norms, layer), autograph=False)
    for seed in range(10):
        layer.kernel.assign(random_kernel(8, 10, seed=seed))
        update()
        scaled = scaled_stack([layer], stored=True)[0].numpy().astype("float64")
        assert brute_force(scaled.T, *orders) <= 0.9 * 1.001


def test_a_training_that_rewards_a_large_norm_stays_contractive():
    """All singular values approach the largest one, and overtake each other."""
    layer = layer_of(random_kernel(8, 8), coefficient=0.98, dtype="float32")
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build([layer.kernel])
    weights = tf.constant(random_kernel(8, 8, seed=2), tf.float32)

    @functools.partial(tf.function, autograph=False)
    def step():
        with tf.GradientTape() as tape:
            (kernel,) = scaled_stack([layer], stored=True)
            loss = -tf.reduce_sum(kernel**2) - 0.1 * tf.reduce_sum(weights * kernel)
        optimizer.apply(tape.gradient(loss, [layer.kernel.value]), [layer.kernel])
        layers.update_norms(layer)
        return scaled_stack([layer], stored=True)[0]

    singular = [np.linalg.svd(step().numpy(), compute_uv=False) for _ in range(300)]
    assert max(values[0] for values in singular) <= 0.98 * 1.0006
    assert singular[-1][1] > 0.9 * singular[-1][0]


def test_update_of_a_mixed_norm_leaves_a_local_maximum():
    layer = layer_of(np.diag([2.0, 0.0]), None, 1.5, 3.0)
    layers.update_norms(layer, **TIGHT)
    layer.kernel.assign(np.diag([2.0, 3.0]))
    for _ in range(20):
        layers.update_norms(layer)
    np.testing.assert_allclose(layer.norm_estimate(), 3.0, rtol=1e-3)


@pytest.mark.parametrize(("shape", "orders"), [((2, 40), (2.0, 4.0)), ((40, 2), (4.0, 2.0))])
def test_many_fresh_starts_find_the_largest_of_the_local_maxima(shape, orders):
    """The result must be within 1 % of the best of 60 random starts, for the matrix or its transpose (duality)."""
    kernel, (p, q) = random_kernel(*shape, seed=14), orders
    layer = layer_of(kernel, None, *orders)
    layer.kernel.assign(kernel[::-1])
    layers.converge_norms(layer)
    few_inputs = (kernel[::-1].T, p, q) if shape[0] == 2 else (kernel[::-1], q / (q - 1), p / (p - 1))
    assert layer.norm_estimate() >= 0.99 * brute_force(*few_inputs)


def test_a_graph_takes_the_given_number_of_steps_and_stops_early():
    """In eager mode, a search for 2 -> 2 is a decomposition, unless `num_fresh=0`."""
    kernel = random_kernel(80, 80, seed=12)
    layer = layer_of(kernel)
    update = functools.partial(tf.function(layers.update_norms, autograph=False), layer)
    assert update(tolerance=0.0, max_iterations=28) == 28
    layers.update_norms(layer, **TIGHT)
    before = layer.vector.numpy()
    assert update() == update(tolerance=1e-2, max_iterations=100) == 14
    assert layers.update_norms(layer_of(kernel, None, 3.0, 1.5), tolerance=0.0, max_iterations=5) == 5
    layer.vector.assign(before)
    assert layers.update_norms(layer, num_fresh=0) == 14
    np.testing.assert_array_equal(layer.vector, before)  # no better vector was found
    layer.kernel.assign(kernel[::-1] * np.linspace(0.1, 2.0, 80))
    assert layers.update_norms(layer) == 1
    np.testing.assert_allclose(layer.norm_estimate(), np.linalg.norm(layer.kernel, 2), rtol=1e-6)


@pytest.mark.parametrize("share", [None, 1.0 - 1e-3, 1.0 - 1e-6, 0.9, 0.6, 0.05])
def test_the_bound_is_tight_and_one_that_is_too_low_is_never_certified(share, monkeypatch):
    """If ARPACK finds this share of the eigenvalue, the bound is the first attempt above all eigenvalues."""
    for seed, size in itertools.product(range(10), (1, 2, 3, 8, 40) if share is None else (3, 8, 40)):
        factor = random_kernel(size, size, seed=seed) * 10.0 ** np.random.default_rng(seed).uniform(-3, 0, size)
        matrix = factor @ factor.T
        expected, most = np.linalg.eigvalsh(matrix)[-1], np.abs(matrix).sum(1).max()
        if share is None:
            assert expected <= linear_operators.eigenvalue_bound(matrix) <= expected * (1 + 1e-8)
            continue
        monkeypatch.setattr(scipy.sparse.linalg, "eigsh", lambda *_, found=share * expected / most, **__: [found])
        tried = [share * expected * (1 + 1e-9 * 100.0**i) for i in range(9)]
        first = min(bound for bound in [*tried, most] if bound >= expected)
        np.testing.assert_allclose(linear_operators.eigenvalue_bound(matrix), min(first, most), rtol=1e-12)
