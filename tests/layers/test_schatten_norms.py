"""The Schatten norm against singular values, and layers whose coefficient it makes a theorem."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.layers.matrices import matrix_of, schatten, singular_values
from tf_resflow import layers
from tf_resflow.layers.linear_operators import ConvolutionOperator
from tf_resflow.layers.operator_norms import SchattenNorm

pytestmark = pytest.mark.quick


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def alternating(shape):
    rows, columns = np.indices(shape[:2])
    return (-1.0) ** (rows + columns)[..., None, None] * np.ones(shape)


CONVOLUTIONS = {
    "of all pixels": (normal((3, 3, 2, 8)), (4, 5)),
    "thin outputs": (normal((5, 3, 9, 1)), (6, 6)),
    "of frequencies": (normal((3, 3, 5, 9)), (7, 6)),
    "of frequencies, thin outputs": (normal((3, 5, 7, 4)), (6, 7)),
    "alternating": (alternating((3, 3, 3, 4)), (9, 9)),
    "smaller image than kernel": (normal((5, 5, 16, 20)), (2, 3)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_has_the_schatten_norm_of_the_operator_or_of_its_symbols(name):
    kernel, (height, width) = CONVOLUTIONS[name]
    matrix = matrix_of(kernel, (height, width))
    if min(matrix.shape) <= 64:
        expected = schatten(matrix)
    else:
        top, left = (max(0, (k + 1) // 2 - n) for k, n in zip(kernel.shape[:2], (height, width), strict=True))
        live = kernel[top : kernel.shape[0] - top, left : kernel.shape[1] - left]  # taps that stay on the image
        torus = (height + live.shape[0] // 2, width + live.shape[1] // 2)
        symbols = np.fft.fft2(live, torus, axes=(0, 1))
        expected = max(schatten(symbols[i, j]) for i, j in itertools.product(*map(range, torus)))
    operator = ConvolutionOperator(kernel.shape, (height, width))
    found = SchattenNorm(operator, tf.constant(kernel), 2.0, 2.0).estimate()
    np.testing.assert_allclose(found, expected, rtol=1e-11)
    assert found >= singular_values(matrix)[0]


def test_a_branch_has_no_state_and_needs_no_updates():
    """The certificate holds for any kernels."""
    schatten = {"normalization": "schatten"}
    convolution = [layers.LipschitzConv2D(2, 3, **schatten), layers.LipSwish(), keras.layers.Flatten()]
    branch = keras.Sequential([keras.Input([2, 3, 1]), *convolution, layers.LipschitzDense(6, **schatten)])
    assert branch.non_trainable_variables == []
    for layer in layers.norm_updates.lipschitz_layers(branch):
        layer.kernel.assign(9 * normal(layer.kernel.shape))
    assert layers.update_norms(branch, 1e-9, 1000) == 0
    assert layers.lipschitz_constant(branch, certified=True) <= layers.lipschitz_constant(branch) * (1 + 1e-6)
