"""Compares norms and scaled kernels in float32, at scales from 1e-30 to 1e30, with NumPy in float64."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from tests.layers.matrices import layer_of, matrix_of, singular_values

COEFFICIENT = 0.7
SPECTRAL = (2.0, 2.0)
SMALL, MEDIUM, LARGE = ((5, 7), None), ((30, 40), None), ((80, 70), None)
PIXELS = ((3, 3, 2, 2), (8, 8))

CASES = [
    *((*case, SPECTRAL, False) for case in (SMALL, LARGE, PIXELS)),
    *((*MEDIUM, (p, q), False) for p, q in [(1.0, 3.0), (1.0, np.inf), (2.0, np.inf)]),
    (*SMALL, (3.0, 1.5), False),
    (*MEDIUM, SPECTRAL, True),
]


def kernels(shape):
    """Returns kernels by name, each difficult for some norm or for the vectors of the previous kernel."""
    rng, taps, matrix = np.random.default_rng(0), shape[:-2], shape[-2:]
    rows, columns = np.indices(shape)[-2:]
    normal = rng.normal(size=shape)
    q, _ = np.linalg.qr(rng.normal(size=(max(matrix), max(matrix))))
    q[:, 0] *= 1.35
    made = {
        "random": normal,
        "zero": np.zeros(shape),
        "one row": normal * (rows == 0),
        "another row": normal * (rows == 1),
        "one weight": np.where((rows == matrix[0] - 1) & (columns == 1), np.ones(shape), 0.0),
        "ones": np.ones(shape),
        "average": np.ones(shape) / np.prod(shape[:-1]),
        "rank one": rng.normal(size=(*taps, 1, 1)) * np.outer(*(rng.normal(size=n) for n in matrix)),
        "equal singular values, but one": np.ones((*taps, 1, 1)) * q[: matrix[0], : matrix[1]],
        "wide": normal * 10 ** rng.uniform(-5, 0, size=shape),
    }
    if taps:
        made["Sobel"] = np.array([[1.0, 2, 1], [0, 0, 0], [-1, -2, -1]])[..., None, None] * np.ones(shape)
    return made


def true_norm(matrix, p, q):
    """Returns ||W||_{p -> q} twice if it has a closed form, and otherwise bounds from below and above."""
    if p == q == 2.0:
        return (singular_values(matrix)[0],) * 2
    if p == 1.0 or q == np.inf:
        order, axis = (q, 0) if p == 1.0 else (p / (p - 1.0), 1)
        return (np.linalg.norm(matrix, order, axis).max(),) * 2
    inputs = np.linalg.norm(matrix, q, 0)
    return inputs.max(), np.linalg.norm(inputs, p / (p - 1.0))


@pytest.mark.parametrize(("shape", "image_size", "orders", "jit"), CASES)
def test_norms_and_scaled_kernels_at_all_scales(shape, image_size, orders, jit):
    """Checks the estimate, its bound and its gradient, and that the scaled kernel meets the coefficient.

    By Euler's theorem, the product of gradient and kernel is the norm. One layer receives all kernels without
    updates.
    """
    rng = np.random.default_rng(len(str(orders)) + shape[0])
    scales = iter(10 ** rng.uniform(-29, 29, size=100))
    layer = layer_of(rng.normal(size=shape), image_size, *orders, COEFFICIENT, dtype="float32")

    @functools.partial(tf.function, jit_compile=jit)
    def compute():
        with tf.GradientTape(persistent=True) as tape:
            norm, scaled = layer.norm_estimate(), layer.scaled_kernel()
        return norm, scaled, *(tape.gradient(result, layer.kernel.value) for result in (norm, scaled))

    for name, kernel in kernels(shape).items():
        layer.kernel.assign(kernel * next(scales))
        kernel = layer.kernel.numpy().astype("float64")
        norm, scaled, gradient, of_scaled = (result.numpy().astype("float64") for result in compute())
        matrix = matrix_of(kernel, image_size)
        least, most = true_norm(matrix, *orders)
        below = 1e-5 if least == most and orders != SPECTRAL else 0.03
        assert least * (1 - below) <= norm <= most * (1 + 1e-5), name
        np.testing.assert_allclose(np.sum(gradient * kernel), norm, rtol=1e-4, err_msg=name)
        assert np.isfinite(of_scaled).all(), name
        if not jit:
            assert least <= layer.norm_bound() * (1 + 1e-9), name
        if norm < 0.99 * COEFFICIENT:
            np.testing.assert_array_equal(scaled, kernel, err_msg=name)
        elif least == most:
            applied = true_norm(matrix_of(scaled, image_size), *orders)[0]
            rounded = 0.0 if orders != SPECTRAL else 0.03
            assert COEFFICIENT * 0.8 <= applied <= COEFFICIENT * (1 + rounded), name
