"""Bijectors without trained parameters between the data and the first block: Logit, Normalize, Whiten."""

import math

import numpy as np
import tensorflow as tf

from tf_resflow.bijectors.base import Context, FlowBijector, LipschitzConstants, Pass
from tf_resflow.bijectors.networks import check_unstretched
from tf_resflow.private_api import OnlyInSavedModels
from tf_resflow.typing import DType, TensorLike

__all__ = ["Logit", "Normalize", "Whiten"]


class Logit(FlowBijector):
    r"""`y = logit(alpha + (1 - 2 alpha) x)`, from [0, 1] to the reals.

    \\(\log|dy/dx| = \log(1 - 2\alpha) - \log s - \log(1 - s)\\) with \\(s = \alpha + (1 - 2\alpha) x\\). To
    avoid cancellation near x = 1, \\(1 - s\\) is computed as \\(\alpha + (1 - 2\alpha)(1 - x)\\).

    Args:
      alpha: `float` in (0, 0.5): 0.05 for natural images, 1e-6 for MNIST in the published runs.
      validate_args: whether to check that x lies in [0, 1].

    References:
      Dinh et al., Density estimation using Real NVP, 2017, Section 4.1.
    """

    def __init__(self, alpha: float = 0.05, *, validate_args: bool = False, name: str = "logit") -> None:
        parameters = dict(locals())
        if not 0 < alpha < 0.5:
            raise ValueError(f"alpha lies in (0, 0.5); got {alpha}.")
        self._alpha = alpha
        super().__init__(forward_min_event_ndims=0, validate_args=validate_args, parameters=parameters, name=name)

    @classmethod
    def _is_increasing(cls):
        return True

    def _lipschitz_constants(self, certified, bound):
        alpha = self._alpha  # on [0, 1] the slope is largest at the ends; that of the inverse is largest at 0
        return LipschitzConstants((1 - 2 * alpha) / (alpha * (1 - alpha)), 0.25 / (1 - 2 * alpha))

    def _log_odds(self, x):
        """The logarithms of s and of 1 - s."""
        checks = []
        if self.validate_args:
            message = "Logit takes values in [0, 1]: scale the data, or dequantize with x = (v + u) / levels."
            checks = [tf.debugging.assert_non_negative(x, message)]
            checks += [tf.debugging.assert_less_equal(x, tf.ones([], x.dtype), message)]
        with tf.control_dependencies([check for check in checks if check is not None]):
            s, rest = (self._alpha + (1 - 2 * self._alpha) * part for part in (x, 1 - x))
            return tf.math.log(s), tf.math.log(rest)

    def _forward(self, x):
        log_s, log_rest = self._log_odds(x)
        return log_s - log_rest

    def _inverse(self, y):
        return (tf.sigmoid(y) - self._alpha) / (1 - 2 * self._alpha)

    def inverse_pass(self, y: tf.Tensor, context: Context) -> Pass:
        """The `Pass` from y; its log-determinant is precise where the sigmoid rounds to 0 or 1."""
        x = self._inverse(y, **context.arguments)
        if not context.log_det:
            return Pass(x)
        return Pass(x, tf.math.log_sigmoid(y) + tf.math.log_sigmoid(-y) - math.log(1 - 2 * self._alpha))

    def _forward_log_det_jacobian(self, x):
        log_s, log_rest = self._log_odds(x)
        return math.log(1 - 2 * self._alpha) - log_s - log_rest


class Normalize(OnlyInSavedModels, FlowBijector):
    """`y = (x - mean) / std`, with statistics that broadcast against the event's last axes.

    They are variables, which are not trained. A `tf_resflow.FlowModel` saves them with its weights; in a checkpoint
    of the bijector alone they are not.

    Args:
      mean: array-like.
      std: array-like of the same shape, positive.
      dtype: of the statistics.

    Attributes:
      statistics: the variables "mean" and "std", a dict.
    """

    _only_in_saved_models = ("_mean", "_std")

    def __init__(
        self, mean: TensorLike, std: TensorLike, dtype: DType = "float32", *, name: str = "normalize"
    ) -> None:
        parameters = dict(locals())
        mean, std = np.asarray(mean, dtype), np.asarray(std, dtype)
        if mean.shape != std.shape:
            raise ValueError(f"mean and std have one shape; got {mean.shape} and {std.shape}.")
        if not np.all(std > 0):
            raise ValueError("Every std is positive. Leave out constant columns, or give them a std of 1.")
        with tf.init_scope():
            self._mean, self._std = (
                tf.Variable(value, trainable=False, name=f"{name}_{key}")
                for key, value in {"mean": mean, "std": std}.items()
            )
        super().__init__(
            forward_min_event_ndims=mean.ndim,
            dtype=tf.as_dtype(dtype),
            parameters=parameters,
            name=name,
        )

    def _get_parameterization(self):
        return id(self)  # see `VariableBijector`

    @property
    def statistics(self) -> dict[str, tf.Variable]:
        return {"mean": self._mean, "std": self._std}

    @classmethod
    def _is_increasing(cls):
        return True

    def _lipschitz_constants(self, certified, bound):
        std = self._std.numpy().astype(np.float64)
        return LipschitzConstants(float(1.0 / std.min()), float(std.max()))

    def _forward(self, x):
        check_unstretched(f"{self.name} maps events", x.shape, self._std.shape)
        return (x - self._mean) / self._std

    def _inverse(self, y):
        check_unstretched(f"{self.name} maps events", y.shape, self._std.shape)
        return y * self._std + self._mean

    def _forward_log_det_jacobian(self, x):
        event = tf.shape(x)[tf.rank(x) - self._std.shape.rank :]
        copies = tf.reduce_prod(event) // self._std.shape.num_elements()
        return -tf.cast(copies, self.dtype) * tf.reduce_sum(tf.math.log(self._std))


