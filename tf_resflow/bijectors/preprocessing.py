"""Bijectors without trained parameters: Logit, Normalize, Squeeze2D and Whiten."""

import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tf_resflow._internal.private_api import OnlyInSavedModels
from tf_resflow._internal.typing import DType, TensorLike
from tf_resflow.bijectors.base import Context, FlowBijector, Pass, StretchBounds
from tf_resflow.bijectors.networks import checked_shape


class Logit(FlowBijector):
    r"""Maps [0, 1] to the reals: `y = logit(alpha + (1 - 2 alpha) x)`.

    \\(\log|dy/dx| = \log(1 - 2\alpha) - \log s - \log(1 - s)\\) with \\(s = \alpha + (1 - 2\alpha) x\\). To
    avoid cancellation near x = 1, \\(1 - s\\) is computed as \\(\alpha + (1 - 2\alpha)(1 - x)\\).

    Args:
      alpha: `float` in (0, 0.5). The published runs use 0.05 for natural images and 1e-6 for MNIST.
      validate_args: Whether to check that x is in [0, 1].

    References:
      Dinh et al., Density estimation using Real NVP, 2017, Section 4.1.
    """

    def __init__(self, alpha: float = 0.05, *, validate_args: bool = False, name: str = "logit") -> None:
        parameters = dict(locals())
        if not 0 < alpha < 0.5:
            raise ValueError(f"Got alpha={alpha}; it must be in (0, 0.5).")
        self._alpha = alpha
        super().__init__(forward_min_event_ndims=0, validate_args=validate_args, parameters=parameters, name=name)

    @classmethod
    def _is_increasing(cls):
        return True

    def _stretch_bounds(self, certified, bound):
        alpha = self._alpha  # the slope is largest at x = 0 and 1, the inverse's at y = 0
        return StretchBounds((1 - 2 * alpha) / (alpha * (1 - alpha)), 0.25 / (1 - 2 * alpha))

    def _log_odds(self, x):
        checks = []
        if self.validate_args:
            message = "Logit got values outside of [0, 1]. Scale the data, or dequantize: x = (v + u) / levels."
            checks = [tf.debugging.Assert(tf.reduce_all((x >= 0) & (x <= 1)), [message])]
        with tf.control_dependencies(checks):
            s = self._alpha + (1 - 2 * self._alpha) * x
            rest = self._alpha + (1 - 2 * self._alpha) * (1 - x)
            return tf.math.log(s), tf.math.log(rest)

    def _forward(self, x):
        log_s, log_rest = self._log_odds(x)
        return log_s - log_rest

    def _inverse(self, y):
        return (tf.sigmoid(y) - self._alpha) / (1 - 2 * self._alpha)

    def inverse_pass(self, y: tf.Tensor, context: Context) -> Pass:
        """Returns the `Pass` from y, with an accurate log-determinant even where the sigmoid rounds to 0 or 1."""
        x = self._inverse(y, **context.arguments)
        if not context.compute_log_det:
            return Pass(x)
        return Pass(x, tf.math.log_sigmoid(y) + tf.math.log_sigmoid(-y) - math.log(1 - 2 * self._alpha))

    def _forward_log_det_jacobian(self, x):
        log_s, log_rest = self._log_odds(x)
        return math.log(1 - 2 * self._alpha) - log_s - log_rest


class WithStatistics(OnlyInSavedModels, FlowBijector):
    """Base class of bijectors whose parameters are statistics of data, in variables that are not trained."""

    _only_in_saved_models = ("_statistics",)
    _order: float | None = None  # of the norm in which the Lipschitz constants hold

    def __init__(self, values, rank, dtype, parameters, name):
        with tf.init_scope():
            self._statistics = {
                key: value if tf.is_tensor(value) else tf.Variable(value, trainable=False, name=f"{name}_{key}")
                for key, value in values.items()
            }
        super().__init__(forward_min_event_ndims=rank, dtype=tf.as_dtype(dtype), parameters=parameters, name=name)

    def _get_parameterization(self):
        return id(self)  # see `VariableBijector`

    @property
    def statistics(self) -> dict[str, tf.Variable]:
        """The variables of the statistics, by name."""
        return dict(self._statistics)

    def frozen(self, function: Callable[[tf.Variable], tf.Tensor]) -> "WithStatistics":
        """Returns a copy with constant statistics: `function` maps each variable to a constant."""
        values = {key: function(variable) for key, variable in self._statistics.items()}
        view = object.__new__(type(self))  # a copy would create variables
        rank = self.forward_min_event_ndims
        WithStatistics.__init__(view, values, rank, self.dtype, self.parameters, self.name)
        return view

    def _stretch_bounds(self, certified, bound):
        std = self._statistics["std"].numpy().astype(np.float64)
        return StretchBounds(float(1.0 / std.min()), float(std.max()), self._order)


