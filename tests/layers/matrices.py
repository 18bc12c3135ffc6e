"""Layers with given kernels, their matrices, and norms of matrices."""

import itertools

import keras
import numpy as np

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


def matrix_of(kernel, image_size=None):
    """Returns the matrix `[outputs, inputs]` in float64, for a zero-padded convolution tap by tap."""
    kernel = np.asarray(kernel, "float64")
    if image_size is None:
        return kernel.T
    (kh, kw, inputs, outputs), (height, width) = kernel.shape, image_size
    matrix = np.zeros((height, width, outputs, height, width, inputs))
    for i, j, a, b in itertools.product(range(height), range(width), range(kh), range(kw)):
        row, column = i + a - kh // 2, j + b - kw // 2
        if 0 <= row < height and 0 <= column < width:
            matrix[i, j, :, row, column, :] = kernel[a, b].T
    return matrix.reshape(height * width * outputs, -1)


def singular_values(matrix):
    peak = np.abs(matrix).max() or 1.0
    return peak * np.linalg.svd(matrix / peak, compute_uv=False)


def schatten(matrix, order=128):
    s = singular_values(matrix)
    return s[0] * np.sum((s / (s[0] or 1.0)) ** order) ** (1 / order)
