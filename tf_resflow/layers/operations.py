"""Operations: what layers compute from their inputs and weights. Equal operations compute the same function.

Weights are arguments, in the form in which they are applied: kernels are scaled, and parameters are transformed.
"""

import abc
import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tf_resflow.layers.convolution import convolution, matmul
from tf_resflow.layers.precision import in_evaluation_dtype


@dataclasses.dataclass(frozen=True)
class Operation(abc.ABC):
    """What a layer computes in one dtype. `cast` converts inputs and derivatives to it; "" keeps their dtypes.

    A subclass may define `jvp`, the derivative along one direction, which is differentiable once. For vectors, it
    may define `jacobian`, the derivatives in all coordinates, `[features, coordinates, batch or 1]`, which are
    differentiable any number of times. Both accept one derivative per input, None for a fixed input, and return the
    output and its derivative.
    """

    dtype: str

    @abc.abstractmethod
    def __call__(self, inputs: Sequence[tf.Tensor], weights: Sequence[tf.Tensor]) -> Any:
        """Returns the output, or a list of outputs."""

    def supports(self, derivative: str, varying: Sequence[Any], shape: Any) -> bool:
        """Whether "jvp" or "jacobian" is defined for this output shape and the shapes of non-fixed inputs."""
        return hasattr(self, derivative) and self.supports_shapes(varying, shape)

    def supports_shapes(self, varying: Sequence[Any], shape: Any) -> bool:
        """Whether the derivatives that the class defines are valid for these shapes."""
        return True

    def cast(self, tensors):
        if not self.dtype:
            return tensors
        return [None if tensor is None else tf.cast(tensor, self.dtype) for tensor in tensors]


class _LinearOperation(Operation):
    """A linear function of the inputs, plus a bias if there is a second weight."""

    def jvp(self, inputs, derivatives, weights):
        pairs = zip(inputs, derivatives, strict=True)
        filled = [tf.zeros_like(x) if derivative is None else derivative for x, derivative in pairs]
        return self(inputs, weights), self(filled, weights[:1])


@dataclasses.dataclass(frozen=True)
class DenseOperation(_LinearOperation):
    """x W + b on the last axis, with an optional bias, and an optional activation function."""

    function: Callable[[tf.Tensor], tf.Tensor] | None = None

    def __call__(self, inputs, weights):
        kernel, *bias = weights
        y = matmul(inputs[0], kernel)
        y = y + bias[0] if bias else y
        return y if self.function is None else self.function(y)

    def jacobian(self, inputs, derivatives, weights):
        tangents = derivatives[0]
        kernel = weights[0]
        size, rows = tangents.shape[1:]
        columns = matmul(kernel, tf.reshape(tangents, [kernel.shape[0], -1]), transpose_a=True)
        return self(inputs, weights), tf.reshape(columns, [kernel.shape[1], size, -1 if rows is None else rows])

    def supports_shapes(self, varying, shape):
        return self.function is None


@dataclasses.dataclass(frozen=True)
class ConvolutionOperation(_LinearOperation):
    """A convolution of images of the sizes for which its norm is known."""

    smallest_image_size: tuple[int, ...]
    image_size: tuple[int, ...]
    strides: tuple[int, int]
    padding: str

    def __call__(self, inputs, weights):
        (x,) = inputs
        kernel, *biases = weights
        bias = biases[0] if biases else None
        message = (
            f"A Lipschitz convolution was called on images of {tuple(x.shape[1:3])} pixels. Its norm is "
            f"constrained for images from {self.smallest_image_size} up to {self.image_size} pixels. Build it on "
            "the largest image, or resize the images."
        )
        x = with_positions(self.smallest_image_size, self.image_size, x, message)
        return convolution(x, kernel, bias, self.strides, self.padding)


@dataclasses.dataclass(frozen=True)
class KerasConvolutionOperation(Operation):
    """`keras.layers.Conv2D` for images with the channels last."""

    function: Callable[..., tf.Tensor]
    strides: tuple[int, int]
    padding: str
    dilations: tuple[int, int]

    def __call__(self, inputs, weights):
        kernel, *bias = weights
        y = tf.nn.conv2d(inputs[0], kernel, self.strides, self.padding.upper(), dilations=self.dilations)
        return self.function(tf.nn.bias_add(y, bias[0]) if bias else y)


@dataclasses.dataclass(frozen=True)
class FunctionOperation(Operation):
    """A function of one tensor and the weights. Its derivatives are known if it is elementwise."""

    function: Callable[..., tf.Tensor]
    is_elementwise: bool

    def __call__(self, inputs, weights):
        return self.function(*inputs, *weights)

    def jvp(self, inputs, derivatives, weights):
        y, slope = self._value_and_slope(inputs, weights)
        return y, slope * derivatives[0]

    def jacobian(self, inputs, derivatives, weights):
        y, slope = self._value_and_slope(inputs, weights)
        return y, tf.transpose(slope)[:, tf.newaxis] * derivatives[0]

    def _value_and_slope(self, inputs, weights):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(inputs)
            y = self(inputs, weights)
        return y, tape.gradient(y, inputs[0])

    def supports_shapes(self, varying, shape):
        return self.is_elementwise


