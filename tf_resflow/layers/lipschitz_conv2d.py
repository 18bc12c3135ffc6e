"""A 2-D convolution of constrained operator norm."""

__all__ = ["LipschitzConv2D"]

import math

import keras
import tensorflow as tf

from tf_resflow.layers.convolution import convolution
from tf_resflow.layers.linear_operators import ConvolutionOperator, MatrixOperator
from tf_resflow.layers.lipschitz_layer import LipschitzLayer


@keras.saving.register_keras_serializable(package="tf_resflow")
class LipschitzConv2D(LipschitzLayer):
    """A convolution with ||W||_{domain -> codomain} <= coefficient, stride 1, zero padding, NHWC.

    The norm is that of the convolution as applied to images of the size at build, never that of
    the flattened kernel. On a smaller image the operator is a compression of that one, so that
    its norm is no greater; a larger one is an error: a ValueError where the size is static, else an
    InvalidArgumentError when the graph runs. (XLA drops the assertions of a graph: what it compiles
    needs a static size.)

    Args:
        filters: output channels.
        kernel_size: an odd integer, or two.
        **kwargs: `coefficient`, `domain`, `codomain`, `use_bias`, `kernel_initializer`,
            `bias_initializer`, `tolerance`, `max_iterations` of `LipschitzLayer`, and those of
            `keras.layers.Layer`.

    References:
        Gouk et al., "Regularisation of neural networks by enforcing Lipschitz continuity" (2018);
        Chen et al., "Residual Flows" (2019); Behrmann et al., "i-ResNets" (2019).
    """

    def __init__(
        self,
        filters,
        kernel_size,
        coefficient=0.97,
        domain=2,
        codomain=2,
        use_bias=True,
        kernel_initializer=None,
        bias_initializer="zeros",
        **kwargs,
    ):
        super().__init__(
            coefficient,
            domain,
            codomain,
            use_bias,
            kernel_initializer,
            bias_initializer,
            **kwargs,
        )
        if not isinstance(filters, int) or filters < 1:
            raise ValueError(f"filters must be a positive integer, but got {filters!r}.")
        pair = isinstance(kernel_size, (tuple, list))
        size = tuple(kernel_size) if pair else (kernel_size, kernel_size)
        if len(size) != 2 or any(not isinstance(k, int) or k < 1 or k % 2 == 0 for k in size):
            raise ValueError(
                "kernel_size must be an odd positive integer, or two of them (an even kernel has "
                f"no centre for 'same' padding), but got {kernel_size!r}."
            )
        self.filters, self.kernel_size = filters, size

    def build(self, input_shape):
        """Creates the kernel `[kh, kw, inputs, filters]`, the bias and the stored vectors."""
        if len(input_shape) != 4 or None in tuple(input_shape[1:]):
            raise ValueError(
                f"Layer '{self.name}' needs images [batch, height, width, channels] whose largest "
                "height and width are known when it is built, because the norm of a zero-padded "
                f"convolution depends on them, but the input has shape {tuple(input_shape)}. "
                "Give the image size, e.g. keras.Input([32, 32, 3])."
            )
        self.image_size, channels = tuple(input_shape[1:3]), input_shape[3]
        shape = (*self.kernel_size, channels, self.filters)
        if self.kernel_size == (1, 1):
            operator = MatrixOperator(shape[2:], copies=float(math.prod(self.image_size)))
        else:
            operator = ConvolutionOperator(shape, *self.image_size)
        self._build(shape, operator)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: channels})

    def _as_operand(self, kernel):
        matrix = self.kernel_size == (1, 1)
        return tf.reshape(kernel, kernel.shape[2:]) if matrix else kernel

    def call(self, inputs):
        """The convolution by the scaled kernel, plus b, `[batch, height, width, filters]`."""
        outputs = convolution(self._checked(inputs), self._applied_kernel())
        return outputs if self.bias is None else outputs + self.bias

    def _checked(self, inputs):
        """The inputs, unless they are larger than at build: seen now, or when the graph runs."""
        sizes = tuple(inputs.shape[1:3])
        message = (
            f"Layer '{self.name}' was built for images of up to {self.image_size} pixels and its norm "
            "is constrained for these only, but it was called on larger ones{}. Build it on the largest "
            "image that it is to see."
        )
        pairs = zip(sizes, self.image_size, strict=True)
        if any(size is not None and size > most for size, most in pairs):
            raise ValueError(message.format(f", {sizes}"))
        if None not in sizes:
            return inputs
        given = tf.shape(inputs)[1:3]
        check = tf.debugging.assert_less_equal(given, self.image_size, message.format(""))
        with tf.control_dependencies([check]):
            return tf.identity(inputs)

    def compute_output_shape(self, input_shape):
        """`[batch, height, width, filters]`."""
        return (*input_shape[:-1], self.filters)

    def get_config(self):
        """The constructor's arguments."""
        config = {"filters": self.filters, "kernel_size": self.kernel_size}
        return {**super().get_config(), **config}
