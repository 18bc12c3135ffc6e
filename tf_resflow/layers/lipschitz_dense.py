"""A dense layer of constrained operator norm."""

__all__ = ["LipschitzDense"]

import keras
import tensorflow as tf

from tf_resflow.layers.linear_operators import MatrixOperator
from tf_resflow.layers.lipschitz_layer import LipschitzLayer


@keras.saving.register_keras_serializable(package="tf_resflow")
class LipschitzDense(LipschitzLayer):
    """x -> x W + b on the last axis, with ||W||_{domain -> codomain} <= coefficient.

    ```python
    branch = keras.Sequential([
        keras.Input([2]),
        resflow.layers.LipschitzDense(64),
        resflow.layers.LipSwish(),
        resflow.layers.LipschitzDense(2),
    ])
    ```

    The leading axes are batch axes. Where they are part of an event the norm over the whole event
    is still W's, unless domain > codomain, so that then the input must be `[batch, inputs]`.

    Args:
        units: outputs.
        **kwargs: `coefficient`, `domain`, `codomain`, `use_bias`, `kernel_initializer`,
            `bias_initializer`, `tolerance`, `max_iterations` of `LipschitzLayer`, and those of
            `keras.layers.Layer`.

    References:
        Chen et al., "Residual Flows" (2019); Behrmann et al., "i-ResNets" (2019).
    """

    def __init__(
        self,
        units,
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
        if not isinstance(units, int) or units < 1:
            raise ValueError(f"units must be a positive integer, but got {units!r}.")
        self.units = units

    def build(self, input_shape):
        """Creates the kernel `[inputs, units]`, the bias and the stored vectors."""
        if input_shape[-1] is None:
            raise ValueError(
                f"Layer '{self.name}' needs to know the last axis of its input, which has shape "
                f"{tuple(input_shape)}."
            )
        fixed = isinstance(self.domain, float) and isinstance(self.codomain, float)
        has_inner_axes = fixed and self.domain <= self.codomain
        if len(input_shape) > 2 and not has_inner_axes:
            raise ValueError(
                f"Layer '{self.name}' has orders {self.domain} -> {self.codomain}: unless "
                "domain <= codomain its norm depends on the number of positions, so that the "
                f"input must be [batch, inputs], but it has shape {tuple(input_shape)}. Flatten it."
            )
        shape = (input_shape[-1], self.units)
        self._build(shape, MatrixOperator(shape))
        ranks = {"min_ndim": 2} if has_inner_axes else {"ndim": 2}
        self.input_spec = keras.layers.InputSpec(**ranks, axes={-1: input_shape[-1]})

    def call(self, inputs):
        """The product with the scaled kernel, plus b, `[..., units]`."""
        outputs = tf.matmul(inputs, self._applied_kernel())
        return outputs if self.bias is None else outputs + self.bias

    def compute_output_shape(self, input_shape):
        """`[..., units]`."""
        return (*input_shape[:-1], self.units)

    def get_config(self):
        """The constructor's arguments."""
        return {**super().get_config(), "units": self.units}
