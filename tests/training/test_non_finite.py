"""Tests of the messages about where a run diverged."""

import math

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tf_resflow as resflow
from tf_resflow.training.non_finite import find_non_finite

X = np.zeros([4, 2], "float32")
SEED = [0, 1]


@tf.custom_gradient
def without_a_gradient(x):
    return tf.identity(x), lambda dy: dy * math.nan


class WithoutAGradient(tfp.bijectors.Identity):
    """The identity with a NaN gradient."""

    def forward(self, x, **kwargs):
        return without_a_gradient(x)


@pytest.fixture
def model():
    return resflow.FlowModel(resflow.flows.vector_flow(2, num_blocks=3, hidden=(4,), seed=1), [2])


def block(model, index):
    return resflow.bijectors.flow.residual_blocks(model.flow)[index]


def spoil(variable, value):
    variable.assign(tf.fill(variable.shape, value))


def test_weights(model):
    assert find_non_finite(model, [X], SEED) == ""
    spoil(block(model, 1).branch.trainable_variables[0], math.inf)
    text = find_non_finite(model, [X], SEED)
    assert text.startswith("Some weights of block1 (norms of its kernels: ")
    spoil(block(model, 2).branch.trainable_variables[0], math.nan)
    assert "Some weights of 2 parts are not finite. The first part is block1" in find_non_finite(model, [X], SEED)


def test_a_value(model):
    """The first value that is not finite is in the data of one replica, or in the output of a block."""
    batches = [X, np.full_like(X, math.inf)]
    assert "are finite; the output of act_norm is not" in find_non_finite(model, batches, SEED)
    for layer in resflow.layers.norm_updates.lipschitz_layers(block(model, 1)):
        spoil(layer.kernel, 1.0)
        spoil(layer.bias, 3e38)
    expected = "All weights are finite; the output of block1 (norms of its kernels: "
    assert find_non_finite(model, [X], SEED).startswith(expected)


def test_a_gradient():
    """NaN appears behind block1, and backpropagates to the gradients of block1 and block0."""
    blocks = resflow.flows.vector_flow(2, num_blocks=3, hidden=(4,), act_norm=False, seed=1).bijectors
    flow = resflow.bijectors.Flow([*blocks[:2], WithoutAGradient(), *blocks[2:]])
    expected = "The output of the flow is finite; the norm of the gradient of block1 (norms of its kernels: "
    assert find_non_finite(resflow.FlowModel(flow, [2]), [X], SEED).startswith(expected)


def test_the_classifier():
    flow = resflow.flows.image_flow((4, 4, 1), (1,), 4, kernels=(3, 1), num_fc_blocks=0)
    shapes = flow.feature_shapes((4, 4, 1))
    classifier = resflow.flows.multiscale_classifier(shapes, num_classes=3, num_features=4)
    model = resflow.HybridModel(flow, classifier, (4, 4, 1), levels=8)
    batch = np.zeros([2, 4, 4, 1], "uint8"), np.array([0, 2])
    kernel = classifier.trainable_weights[-2]
    spoil(kernel, 1e38)
    expected = "The output of the flow is finite; the norm of the gradient of the classifier is not."
    assert find_non_finite(model, [batch], SEED) == expected
    spoil(kernel, math.nan)
    assert find_non_finite(model, [batch], SEED) == "Some weights of the classifier are not finite."


def test_a_gradient_that_is_spoiled_in_the_flow():
    """NaN appears in the flow and backpropagates to the dequantizer, which comes before the flow."""
    flow = resflow.flows.image_flow((4, 4, 1), (1,), 4, kernels=(3, 1), num_fc_blocks=0)
    noise = resflow.models.FlowDequantizer((4, 4, 1), num_blocks=1, width=4)
    model = resflow.FlowModel(flow, (4, 4, 1), levels=8, dequantizer=noise)
    *_, act_norm = (part for part in flow.submodules if isinstance(part, resflow.bijectors.ActNorm))
    spoil(act_norm.log_scale, 60.0)
    found = find_non_finite(model, [np.zeros([2, 4, 4, 1], "uint8")], SEED)
    assert found == f"The output of the flow is finite; the norm of the gradient of {act_norm.name} is not."
