"""Smooth elementwise operations whose first three derivatives need few passes over memory."""

import abc
import dataclasses
from typing import Any, ClassVar

import tensorflow as tf

from tf_resflow._internal.private_api import custom_gradient, unrecorded
from tf_resflow.layers.operations import Operation
from tf_resflow.layers.tracing import in_one_pass, in_wide, is_large, wide_dtype


@dataclasses.dataclass(frozen=True)
class SmoothOperation(Operation):
    """An elementwise function of x. The weights are scalar parameters. It is differentiable any number of times.

    The slopes are computed once, together with the value, because each term of a power series multiplies by them.
    Parameters have a wide dtype. A subclass defines the formulas and `num_parts`, the number of values for each x.
    These values are parts of the last axis.
    """

    fused: bool = False
    num_parts: ClassVar[int] = 1

    @abc.abstractmethod
    def formula(self, x: tf.Tensor, *parameters: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the value and its slope in x, both with the shape of the value."""

    @abc.abstractmethod
    def slope_gradients(self, x: tf.Tensor, upstream: tf.Tensor, *parameters: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Returns the gradients of `upstream * slope` in x and in the parameters, for each element of x."""

    def value_gradients(self, x: tf.Tensor, upstream: tf.Tensor, *parameters: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Returns the gradients of `upstream * value` in the parameters, for each element of x."""
        return ()

    def __call__(self, inputs, weights):
        return self._value_and_slope(*inputs, *weights)[0]

    def jvp(self, inputs, derivatives, weights):
        @custom_gradient
        def operation(x, v, *parameters):
            def grad(dy, dw):
                dx, dv, *gradients = self._in_one_pass(self._jvp_gradients, x, v, dy, dw, *parameters)
                return dx, dv, *map(tf.reduce_sum, gradients)

            return self._in_one_pass(self._jvp, x, v, *parameters, wide=True), grad

        return operation(*inputs, *derivatives, *weights)

    def jacobian(self, inputs, derivatives, weights):
        x = inputs[0]
        tangents = derivatives[0]
        y, slope = self._value_and_slope(x, *weights)
        slope = tf.reshape(tf.transpose(slope), [self.num_parts, x.shape[1], 1, tf.shape(x)[0]])
        return y, tf.reshape(slope * tangents, [-1, *tangents.shape[1:2], tf.shape(x)[0]])

    def _value_and_slope(self, x, *parameters):
        with unrecorded():
            y, slope = self._in_one_pass(self.formula, x, *parameters, wide=True)
        slope = self._slope(slope, x, *parameters)
        return self._with_slope(y, slope, x, *parameters), slope

    def _slope(self, slope, x, *parameters):
        @custom_gradient
        def operation(slope, x, *parameters):
            def grad(upstream):
                dx, *gradients = self._in_one_pass(self.slope_gradients, x, upstream, *parameters, wide=True)
                return None, dx, *map(_parameter_gradient, gradients, parameters)

            return tf.identity(slope), grad

        return operation(slope, x, *parameters)

    def _with_slope(self, y, slope, x, *parameters):
        """Returns the value y with the derivative dy/dx = slope."""

        @custom_gradient
        def operation(y, slope, x, *parameters):
            def grad(upstream):
                gradients: Any = ()
                if parameters:
                    gradients = self._in_one_pass(self.value_gradients, x, upstream, *parameters, wide=True)
                dx = upstream * slope if self.num_parts == 1 else self._in_one_pass(self._times, upstream, slope)
                return None, None, dx, *map(_parameter_gradient, gradients, parameters)

            return tf.identity(y), grad

        return operation(y, slope, x, *parameters)

    def _in_one_pass(self, f, *args, wide=False):
        if self.fused and is_large(args[0].shape):
            return in_one_pass(f, *args, wide=wide)
        return (in_wide(f) if wide else f)(*args)

    def _times(self, upstream, slope):
        return sum_of_parts(upstream * slope, self.num_parts)

    def _jvp(self, x, v, *parameters):
        y, slope = self.formula(x, *parameters)
        return y, slope * tf.concat([v] * self.num_parts, -1)

    def _jvp_gradients(self, x, v, dy, dw, *parameters):
        """Returns the gradients in x, in v and, per row, in the parameters, given the gradients of both results."""
        dtype = wide_dtype(x.dtype)
        x_, v_, dy_, dw_ = (tf.cast(tensor, dtype) for tensor in (x, v, dy, dw))
        _, slope = self.formula(x_, *parameters)
        of_slope = self.slope_gradients(x_, dw_ * tf.concat([v_] * self.num_parts, -1), *parameters)
        of_value = sum_of_parts(dy_ * slope, self.num_parts), *self.value_gradients(x_, dy_, *parameters)
        dx, *gradients = [a + b for a, b in zip(of_value, of_slope, strict=True)]
        dv = sum_of_parts(dw_ * slope, self.num_parts)
        sums = [tf.reduce_sum(gradient, list(range(1, x.shape.rank))) for gradient in gradients]
        return tf.cast(dx, x.dtype), tf.cast(dv, v.dtype), *sums


def sum_of_parts(tensor: tf.Tensor, num_parts: int) -> tf.Tensor:
    """Returns the sum of the equal parts of the last axis."""
    return tensor if num_parts == 1 else tf.add_n(tf.split(tensor, num_parts, -1))


def _parameter_gradient(values, scalar):
    return tf.cast(tf.reduce_sum(values), scalar.dtype)
