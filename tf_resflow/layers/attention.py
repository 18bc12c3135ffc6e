"""Self-attention, centering and gates with a Lipschitz constant of 1."""

import dataclasses
import math
from typing import Any

import keras
import tensorflow as tf
from scipy.special import lambertw

from tf_resflow._internal.typing import Shape
from tf_resflow.layers.operations import CenteringOperation, Operation, with_positions
from tf_resflow.layers.rules import LayerRule, RuledLayer, register_rule
from tf_resflow.layers.tracing import wide_dtype


class L2SelfAttention(RuledLayer):
    r"""L2 self-attention \\(y_i = \sum_j P_{ij} x_j / L_N\\) with \\(P_{ij} \propto \exp(-s^2 \|x_i - x_j\|^2)\\).

    The input is `[batch, N, D]`, and each row of P sums to 1. Each head has its part of the D features and a
    trainable s > 0, initially 1. The layer has no kernels: put it between Lipschitz layers. It is 1-Lipschitz in
    the 2-norm over all positions (`lipschitz_order`). The [constant](../mathematics.md#attention) \\(L_N\\)
    does not depend on s. It is 2.3, 9.6 and 19.4 for N = 2, 16 and 64. N is the number of positions at build time.
    The bound also holds for fewer positions. More positions raise the same errors as in `LipschitzConv2D`.

    ```python
    import keras
    import tf_resflow as resflow
    branch = keras.Sequential([
        keras.Input([16, 2]),
        resflow.layers.LipschitzDense(8, coefficient=0.9),
        resflow.layers.L2SelfAttention(num_heads=4),
        resflow.layers.LipschitzDense(2, coefficient=0.9),
    ])
    print(f"{resflow.layers.lipschitz_constant(branch):.2f}")
    # 0.81
    ```

    Args:
      num_heads: Number of heads, a divisor of D.

    References:
      Kim, Papamakarios and Mnih, "The Lipschitz constant of self-attention" (2021).
    """

    lipschitz_constant = 1.0
    lipschitz_order = 2.0

    def __init__(self, num_heads: int = 1, **kwargs: Any):
        super().__init__(**kwargs)
        self.num_heads = num_heads

    def build(self, input_shape: Shape) -> None:
        if len(input_shape) != 3 or None in tuple(input_shape[1:]) or input_shape[2] % self.num_heads:
            raise ValueError(
                f"The input of layer '{self.name}' has shape {tuple(input_shape)}. It must be [batch, num, "
                f"features], with a known num and features divisible by num_heads = {self.num_heads}. Start the "
                "branch with keras.Input([num, features])."
            )
        self.num_positions = input_shape[1]
        self.input_spec = keras.layers.InputSpec(ndim=3, axes={-1: input_shape[2]})
        one = keras.initializers.Constant(math.log(math.e - 1.0))  # softplus maps it to 1
        self.logits = self.add_weight(name="sharpness", shape=(self.num_heads,), initializer=one, autocast=False)


class Centering(RuledLayer):
    """x minus its mean over an axis, a projection, and so 1-Lipschitz in the 2-norm (`lipschitz_order`).

    With `axis=1`, positions of `[batch, N, D]` depend on each other, and permuting them permutes the result.

    Args:
      axis: Axis of the mean, not the batch.

    References:
      Qi et al., "LipsFormer" (2023). Their CenterNorm also multiplies by D / (D - 1).
    """

    lipschitz_constant = 1.0
    lipschitz_order = 2.0

    def __init__(self, axis: int = -1, **kwargs: Any):
        super().__init__(**kwargs)
        self.axis = axis

    def build(self, input_shape: Shape) -> None:
        rank = len(input_shape)
        if self.axis not in (*range(1, rank), *range(1 - rank, 0)):
            raise ValueError(f"Got axis={self.axis} for inputs of shape {input_shape}. Use an axis of an event.")


