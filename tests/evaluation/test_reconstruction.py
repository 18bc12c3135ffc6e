import numpy as np
import pytest
import tensorflow_probability as tfp

import tf_resflow as resflow
from tests.evaluation.conftest import linear_block
from tf_resflow.evaluation import reconstruct

SCALE, SLOPE = 1.5, 0.4


def linear_model(levels=None, **solver):
    """Builds two blocks y = (1 + SLOPE) x. A fixed-point step multiplies the error by -SLOPE."""
    options = {"inverse_solver": resflow.solvers.FixedPoint(**solver)}
    blocks = [linear_block(SLOPE * np.eye(3), name=name, **options) for name in ("first", "second")]
    flow = resflow.bijectors.Flow([tfp.bijectors.Scale(SCALE), *blocks])
    return resflow.FlowModel(flow, [3], levels=levels)


def test_a_converged_round_trip():
    x = np.random.default_rng(0).normal(size=[7, 3]).astype(np.float32)
    result = reconstruct(linear_model(), x, seed=0)
    assert result.max_error < 3e-6 and 0 < result.rms_error < result.max_error
    assert result.max_levels is None and result.exact_examples is None
    assert (result.num_solves, result.unconverged) == (14, 0)
    assert result.max_residual < 2e-6
    # 0.4^n |y| reaches 2.4e-7 (1 + |y|), the default tolerance, after about 17 steps.
    assert 12 < result.mean_iterations <= result.max_iterations < 22


def test_an_iteration_that_is_cut_short_errs_as_it_must():
    """Two evaluations and a final step return (1 - s + s^2) y for y = (1 + s) x, in each block."""
    x = np.array([[1.0, -2.0, 0.5], [0.1, 0.2, -0.3]], np.float32)
    result = reconstruct(linear_model(max_iterations=2), x, seed=0)
    factor = ((1 + SLOPE) * (1 - SLOPE + SLOPE**2)) ** 2
    error = np.abs(factor - 1.0) * np.abs(x)
    assert result.max_error == pytest.approx(error.max(), rel=1e-5)
    assert result.rms_error == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-5)
    # The residual is s^2 y, and the last block inverts y = (1 + s)^2 SCALE x.
    residual = SLOPE**2 * (1 + SLOPE) ** 2 * SCALE * 2.0
    assert result.max_residual == pytest.approx(residual, rel=1e-5)
    assert (result.num_solves, result.unconverged, result.max_iterations) == (4, 4, 2)


def test_integers_that_come_back_and_that_do_not():
    """The error, 0.2944 of the value, moves a large integer to another level, but not 0."""
    x = np.array([[0, 0, 0], [7, 7, 7]], np.uint8)
    good = reconstruct(linear_model(levels=8), x, seed=0)
    assert good.exact_examples == 1.0
    assert good.max_levels == pytest.approx(8 * good.max_error) and good.max_levels < 1e-4
    bad = reconstruct(linear_model(levels=8, max_iterations=1), x, seed=0)
    assert bad.exact_examples == 0.5
    assert 0.2943 * 7 < bad.max_levels < 0.2945 * 8
