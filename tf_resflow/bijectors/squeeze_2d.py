"""Space to channels."""

import tensorflow as tf

from tf_resflow.bijectors.base import FlowBijector, LipschitzConstants

__all__ = ["Squeeze2D"]


class Squeeze2D(FlowBijector):
    """`[H, W, C]` to `[H / f, W / f, C f^2]`: each f x f patch of a channel becomes f^2 channels.

    Channel `c f^2 + dy f + dx` of the output holds pixel `(dy, dx)` of the patch in channel c: halving the
    channels later keeps whole channels together, if their number is even. The log-determinant is zero.

    Args:
      factor: f, `int` >= 2.

    Raises:
      ValueError: if the height or width of an input is not a multiple of the factor.

    References:
      Dinh et al., Density estimation using Real NVP, 2017, Section 3.6.
    """

    ends_scale = True

    def __init__(self, factor: int = 2, *, name: str = "squeeze_2d") -> None:
        parameters = dict(locals())
        if factor < 2:
            raise ValueError(f"factor is at least 2; got {factor}.")
        self._factor = factor
        super().__init__(
            forward_min_event_ndims=3,
            is_constant_jacobian=True,
            parameters=parameters,
            name=name,
        )

    def _lipschitz_constants(self, certified, bound):
        return LipschitzConstants(1.0, 1.0)  # it permutes coordinates

    def _forward(self, x):
        f = self._factor
        self._forward_event_shape(x.shape[-3:])
        batch, (h, w, c) = tf.shape(x)[:-3], tf.unstack(tf.shape(x)[-3:])
        y = tf.reshape(x, [-1, h // f, f, w // f, f, c])
        y = tf.transpose(y, [0, 1, 3, 5, 2, 4])
        y = tf.reshape(y, tf.concat([batch, [h // f, w // f, c * f * f]], 0))
        return tf.ensure_shape(y, x.shape[:-3] + self._forward_event_shape(x.shape[-3:]))

    def _inverse(self, y):
        f = self._factor
        self._inverse_event_shape(y.shape[-3:])
        batch, (h, w, c) = tf.shape(y)[:-3], tf.unstack(tf.shape(y)[-3:])
        x = tf.reshape(y, [-1, h, w, c // (f * f), f, f])
        x = tf.transpose(x, [0, 1, 4, 2, 5, 3])
        x = tf.reshape(x, tf.concat([batch, [h * f, w * f, c // (f * f)]], 0))
        return tf.ensure_shape(x, y.shape[:-3] + self._inverse_event_shape(y.shape[-3:]))

    def _forward_log_det_jacobian(self, x):
        return tf.zeros([], x.dtype)

    def _forward_event_shape(self, shape):
        *outer, h, w, c = tf.TensorShape(shape).with_rank_at_least(3).as_list()
        f = self._factor
        if (h or 0) % f or (w or 0) % f:
            raise ValueError(
                f"Squeeze2D({f}) needs a height and width that are multiples of {f}; got {h} x {w}. Crop or pad "
                "the images, or use fewer scales."
            )
        return tf.TensorShape([*outer, h and h // f, w and w // f, c and c * f * f])

    def _inverse_event_shape(self, shape):
        *outer, h, w, c = tf.TensorShape(shape).with_rank_at_least(3).as_list()
        f = self._factor
        if (c or 0) % (f * f):
            raise ValueError(f"The inverse of Squeeze2D({f}) needs a multiple of {f * f} channels; got {c}.")
        return tf.TensorShape([*outer, h and h * f, w and w * f, c and c // (f * f)])

    def _forward_event_shape_tensor(self, shape):
        f = self._factor
        return tf.concat([shape[:-3], shape[-3:] // [f, f, 1] * [1, 1, f * f]], 0)

    def _inverse_event_shape_tensor(self, shape):
        f = self._factor
        return tf.concat([shape[:-3], shape[-3:] * [f, f, 1] // [1, 1, f * f]], 0)
