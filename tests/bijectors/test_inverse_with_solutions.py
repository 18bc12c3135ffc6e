"""The inverse of a flow with what its solver says."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow

Z = np.random.default_rng(0).normal(size=[4, 2]).astype("float32")


@pytest.mark.parametrize("compiled", [False, True])
def test_the_inverse_and_the_last_block_first(compiled):
    """Each has its own solver: the first block's stops at an error of 0.1^5 |z|, the last's meets its tolerance."""
    blocks = []
    for slope, limit in ((0.1, 5), (0.5, 50)):
        branch = keras.Sequential([keras.Input([2]), resflow.layers.LipschitzDense(2, 0.9)])
        branch.layers[0].kernel.assign(slope * np.eye(2))
        solver = resflow.solvers.FixedPoint(max_iterations=limit)
        blocks.append(resflow.bijectors.ResidualBlock(branch, inverse_solver=solver, name=f"slope{slope}"))
    flow = resflow.bijectors.Flow(blocks)
    inverse = resflow.bijectors.inverse_with_solutions
    x, (last, first) = (tf.function(inverse, autograph=False) if compiled else inverse)(flow, Z)
    np.testing.assert_allclose(x, Z / 1.1 / 1.5, rtol=1e-4)
    np.testing.assert_allclose(last.root, Z / 1.5, rtol=1e-5)
    np.testing.assert_array_equal(last.converged, [True] * 4)
    np.testing.assert_array_equal(first.converged, [False] * 4)
    assert np.all(last.num_iterations.numpy() > 10) and np.all(first.num_iterations == 5)


def test_without_blocks():
    flow = resflow.bijectors.Flow([resflow.bijectors.InvertibleConv1x1(2, seed=1)])
    x, solutions = resflow.bijectors.inverse_with_solutions(flow, Z)
    np.testing.assert_allclose(flow.forward(tf.identity(x)), Z, rtol=1e-5)
    assert solutions == []


def test_a_list_is_taken_in_the_precision_of_the_flow():
    flow = resflow.bijectors.Flow([resflow.bijectors.InvertibleConv1x1(2, seed=1, dtype="float64")])
    x, _ = resflow.bijectors.inverse_with_solutions(flow, Z.tolist())
    np.testing.assert_array_equal(x, flow.inverse(Z.tolist()))
