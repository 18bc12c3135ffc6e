"""A learnable order of a vector norm."""

import math
from typing import Any

import keras
import tensorflow as tf

from tf_resflow._internal.serialization import SerializableLayer


class LearnedOrder(SerializableLayer):
    r"""The learned order p of an \\(\ell^p\\) norm: p = low + (high - low) sigmoid(theta).

    To share an order, pass the same object to several layers. Orders have a separate objective,
    `tf_resflow.layers.mean_norm`, and receive no gradient from the density. Saving a model keeps orders shared.
    `keras.models.clone_model` does not create new orders.

    ```python
    orders = [resflow.layers.LearnedOrder() for _ in range(3)]
    branch = keras.Sequential([keras.Input([2])] + [
        resflow.layers.LipschitzDense(units, domain=p, codomain=q)
        for units, p, q in zip([16, 16, 2], orders, [*orders[1:], orders[0]])
    ])
    ```

    Args:
      initial: Initial value of p, strictly between low and high.
      low: Infimum of p, at least 1.
      high: Supremum of p, finite.

    References:
      Chen et al., "Residual Flows" (2019), learned mixed norms.
    """

    def __init__(self, initial: float = 2.0, low: float = 1.0, high: float = 5.0, **kwargs: Any):
        super().__init__(**kwargs)
        if not 1.0 <= low < initial < high < math.inf:
            raise ValueError(f"{low=}, {initial=}, {high=}; a LearnedOrder needs 1 <= low < initial < high < inf.")
        self.initial = float(initial)
        self.low = float(low)
        self.high = float(high)
        share = (initial - low) / (high - low)
        self.theta = self.add_weight(
            name="theta", initializer=keras.initializers.Constant(math.log(share / (1.0 - share))), autocast=False
        )
        self.built = True

    def order(self) -> tf.Tensor:
        """Returns the order, a scalar tensor that is differentiable in theta."""
        return self.low + (self.high - self.low) * tf.sigmoid(self.theta.value)