class Normalize(WithStatistics):
    """Normalizes data: `y = (x - mean) / std`, with statistics that broadcast against the last axes of the event.

    The variables `statistics["mean"]` and `statistics["std"]` are not trained. `tf_resflow.FlowModel` saves them
    with its weights, but a checkpoint of only the bijector does not.

    Args:
      mean: Array-like.
      std: Array-like of the same shape, positive.
      dtype: Dtype of the statistics.
    """

    def __init__(
        self, mean: TensorLike, std: TensorLike, dtype: DType = "float32", *, name: str = "normalize"
    ) -> None:
        parameters = dict(locals())
        mean = np.asarray(mean, dtype)
        std = np.asarray(std, dtype)
        if mean.shape != std.shape or not np.all(std > 0):
            got = f"Got a mean of shape {mean.shape} and a std of shape {std.shape}"
            raise ValueError(f"{got}. They must have the same shape, and every std must be positive.")
        super().__init__({"mean": mean, "std": std}, mean.ndim, dtype, parameters, name)

    @classmethod
    def _is_increasing(cls):
        return True

    def _forward(self, x):
        return checked_shape(x.shape, (x - self._statistics["mean"]) / self._statistics["std"])

    def _inverse(self, y):
        return checked_shape(y.shape, y * self._statistics["std"] + self._statistics["mean"])

    def _forward_log_det_jacobian(self, x):
        std = self._statistics["std"]
        event = tf.shape(x)[tf.rank(x) - std.shape.rank :]
        copies = tf.reduce_prod(event) // std.shape.num_elements()
        return -tf.cast(copies, self.dtype) * tf.reduce_sum(tf.math.log(std))


class Whiten(WithStatistics):
    r"""Whitens vectors with this mean and covariance C: `y = C^{-1/2} (x - mean)` has mean 0 and covariance I.

    The symmetric square root ("ZCA" whitening) changes the vectors least. With the eigenvalues \\(\sigma_i^2\\) of
    C, \\(\log|\det J| = -\sum_i \log \sigma_i\\). Values are computed in float64. `statistics` has the variables
    "mean"; "std", the \\(\sigma_i\\); and "axes", the eigenvectors as columns. They are saved like those of
    `Normalize`.

    Args:
      mean: Array-like `[size]`.
      covariance: Array-like `[size, size]`, symmetric and positive definite.
      dtype: Dtype of the vectors.

    References:
      Kessy, Lewin and Strimmer, Optimal whitening and decorrelation, 2018.
    """

    _order = 2.0

    def __init__(
        self, mean: TensorLike, covariance: TensorLike, dtype: DType = "float32", *, name: str = "whiten"
    ) -> None:
        parameters = dict(locals())
        super().__init__(_principal_axes(mean, covariance), 1, dtype, parameters, name)

    def assign(self, mean: TensorLike, covariance: TensorLike) -> None:
        """Sets the statistics from another mean and covariance."""
        for key, value in _principal_axes(mean, covariance).items():
            self._statistics[key].assign(value)

    def _scaled(self, x, factors):
        axes = self._statistics["axes"]
        return tf.linalg.matvec(axes, factors * tf.linalg.matvec(axes, x, transpose_a=True))

    def _forward(self, x):
        centered = tf.cast(x, tf.float64) - self._statistics["mean"]
        return tf.cast(self._scaled(centered, 1.0 / self._statistics["std"]), x.dtype)

    def _inverse(self, y):
        centered = self._scaled(tf.cast(y, tf.float64), self._statistics["std"])
        return tf.cast(centered + self._statistics["mean"], y.dtype)

    def _forward_log_det_jacobian(self, x):
        return tf.cast(-tf.reduce_sum(tf.math.log(self._statistics["std"])), x.dtype)


