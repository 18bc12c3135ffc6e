"""Activation normalisation: an affine map per channel, initialised from data."""

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tf_resflow.bijectors.scoped_cache import ScopedCache

__all__ = ["ActNorm"]


class ActNorm(tfp.bijectors.Bijector):
    r"""`y = exp(log_scale) (x + shift)`, per channel or per element of the event.

    \\(\log|\det J| = n \sum_c \mathrm{log\_scale}_c\\), with n positions a channel. It starts as the
    identity; `tf_resflow.bijectors.initialize` makes each channel of a first batch zero-mean and unit-variance.

    ```python
    import numpy as np
    import tf_resflow as resflow
    act_norm = resflow.bijectors.ActNorm([2])
    act_norm.initialize(np.array([[1.0, 0.0], [3.0, 4.0]], "float32"))
    print(act_norm.forward([[3.0, 4.0]]).numpy().round(3))
    # [[1. 1.]]
    ```

    Args:
      event_shape: shape of an event, channels last.
      per_channel: whether the positions of an event share the parameters of their channel.
      dtype: of the variables.
      name: `str`.

    References:
      Kingma and Dhariwal, Glow, 2018, Section 3.1.
    """

    _cache = ScopedCache()

    def __init__(self, event_shape, per_channel=True, dtype="float32", name="act_norm"):
        parameters = dict(locals())
        shape = tuple(event_shape[-1:] if per_channel else event_shape)
        if not shape or any(not size for size in shape):
            raise ValueError(f"ActNorm needs a known, non-scalar event shape; got {tuple(event_shape)}.")
        with tf.name_scope(name) as name:
            self._keras_variables = self._no_dependency(
                {
                    key: keras.Variable("zeros", shape=shape, dtype=dtype, name=f"{name[:-1]}_{key}")
                    for key in ("log_scale", "shift")
                }
            )
            self._affine = {key: v.value for key, v in self._keras_variables.items()}
            super().__init__(
                forward_min_event_ndims=len(event_shape),
                dtype=tf.as_dtype(dtype),
                parameters=parameters,
                name=name,
            )

    @classmethod
    def _parameter_properties(cls, dtype):
        return {}

    def _get_parameterization(self):
        # Bijectors of equal arguments would share a cache, and these have variables of their own.
        return id(self)

    @property
    def keras_variables(self):
        """The `keras.Variable`s, `[log_scale, shift]`."""
        return list(self._keras_variables.values())

    @property
    def log_scale(self):
        """Logarithm of the scale, a `tf.Variable`."""
        return self._affine["log_scale"]

    @property
    def shift(self):
        """Shift before scaling, a `tf.Variable`."""
        return self._affine["shift"]

    def initialize(self, x):
        """Sets the parameters so that `forward(x)` has mean 0 and variance 1; `x` is `[batch, ..., *event]`.

        Channels that are (nearly) constant over the batch are scaled as if their standard deviation were 1e-3.
        """
        x = tf.convert_to_tensor(x, self.dtype)
        mean, variance = tf.nn.moments(x, list(range(x.shape.rank - self.shift.shape.rank)))
        self.shift.assign(-mean)
        self.log_scale.assign(-0.5 * tf.math.log(tf.maximum(variance, 1e-6)))

    def _forward(self, x):
        return tf.exp(self.log_scale) * (x + self.shift)

    def _inverse(self, y):
        return tf.exp(-self.log_scale) * y - self.shift

    def _forward_log_det_jacobian(self, x):
        rank = self.forward_min_event_ndims
        positions = tf.reduce_prod(tf.shape(x)[tf.rank(x) - rank :]) // tf.size(self.shift)
        return tf.cast(positions, self.dtype) * tf.reduce_sum(self.log_scale)