@dataclasses.dataclass(frozen=True)
class ReshapeOperation(_LinearOperation):
    """Reshapes events."""

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]

    def __call__(self, inputs, weights):
        return tf.reshape(tf.ensure_shape(inputs[0], [None, *self.input_shape]), [-1, *self.output_shape])


@dataclasses.dataclass(frozen=True)
class CenteringOperation(_LinearOperation):
    """x minus its mean over an axis."""

    axis: int

    def __call__(self, inputs, weights):
        return inputs[0] - tf.reduce_mean(inputs[0], axis=self.axis, keepdims=True)


@dataclasses.dataclass(frozen=True)
class RescalingOperation(Operation):
    """scale x + offset."""

    scale: float
    offset: float

    def __call__(self, inputs, weights):
        return self.scale * inputs[0] + self.offset

    def jvp(self, inputs, derivatives, weights):
        return self(inputs, weights), self.scale * derivatives[0]

    jacobian = jvp


@dataclasses.dataclass(frozen=True)
class AddOperation(Operation):
    """The sum of tensors of equal rank, each with the sign 1 or -1."""

    signs: tuple[int, ...]

    def __call__(self, inputs, weights):
        return self._sum(inputs)

    def jvp(self, inputs, derivatives, weights):
        return self._sum(inputs), self._sum(derivatives)

    def _sum(self, tensors):
        signed = [
            tensor if sign > 0 else -tensor
            for sign, tensor in zip(self.signs, tensors, strict=True)
            if tensor is not None
        ]
        return functools.reduce(operator.add, signed)

    jacobian = jvp

    def supports_shapes(self, varying, shape):
        """Whether no input, and so no derivative, is broadcast."""
        return all(varying_shape == shape for varying_shape in varying)


@dataclasses.dataclass(frozen=True)
class ConcatenateOperation(_LinearOperation):
    """A concatenation of tensors along an axis."""

    axis: int = -1

    def __call__(self, inputs, weights):
        return tf.concat(inputs, self.axis)

    def jacobian(self, inputs, derivatives, weights):
        return self(inputs, weights), tf.concat(_with_zeros([x.shape[-1] for x in inputs], derivatives), 0)

    def supports_shapes(self, varying, shape):
        return self.axis in (-1, len(shape) - 1)


@dataclasses.dataclass(frozen=True)
class WeightedConcatenateOperation(ConcatenateOperation):
    """[eta_1 x, eta_2 h] on the last axis. The weight has eta_1 or eta_2 for each feature."""

    def __call__(self, inputs, weights):
        return tf.concat(inputs, -1) * weights[0]

    def jacobian(self, inputs, derivatives, weights):
        y, joined = super().jacobian(inputs, derivatives, weights)
        return y, joined * tf.reshape(weights[0], [-1, 1, 1])


class BoundaryOperation(_LinearOperation):
    """An input of a nested network, cast to that network's dtype, or an output of a nested network."""

    def __call__(self, inputs, weights):
        return inputs[0]

    jacobian = _LinearOperation.jvp


@dataclasses.dataclass(frozen=True, eq=False)
class OpaqueOperation(Operation):
    """An unknown function of inputs, called as Keras calls it, but not in mixed precision. Equal only to itself."""

    layer: Any
    function: Any
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __call__(self, inputs, weights):
        with in_evaluation_dtype(self.layer):
            return self.function(inputs)


def with_positions(smallest: tuple[int, ...], largest: tuple[int, ...], x: tf.Tensor, message: str) -> tf.Tensor:
    """Returns x `[batch, *positions, channels]`. Raises an error if there are too few or too many positions.

    The error is a ValueError for static sizes, and otherwise an InvalidArgumentError when the graph runs.
    """
    positions = x.shape[1:-1]
    limits = zip(positions, smallest, largest, strict=True)
    if any(size is not None and not low <= size <= high for size, low, high in limits):
        raise ValueError(message)
    if positions.is_fully_defined():
        return x
    sizes = tf.shape(x)[1:-1]
    nearest = tf.clip_by_value(sizes, smallest, largest)
    with tf.control_dependencies([tf.debugging.assert_equal(sizes, nearest, message)]):
        return tf.identity(x)


def _with_zeros(sizes, tangents):
    """Returns tangents with these numbers of features and equal other axes. Zeros replace None."""
    varying = [tangent for tangent in tangents if tangent is not None]
    shape = functools.reduce(tf.broadcast_dynamic_shape, [tf.shape(tangent)[1:] for tangent in varying])
    alike = all(tangent.shape[1:] == varying[0].shape[1:] for tangent in varying)

    def filled(size, tangent):
        if tangent is not None and alike:
            return tangent
        tangent = tf.zeros([], varying[0].dtype) if tangent is None else tangent
        return tf.broadcast_to(tangent, tf.concat([[size], shape], 0))

    return [filled(size, tangent) for size, tangent in zip(sizes, tangents, strict=True)]
