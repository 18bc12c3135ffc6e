"""Compares the kernels that the published layers apply with dense matrices."""

import numpy as np
import pytest

from tf_resflow.interop.published_variables import applied_kernels


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


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
