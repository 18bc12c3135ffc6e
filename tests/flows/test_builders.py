"""Flows of the builders: inverses, dtype policies, conditions and activations."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow
from tf_resflow import bijectors, flows, layers
from tf_resflow.flows.names import ACTIVATIONS

EXACT = resflow.logdet.Exact()


def image_flow(block=None, **options):
    residual = flows.residual_image_block(log_det_estimator=EXACT)
    options["block"] = residual if block is None else flows.coupling_image_block(block)
    options |= {"kernels": (3, 1), "num_fc_blocks": 1, "fc_width": 4, "inv_1x1_conv": True}
    return flows.image_flow((4, 6, 1), (1, 1), 4, **options)


def mixed_flow(affine, **options):
    return flows.vector_flow(2, 1, (4,), affine_layers=(1, 1), affine=affine, log_det_estimator=EXACT, **options)


@pytest.mark.parametrize(
    "build, latent, condition_size, dtype",
    [
        (lambda **options: image_flow(factor_out=True, **options), [24], 2, "float32"),
        (lambda **options: image_flow(bijectors.AffineCoupling, **options), [2, 3, 4], None, "float32"),
        (lambda **options: image_flow(bijectors.AdditiveCoupling, factor_out=True, **options), [24], 2, "float64"),
        (lambda **options: flows.vector_flow(2, 3, (4,), log_det_estimator=EXACT, **options), [2], 2, "float64"),
        (lambda **options: mixed_flow(bijectors.AffineAutoregressive, **options), [2], 2, "float64"),
        (lambda **options: mixed_flow(bijectors.AffineCoupling, **options), [2], 2, "float32"),
        (lambda **options: mixed_flow(bijectors.SplineCoupling, **options), [2], 2, "float32"),
        (lambda **options: image_flow(bijectors.SplineCoupling, **options), [2, 3, 4], 2, "float64"),
    ],
)
def test_the_parts_of_a_flow_fit(build, latent, condition_size, dtype):
    """1x1 convolutions work with every kind of block, and every block receives the condition."""
    flow = build(condition_size=condition_size, dtype=dtype)
    assert {v.dtype.name for v in flow.trainable_variables} == {dtype}
    found = [part for part in flow.submodules if getattr(part, "networks", ()) and hasattr(part, "condition_shape")]
    assert len(found) == 3
    assert condition_size is None or all(part.condition_shape == [condition_size] for part in found)
    for i, variable in enumerate([] if layers.norm_updates.lipschitz_layers(flow) else flow.trainable_variables):
        variable.assign_add(tf.random.stateless_normal(variable.shape, [1, i], 0.0, 0.1, dtype=variable.dtype))
    event_shape = [2] if latent == [2] else [4, 6, 1]
    x = tf.random.stateless_uniform([3, *event_shape], [0, 1], 0.1, 0.9, dtype=dtype)
    c = tf.constant([[1.0, 0.0], [0.0, 1.0], [3.0, 3.0]], dtype)
    given, other = ({"condition": rows} if condition_size else {} for rows in (c, c[::-1]))
    z = flow.forward(x, **given)
    assert z.shape == [3, *latent]
    tolerance = 1e-4 if dtype == "float32" else 1e-11
    np.testing.assert_allclose(flow.inverse(tf.identity(z), **given), x, atol=tolerance)
    if condition_size:
        moved = np.reshape(np.abs(z - flow.forward(tf.identity(x), **other)), [3, -1]).max(1)
        assert np.all(moved[[0, 2]] > 1e-3)


def test_activations_on_images():
    x = tf.random.stateless_normal([2, 2, 3, 4], [0, 1])
    function = keras.activations.softsign
    for activation in (*ACTIVATIONS, "sigmoid", function, layers.MaxMin, layers.LipSwish(name="other")):
        branch = flows.conv_branch((2, 3, 4), 4, (3, 1), activation=activation, coefficient=0.5)
        assert layers.lipschitz_constant(branch) <= 0.5**2 + 1e-12
        assert np.all(np.isfinite(branch(x))) and np.max(np.abs(branch(x))) > 1e-4, activation


def test_a_layer_as_activation_is_copied():
    mine = layers.LipSwish(name="mine")
    branch = flows.dense_branch([2], (4, 4), activation=mine)
    copies = [layer for layer in branch.layers if type(layer) is layers.LipSwish]
    assert [copy.name for copy in copies] == ["activation_0", "activation_1"] and mine not in copies
    assert len({id(copy.beta) for copy in copies}) == 2


SMALL = {"num_blocks": (1, 1), "width": 4, "num_fc_blocks": 1, "fc_width": 4}
DENSE_NETS = {**SMALL, "num_blocks": (1,), "block": flows.residual_image_block(dense_net=(1, 4))}
COUPLINGS = {**SMALL, "block": flows.coupling_image_block()}
NETWORKS = {
    "vector": lambda **dtype: flows.vector_flow(2, 1, (2,), norms="learned", condition_size=3, **dtype),
    "image": lambda **dtype: flows.image_flow((4, 4, 1), **SMALL, **dtype),
    "dense nets": lambda **dtype: flows.image_flow((4, 4, 1), **DENSE_NETS, **dtype),
    "couplings": lambda **dtype: flows.image_flow((4, 4, 1), **COUPLINGS, **dtype),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_policies(kind, dtype_policy):
    """In training, networks compute in the given or global policy. Variables have its variable dtype."""
    is_global = kind == "image"
    with dtype_policy("mixed_bfloat16" if is_global else "float32"):
        flow = NETWORKS[kind](dtype=None if is_global else "mixed_bfloat16")
    networks = [network for bijector in flow.bijectors for network in getattr(bijector, "networks", ())]
    assert networks and {v.dtype.name for v in flow.variables} == {"float32"}
    for network in networks:
        inputs = [tf.zeros([2, *x.shape[1:]]) for x in network.inputs]
        inputs = inputs if len(inputs) > 1 else inputs[0]
        assert layers.program.bind(network)(inputs).dtype == "float32"
        assert layers.program.bind(network, training=True)(inputs).dtype == "bfloat16"


SHAPE = (2, 3, 2)
FLAT = {"kernel_size": None, "stem": 5, "activation": "cpila"}
CONDITIONAL = {
    "images": lambda **kwargs: flows.conv_branch(SHAPE, 6, (3, 1), **kwargs),
    "flat images": lambda **kwargs: flows.dense_branch(SHAPE, (6,), preactivation=True, **kwargs),
    "dense nets": lambda **kwargs: flows.dense_net_branch(SHAPE, 1, 6, **kwargs),
    "flat dense nets": lambda **kwargs: flows.dense_net_branch(SHAPE, 1, 4, **FLAT, **kwargs),
}


@pytest.mark.parametrize("kind", CONDITIONAL)
def test_conditional_branches_of_images(kind):
    """Dense Jacobians at two conditions differ, and respect the Lipschitz bound."""
    constant = 0.7**3 if kind == "flat dense nets" else 0.7**2
    branch = CONDITIONAL[kind](condition_size=3, coefficient=0.7, seed=1, dtype="float64")
    for layer in layers.norm_updates.lipschitz_layers(branch):
        layer.kernel.assign(3 * layer.kernel)
    layers.converge_norms(branch)
    assert layers.lipschitz_constant(branch) == pytest.approx(constant)
    assert layers.lipschitz_constant(branch, certified=True) < constant + 1e-3
    x = tf.constant(np.random.default_rng(0).normal(size=[1, *SHAPE]))
    jacobians = []
    for scale in (0.0, 10.0):
        c = scale * tf.constant([[1.0, -1.0, 0.5]], tf.float64)
        with tf.GradientTape() as tape:
            tape.watch(x)
            g = branch([x, c])
        jacobian = tape.jacobian(g, x).numpy().reshape(12, 12)
        assert np.linalg.norm(jacobian, 2) < constant
        jacobians.append(jacobian)
    assert np.linalg.norm(jacobians[0] - jacobians[1]) > 1e-2
