"""A 2-D convolution with a constrained operator norm."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_resflow.layers.linear_operators import ConvolutionOperator, LinearOperator, MatrixOperator
from tf_resflow.layers.lipschitz_layer import COEFFICIENT, LipschitzLayer, LipschitzRule
from tf_resflow.layers.operations import ConvolutionOperation
from tf_resflow.layers.rules import register_rule
from tf_resflow.typing import Shape

__all__ = ["LipschitzConv2D"]


@keras.saving.register_keras_serializable(package="tf_resflow")
class LipschitzConv2D(LipschitzLayer):
    """`keras.layers.Conv2D` with a Lipschitz constant of at most `coefficient`: stride 1, padding "same", NHWC.

    It constrains the norm of the zero-padded convolution of images of the size at build. The norm of the flattened
    kernel may be smaller by up to the square root of the number of taps.

    ```python
    import keras
    import tf_resflow as resflow
    branch = keras.Sequential([
        keras.Input([8, 8, 3]),
        resflow.layers.LipschitzConv2D(32, 3, coefficient=0.98),
        resflow.layers.LipSwish(),
        resflow.layers.LipschitzConv2D(3, 3, coefficient=0.98),
    ])
    block = resflow.bijectors.ResidualBlock(branch)
    ```

    `normalization="schatten"` needs memory for a square matrix of the smaller of inputs and filters, for every two
    pixels: choose it where one of them is small, or for 1x1 kernels.

    On a smaller image the norm is no greater. A larger image is an error: a ValueError if the size is static, else
    an InvalidArgumentError when the graph runs. (XLA drops assertions: what it compiles needs a static size.)

    Args:
      filters: number of output channels.
      kernel_size: an odd integer, or two.
      coefficient: the largest norm allowed.
      **kwargs: as of `LipschitzDense`.

    References:
      Gouk et al., "Regularisation of neural networks by enforcing Lipschitz continuity" (2018);
      Chen et al., "Residual Flows" (2019); Behrmann et al., "i-ResNets" (2019).
    """

    def __init__(
        self, filters: int, kernel_size: int | Sequence[int], coefficient: float = COEFFICIENT, **kwargs: Any
    ):
        super().__init__(coefficient, **kwargs)
        size = tuple(kernel_size) if isinstance(kernel_size, (tuple, list)) else (kernel_size, kernel_size)
        if len(size) != 2 or any(not isinstance(k, int) or k < 1 or k % 2 == 0 for k in size):
            raise ValueError(
                "kernel_size must be an odd positive integer, or two of them (an even kernel has no center for "
                f"'same' padding), but got {kernel_size!r}."
            )
        self.filters, self.kernel_size = filters, size

    def build(self, input_shape: Shape) -> None:
        """Creates the kernel `[kh, kw, inputs, filters]`, the bias and the stored vectors."""
        if len(input_shape) != 4 or None in tuple(input_shape[1:]):
            raise ValueError(
                f"Layer '{self.name}' needs images [batch, height, width, channels] whose largest height and "
                "width are known when it is built, because the norm of a zero-padded convolution depends on them. "
                f"Its input has shape {tuple(input_shape)}. Give the image size, e.g. keras.Input([32, 32, 3])."
            )
        self.image_size, channels = tuple(input_shape[1:3]), input_shape[3]
        shape = (*self.kernel_size, channels, self.filters)
        operator: LinearOperator = ConvolutionOperator(shape, self.image_size)
        if self.kernel_size == (1, 1):
            operator = MatrixOperator(shape[2:], copies=float(math.prod(self.image_size)))
        self._build(shape, operator)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: channels})

    def _as_operand(self, kernel):
        matrix = self.kernel_size == (1, 1)
        return tf.reshape(kernel, kernel.shape[2:]) if matrix else kernel

    def compute_output_shape(self, input_shape: Shape) -> tuple[int | None, ...]:
        return (*input_shape[:-1], self.filters)

    def get_config(self) -> dict[str, Any]:
        config = {"filters": self.filters, "kernel_size": self.kernel_size}
        return {**super().get_config(), **config}


@register_rule(LipschitzConv2D)
class _LipschitzConv2DRule(LipschitzRule):
    def operation(self, layer, site):
        return ConvolutionOperation(site.dtype, layer.image_size, site.fused)
