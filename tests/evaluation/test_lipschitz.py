import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tf_resflow as resflow
from tests.evaluation import conftest
from tf_resflow.bijectors import certified_bounds
from tf_resflow.bijectors.base import lipschitz_constants
from tf_resflow.bijectors.views import uncertified_blocks
from tf_resflow.evaluation import lipschitz_certificate


def test_what_has_no_bounds(refused):
    flow = resflow.bijectors.Flow([resflow.bijectors.ActNorm([2])])
    assert certified_bounds(flow) == {}
    message = "Got a FlowModel; expected a flow, .* Pass its attribute flow"
    refused(message, lipschitz_certificate, resflow.FlowModel(flow, [2]))


def jacobians(bijector, x):
    """Returns the Jacobian matrix at each event of a batch."""
    x = tf.constant(x, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = bijector.forward(x)
    size = x[0].shape.num_elements()
    return tf.reshape(tape.batch_jacobian(y, x), [len(x), size, size]).numpy()


def test_layers_and_blocks():
    """Each bound is the product of the clipped norms of the layers."""
    flow = resflow.flows.vector_flow(3, num_blocks=2, hidden=(5,), activation="relu", coefficient=0.8)
    for layer in resflow.layers.norm_updates.lipschitz_layers(flow):
        layer.kernel.assign(2.0 * layer.kernel)
    resflow.layers.update_norms(flow, tolerance=1e-6, max_iterations=500)
    certificate, bounds = lipschitz_certificate(flow), certified_bounds(flow)
    assert list(bounds) == ["block0", "block1"]
    assert {name: c["certified"] for name, c in certificate["blocks"].items()} == bounds
    assert [c["nominal"] for c in certificate["blocks"].values()] == [pytest.approx(0.64)] * 2
    for block in resflow.bijectors.flow.residual_blocks(flow):
        kernels, of_layers = resflow.layers.norm_updates.lipschitz_layers(block), certificate["layers"][block.name]
        assert list(of_layers) == [layer.name for layer in kernels] == ["dense_0", "dense_1"]
        norms = [np.linalg.norm(layer.kernel.numpy(), 2) for layer in kernels]
        for found, norm in zip(of_layers.values(), norms, strict=True):
            expected = {"coefficient": 0.8, "estimate": norm, "bound": min(norm, 0.8)}
            assert found == pytest.approx(expected, rel=1e-4)
        product = np.prod(np.minimum(norms, 0.8))
        assert product * (1 - 1e-5) < bounds[block.name] < product * 1.05  # layers leave a margin for rounding


def linear_block(slope, name="block"):
    return conftest.linear_block(slope * np.eye(2), name=name)


def test_constants_of_a_linear_flow_and_of_its_inverse():
    """Each is the product of the parts' constants. The slopes 0.5 and -0.5 attain 1.5 and 1 / 0.5."""
    act_norm = resflow.bijectors.ActNorm([2])
    act_norm.log_scale.assign(np.log([3.0, 0.25]))
    normalize = resflow.bijectors.Normalize([1.0, 2.0], [0.5, 4.0])
    parts = [normalize, linear_block(0.5, "a"), tfp.bijectors.Invert(act_norm), linear_block(-0.5, "b")]
    certificate = lipschitz_certificate(resflow.bijectors.Flow(parts))
    expected = {"nominal": 2 * 1.9 * 4 * 1.9, "certified": 2 * 1.5 * 4 * 1.5}
    assert certificate["flow"] == pytest.approx(expected)
    assert certificate["inverse"] == pytest.approx({"nominal": 4 * 10 * 3 * 10, "certified": 4 * 2 * 3 * 2})
    assert certificate["unbounded"] == {}


def test_a_multiscale_flow_is_not_steeper_than_its_certificate():
    """Compares the largest and smallest singular values of the Jacobian at 20 random points."""
    block = resflow.flows.residual_image_block(coefficient=0.9)
    flow = resflow.flows.image_flow(
        (4, 4, 1), (1, 1), 4, kernels=(3, 1), num_fc_blocks=1, fc_width=8, block=block, factor_out=True
    )
    generator = np.random.default_rng(0)
    for variable in flow.trainable_variables:
        variable.assign(variable + generator.normal(0, 0.3, variable.shape))
    resflow.layers.update_norms(flow, tolerance=1e-6, max_iterations=500)
    singular = np.linalg.svd(jacobians(flow, generator.uniform(size=[20, 4, 4, 1])), compute_uv=False)
    certificate = lipschitz_certificate(flow)
    forward, inverse = certificate["flow"]["certified"], certificate["inverse"]["certified"]
    assert forward / 1e4 < singular.max() <= forward < np.inf
    assert inverse / 1e4 < 1 / singular.min() <= inverse < np.inf


def test_the_slopes_of_the_logit():
    logit = resflow.bijectors.Logit(0.05)
    certificate = lipschitz_certificate(resflow.bijectors.Flow([logit, linear_block(0.0)]))
    forward = logit.forward_log_det_jacobian(tf.linspace(0.0, 1.0, 101), 0)
    inverse = logit.inverse_log_det_jacobian(tf.linspace(-3.0, 3.0, 101), 0)
    for part, log_slopes in (("flow", forward), ("inverse", inverse)):
        assert certificate[part]["certified"] == pytest.approx(np.exp(np.max(log_slopes)), rel=1e-5)


def test_a_bound_that_is_not_below_1(stored_norms):
    stale = linear_block(0.5)
    assert stale.lipschitz_constants()[:3] == (pytest.approx(1.9), pytest.approx(10), 2.0)
    inverted = lipschitz_constants(tfp.bijectors.Invert(stale), certified=True)
    assert inverted[:3] == (pytest.approx(2.0), pytest.approx(1.5), 2.0) and inverted.reason is None
    (layer,) = resflow.layers.norm_updates.lipschitz_layers(stale)
    layer.vector.assign([[0.0, 1.0]])
    layer.kernel.assign(np.diag([1.5, 0.1]))
    stored_norms()
    certificate = lipschitz_certificate(resflow.bijectors.Flow([stale]))
    assert certificate["blocks"]["block"]["certified"] == pytest.approx(1.5)
    assert certificate["inverse"] == {"nominal": pytest.approx(10.0), "certified": np.inf}
    steep = stale.lipschitz_constants(certified=True)
    assert steep.forward == pytest.approx(2.5) and steep.inverse == np.inf
    assert steep.reason == "The bound 1.5 of the branch is not below 1"


def test_a_block_on_trust_is_not_certified():
    """The uncertified block has a reason, and does not change the numbers of a certified block."""
    unknown = keras.Sequential([keras.Input([2]), keras.layers.Dense(2, name="unknown")])
    trusted = resflow.bijectors.ResidualBlock(unknown, lipschitz_constant=0.6, event_shape=[2], name="trusted")
    flow = resflow.bijectors.Flow([linear_block(0.5), trusted])
    certificate, reason = lipschitz_certificate(flow), "The Lipschitz constant of 'unknown' (Dense) is unknown"
    assert uncertified_blocks(flow) == {"trusted": reason}
    assert certificate["blocks"]["trusted"] == {"nominal": 0.6, "certified": np.inf, "reason": reason}
    alone = lipschitz_certificate(resflow.bijectors.Flow([linear_block(0.5)]))
    assert certificate["blocks"]["block"] == alone["blocks"]["block"]
    assert certificate["flow"] == {"nominal": pytest.approx(1.9 * 1.6), "certified": np.inf}
    assert certificate["inverse"] == {"nominal": pytest.approx(10 * 2.5), "certified": np.inf}


def test_blocks_that_contract_in_different_norms_have_no_common_constant():
    same = resflow.flows.vector_flow(3, 2, (4,), coefficient=0.5, norms=(3, 2, 3), act_norm=False)
    assert lipschitz_certificate(same)["flow"]["nominal"] == pytest.approx(1.25**2)
    beside = resflow.bijectors.Flow([same.bijectors[0], resflow.bijectors.InvertibleConv1x1(3)])
    certificate = lipschitz_certificate(beside)
    assert certificate["flow"]["certified"] == certificate["inverse"]["nominal"] == np.inf
    assert certificate["unbounded"] == {"flow": "The parts of flow contract in different norms"}


@pytest.mark.parametrize("order, swap", [(2, False), (1, True), (np.inf, False)])
def test_an_additive_coupling_is_not_steeper_than_its_constant(order, swap):
    norms = {"domain": order, "codomain": order}
    first, last = (resflow.layers.LipschitzDense(units, 3.0, **norms) for units in (8, 3))
    network = keras.Sequential([keras.Input([2]), first, resflow.layers.LipSwish(), last])
    generator = np.random.default_rng(0)
    for layer in (first, last):
        layer.kernel.assign(generator.normal(size=layer.kernel.shape))
    resflow.layers.update_norms(network, tolerance=1e-6, max_iterations=500)
    coupling = resflow.bijectors.AdditiveCoupling(network, swap=swap)
    nominal, certified = coupling.lipschitz_constants(), coupling.lipschitz_constants(certified=True)
    assert nominal[:2] == (10.0, 10.0) and nominal.order == certified.order == order
    assert certified.forward == certified.inverse <= 10 * (1 + 1e-5)
    for dense in jacobians(coupling, generator.normal(size=[10, 5])):
        for matrix, bound in ((dense, certified.forward), (np.linalg.inv(dense), certified.inverse)):
            assert np.linalg.norm(matrix, order) <= bound * (1 + 1e-5)


def test_what_bounds_no_slope_has_its_reason():
    def network(num_parameters):
        return resflow.flows.dense_coupling_network([2], (4,), num_parameters=num_parameters)

    affine = [resflow.bijectors.AffineCoupling(network(2), swap=swap) for swap in (False, True)]
    additive = resflow.bijectors.AdditiveCoupling(network(1))
    chain = tfp.bijectors.Chain([tfp.bijectors.Invert(tfp.bijectors.Exp())], name="chain")
    flow = resflow.bijectors.Flow([linear_block(0.5), *affine, additive, resflow.bijectors.Flow([chain])])
    certificate = lipschitz_certificate(flow)
    assert certificate["flow"]["nominal"] == certificate["inverse"]["certified"] == np.inf
    reasons = certificate["unbounded"]
    assert list(reasons)[:3] == ["affine_coupling", "affine_coupling_1", "additive_coupling"]
    assert reasons["affine_coupling"] == reasons["affine_coupling_1"] == affine[0].lipschitz_constants().reason
    assert "grows with b, without bound" in reasons["affine_coupling"]
    assert "(Dense) is unknown" in reasons["additive_coupling"]
    assert reasons["chain"] == "The Lipschitz constants of a Chain are unknown" and "flow" not in reasons
    assert flow.lipschitz_constants(certified=True).reason == reasons["affine_coupling"]
