"""Layers with given kernels, their matrices, and norms of matrices."""

import keras
import numpy as np

from tests.random_cases import dense_matrix
from tf_resflow import layers


def layer_of(kernel, image_size=None, domain=2, codomain=2, coefficient=0.97, *, dtype="float64", **kwargs):
    """Returns a dense layer, or a convolution if an image size is given."""
    kernel = np.asarray(kernel)
    make = {"domain": domain, "codomain": codomain, "dtype": dtype, **kwargs}
    make["kernel_initializer"] = keras.initializers.Constant(kernel)
    if image_size is None:
        layer = layers.LipschitzDense(kernel.shape[1], coefficient, **make)
    else:
        layer = layers.LipschitzConv2D(kernel.shape[3], kernel.shape[:2], coefficient, **make)
    layer.build((None, *(image_size or ()), kernel.shape[-2]))
    layer.built = True
    return layer


def matrix_of(kernel, image_size=None, **options):
    """Returns the matrix `[outputs, inputs]` in float64, of a convolution if there is an image size."""
    kernel = np.asarray(kernel, "float64")
    return kernel.T if image_size is None else dense_matrix(kernel, (*image_size, kernel.shape[2]), **options)


def singular_values(matrix):
    peak = np.abs(matrix).max() or 1.0
    return peak * np.linalg.svd(matrix / peak, compute_uv=False)
