"""A dense layer and a 2-D convolution with a constrained operator norm."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tf_resflow._internal.typing import Shape
from tf_resflow.layers.linear_operators import Axis, ConvolutionOperator, LinearOperator, MatrixOperator
from tf_resflow.layers.lipschitz_layer import COEFFICIENT, LipschitzLayer, LipschitzRule
from tf_resflow.layers.operations import ConvolutionOperation, DenseOperation
from tf_resflow.layers.rules import register_rule


class LipschitzDense(LipschitzLayer):
    r"""`keras.layers.Dense` with a Lipschitz constant of at most `coefficient`.

    The layer computes \\(x W + b\\) on the last axis. It divides the kernel, differentiably, by
    \\(\max(1, \|W\| / \mathrm{coefficient})\\). The norm \\(\|W\| = \max_v \|Wv\|_q / \|v\|_p\\) is evaluated at
    stored vectors v. If they no longer fit the kernel, a call computes new vectors but does not store them;
    `tf_resflow.layers.update_norms` stores vectors for later calls. The norm is an estimate from below.
    `norm_bound()` returns a proven bound for the raw kernel, and `lipschitz_bound()` for the layer. For p = 1 and
    for q = inf, the norm has a closed form, and the layer stores no vectors.

    ```python
    import keras
    import tf_resflow as resflow
    branch = keras.Sequential([
        keras.Input([2]),
        resflow.layers.LipschitzDense(64, coefficient=0.9),
        resflow.layers.LipSwish(),
        resflow.layers.LipschitzDense(2, coefficient=0.9),
    ])
    print(f"{resflow.layers.lipschitz_constant(branch):.2f}")
    # 0.81
    ```

    With orders other than 2, the layer constrains the norm induced by \\(\ell^p\\) on the inputs and \\(\ell^q\\)
    on the outputs. The codomain of a layer must be the domain of the next one. All leading axes are batch axes. If
    domain <= codomain, they may be part of the event, because the norm over the whole event is still that of W.
    Otherwise, the input must have shape `[batch, inputs]`.

    Args:
      units: Number of outputs.
      coefficient: Largest norm allowed, positive. In a `ResidualBlock`, the product over layers must be below 1.
      **kwargs: Arguments of `keras.layers.Layer` and of all Lipschitz layers: `domain` and `codomain`, the orders p
        and q of the norms of inputs and outputs (2 by default, each in [1, inf] or a `LearnedOrder`); `use_bias`;
        `kernel_initializer`, by default uniform with variance 1 / (3 fan_in); `bias_initializer`; `tolerance`, the
        relative change of v by a power step at which an update of the norm stops (1e-3); and `max_iterations`, the
        maximum number of steps in an update (14, or 8 for convolutions).

    References:
      Chen et al., "Residual Flows" (2019); Behrmann et al., "i-ResNets" (2019).
    """

    def __init__(self, units: int, coefficient: float = COEFFICIENT, **kwargs: Any):
        super().__init__(coefficient, **kwargs)
        self.units = units

    def build(self, input_shape: Shape) -> None:
        fixed = isinstance(self.domain, float) and isinstance(self.codomain, float)
        has_inner_axes = fixed and self.domain <= self.codomain
        if len(input_shape) > 2 and not has_inner_axes:
            raise ValueError(
                f"The input of layer '{self.name}' has shape {tuple(input_shape)}. It must be [batch, inputs]: "
                "the norm depends on the number of positions unless domain <= codomain. Flatten the input."
            )
        shape = (input_shape[-1], self.units)
        self._build(shape, MatrixOperator(shape))
        ranks = {"min_ndim": 2} if has_inner_axes else {"ndim": 2}
        self.input_spec = keras.layers.InputSpec(**ranks, axes={-1: input_shape[-1]})

    def compute_output_shape(self, input_shape: Shape) -> tuple[int | None, ...]:
        return (*input_shape[:-1], self.units)


class LipschitzConv2D(LipschitzLayer):
    """`keras.layers.Conv2D` with a Lipschitz constant of at most `coefficient`, with the channels last.

    The layer constrains the norm of the convolution with its padding and strides, for the image size at build time.
    The norm of the flattened kernel may be smaller by a factor of up to the square root of the number of taps.

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

    The bound also holds for smaller images. A larger image raises a ValueError if its size is static, and otherwise
    an InvalidArgumentError when the graph runs. XLA drops assertions, so compiled code needs a static image size.
    If padding is "same", and both the stride and the kernel size are above 2, smaller images raise the same errors,
    because TensorFlow pads them differently.

    The branch of a residual block must return the shape of its input. Strides and padding "valid" are for other
    networks, such as a classifier with a known Lipschitz constant:

    ```python
    import keras
    import tf_resflow as resflow
    classifier = keras.Sequential([
        keras.Input([32, 32, 3]),
        resflow.layers.LipschitzConv2D(8, 4, coefficient=1.0, strides=4, padding="valid"),
        resflow.layers.LipSwish(),
        resflow.layers.LipschitzConv2D(16, 3, coefficient=1.0, strides=2),
        keras.layers.Flatten(),
        resflow.layers.LipschitzDense(10, coefficient=1.0),
    ])
    print(f"{resflow.layers.lipschitz_constant(classifier):.1f}")
    # 1.0
    ```

    Args:
      filters: Number of output channels.
      kernel_size: A positive integer, or a pair of them, for the height and the width.
      coefficient: Largest norm allowed, positive.
      strides: A positive integer, or a pair of them, for the height and the width.
      padding: "same" (the default, unlike in Keras) or "valid". From n pixels along an axis, "same" makes
        ceil(n / stride) output pixels, and "valid" makes ceil((n - kernel_size + 1) / stride).
      **kwargs: See `LipschitzDense`.

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
        strides: int | Sequence[int] = 1,
        padding: str = "same",
        **kwargs: Any,
    ):
        super().__init__(coefficient, **{"max_iterations": 8, **kwargs})
        if str(padding).lower() not in ("same", "valid"):
            raise ValueError(f'padding is {padding!r}; expected "same" or "valid". Use one of these two.')
        self.filters = filters
        self.kernel_size = _pair("kernel_size", kernel_size)
        self.strides = _pair("strides", strides)
        self.padding = padding.lower()

    def build(self, input_shape: Shape) -> None:
        if len(input_shape) != 4 or None in tuple(input_shape[1:]):
            raise ValueError(
                f"The input of layer '{self.name}' has shape {tuple(input_shape)}, but the norm depends on the "
                "largest image size. Give the image size, for example keras.Input([32, 32, 3])."
            )
        self.image_size = tuple(input_shape[1:3])
        channels = input_shape[3]
        shape = (*self.kernel_size, channels, self.filters)
        self.compute_output_shape(input_shape)  # raises an error if the kernel does not fit into the image
        convolution = ConvolutionOperator(shape, self.image_size, strides=self.strides, padding=self.padding)
        self.smallest_image_size = convolution.smallest_image_size
        operator: LinearOperator = convolution
        if convolution.has_separate_windows:
            copies = float(math.prod(convolution.output_size))
            operator = MatrixOperator((math.prod(shape[:3]), self.filters), copies=copies)
        self._build(shape, operator)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: channels})

    def compute_output_shape(self, input_shape: Shape) -> tuple[int | None, ...]:
        image_size = tuple(input_shape[1:3])
        output_size: list[int | None] = []
        for pixels, taps, stride in zip(image_size, self.kernel_size, self.strides, strict=True):
            num_windows = None if pixels is None else Axis(pixels, taps, stride, self.padding).num_windows
            output_size.append(num_windows)
        if any(num_windows is not None and num_windows < 1 for num_windows in output_size):
            raise ValueError(
                f"Layer '{self.name}' has kernel_size={self.kernel_size} and padding='valid', but images of "
                f"{image_size} pixels. The kernel must fit into the image. Use a smaller kernel or padding='same'."
            )
        return (input_shape[0], *output_size, self.filters)


@register_rule(LipschitzDense)
class _LipschitzDenseRule(LipschitzRule):
    def operation(self, layer, site):
        return DenseOperation(site.dtype)


@register_rule(LipschitzConv2D)
class _LipschitzConv2DRule(LipschitzRule):
    def operation(self, layer, site):
        sizes = layer.smallest_image_size, layer.image_size
        return ConvolutionOperation(site.dtype, *sizes, layer.strides, layer.padding)


def _pair(name, value):
    """Returns the height and the width of a kernel size or of strides."""
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2 or not all(isinstance(size, (int, np.integer)) and size > 0 for size in pair):
        raise ValueError(
            f"{name} is {value!r}; expected a positive integer or a pair of them. Use, for example, {name}=2 or "
            f"{name}=(2, 1) for the height and the width."
        )
    return tuple(map(int, pair))
