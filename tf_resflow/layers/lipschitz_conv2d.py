"""A 2-D convolution with a constrained operator norm."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_resflow.defaults import COEFFICIENT
from tf_resflow.layers.learned_order import LearnedOrder
from tf_resflow.layers.linear_operators import ConvolutionOperator, LinearOperator, MatrixOperator
from tf_resflow.layers.lipschitz_layer import LipschitzLayer
from tf_resflow.layers.operations import Convolution, Operation
from tf_resflow.typing import Shape

__all__ = ["LipschitzConv2D"]


@keras.saving.register_keras_serializable(package="tf_resflow")
class LipschitzConv2D(LipschitzLayer):
    """`keras.layers.Conv2D` with a Lipschitz constant of at most `coefficient`: stride 1, padding "same", NHWC.

    The constrained norm is that of the convolution as applied to images of the size at build, with zeros around
    them. It is not that of the flattened kernel, which may be smaller by a factor of up to the square root of the
    number of taps.

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

    `normalization="schatten"` needs memory for a square of the smaller of inputs and filters at each frequency, of
    which there are half as many as pixels: choose it where one of them is small, or for 1x1 kernels.

    On a smaller image the operator is a compression of the one at build, and its norm is no greater. A larger image
    is an error: a ValueError if the size is static, else an InvalidArgumentError when the graph runs. (XLA drops
    the assertions of a graph: what it compiles needs a static size.)

    Args:
      filters: number of output channels.
      kernel_size: an odd integer, or two.
      coefficient: the largest norm allowed, see `LipschitzDense`, as for all that follow.
      domain: order of the norm of the inputs.
      codomain: order of the norm of the outputs.
      normalization: "induced" or "schatten".
      kernel_initializer: by default uniform with variance 1 / (3 fan_in).
      **kwargs: `tolerance`, `max_iterations`, and those of `keras.layers.Layer`.

    References:
      Gouk et al., "Regularisation of neural networks by enforcing Lipschitz continuity" (2018);
      Chen et al., "Residual Flows" (2019); Behrmann et al., "i-ResNets" (2019).
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        coefficient: float = COEFFICIENT,
        *,
        domain: float | LearnedOrder = 2,
        codomain: float | LearnedOrder = 2,
        normalization: str = "induced",
        use_bias: bool = True,
        kernel_initializer: Any = None,
        bias_initializer: Any = "zeros",
        **kwargs: Any,
    ):
        super().__init__(
            coefficient,
            domain=domain,
            codomain=codomain,
            normalization=normalization,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            **kwargs,
        )
        if not isinstance(filters, int) or filters < 1:
            raise ValueError(f"filters must be a positive integer, but got {filters!r}.")
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

    def operation(self, dtype: str, *, fused: bool = False) -> Operation:
        return Convolution(dtype, self.image_size, fused)

    def compute_output_shape(self, input_shape: Shape) -> tuple[int | None, ...]:
        return (*input_shape[:-1], self.filters)

    def get_config(self) -> dict[str, Any]:
        config = {"filters": self.filters, "kernel_size": self.kernel_size}
        return {**super().get_config(), **config}
