"""Activations of known Lipschitz constant."""

import keras
import tensorflow as tf

from tf_resflow.layers.fusion import in_one_pass, in_wide, wide_dtype
from tf_resflow.private_api import custom_gradient
from tf_resflow.typing import Shape, TensorLike

__all__ = ["CLipSwish", "FullSort", "LipSwish", "LipschitzCube", "MaxMin"]


class _Activation(keras.layers.Layer):
    """A layer whose output has the shape of its input."""

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """The shape of the input."""
        return input_shape


class _Swish(_Activation):
    """x sigmoid(softplus(beta) x) / 1.1, with its weight beta."""

    def build(self, input_shape: Shape) -> None:
        initializer = keras.initializers.Constant(0.5)
        self.beta = self.add_weight(name="beta", shape=(), initializer=initializer, autocast=False)

    def _slope_parameter(self, dtype):
        return tf.math.softplus(tf.cast(self.beta, wide_dtype(dtype)))

    def _lipswish(self, x):
        return _swish(x, self._slope_parameter(x.dtype))


def _swish(x, b):
    """The value x sigmoid(b x) / 1.1, for a scalar b of a wide dtype, together with its slope.

    A power series multiplies by the same slopes once per term. Autodiff derives them from x each time, in six
    passes over memory; here they are computed once, along with the value. Differentiable any number of times.
    """
    y, slope = in_one_pass(_value_and_slope, tf.stop_gradient(x), tf.stop_gradient(b))
    return _with_slope(x, b, y, _swish_slope(x, b, slope))


@custom_gradient
def _swish_slope(x, b, slope):
    """The slope, differentiable in x and b."""

    def grad(upstream):
        dx, db = in_one_pass(_slope_gradients, x, b, upstream)
        return dx, _sum_like(db, b), None

    return tf.identity(slope), grad


@custom_gradient
def _with_slope(x, b, y, slope):
    """The value y, with dy/dx = slope."""

    def grad(upstream):
        value = _with_slope(x, b, y, slope)  # y itself is a constant
        db = _sum_like(in_one_pass(_value_gradient, x, value, upstream), b)
        return upstream * slope, db, None, None

    return tf.identity(y), grad


def _swish_along(x, v, b):
    """The value and its derivative along v, elementwise. Differentiable once."""

    @custom_gradient
    def operation(x, v, b):
        def grad(dy, dw):
            dx, dv, db = in_one_pass(_gradients_along, x, v, b, dy, dw)
            return dx, dv, tf.reduce_sum(db)

        return in_one_pass(_value_along, x, v, b), grad

    return operation(x, v, b)


def _sum_like(values, scalar):
    return tf.cast(tf.reduce_sum(values), scalar.dtype)


@in_wide
def _value_and_slope(x, b):
    t = _sigmoid(b * x)
    y = x * t / 1.1
    return y, t / 1.1 + b * y * (1.0 - t)


@in_wide
def _value_gradient(x, y, upstream):
    """The gradient in b of upstream * value, per element: dy/db = x^2 t (1 - t) / 1.1 = y (x - 1.1 y)."""
    return upstream * y * (x - 1.1 * y)


@in_wide
def _slope_gradients(x, b, upstream):
    """The gradients in x and b of upstream * slope, per element (XLA sums slowly in the same pass)."""
    t = _sigmoid(b * x)
    common = upstream * (t * (1.0 - t) * (2.0 + b * x * (1.0 - 2.0 * t)) / 1.1)
    return b * common, x * common


@in_wide
def _value_along(x, v, b):
    y, slope = _value_and_slope(x, b)
    return y, slope * v


def _gradients_along(x, v, b, dy, dw):
    """The gradients in x and v, per element, and in b, per row, for those of the value and of the derivative."""
    x_, v_, dy_, dw_ = (tf.cast(tensor, b.dtype) for tensor in (x, v, dy, dw))
    y, slope = _value_and_slope(x_, b)
    dx, db = _slope_gradients(x_, b, dw_ * v_)
    db = tf.reduce_sum(_value_gradient(x_, y, dy_) + db, list(range(1, x.shape.rank)))
    return tf.cast(dy_ * slope + dx, x.dtype), tf.cast(dw_ * slope, v.dtype), db


def _sigmoid(x):
    """As `tf.sigmoid`; XLA computes a tanh faster than an exponential and a quotient."""
    return 0.5 + 0.5 * tf.tanh(0.5 * x)