class Whiten(OnlyInSavedModels, FlowBijector):
    r"""`y = C^{-1/2} (x - mean)`: vectors of this mean and covariance C get mean 0 and the covariance I.

    The symmetric root, of "ZCA" whitening, is the one that moves vectors least. With the eigenvalues
    \\(\sigma_i^2\\) of C, \\(\log|\det J| = -\sum_i \log \sigma_i\\), and the Lipschitz constants of the map and
    of its inverse are \\(1 / \sigma_{\min}\\) and \\(\sigma_{\max}\\), in the Euclidean norm. It computes in
    float64.

    ```python
    import numpy as np
    import tf_resflow as resflow
    whiten = resflow.bijectors.Whiten([1.0, 2.0], [[4.0, 0.0], [0.0, 9.0]])
    print(whiten.forward([[3.0, 5.0]]).numpy())
    # [[1. 1.]]
    ```

    The statistics are variables, which are not trained. A `tf_resflow.FlowModel` saves them with its weights; in a
    checkpoint of the bijector alone they are not.

    Args:
      mean: array-like `[size]`.
      covariance: array-like `[size, size]`, symmetric and positive definite.
      dtype: of the vectors.

    Attributes:
      statistics: the variables "mean"; "std", the \\(\sigma_i\\); and "axes", the eigenvectors as columns: a dict.

    Raises:
      ValueError: if the shapes do not fit, or the covariance is not symmetric or not positive definite.

    References:
      Kessy, Lewin and Strimmer, Optimal whitening and decorrelation, 2018.
    """

    _only_in_saved_models = ("_statistics",)

    def __init__(
        self, mean: TensorLike, covariance: TensorLike, dtype: DType = "float32", *, name: str = "whiten"
    ) -> None:
        parameters = dict(locals())
        with tf.init_scope():
            self._statistics = {
                key: tf.Variable(value, trainable=False, name=f"{name}_{key}")
                for key, value in _principal_axes(mean, covariance).items()
            }
        super().__init__(forward_min_event_ndims=1, dtype=tf.as_dtype(dtype), parameters=parameters, name=name)

    def assign(self, mean: TensorLike, covariance: TensorLike) -> None:
        """Sets the statistics to those of another mean and covariance."""
        for key, value in _principal_axes(mean, covariance).items():
            self._statistics[key].assign(value)

    def _get_parameterization(self):
        return id(self)  # see `VariableBijector`

    @property
    def statistics(self) -> dict[str, tf.Variable]:
        return dict(self._statistics)

    def _lipschitz_constants(self, certified, bound):
        std = self._statistics["std"].numpy()
        return LipschitzConstants(float(1.0 / std.min()), float(std.max()), order=2.0)

    def _scaled(self, x, factors):
        """Vectors in float64, multiplied along the principal axes."""
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
    """The statistics of a `Whiten`; a ValueError unless a normal distribution has this mean and covariance."""
    mean, covariance = np.asarray(mean, np.float64), np.asarray(covariance, np.float64)
    if mean.ndim != 1 or covariance.shape != 2 * mean.shape:
        raise ValueError(
            f"Whiten needs a mean [size] and a covariance [size, size]; got {mean.shape} and {covariance.shape}."
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all() and np.allclose(covariance, covariance.T)):
        raise ValueError("The mean and the covariance must be finite, and the covariance symmetric.")
    variances, axes = np.linalg.eigh(covariance)
    if not variances[0] > 0:
        raise ValueError(
            f"The covariance must be positive definite; its least eigenvalue is {variances[0]:.3g}. Leave out "
            "columns that depend on others, or add the variance of noise to its diagonal."
        )
    return {"mean": mean, "std": np.sqrt(variances), "axes": axes}
