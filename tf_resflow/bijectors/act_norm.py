"""Activation normalization: an affine map per channel, initialized from data."""

import numpy as np
import tensorflow as tf

from tf_resflow.bijectors.base import LipschitzConstants
from tf_resflow.bijectors.networks import checked_shape
from tf_resflow.bijectors.parametrized import VariableBijector
from tf_resflow.typing import DType, Shape, TensorLike


class ActNorm(VariableBijector):
    r"""Affine map per channel or per element of an event: `y = exp(log_scale) (x + shift)`.

    \\(\log|\det J| = n \sum_c \mathrm{log\_scale}_c\\), with n positions per channel. The initial map is the
    identity. `forward` maps data to latent, unlike in distrax and FlowJAX.

    Args:
      event_shape: shape of an event, channels last.
      per_channel: whether all positions of an event share the parameters of their channel.
      dtype: of the variables.

    References:
      Kingma and Dhariwal, Glow, 2018, Section 3.1.
    """

    def __init__(
        self, event_shape: Shape, per_channel: bool = True, dtype: DType = "float32", *, name: str = "act_norm"
    ) -> None:
        parameters = dict(locals())
        shape = tuple(event_shape[-1:] if per_channel else event_shape)
        self._event_shape = tf.TensorShape(event_shape)
        values = {"log_scale": np.zeros(shape), "shift": np.zeros(shape)}
        super().__init__(values, dtype, parameters=parameters, name=name)

    @classmethod
    def _is_increasing(cls):
        return True

    @property
    def log_scale(self) -> tf.Variable:
        """Logarithm of the scale, a `tf.Variable`."""
        return self._value("log_scale")

    @property
    def shift(self) -> tf.Variable:
        """Shift before scaling, a `tf.Variable`."""
        return self._value("shift")

    def initialize(self, x: TensorLike, inverse: bool = False) -> None:
        """Sets the parameters so that `forward(x)` has mean 0 and variance 1; deviations count as at least 1e-3.

        Args:
          x: the batch, `[batch, ..., *event]`.
          inverse: whether to normalize `inverse(x)` instead.
        """
        x = tf.convert_to_tensor(x, self.dtype)
        mean, variance = tf.nn.moments(x, list(range(x.shape.rank - self.shift.shape.rank)))
        log_deviation = 0.5 * tf.math.log(tf.maximum(variance, 1e-6))
        self.shift.assign(tf.exp(-log_deviation) * mean if inverse else -mean)
        self.log_scale.assign(log_deviation if inverse else -log_deviation)

    _initialize = initialize

    def _lipschitz_constants(self, certified, bound):
        scale = np.exp(self.log_scale.numpy().astype(np.float64))
        return LipschitzConstants(float(scale.max()), float(1.0 / scale.min()))

    def _forward(self, x):
        return checked_shape(x.shape, tf.exp(self.log_scale) * (x + self.shift))

    def _inverse(self, y):
        return checked_shape(y.shape, tf.exp(-self.log_scale) * y - self.shift)

    def _forward_log_det_jacobian(self, x):
        rank = self.forward_min_event_ndims
        positions = tf.reduce_prod(tf.shape(x)[tf.rank(x) - rank :]) // tf.size(self.shift)
        return tf.cast(positions, self.dtype) * tf.reduce_sum(self.log_scale)
