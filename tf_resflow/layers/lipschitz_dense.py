"""A dense layer with a constrained operator norm."""

from typing import Any

import keras

from tf_resflow.layers.linear_operators import MatrixOperator
from tf_resflow.layers.lipschitz_layer import COEFFICIENT, LipschitzLayer, LipschitzRule
from tf_resflow.layers.operations import DenseOperation
from tf_resflow.layers.rules import register_rule
from tf_resflow.typing import Shape

__all__ = ["LipschitzDense"]


@keras.saving.register_keras_serializable(package="tf_resflow")
class LipschitzDense(LipschitzLayer):
    r"""`keras.layers.Dense` with a Lipschitz constant of at most `coefficient`.

    On the last axis it computes \\(x W + b\\) with the kernel divided, differentiably, by
    \\(\max(1, \|W\| / \mathrm{coefficient})\\). The norm \\(\|W\| = \max_v \|Wv\|_q / \|v\|_p\\) is evaluated at
    stored vectors v, which a call does not change. If they no longer fit the kernel, the call finds new ones for
    itself: every call is normalized for its kernel. `tf_resflow.layers.update_norms` stores them for later calls.
    The norm is an estimate from below; `norm_bound()` proves a bound for the raw kernel, and `lipschitz_bound()`
    for the layer. The norm has a closed form for p = 1 and for q = inf, and then nothing is stored.

    With `normalization="schatten"` the kernel is divided by the Schatten norm of order 128 instead, an upper bound
    at \\(2 \to 2\\):

    $$\|W\|_2 \le \Bigl(\sum_i \sigma_i^{128}\Bigr)^{1/128} \le r^{1/128} \|W\|_2, \qquad r = \mathrm{rank}(W).$$

    The coefficient then holds for every kernel, and the layer stores no vectors. In return, the norm stays below
    the coefficient, and each call multiplies Gram matrices of the smaller of inputs and outputs.

    With activations of constant 1, such as `LipSwish`, layers make a contraction:

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

    Orders other than 2 constrain the norm induced by \\(\ell^p\\) on the inputs and \\(\ell^q\\) on the outputs;
    the codomain of a layer must be the domain of the next. The leading axes are batch axes. If they are part of the
    event and domain <= codomain, the norm over the whole event is still that of W; otherwise the input must be
    `[batch, inputs]`.

    Args:
      units: number of outputs.
      coefficient: the largest norm allowed, positive. In a `ResidualBlock` the product over all layers must be
        below 1.
      **kwargs: the arguments of `keras.layers.Layer`, and those of all Lipschitz layers: `domain` and `codomain`,
        the orders p and q of the norms of inputs and outputs, 2 by default, each in [1, inf] or a `LearnedOrder`;
        `normalization`, "induced", or "schatten" for an upper bound of the norm 2 -> 2; `use_bias`;
        `kernel_initializer`, by default uniform with variance 1 / (3 fan_in); `bias_initializer`; `tolerance`, the
        relative change of v at which an update of the norm stops (1e-2); and `max_iterations`, the most products
        with W and its transpose in an update (12).

    References:
      Chen et al., "Residual Flows" (2019); Behrmann et al., "i-ResNets" (2019).
    """

    def __init__(self, units: int, coefficient: float = COEFFICIENT, **kwargs: Any):
        super().__init__(coefficient, **kwargs)
        self.units = units

    def build(self, input_shape: Shape) -> None:
        """Creates the kernel `[inputs, units]`, the bias and the stored vectors."""
        if input_shape[-1] is None:
            raise ValueError(
                f"Layer '{self.name}' needs to know the last axis of its input, which has shape "
                f"{tuple(input_shape)}. Give it, e.g. keras.Input([3])."
            )
        fixed = isinstance(self.domain, float) and isinstance(self.codomain, float)
        has_inner_axes = fixed and self.domain <= self.codomain
        if len(input_shape) > 2 and not has_inner_axes:
            raise ValueError(
                f"Layer '{self.name}' has orders {self.domain} -> {self.codomain}; unless domain <= codomain "
                "its norm depends on the number of positions. The input must be [batch, inputs], but has shape "
                f"{tuple(input_shape)}. Flatten it."
            )
        shape = (input_shape[-1], self.units)
        self._build(shape, MatrixOperator(shape))
        ranks = {"min_ndim": 2} if has_inner_axes else {"ndim": 2}
        self.input_spec = keras.layers.InputSpec(**ranks, axes={-1: input_shape[-1]})

    def compute_output_shape(self, input_shape: Shape) -> tuple[int | None, ...]:
        return (*input_shape[:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


@register_rule(LipschitzDense)
class _LipschitzDenseRule(LipschitzRule):
    def operation(self, layer, site):
        return DenseOperation(site.dtype)