@keras.saving.register_keras_serializable(package="tf_resflow")
class LipSwish(_Swish):
    r"""\\(x \, \sigma(\mathrm{softplus}(\beta) \, x) / 1.1\\) with a trainable scalar \\(\beta\\).

    The usual activation of residual flows: smooth, because the gradient of a log-determinant takes its second
    derivative, with slopes within [-0.1, 1]. Their supremum is 0.99985 for every beta, so it is 1-Lipschitz in
    every l^p norm.

    ```python
    import tensorflow as tf
    import tf_resflow as resflow
    print(resflow.layers.LipSwish()(tf.constant([[-1.0, 0.0, 1.0]])).numpy().round(3))
    # [[-0.249  0.     0.66 ]]
    ```

    References:
      Chen et al., "Residual Flows" (2019), section 3.3.
    """

    lipschitz_constant = 1.0

    def call(self, inputs: TensorLike) -> tf.Tensor:
        """The activation, of the shape of the input."""
        return self._lipswish(inputs)

    def value_and_derivative(self, x: tf.Tensor, v: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The activation at x, and its derivative along v, of the same shape. Differentiable once."""
        return _swish_along(x, v, self._slope_parameter(x.dtype))


@keras.saving.register_keras_serializable(package="tf_resflow")
class CLipSwish(_Swish):
    """[LipSwish(x), LipSwish(-x)] / 1.004 on the last axis, which it doubles.

    1-Lipschitz in the 2-norm only (`lipschitz_order`): the slopes at x and -x have a root sum of squares of at most
    1.004. They are never zero together.

    References:
      Perugachi-Diaz, Tomczak and Bhulai, "Invertible DenseNets with Concatenated LipSwish" (2021).
    """

    lipschitz_constant = 1.0
    lipschitz_order = 2.0

    def call(self, inputs: TensorLike) -> tf.Tensor:
        """`[..., 2 channels]`."""
        return tf.concat([self._lipswish(inputs), self._lipswish(-inputs)], -1) / 1.004

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """`[..., 2 channels]`."""
        return (*input_shape[:-1], 2 * input_shape[-1])


@keras.saving.register_keras_serializable(package="tf_resflow")
class MaxMin(_Activation):
    """[max(a, b), min(a, b)] of the two halves a, b of the last axis, whose size must be even.

    It permutes its input; its Jacobian is that permutation, the identity at ties. So it is 1-Lipschitz in every l^p
    norm, and preserves the norm of gradients.

    References:
      Anil, Lucas and Grosse, "Sorting out Lipschitz function approximation" (2019).
    """

    lipschitz_constant = 1.0

    def build(self, input_shape: Shape) -> None:
        """Checks that the last axis is even."""
        if input_shape[-1] is None or input_shape[-1] % 2:
            raise ValueError(
                "MaxMin pairs the channels of the last axis: their number must be even, but the input has shape "
                f"{tuple(input_shape)}."
            )

    def call(self, inputs: TensorLike) -> tf.Tensor:
        """The pairs sorted, of the shape of the input."""
        a, b = tf.split(inputs, 2, -1)
        swap = a < b  # a maximum and a minimum would each choose their own derivative at a tie
        return tf.concat([tf.where(swap, b, a), tf.where(swap, a, b)], -1)


@keras.saving.register_keras_serializable(package="tf_resflow")
class FullSort(_Activation):
    """The last axis in ascending order: `MaxMin` for all channels at once, 1-Lipschitz in every l^p norm.

    References:
      Anil, Lucas and Grosse, "Sorting out Lipschitz function approximation" (2019).
    """

    lipschitz_constant = 1.0

    def call(self, inputs: TensorLike) -> tf.Tensor:
        """The sorted channels, of the shape of the input."""
        return tf.sort(inputs, -1)


@keras.saving.register_keras_serializable(package="tf_resflow")
class LipschitzCube(_Activation):
    """x^3 / 3 on [-1, 1], continued with slope 1: x - 2/3 above, x + 2/3 below.

    Its slope min(x^2, 1) is in [0, 1]: 1-Lipschitz in every l^p norm.
    """

    lipschitz_constant = 1.0

    def call(self, inputs: TensorLike) -> tf.Tensor:
        """The activation, of the shape of the input."""
        inner = tf.clip_by_value(inputs, -1.0, 1.0)
        return inputs - inner + inner**3 / 3.0
