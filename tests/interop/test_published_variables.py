"""The correspondence of tensors and variables; its values are tested with the conversion."""

import math

import keras
import numpy as np
import pytest

from tf_resflow import flows, layers
from tf_resflow.interop.published_variables import published_tensors

LEARNED = {"block": flows.residual_image_block(norms="learned")}


@pytest.mark.parametrize("options", [{}, LEARNED, {"squeeze_first": True, "factor_out": True}])
def test_every_trainable_variable_once(options):
    flow = flows.image_flow((4, 4, 1), (1, 1), 2, kernels=(3, 1), num_fc_blocks=1, fc_width=2, **options)
    tensors = published_tensors(flow)
    variables = [tensor.variable for tensor in tensors]
    variables = {id(v.value if isinstance(v, keras.Variable) else v) for v in variables}
    assert len(variables) == len(tensors) == len({tensor.name for tensor in tensors})
    assert variables == {id(variable) for variable in flow.trainable_variables}


def test_names_and_shapes():
    """By the layout that the published code gives such a model."""
    flow = flows.image_flow((8, 8, 2), (1, 1), 3, num_fc_blocks=1, fc_width=5, logit_alpha=0.1)
    shapes = {tensor.name: tensor.shape for tensor in published_tensors(flow)}
    expected = {
        "transforms.0.chain.1.weight": (2,),  # ActNorm, after the logit
        "transforms.0.chain.2.nnet.0.weight": (3, 2, 3, 3),  # the first block begins with a convolution
        "transforms.0.chain.2.nnet.1.beta": (1,),
        "transforms.0.chain.2.nnet.2.weight": (3, 3, 1, 1),
        "transforms.1.chain.0.nnet.0.beta": (1,),  # the others with an activation
        "transforms.1.chain.0.nnet.5.weight": (8, 3, 3, 3),
        "transforms.1.chain.0.nnet.5.bias": (8,),
        "transforms.1.chain.2.nnet.nnet.1.weight": (5, 128),
        "transforms.1.chain.2.nnet.nnet.5.weight": (128, 5),
        "transforms.1.chain.3.fc_module.bias": (128,),
    }
    assert expected.items() <= shapes.items()


def test_rows_of_a_fully_connected_layer():
    """Channel c at pixel (y, x) of 4 x 4 x 4 is input 16 c + 4 y + x there, and 16 y + 4 x + c here."""
    flow = flows.image_flow((8, 8, 1), (1, 1), 2, num_fc_blocks=1, fc_width=2)
    name = "transforms.1.chain.2.nnet.nnet.1.weight"
    (tensor,) = (tensor for tensor in published_tensors(flow) if tensor.name == name)
    weight = np.arange(128.0).reshape(2, 64)
    kernel = tensor.value({name: weight})
    assert kernel.shape == (64, 2)
    for c, y, x in [(0, 0, 1), (0, 1, 0), (1, 0, 0), (3, 2, 1)]:
        np.testing.assert_array_equal(kernel[16 * y + 4 * x + c], weight[:, 16 * c + 4 * y + x])


def test_learned_orders():
    """The published order is 3 + 2 tanh(-h), h = 0.3 z + 0.7 elu(z), z = artanh(1/2) - x."""
    flow = flows.image_flow((8, 8, 1), (1, 1), 2, num_fc_blocks=0, **LEARNED)
    tensors = {tensor.name: tensor for tensor in published_tensors(flow)}
    names = ["nnet.0.domain", "nnet.0.codomain", "nnet.2.codomain"]
    values = {f"transforms.0.chain.2.{name}": np.array(x) for name, x in zip(names, [0.0, -1.5, 2.0], strict=True)}
    for name in values:
        tensors[name].variable.assign(tensors[name].value(values))
    block = layers.lipschitz_layers(flow)[:3]
    pairs = [(float(layer.domain.order()), float(layer.codomain.order())) for layer in block]

    def order(x):
        z = math.atanh(0.5) - x
        return 3 + 2 * math.tanh(-(0.3 * z + 0.7 * (z if z > 0 else math.exp(z) - 1)))

    p, q, r = order(0.0), order(-1.5), order(2.0)
    assert p == pytest.approx(2.0)
    np.testing.assert_allclose(pairs, [(p, q), (q, r), (r, p)], rtol=1e-6)


def test_missing_and_misshapen_tensors():
    flow = flows.image_flow((8, 8, 1), (1, 1), 2, num_fc_blocks=0)
    tensor = published_tensors(flow)[0]
    assert tensor.name == "transforms.0.chain.1.weight"
    with pytest.raises(ValueError, match=f"no tensor '{tensor.name}'"):
        tensor.value({})
    with pytest.raises(ValueError, match=rf"'{tensor.name}' has the shape \(3,\), .* ask for \(1,\)"):
        tensor.value({tensor.name: np.zeros(3)})