class Gate(RuledLayer):
    r"""\\(\sigma(a) x\\) with a trainable a for each feature, initially 0. It is 1-Lipschitz in every l^p norm."""

    lipschitz_constant = 1.0

    def build(self, input_shape: Shape) -> None:
        self.logits = self.add_weight(name="logits", shape=(input_shape[-1],), initializer="zeros", autocast=False)
        self.input_spec = keras.layers.InputSpec(axes={-1: input_shape[-1]})


def attention_slope(num: int) -> float:
    """Returns the bound L_N on the slopes of sum_j P_ij x_j for N = `num` positions. See docs/mathematics.md."""
    c = lambertw((num - 1) / math.e).real
    root = math.sqrt(num)
    column = lambertw(1.0 / math.e).real * (num - 1) if num < 24 else root * math.log(root - 1.0 - 1.0 / root)
    return float(math.sqrt(root) + 2.0 * c + 2.0 * math.sqrt(c * column))


@dataclasses.dataclass(frozen=True)
class AttentionOperation(Operation):
    """L2 self-attention, 1-Lipschitz for up to `num_positions`, in at least float32. The weight has s per head."""

    num_heads: int
    num_positions: int

    def __call__(self, inputs, weights):
        return self._attend(*inputs, *weights)[0]

    def jvp(self, inputs, derivatives, weights):
        h, p, y = self._attend(*inputs, *weights)
        u = self._heads(*derivatives, *weights)
        slopes = p * (_affinities(y, u) + _affinities(u, y))
        v = p @ u + (slopes - p * tf.reduce_sum(slopes, -1, keepdims=True)) @ y
        return h, self._joined(v, *derivatives, *weights)

    def _attend(self, x, s):
        message = (
            f"L2SelfAttention was called on inputs of shape {x.shape}, but its Lipschitz constant holds for up to "
            f"{self.num_positions} positions. Build it on the largest number of positions."
        )
        y = self._heads(with_positions((1,), (self.num_positions,), x, message), s)
        center = tf.reduce_mean(y, 2, keepdims=True)
        y -= center  # a far center would cancel in the distances
        p = tf.nn.softmax(_affinities(y, y))
        return self._joined(p @ y + center, x, s), p, y

    def _heads(self, x, s):
        """Returns the parts of s x, `[batch, heads, N, features]`."""
        heads = tf.reshape(x, [-1, _num_positions(x), self.num_heads, x.shape[2] // self.num_heads])
        return tf.transpose(tf.cast(heads, s.dtype) * s[:, tf.newaxis], [0, 2, 1, 3])

    def _joined(self, heads, x, s):
        y = tf.transpose(heads, [0, 2, 1, 3]) / (attention_slope(self.num_positions) * s)[:, tf.newaxis]
        return tf.cast(tf.reshape(y, [-1, _num_positions(x), x.shape[2]]), x.dtype)


def _num_positions(x):
    return tf.shape(x)[1] if x.shape[1] is None else x.shape[1]


def _affinities(y, u):
    """Returns 2 <y_i, u_j> - <y_j, u_j>. For u = y, it is -|y_i - y_j|^2 plus a number for each i."""
    return 2.0 * tf.matmul(y, u, transpose_b=True) - tf.reduce_sum(y * u, -1)[..., tf.newaxis, :]


@register_rule(L2SelfAttention)
class _AttentionRule(LayerRule):
    def operation(self, layer, site):
        return AttentionOperation(site.dtype, layer.num_heads, layer.num_positions)

    def variables(self, layer):
        return [layer.logits]

    def weights(self, layer, dtype):
        return [tf.math.softplus(tf.cast(tf.convert_to_tensor(layer.logits), wide_dtype(tf.as_dtype(dtype))))]


@register_rule(Centering)
class _CenteringRule(LayerRule):
    def operation(self, layer, site):
        return CenteringOperation(site.dtype, layer.axis)


@register_rule(Gate)
class _GateRule(LayerRule):
    def function(self, layer):
        return tf.multiply

    def variables(self, layer):
        return [layer.logits]

    def weights(self, layer, dtype):
        return [tf.sigmoid(tf.cast(tf.convert_to_tensor(layer.logits), dtype))]
