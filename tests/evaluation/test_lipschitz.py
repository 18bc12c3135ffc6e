import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tf_resflow as resflow
from tests.evaluation import conftest
from tf_resflow.bijectors import certified_bounds
from tf_resflow.bijectors.base import stretch_bounds_of
from tf_resflow.bijectors.views import uncertified_blocks
from tf_resflow.evaluation import lipschitz_certificate


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


def perturbed(flow, scale):
    generator = np.random.default_rng(0)
    for variable in flow.trainable_variables:
        variable.assign_add(generator.normal(0, scale, variable.shape))
    resflow.layers.update_norms(flow, tolerance=1e-6, max_iterations=500)
    return flow


def multiscale():
    block = resflow.flows.residual_image_block(coefficient=0.9)
    options = {"kernels": (3, 1), "num_fc_blocks": 1, "fc_width": 8, "block": block, "factor_out": True}
    return perturbed(resflow.flows.image_flow((4, 4, 1), (1, 1), 4, **options), 0.3)


def coupling(order):
    norms = {"domain": order, "codomain": order}
    first, last = (resflow.layers.LipschitzDense(units, 3.0, **norms) for units in (8, 3))
    network = keras.Sequential([keras.Input([2]), first, resflow.layers.LipSwish(), last])
    return perturbed(resflow.bijectors.Flow([resflow.bijectors.AdditiveCoupling(network, swap=order == 1)]), 1.0)


def logit():
    return resflow.bijectors.Flow([resflow.bijectors.Logit(0.05), linear_block(0.0)])


STEEP = {
    "multiscale": (multiscale, 2, [4, 4, 1], 1e4),
    "logit": (logit, 2, [2], 1.0001),  # attained at 0 and at 1/2
    **{str(order): (functools.partial(coupling, order), order, [5], 10) for order in (1, 2, np.inf)},
}


@pytest.mark.parametrize("kind", STEEP)
def test_a_flow_is_not_steeper_than_its_certificate(kind):
    """Compares the norms of the Jacobian and of its inverse at 0, 1/2 and 20 random points."""
    make, order, shape, slack = STEEP[kind]
    flow, points = make(), np.random.default_rng(0).uniform(size=[22, *shape])
    points[0], points[1] = 0.0, 0.5
    assert flow.lipschitz_constants(certified=True).order in (order, None)
    certificate, matrices = lipschitz_certificate(flow), jacobians(flow, points)
    for part, dense in (("flow", matrices), ("inverse", np.linalg.inv(matrices))):
        bound, steepest = certificate[part]["certified"], np.linalg.norm(dense, order, axis=(1, 2)).max()
        assert bound / slack < steepest <= bound * (1 + 1e-5) < np.inf


def test_a_bound_that_is_not_below_1(stored_norms):
    stale = linear_block(0.5)
    assert stale.lipschitz_constants()[:3] == (pytest.approx(1.9), pytest.approx(10), 2.0)
    inverted = stretch_bounds_of(tfp.bijectors.Invert(stale), certified=True)
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


def test_blocks_that_contract_in_different_norms_have_no_common_constant():
    same = resflow.flows.vector_flow(3, 2, (4,), coefficient=0.5, norms=(3, 2, 3), act_norm=False)
    assert lipschitz_certificate(same)["flow"]["nominal"] == pytest.approx(1.25**2)
    beside = resflow.bijectors.Flow([same.bijectors[0], resflow.bijectors.InvertibleConv1x1(3)])
    certificate = lipschitz_certificate(beside)
    assert certificate["flow"]["certified"] == certificate["inverse"]["nominal"] == np.inf
    assert certificate["unbounded"] == {"flow": "The parts of flow contract in different norms"}


def test_what_bounds_no_slope_has_its_reason():
    def network(num_parameters):
        return resflow.flows.dense_coupling_network([2], (4,), num_parameters=num_parameters)

    affine = [resflow.bijectors.AffineCoupling(network(2), swap=swap) for swap in (False, True)]
    spline, additive = resflow.bijectors.SplineCoupling(network(23)), resflow.bijectors.AdditiveCoupling(network(1))
    chain = tfp.bijectors.Chain([tfp.bijectors.Invert(tfp.bijectors.Exp())], name="chain")
    unknown = keras.Sequential([keras.Input([2]), keras.layers.Dense(2, name="unknown")])
    trusted = resflow.bijectors.ResidualBlock(unknown, lipschitz_constant=0.6, event_shape=[2], name="trusted")
    flow = resflow.bijectors.Flow(
        [linear_block(0.5), *affine, spline, additive, resflow.bijectors.Flow([chain]), trusted]
    )
    certificate, reason = lipschitz_certificate(flow), "The Lipschitz constant of 'unknown' (Dense) is unknown"
    assert uncertified_blocks(flow) == {"trusted": reason}
    assert certificate["blocks"]["trusted"] == {"nominal": 0.6, "certified": np.inf, "reason": reason}
    assert certificate["blocks"]["block"] == {"nominal": 0.9, "certified": pytest.approx(0.5)}
    assert certificate["flow"]["nominal"] == certificate["inverse"]["certified"] == np.inf
    reasons = certificate["unbounded"]
    assert list(reasons)[:4] == ["affine_coupling", "affine_coupling_1", "spline_coupling", "additive_coupling"]
    assert "(Dense) is unknown" in reasons["additive_coupling"] and "chain" in reasons and "flow" not in reasons
    assert flow.lipschitz_constants(certified=True).reason == reasons["affine_coupling"]
