"""Activations with a known Lipschitz constant."""

from typing import ClassVar

import keras
import tensorflow as tf

from tf_resflow._internal.typing import Shape
from tf_resflow.layers.operations import FunctionOperation
from tf_resflow.layers.rules import LayerRule, RuledLayer, register_rule
from tf_resflow.layers.smooth_operation import SmoothOperation, sum_of_parts
from tf_resflow.layers.tracing import wide_dtype

__all__ = ["CLipSwish", "CPila", "FullSort", "LipSwish", "LipschitzCube", "MaxMin"]


class _Activation(RuledLayer):
    lipschitz_constant = 1.0


class _SmoothActivation(_Activation):
    smooth_operation: type[SmoothOperation]

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        num_parts = self.smooth_operation.num_parts
        return input_shape if num_parts == 1 else (*input_shape[:-1], num_parts * input_shape[-1])


class _SwishOperation(SmoothOperation):
    """x sigmoid(b x) / 1.1, with a scalar b."""

    def formula(self, x, b):
        t = _sigmoid(b * x)
        y = x * t / 1.1
        return y, t / 1.1 + y * (b * (1.0 - t))

    def value_gradients(self, x, upstream, b):
        """dy/db = x^2 t (1 - t) / 1.1, which is zero where t rounds to 0 or 1."""
        t = _sigmoid(b * x)
        return (upstream * (x * (t * (1.0 - t))) * x / 1.1,)

    def slope_gradients(self, x, upstream, b):
        t = _sigmoid(b * x)
        s = t * (1.0 - t)
        common = upstream * ((2.0 * s + b * s * (x * (1.0 - 2.0 * t))) / 1.1)
        return b * common, x * common


class _ConcatenatedSwishOperation(_SwishOperation):
    """[f(x), f(-x)] / 1.004 for f = `_SwishOperation`. Since f(-x) = f(x) - x / 1.1, one sigmoid is enough."""

    num_parts: ClassVar[int] = 2

    def formula(self, x, b):
        y, slope = super().formula(x, b)
        return tf.concat([y, y - x / 1.1], -1) / 1.004, tf.concat([slope, slope - 1.0 / 1.1], -1) / 1.004

    def value_gradients(self, x, upstream, b):
        return super().value_gradients(x, sum_of_parts(upstream, 2) / 1.004, b)

    def slope_gradients(self, x, upstream, b):
        return super().slope_gradients(x, sum_of_parts(upstream, 2) / 1.004, b)


class _ConcatenatedPilaOperation(SmoothOperation):
    """[f(x - 0.2), f(-x - 0.2)] / 1.06. For z > 0, f(z) = z; below, f(z) = z (t^2 / 2 - t + 1) e^t with t = 5 z."""

    num_parts: ClassVar[int] = 2
    _most_below: ClassVar[float] = 200.0  # e^t is zero from here; powers of larger numbers may overflow

    def formula(self, x):
        z = tf.concat([x, -x], -1) - 0.2
        below = tf.clip_by_value(z, -self._most_below, 0.0)
        t = 5.0 * below
        y = tf.maximum(z, 0.0) + below * (t * (t / 2.0 - 1.0) + 1.0) * tf.exp(t)
        slope = (t * (t * (t + 1.0) / 2.0 - 1.0) + 1.0) * tf.exp(t)
        return y / 1.06, slope / tf.concat([1.06 * tf.ones_like(x), -1.06 * tf.ones_like(x)], -1)

    def slope_gradients(self, x, upstream):
        t = 5.0 * tf.clip_by_value(tf.concat([x, -x], -1) - 0.2, -self._most_below, 0.0)
        curvature = 5.0 * t**2 * (t / 2.0 + 2.0) * tf.exp(t)
        return (sum_of_parts(upstream * curvature / 1.06, 2),)


def _sigmoid(x):
    return 0.5 + 0.5 * tf.tanh(0.5 * x)  # in XLA, faster than an exponential and a division


def _max_min(x):
    a, b = tf.split(x, 2, -1)
    swap = a < b  # tf.maximum and tf.minimum would choose derivatives independently at ties
    return tf.concat([tf.where(swap, b, a), tf.where(swap, a, b)], -1)