def _principal_axes(mean, covariance):
    mean = np.asarray(mean, np.float64)
    covariance = np.asarray(covariance, np.float64)
    if mean.ndim != 1 or covariance.shape != 2 * mean.shape or not np.allclose(covariance, covariance.T):
        raise ValueError(
            f"Whiten got a mean and a covariance of shapes {mean.shape} and {covariance.shape}. It needs a mean "
            "[size] and a finite, symmetric covariance [size, size]."
        )
    variances, axes = np.linalg.eigh(covariance)
    if not variances[0] > 0:
        raise ValueError(
            f"The smallest eigenvalue of the covariance is {variances[0]:.3g}; the covariance must be positive "
            "definite. Leave out columns that depend on other columns."
        )
    return {"mean": mean, "std": np.sqrt(variances), "axes": axes}


class Squeeze2D(FlowBijector):
    """Turns each f x f patch of a channel into f^2 channels: `[H, W, C]` to `[H / f, W / f, C f^2]`.

    Channel `c f^2 + dy f + dx` of the output holds pixel `(dy, dx)` of the patch in channel c.

    Args:
      factor: The factor f, an `int` of at least 2.

    References:
      Dinh et al., Density estimation using Real NVP, 2017, Section 3.6.
    """

    ends_scale = True

    def __init__(self, factor: int = 2, *, name: str = "squeeze_2d") -> None:
        parameters = dict(locals())
        self._factor = factor
        super().__init__(forward_min_event_ndims=3, is_constant_jacobian=True, parameters=parameters, name=name)

    def _stretch_bounds(self, certified, bound):
        return StretchBounds(1.0, 1.0)  # it permutes coordinates

    def _forward(self, x):
        f = self._factor
        shape = self._forward_event_shape(x.shape)
        h, w, c = tf.unstack(tf.shape(x)[-3:])
        y = tf.transpose(tf.reshape(x, [-1, h // f, f, w // f, f, c]), [0, 1, 3, 5, 2, 4])
        return tf.ensure_shape(tf.reshape(y, self._forward_event_shape_tensor(tf.shape(x))), shape)

    def _inverse(self, y):
        f = self._factor
        shape = self._inverse_event_shape(y.shape)
        h, w, c = tf.unstack(tf.shape(y)[-3:])
        x = tf.transpose(tf.reshape(y, [-1, h, w, c // (f * f), f, f]), [0, 1, 4, 2, 5, 3])
        return tf.ensure_shape(tf.reshape(x, self._inverse_event_shape_tensor(tf.shape(y))), shape)

    def _forward_log_det_jacobian(self, x):
        return tf.zeros([], x.dtype)

    def _forward_event_shape(self, shape):
        *outer, h, w, c = tf.TensorShape(shape).with_rank_at_least(3).as_list()
        f = self._factor
        if (h or 0) % f or (w or 0) % f:
            got = f"Squeeze2D({f}) got images of {h} x {w} pixels"
            raise ValueError(f"{got}; height and width must be multiples of {f}. Crop or pad the images.")
        return tf.TensorShape([*outer, h and h // f, w and w // f, c and c * f * f])

    def _inverse_event_shape(self, shape):
        *outer, h, w, c = tf.TensorShape(shape).with_rank_at_least(3).as_list()
        f = self._factor
        return tf.TensorShape([*outer, h and h * f, w and w * f, c and c // (f * f)])

    def _forward_event_shape_tensor(self, shape):
        f = self._factor
        return tf.concat([shape[:-3], shape[-3:] // [f, f, 1] * [1, 1, f * f]], 0)

    def _inverse_event_shape_tensor(self, shape):
        f = self._factor
        return tf.concat([shape[:-3], shape[-3:] * [f, f, 1] // [1, 1, f * f]], 0)
