"""The correspondence of tensors and variables; most names, shapes and values are tested with the conversion."""

import math

import keras
import numpy as np
import pytest

from tf_resflow import flows, layers
from tf_resflow.interop.published_variables import published_tensors

SMALL = {"kernels": (3, 1), "num_fc_blocks": 1, "fc_width": 2}


@pytest.fixture(scope="module")
def learned_flow():
    block = flows.residual_image_block(norms="learned")
    return flows.image_flow((4, 4, 1), (1, 1), 2, block=block, **SMALL)


def test_every_trainable_variable_once(learned_flow):
    other = flows.image_flow((4, 4, 1), (1, 1), 2, squeeze_first=True, factor_out=True, **SMALL)
    for flow in (learned_flow, other):
        tensors = published_tensors(flow)
        variables = [tensor.variable for tensor in tensors]
        variables = {id(v.value if isinstance(v, keras.Variable) else v) for v in variables}
        assert len(variables) == len(tensors) == len({tensor.name for tensor in tensors})
        assert variables == {id(variable) for variable in flow.trainable_variables}


def test_learned_orders(learned_flow):
    """The published order is 3 + 2 tanh(-h), h = 0.3 z + 0.7 elu(z), z = artanh(1/2) - x."""
    tensors = {tensor.name: tensor for tensor in published_tensors(learned_flow)}
    prefix = "transforms.0.chain.2.nnet.0"
    values = {f"{prefix}.domain": np.array(-1.5), f"{prefix}.codomain": np.array(2.0)}
    for name in values:
        tensors[name].variable.assign(tensors[name].value(values))
    block = layers.lipschitz_layers(learned_flow)[:2]
    pairs = [(float(layer.domain.order()), float(layer.codomain.order())) for layer in block]

    def order(x):
        z = math.atanh(0.5) - x
        return 3 + 2 * math.tanh(-(0.3 * z + 0.7 * (z if z > 0 else math.exp(z) - 1)))

    p, q = order(-1.5), order(2.0)
    np.testing.assert_allclose(pairs, [(p, q), (q, p)], rtol=1e-6)


def test_missing_and_misshapen_tensors():
    flow = flows.image_flow((8, 8, 1), (1, 1), 2, num_fc_blocks=0)
    tensor = published_tensors(flow)[0]
    assert tensor.name == "transforms.0.chain.1.weight"
    for tensors, message in [
        ({}, f"no tensor '{tensor.name}'"),
        ({tensor.name: np.zeros(3)}, rf"'{tensor.name}' has the shape \(3,\), .* ask for \(1,\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            tensor.value(tensors)
