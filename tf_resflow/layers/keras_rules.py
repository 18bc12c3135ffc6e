"""Rules for Keras layers."""

import math

import keras
import numpy as np
import tensorflow as tf

from tf_resflow.layers import operations
from tf_resflow.layers.learned_order import LearnedOrder
from tf_resflow.layers.rules import KernelRule, LayerRule, TensorBound, register_rule

# The largest |slope| of each elementwise function in keras.activations, rounded up.
SLOPES = {
    **dict.fromkeys("elu hard_tanh leaky_relu linear log_sigmoid relu relu6 softplus softsign tanh".split(), 1.0),
    "gelu": 1.129,
    "hard_sigmoid": 1.0 / 6.0,
    "hard_silu": 1.5,
    "mish": 1.0885,
    "selu": 1.7581,
    "sigmoid": 0.25,
    "silu": 1.0999,
}


@register_rule(keras.layers.Dense)
class _DenseRule(KernelRule):
    def operation(self, layer, site):
        is_linear = layer.activation is keras.activations.linear
        return operations.DenseOperation(site.dtype, None if is_linear else layer.activation)


@register_rule(keras.layers.Conv2D)
class _ConvolutionRule(_DenseRule):
    def operation(self, layer, site):
        if layer.data_format != "channels_last" or layer.groups != 1 or layer.padding not in ("same", "valid"):
            return None
        settings = tuple(layer.strides), layer.padding, tuple(layer.dilation_rate)
        return operations.KerasConvolutionOperation(site.dtype, layer.activation, *settings)


@register_rule(keras.layers.Activation)
class _ActivationRule(LayerRule):
    def operation(self, layer, site):
        is_elementwise = self.lipschitz_constant(layer) is not None
        return operations.FunctionOperation(site.dtype, layer.activation, is_elementwise)

    def lipschitz_constant(self, layer):
        known = (slope for name, slope in SLOPES.items() if layer.activation is keras.activations.get(name))
        return next(known, None)


@register_rule(
    keras.layers.Cropping1D,
    keras.layers.Cropping2D,
    keras.layers.Cropping3D,
    keras.layers.Identity,
    keras.layers.InputLayer,
    keras.layers.Permute,
    keras.layers.ZeroPadding1D,
    keras.layers.ZeroPadding2D,
    keras.layers.ZeroPadding3D,
)
class _NonexpansiveRule(LayerRule):
    def lipschitz_constant(self, layer):
        return 1.0


@register_rule(keras.layers.Average)
class _MergingRule(_NonexpansiveRule):
    def bound(self, layer, inputs, shape, certified, weights):
        varying = [x.shape for x in inputs if not x.is_fixed]
        if None in shape[1:] or any(varying_shape[1:] != shape[1:] for varying_shape in varying):
            raise ValueError(
                f"Layer '{layer.name}' may broadcast inputs of shapes {varying} to {shape}, which can increase the "
                "norm. All inputs that depend on the first input of the branch must have the same known shape."
            )
        summed = super().bound(layer, inputs, shape, certified, weights)
        is_mean = isinstance(layer, keras.layers.Average)
        return summed._replace(constant=summed.constant * (1.0 / len(inputs))) if is_mean else summed


@register_rule(keras.layers.Add, keras.layers.Subtract)
class _AddRule(_MergingRule):
    def operation(self, layer, site):
        if any(len(shape) != len(site.output) for shape in site.inputs):
            return None
        sign = -1 if isinstance(layer, keras.layers.Subtract) else 1
        return operations.AddOperation(site.dtype, (1, *[sign] * (len(site.inputs) - 1)))


@register_rule(keras.layers.Concatenate)
class _ConcatenateRule(LayerRule):
    def operation(self, layer, site):
        return operations.ConcatenateOperation(site.dtype, layer.axis)

    def bound(self, layer, inputs, shape, certified, weights):
        if layer.axis % len(shape) == 0:
            raise ValueError(f"Layer '{layer.name}' concatenates the batch axis. Concatenate along another axis.")
        varying = [x for x in inputs if not x.is_fixed]
        constants = [x.constant for x in varying]
        order = varying[0].order
        # (sum L^p)^(1/p) decreases in p, so the infimum of a learned p gives a safe bound.
        p = order.low if isinstance(order, LearnedOrder) else order
        if math.isinf(p):
            joint = tf.reduce_max(constants) if any(map(tf.is_tensor, constants)) else max(constants)
        else:
            joint = sum(constant**p for constant in constants) ** (1.0 / p)
        return TensorBound(joint, order, shape)


@register_rule(keras.layers.Flatten, keras.layers.Reshape)
class _ReshapeRule(_NonexpansiveRule):
    def operation(self, layer, site):
        input_shape = site.inputs[0][1:]
        output_shape = site.output[1:]
        is_last = getattr(layer, "data_format", "") != "channels_first"
        if None in (*input_shape, *output_shape) or not is_last:
            return None
        return operations.ReshapeOperation(site.dtype, input_shape, output_shape)


@register_rule(keras.layers.Dropout)
class _DropoutRule(LayerRule):
    def lipschitz_constant(self, layer):
        if layer.rate:
            raise ValueError(
                f"Layer '{layer.name}' is a Dropout of rate {layer.rate}, so its block has no inverse. Remove it."
            )
        return 1.0


@register_rule(keras.layers.ELU, keras.layers.LeakyReLU, keras.layers.ReLU)
class _ReluRule(LayerRule):
    def lipschitz_constant(self, layer):
        slope = layer.alpha if isinstance(layer, keras.layers.ELU) else layer.negative_slope
        return None if getattr(layer, "threshold", 0.0) else max(1.0, abs(slope))


@register_rule(keras.layers.Rescaling)
class _RescalingRule(LayerRule):
    def operation(self, layer, site):
        are_numbers = np.ndim(layer.scale) == np.ndim(layer.offset) == 0
        if not are_numbers:
            return None
        return operations.RescalingOperation(site.dtype, float(layer.scale), float(layer.offset))

    def lipschitz_constant(self, layer):
        return float(np.max(np.abs(layer.scale)))

    def bound(self, layer, inputs, shape, certified, weights):
        # The output shape that Keras infers does not show whether the layer broadcasts.
        example = tf.zeros([1, *(size or 1 for size in (shape or ())[1:])])
        if layer(example).shape != example.shape:
            raise ValueError(
                f"Layer '{layer.name}' (Rescaling) broadcasts its input of shape {shape}, which can increase the "
                "norm. Use scalars for scale and offset, or arrays that broadcast to the shape of the input."
            )
        return super().bound(layer, inputs, shape, certified, weights)
