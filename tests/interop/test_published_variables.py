"""Compares the kernels that the published layers apply with dense matrices."""

import numpy as np
import pytest
from scipy.signal import correlate2d

from tf_resflow.interop.published_variables import applied_kernels


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def layer(kernel, image=None):
    """Returns a layer whose u and v are not singular vectors, and its u'Wv computed with SciPy."""
    outputs, inputs = kernel.shape[:2]
    if image is None:
        u, v = normal(outputs, seed=1), normal(inputs, seed=2)
        applied = kernel.reshape(outputs, inputs) @ v
    else:
        u, v = normal(outputs, *image, seed=1), normal(inputs, *image, seed=2)
        planes = [[correlate2d(v[i], kernel[o, i], "same") for i in range(inputs)] for o in range(outputs)]
        applied = np.sum(planes, axis=1)
    estimate = np.sum(u * applied)
    if estimate < 0:
        u, estimate = -u, -estimate
    buffers = {"scale": np.zeros(()), "u": u.ravel(), "v": v.ravel(), "spatial_dims": np.array(image or (1, 1))}
    return {f"a.1.{key}": value for key, value in buffers.items()} | {"a.1.weight": kernel}, estimate


@pytest.mark.parametrize("shape, image", [((4, 3), None), ((4, 3, 1, 1), None), ((4, 2, 3, 3), (5, 6))])
@pytest.mark.parametrize("share, scaled", [(0.5, True), (2.0, False)])
def test_the_estimate_of_u_and_v(shape, image, share, scaled):
    kernel = normal(*shape)
    tensors, estimate = layer(kernel, image)
    coefficient = share * estimate
    applied = applied_kernels(tensors, tensors, coefficient=coefficient, orders=(2.0, 2.0, 2.0))["a.1.weight"]
    np.testing.assert_allclose(applied, kernel * (share if scaled else 1.0), rtol=1e-6)


@pytest.mark.parametrize(
    "orders, axis, order",
    [((1, 1), 1, 1), ((1, 2), 1, 2), ((1, np.inf), 1, np.inf), ((2, np.inf), 0, 2), ((np.inf, np.inf), 0, 1)],
)
@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 3, 3)])
def test_closed_forms_scale_each_line(orders, axis, order, shape):
    """For p = 1, the q-norm of each input's column; for q = inf, the p*-norm of each output's row."""
    kernel = normal(*shape)
    tensors = {"a.3.weight": kernel, "a.3.scale": np.zeros(())}
    applied = applied_kernels(tensors, tensors, coefficient=0.9, orders=(2.0, *orders))["a.3.weight"]
    for i in range(shape[axis]):
        line = kernel.take(i, axis)
        norm = np.linalg.norm(line.ravel(), order)
        np.testing.assert_allclose(applied.take(i, axis), line / max(1, norm / 0.9), rtol=1e-6)
