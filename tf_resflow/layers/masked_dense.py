"""Dense layers for autoregressive networks."""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from tf_resflow._internal.typing import Shape
from tf_resflow.layers.operations import DenseOperation
from tf_resflow.layers.rules import KernelRule, RuledLayer, register_rule


class MaskedDense(RuledLayer):
    """A dense layer whose output j depends on input i only if `input_degrees[i] <= output_degrees[j]`.

    References:
      Germain, Gregor, Murray and Larochelle, MADE: Masked Autoencoder for Distribution Estimation, 2015, Section 4.
    """

    def __init__(
        self,
        input_degrees: Sequence[int],
        output_degrees: Sequence[int],
        kernel_initializer: str | keras.initializers.Initializer = "glorot_uniform",
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.input_degrees = tuple(input_degrees)
        self.output_degrees = tuple(output_degrees)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape: Shape) -> None:
        shape = (len(self.input_degrees), len(self.output_degrees))
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=self.kernel_initializer)
        self.bias = self.add_weight(name="bias", shape=shape[1:], initializer="zeros")

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], len(self.output_degrees))


@register_rule(MaskedDense)
class _MaskedDenseRule(KernelRule):
    def operation(self, layer, site):
        return DenseOperation(site.dtype)

    def weights(self, layer, dtype):
        kernel, bias = super().weights(layer, dtype)
        mask = np.less_equal.outer(layer.input_degrees, layer.output_degrees)
        return [kernel * mask.astype(tf.as_dtype(dtype).as_numpy_dtype), bias]
