"""Activations of known Lipschitz constant."""

__all__ = ["CLipSwish", "FullSort", "LipSwish", "LipschitzCube", "MaxMin"]

import keras
import tensorflow as tf

from tf_resflow.layers.fusion import in_one_pass


class _Swish(keras.layers.Layer):
    """x sigmoid(softplus(beta) x) / 1.1, with its weight beta."""

    def build(self, input_shape):
        self.beta = self.add_weight(name="beta", shape=(), initializer=keras.initializers.Constant(0.5))

    def _lipswish(self, x):
        return _swish(x, tf.cast(tf.math.softplus(self.beta), x.dtype))


def _swish(x, b):
    """The value x sigmoid(b x) / 1.1, for a scalar b, with its slope at hand.

    A power series multiplies by the same slopes once a term. Autodiff derives them anew from x each time, in
    six passes over memory; here they are computed once, along with the value. Differentiable any
    number of times.
    """
    y, slope = in_one_pass(_value_and_slope, tf.stop_gradient(x), tf.stop_gradient(b))
    return _with_slope(x, b, y, _swish_slope(x, b, slope))


@tf.custom_gradient
def _swish_slope(x, b, slope):
    """The slope, differentiable in x and b."""

    def grad(upstream):
        dx, db = in_one_pass(_slope_gradients, x, b, upstream)
        return dx, tf.reduce_sum(db), None

    return tf.identity(slope), grad


@tf.custom_gradient
def _with_slope(x, b, y, slope):
    """The value y, with dy/dx = slope."""

    def grad(upstream):
        value = _with_slope(x, b, y, slope)  # y itself is a constant
        db = tf.reduce_sum(in_one_pass(_value_gradient, x, value, upstream))
        return upstream * slope, db, None, None

    return tf.identity(y), grad


def _value_and_slope(x, b):
    t = _sigmoid(b * x)
    y = x * t / 1.1
    return y, t / 1.1 + b * y * (1.0 - t)


def _value_gradient(x, y, upstream):
    """The gradient in b of upstream * value, element by element: dy/db = x^2 t (1 - t) / 1.1 = y (x - 1.1 y)."""
    return upstream * y * (x - 1.1 * y)


def _slope_gradients(x, b, upstream):
    """The gradients in x and b of upstream * slope, element by element (XLA sums slowly in the same pass)."""
    t = _sigmoid(b * x)
    common = upstream * (t * (1.0 - t) * (2.0 + b * x * (1.0 - 2.0 * t)) / 1.1)
    return b * common, x * common


def _sigmoid(x):
    """As `tf.sigmoid`; XLA computes a tanh faster than an exponential and a quotient."""
    return 0.5 + 0.5 * tf.tanh(0.5 * x)


@keras.saving.register_keras_serializable(package="tf_resflow")
class LipSwish(_Swish):
    """x sigmoid(softplus(beta) x) / 1.1, with a trainable scalar beta; slopes within [-0.1, 1].

    The slope's supremum is 0.99985 for every beta, so that the layer is 1-Lipschitz in every
    l^p norm.

    References:
        Chen et al., "Residual Flows" (2019), section 3.3.
    """

    @property
    def lipschitz_constant(self):
        """1."""
        return 1.0

    def call(self, inputs):
        """The activation, of the input's shape."""
        return self._lipswish(inputs)

    def compute_output_shape(self, input_shape):
        """The input's."""
        return input_shape


@keras.saving.register_keras_serializable(package="tf_resflow")
class CLipSwish(_Swish):
    """[LipSwish(x), LipSwish(-x)] / 1.004 on the last axis, which it doubles.

    1-Lipschitz in the 2-norm (`lipschitz_order`): the slopes at x and -x have a root sum of
    squares of at most 1.004.

    References:
        Perugachi-Diaz, Tomczak and Bhulai, "Invertible DenseNets with Concatenated LipSwish"
        (2021).
    """

    lipschitz_order = 2.0

    @property
    def lipschitz_constant(self):
        """1."""
        return 1.0

    def call(self, inputs):
        """`[..., 2 channels]`."""
        return tf.concat([self._lipswish(inputs), self._lipswish(-inputs)], -1) / 1.004

    def compute_output_shape(self, input_shape):
        """`[..., 2 channels]`."""
        return (*input_shape[:-1], 2 * input_shape[-1])


@keras.saving.register_keras_serializable(package="tf_resflow")
class MaxMin(keras.layers.Layer):
    """[max(a, b), min(a, b)] of the two halves a, b of the last axis, whose size must be even.

    A permutation, and so is its Jacobian, at ties the identity: 1-Lipschitz in every l^p norm, and
    gradient preserving.

    References:
        Anil, Lucas and Grosse, "Sorting out Lipschitz function approximation" (2019).
    """

    @property
    def lipschitz_constant(self):
        """1."""
        return 1.0

    def build(self, input_shape):
        """Checks that the last axis is even."""
        if input_shape[-1] is None or input_shape[-1] % 2:
            raise ValueError(
                f"MaxMin pairs the channels of the last axis: their number must be even, but the "
                f"input has shape {tuple(input_shape)}."
            )

    def call(self, inputs):
        """The pairs sorted, of the input's shape."""
        a, b = tf.split(inputs, 2, -1)
        swap = a < b  # of a maximum and a minimum each would choose its own derivative at a tie
        return tf.concat([tf.where(swap, b, a), tf.where(swap, a, b)], -1)

    def compute_output_shape(self, input_shape):
        """The input's."""
        return input_shape


@keras.saving.register_keras_serializable(package="tf_resflow")
class FullSort(keras.layers.Layer):
    """The last axis in ascending order; 1-Lipschitz in every l^p norm.

    References:
        Anil, Lucas and Grosse, "Sorting out Lipschitz function approximation" (2019).
    """

    @property
    def lipschitz_constant(self):
        """1."""
        return 1.0

    def call(self, inputs):
        """The sorted channels, of the input's shape."""
        return tf.sort(inputs, -1)

    def compute_output_shape(self, input_shape):
        """The input's."""
        return input_shape


@keras.saving.register_keras_serializable(package="tf_resflow")
class LipschitzCube(keras.layers.Layer):
    """x^3 / 3 on [-1, 1], continued with slope 1: x - 2/3 above, x + 2/3 below.

    Its slope min(x^2, 1) is in [0, 1], so that it is 1-Lipschitz in every l^p norm.
    """

    @property
    def lipschitz_constant(self):
        """1."""
        return 1.0

    def call(self, inputs):
        """The activation, of the input's shape."""
        inner = tf.clip_by_value(inputs, -1.0, 1.0)
        return inputs - inner + inner**3 / 3.0

    def compute_output_shape(self, input_shape):
        """The input's."""
        return input_shape
