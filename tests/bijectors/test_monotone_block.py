"""The monotone block: errors, tolerances and constants. Random cases test the rest."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow

EXACT = resflow.logdet.Exact()
MonotoneBlock = resflow.bijectors.MonotoneBlock


def test_error_bound_of_the_inverse():
    """Where the iteration is slow, the error exceeds the bound of a residual block with the same residual."""
    branch = keras.Sequential([keras.Input([1]), keras.layers.Dense(1, use_bias=False)])
    branch.layers[0].kernel.assign([[0.9]])
    solver = resflow.solvers.FixedPoint(max_iterations=5)
    block = MonotoneBlock(branch, EXACT, inverse_solver=solver, lipschitz_constant=0.9)
    y = tf.constant([[1.0]])
    _, (solution,) = resflow.bijectors.inverse_with_solutions(block, y)
    error = np.abs(solution.root - 19.0 * y).item()
    assert 1 / (1 - 0.9) < error / solution.residual.numpy().item() < np.sqrt(2) / (1 - 0.9)
    with pytest.raises(tf.errors.InvalidArgumentError, match="at most 14 times as large"):
        block.copy(validate_args=True).inverse(tf.identity(y))


@pytest.mark.parametrize(
    ("kind", "activation"),
    [(MonotoneBlock, resflow.layers.LipSwish), (resflow.bijectors.ResidualBlock, resflow.layers.CPila)],
)
def test_far_from_the_origin_a_block_is_homogeneous(kind, activation, capfd):
    """There, g(s x) = s g(x) except for the biases, so log-determinants at 1e8 x and 1e25 x are equal."""
    rng = np.random.default_rng(0)
    block = kind(resflow.flows.dense_branch([3], (32,), activation=activation, coefficient=0.97), EXACT)
    for layer in resflow.layers.norm_updates.lipschitz_layers(block):
        layer.kernel.assign(3.0 * rng.normal(size=layer.kernel.shape))
    log_dets = []
    for scale in (1e8, 1e25):
        x = tf.constant(scale * np.random.default_rng(1).normal(size=[20, 3]), tf.float32)
        y = block.forward(x)
        np.testing.assert_allclose(block.inverse(tf.identity(y)), x, rtol=1e-4, atol=1e-5 * scale)
        log_dets.append(block.forward_log_det_jacobian(x, 1))
    assert np.abs(log_dets[0]).max() > 0.1
    np.testing.assert_allclose(*log_dets, rtol=1e-3, atol=1e-4)
    assert "WARNING" not in capfd.readouterr().err


def test_loose_solutions_of_the_default_solver(make_branch, normal):
    """They are precise to 0.1 % of the event, also in the gradient. Other solvers keep their tolerance."""
    block = MonotoneBlock(make_branch(3, hidden=(16,)), resflow.logdet.PowerSeries(1, probes="basis"))
    x = normal([64, 3])

    def value_and_gradient(block, x, **kwargs):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = block.forward(x, **kwargs)
        return y, tape.gradient(y, x, tf.ones_like(y))

    precise = value_and_gradient(block, x)
    networks = resflow.bijectors.Networks(block, training=True)
    loose = value_and_gradient(block.copy(), tf.identity(x), networks=networks)
    own = block.copy(inverse_solver=resflow.solvers.Anderson())
    own = value_and_gradient(own, tf.identity(x), networks=networks)
    for one, other, same in zip(precise, loose, own, strict=True):
        assert 1e-6 < np.abs(one - other).max() < 5e-3 * np.abs(one).max()
        np.testing.assert_allclose(same, one, rtol=1e-5, atol=1e-6)


def test_constants_and_certificate(make_branch):
    block = MonotoneBlock(make_branch(3), EXACT)
    constant = block.lipschitz_constant
    forward, inverse, order, reason = block.lipschitz_constants()
    assert (forward, inverse) == pytest.approx(((1 + constant) / (1 - constant),) * 2)
    assert order == 2 and reason is None
    certified = block.lipschitz_constants(certified=True)
    assert 0.999 * forward < certified.forward < 1.1 * forward
