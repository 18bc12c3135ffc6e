"""A concatenation with learned weights and a constrained Lipschitz constant."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_resflow._internal.typing import Shape
from tf_resflow.layers.lipschitz_layer import COEFFICIENT
from tf_resflow.layers.operations import WeightedConcatenateOperation
from tf_resflow.layers.precision import evaluation_dtype, rounding_error
from tf_resflow.layers.rules import LayerRule, RuledLayer, TensorBound, check_order, register_rule


class LearnableConcatenation(RuledLayer):
    r"""\\([\eta_1 x, \eta_2 h]\\) on the last axis, with learned weights \\(\eta\\) whose 2-norm is `coefficient`.

    The weights are \\(\eta_i = c \, e_i / \sqrt{e_1^2 + e_2^2}\\) with \\(e_i = \mathrm{softplus}(k_i) + 0.1\\) and
    two trainable numbers \\(k\\). If x and h have the Lipschitz constants \\(L_1\\) and \\(L_2\\), the result
    has at most \\(c \max(L_1, L_2)\\) in the 2-norm. In the dense layers of an i-DenseNet, h is a function of x:

    ```python
    import keras
    import tf_resflow as resflow
    x = keras.Input([2])
    h = resflow.layers.LipSwish()(resflow.layers.LipschitzDense(16, coefficient=0.9)(x))
    y = resflow.layers.LearnableConcatenation(coefficient=0.9)([x, h])
    branch = keras.Model(x, resflow.layers.LipschitzDense(2, coefficient=0.9)(y))
    print(branch.layers[-2].output.shape, f"{resflow.layers.lipschitz_constant(branch):.2f}")
    # (None, 18) 0.81
    ```

    Args:
      coefficient: c, a positive number.

    References:
      Perugachi-Diaz, Tomczak and Bhulai, "Invertible DenseNets with Concatenated LipSwish" (2021), section 3.3.
    """

    lipschitz_order = 2.0

    def __init__(self, coefficient: float = COEFFICIENT, **kwargs: Any):
        super().__init__(**kwargs)
        if not 0.0 < coefficient < math.inf:
            raise ValueError(f"coefficient is {coefficient}; it must be positive and finite.")
        self.coefficient = float(coefficient)

    def build(self, input_shape: Sequence[Shape]) -> None:
        if not isinstance(input_shape[0], (list, tuple)) or len(input_shape) != 2:
            raise ValueError(f"Layer '{self.name}' got the input shape {input_shape}. Pass two tensors [x, h].")
        self.logits = self.add_weight(name="logits", shape=(2,), initializer="ones", autocast=False)
        self.sizes = tuple(shape[-1] for shape in input_shape)
        self.input_spec = [keras.layers.InputSpec(axes={-1: size}) for size in self.sizes]

    def compute_output_shape(self, input_shape: Sequence[Shape]) -> tuple[int | None, ...]:
        x, h = input_shape
        return (*x[:-1], x[-1] + h[-1])


@register_rule(LearnableConcatenation)
class _LearnableConcatenationRule(LayerRule):
    def operation(self, layer, site):
        return WeightedConcatenateOperation(site.dtype)

    def variables(self, layer):
        return [layer.logits]

    def weights_of_all(self, sources, stored):
        """Returns the weight of each feature of the output, for each source."""
        layers = [layer for layer, _ in sources]
        if len({layer.variable_dtype for layer in layers}) > 1:
            return [weights for source in sources for weights in self.weights_of_all([source], stored)]
        e = tf.math.softplus(tf.stack([tf.convert_to_tensor(layer.logits) for layer in layers])) + 0.1
        limits = [[layer.coefficient * (1.0 - rounding_error(layer))] for layer in layers]
        eta = tf.constant(limits, e.dtype) * e / tf.norm(e, axis=1, keepdims=True)  # [layers, 2]
        sizes = [size for layer in layers for size in layer.sizes]
        eta = tf.gather(tf.reshape(eta, [-1]), np.repeat(np.arange(len(sizes)), sizes))
        weights_of_layers = tf.split(eta, [sum(layer.sizes) for layer in layers])
        pairs = zip(weights_of_layers, sources, strict=True)
        return [[tf.cast(layer_weights, dtype)] for layer_weights, (_, dtype) in pairs]

    def bound(self, layer, inputs, shape, certified, weights):
        order = next(x.order for x in inputs if not x.is_fixed)
        check_order(layer, order)
        constants = [x.constant for x in inputs]
        if not certified:
            return TensorBound(layer.coefficient * max(constants), order, shape)
        dtypes = (evaluation_dtype(layer), layer.compute_dtype)  # of evaluation and of training
        candidates = [weights] if weights else self.weights_of_all([(layer, dtype) for dtype in dtypes], False)
        pairs = [tf.stack([features[0], features[-1]]) for (features,) in candidates]  # eta_1 and eta_2
        eta = tf.reduce_max([tf.cast(pair, tf.float64) for pair in pairs], 0)
        return TensorBound(tf.norm(eta * tf.stack([tf.cast(x, tf.float64) for x in constants])), order, shape)