def _cube(x):
    inner = tf.clip_by_value(x, -1.0, 1.0)
    return x - inner + inner**3 / 3.0


class _Swish(_SmoothActivation):
    def build(self, input_shape: Shape) -> None:
        initializer = keras.initializers.Constant(0.5)
        self.beta = self.add_weight(name="beta", shape=(), initializer=initializer, autocast=False)


class LipSwish(_Swish):
    r"""\\(x \, \sigma(\mathrm{softplus}(\beta) \, x) / 1.1\\) with a trainable scalar \\(\beta\\).

    This is the standard activation in residual flows. It is smooth, because the gradient of a log-determinant needs
    its second derivative. Its slopes are in [-0.1, 0.99985] for every beta, so it is 1-Lipschitz in every l^p norm.

    ```python
    import tensorflow as tf
    import tf_resflow as resflow
    print(resflow.layers.LipSwish()(tf.constant([[-1.0, 0.0, 1.0]])).numpy().round(3))
    # [[-0.249  0.     0.66 ]]
    ```

    References:
      Chen et al., "Residual Flows" (2019), section 3.3.
    """

    smooth_operation = _SwishOperation


class CLipSwish(_Swish):
    """[LipSwish(x), LipSwish(-x)] / 1.004, concatenated along the last axis, whose size doubles.

    It is 1-Lipschitz only in the 2-norm (`lipschitz_order`): the root of the sum of squares of the slopes at x and
    -x is at most 1.004. The two slopes are never both zero.

    References:
      Perugachi-Diaz, Tomczak and Bhulai, "Invertible DenseNets with Concatenated LipSwish" (2021).
    """

    lipschitz_order = 2.0
    smooth_operation = _ConcatenatedSwishOperation


class CPila(_SmoothActivation):
    r"""\\([f(x - 0.2), f(-x - 0.2)] / 1.06\\) on the last axis, whose size doubles, with a smooth f near the ReLU.

    \\(f(z) = z\\) for \\(z > 0\\), and \\((k^2 z^3 / 2 - k z^2 + z) e^{k z}\\) for \\(z \le 0\\), with \\(k = 5\\).
    Its first three derivatives are continuous. It is 1-Lipschitz only in the 2-norm (`lipschitz_order`): the root
    of the sum of squares of the slopes is at most \\(\sqrt{1 + 361 e^{-8}} < 1.0589\\). They are never both zero.

    References:
      Ahn, Kim, Kim and Kim, "Invertible Monotone Operators for Normalizing Flows" (2022).
    """

    lipschitz_order = 2.0
    smooth_operation = _ConcatenatedPilaOperation


class MaxMin(_Activation):
    """[max(a, b), min(a, b)], where a and b are the two halves of the last axis. Its size must be even.

    The Jacobian is a permutation matrix, and the identity at ties. The layer is therefore 1-Lipschitz in every l^p
    norm and preserves the norm of gradients.

    References:
      Anil, Lucas and Grosse, "Sorting out Lipschitz function approximation" (2019).
    """


class FullSort(_Activation):
    """Sorts the last axis in ascending order, while `MaxMin` sorts pairs. It is 1-Lipschitz in every l^p norm.

    References:
      Anil, Lucas and Grosse, "Sorting out Lipschitz function approximation" (2019).
    """


class LipschitzCube(_Activation):
    """x^3 / 3 on [-1, 1], continued with slope 1 outside. It is 1-Lipschitz in every l^p norm."""


@register_rule(CPila)
class _SmoothRule(LayerRule):
    def operation(self, layer, site):
        return layer.smooth_operation(site.dtype, site.fused)


@register_rule(LipSwish, CLipSwish)
class _SwishRule(_SmoothRule):
    def variables(self, layer):
        return [layer.beta]

    def weights(self, layer, dtype):
        return [tf.math.softplus(tf.cast(tf.convert_to_tensor(layer.beta), wide_dtype(tf.as_dtype(dtype))))]


@register_rule(MaxMin, FullSort)
class _SortRule(LayerRule):
    def operation(self, layer, site):
        function = _max_min if isinstance(layer, MaxMin) else tf.sort
        return FunctionOperation(site.dtype, function, False)


@register_rule(LipschitzCube)
class _CubeRule(LayerRule):
    def function(self, layer):
        return _cube
