"""Trained linear and affine maps without networks: ActNorm, DCTConv and InvertibleConv1x1."""

from collections.abc import Collection, Mapping
from typing import Any

import keras
import numpy as np
import scipy.linalg
import tensorflow as tf
from scipy import fft

from tf_resflow._internal.private_api import track, untracked
from tf_resflow._internal.typing import DType, Shape, TensorLike
from tf_resflow.bijectors.base import FlowBijector, StretchBounds
from tf_resflow.bijectors.networks import checked_shape, share_trainable

_LEAST_VARIANCE = 1e-6  # added to the variance of a channel
_LEAST_SHARE = 1e-4  # of the variance of a channel, added to it
_EXCESS = 1.0 + 1e-9  # covers the rounding error of a norm in float64


class VariableBijector(FlowBijector):
    """A bijector of events of `_event_shape` that owns Keras variables. Those in `untrained` are not trained."""

    def __init__(
        self, values: Mapping[str, Any], dtype: DType, untrained: Collection[str] = (), **kwargs: Any
    ) -> None:
        super().__init__(dtype=tf.as_dtype(dtype), forward_min_event_ndims=self._event_shape.rank, **kwargs)
        variables = {}
        for key, value in values.items():
            options = {"trainable": key not in untrained, "autocast": False, "name": f"{self.name}_{key}"}
            variables[key] = keras.Variable(value, dtype=dtype, **options)
        self._keras_variables = untracked(variables)
        self._tf_variables = untracked({key: share_trainable(v) for key, v in variables.items()})
        # Checkpoints since version 0.1 contain the variables under this key.
        track(self, "_affine", self._tf_variables)

    def _get_parameterization(self):
        # Otherwise bijectors with equal arguments would share a cache, although their variables differ.
        return id(self)

    def _value(self, key):
        """Returns the `tf.Variable`, or the tensor that replaces it in a `keras.StatelessScope`."""
        return self._keras_variables[key].value


class ActNorm(VariableBijector):
    r"""Affine map per channel or per element of an event: `y = exp(log_scale) (x + shift)`.

    \\(\log|\det J| = n \sum_c \mathrm{log\_scale}_c\\), with n positions per channel. The initial map is the
    identity.

    Args:
      event_shape: Shape of an event, channels last.
      per_channel: Whether all positions of an event share the parameters of their channel.
      dtype: Dtype of the variables.

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
          x: The batch, `[batch, ..., *event]`.
          inverse: Whether to normalize `inverse(x)` instead.
        """
        x = tf.convert_to_tensor(x, self.dtype)
        mean, variance = tf.nn.moments(x, list(range(x.shape.rank - self.shift.shape.rank)))
        log_deviation = 0.5 * tf.math.log(tf.maximum(variance, 1e-6))
        self.shift.assign(tf.exp(-log_deviation) * mean if inverse else -mean)
        self.log_scale.assign(log_deviation if inverse else -log_deviation)

    def _stretch_bounds(self, certified, bound):
        scale = np.exp(self.log_scale.numpy().astype(np.float64))
        return StretchBounds(float(scale.max()), float(1.0 / scale.min()))

    def _forward(self, x):
        return checked_shape(x.shape, tf.exp(self.log_scale) * (x + self.shift))

    def _inverse(self, y):
        return checked_shape(y.shape, tf.exp(-self.log_scale) * y - self.shift)

    def _forward_log_det_jacobian(self, x):
        rank = self.forward_min_event_ndims
        positions = tf.reduce_prod(tf.shape(x)[tf.rank(x) - rank :]) // tf.size(self.shift)
        return tf.cast(positions, self.dtype) * tf.reduce_sum(self.log_scale)


class DCTConv(VariableBijector):
    r"""Mixes the channels of images per frequency: `y = T^{-1} W T x`, with the discrete cosine transform T.

    T is the orthonormal DCT-II of the rows and columns of each channel. W mixes the C channels of each frequency
    \\(f\\): \\(W_f = \mathrm{diag}(e^{s_f}) (I + L_f)\\) with strictly lower triangular \\(L_f\\), so
    \\(\log|\det J| = \sum_f \sum_c s_{fc}\\). L and s are trained. They are the lower part and the diagonal of one
    array; its upper part is not used.

    The initial map is the identity. After `initialize`, a normal base has about the likelihood of a normal
    distribution with full covariance, because the frequencies of natural images are almost uncorrelated.

    Args:
      event_shape: `[H, W, C]`.
      dtype: Dtype of the variables.

    References:
      Hoogeboom, van den Berg, Welling, Emerging convolutions for generative normalizing flows, 2019, Section 3.2
        (in the Fourier domain; cosines have reflecting instead of periodic boundaries).
    """

    def __init__(self, event_shape: Shape, dtype: DType = "float32", *, name: str = "dct_conv") -> None:
        parameters = dict(locals())
        self._event_shape = tf.TensorShape(event_shape)
        height, width, channels = event_shape
        self._cosines = [fft.dct(np.eye(size), axis=0, norm="ortho") for size in (height, width)]
        values = {"lower": np.zeros([height, width, channels, channels])}
        super().__init__(values, dtype, parameters=parameters, name=name)

    @property
    def lower(self) -> tf.Variable:
        """A `tf.Variable` `[H, W, C, C]` with L below the diagonal and s on it."""
        return self._value("lower")

    def initialize(self, x: TensorLike, inverse: bool = False) -> None:
        """Sets the parameters so that each frequency of `forward(x)` has nearly the covariance I.

        To keep it nonsingular, 1e-4 of the diagonal plus 1e-6 is added to the diagonal of the batch's covariance.

        Args:
          x: The batch, `[batch, ..., H, W, C]`.
          inverse: Whether to whiten `inverse(x)` instead.
        """
        x = tf.reshape(tf.convert_to_tensor(x, self.dtype), [-1, *self._event_shape])
        frequencies = self._transform(x).numpy().astype(np.float64)
        centered = frequencies - frequencies.mean(axis=0)
        covariance = np.einsum("nhwc,nhwd->hwcd", centered, centered) / len(centered)
        channels = covariance.shape[-1]
        ridge = _LEAST_VARIANCE + _LEAST_SHARE * np.einsum("hwcc->hwc", covariance)
        covariance += ridge[..., np.newaxis] * np.eye(channels)
        factor = np.linalg.cholesky(covariance)
        factor = factor if inverse else np.linalg.inv(factor)
        scale = np.einsum("hwcc->hwc", factor)
        lower = np.tril(factor / scale[..., np.newaxis], -1)
        self.lower.assign(lower + np.log(scale)[..., np.newaxis] * np.eye(channels))

    def _stretch_bounds(self, certified, bound):
        lower = self.lower.numpy().astype(np.float64)
        scale = np.exp(np.einsum("hwcc->hwc", lower))
        matrices = scale[..., np.newaxis] * (np.tril(lower, -1) + np.eye(lower.shape[-1]))
        singular = np.linalg.svd(matrices, compute_uv=False)
        return StretchBounds(float(singular.max()), float(1.0 / singular.min()), order=2.0)

    def _transform(self, x, inverse=False):
        """Returns the coefficients of images x, or with `inverse` the images of coefficients x."""
        rows, columns = (tf.constant(basis.T if inverse else basis, x.dtype) for basis in self._cosines)
        return tf.einsum("ih,jw,...hwc->...ijc", rows, columns, x)

    def _triangle(self):
        scale = tf.linalg.diag_part(self.lower)
        return tf.linalg.set_diag(tf.linalg.band_part(self.lower, -1, 0), tf.ones_like(scale))

    def _forward(self, x):
        mixed = tf.einsum("hwcd,...hwd->...hwc", self._triangle(), self._transform(x))
        scale = tf.exp(tf.linalg.diag_part(self.lower))
        return tf.ensure_shape(self._transform(scale * mixed, inverse=True), x.shape)

    def _inverse(self, y):
        scale = tf.exp(-tf.linalg.diag_part(self.lower))
        unmix = tf.linalg.triangular_solve(self._triangle(), tf.eye(y.shape[-1], dtype=y.dtype))
        frequencies = tf.einsum("hwcd,...hwd->...hwc", unmix, scale * self._transform(y))
        return tf.ensure_shape(self._transform(frequencies, inverse=True), y.shape)

    def _forward_log_det_jacobian(self, x):
        return tf.reduce_sum(tf.linalg.diag_part(self.lower))


class InvertibleConv1x1(VariableBijector):
    r"""Multiplies the channels x of each pixel by a trained matrix: `y = W x`.

    \\(W = P (I + L) (U + \mathrm{diag}(e^s))\\) with strictly triangular L and U, and
    \\(\log|\det J| = H W \sum_c s_c\\) for images `[H, W, C]`. L, s and U are trained, and stored in one matrix. P
    is a fixed permutation with fixed signs. The initial W is a random rotation. An event is the channels of a
    pixel; TFP sums over the pixels of an image.

    Args:
      num_channels: C.
      seed: `int`, seed of the rotation.
      dtype: Dtype of the variables.

    References:
      Kingma and Dhariwal, Glow, 2018, Section 3.2.
    """

    def __init__(
        self, num_channels: int, seed: int = 0, dtype: DType = "float32", *, name: str = "invertible_conv_1x1"
    ) -> None:
        parameters = dict(locals())
        self._event_shape = tf.TensorShape([num_channels])
        values = _factors(_rotation(num_channels, seed))
        super().__init__(values, dtype, untrained=("permutation",), parameters=parameters, name=name)

    @property
    def permutation(self) -> tf.Variable:
        """The permutation P, a `tf.Variable` `[C, C]`."""
        return self._value("permutation")

    @property
    def lower_upper(self) -> tf.Variable:
        """A `tf.Variable` `[C, C]` with L below the diagonal, s on it, and U above it."""
        return self._value("lower_upper")

    def weight(self) -> tf.Tensor:
        """Returns W `[C, C]`, from the input channels (columns) to the output channels (rows)."""
        lower, upper = self._triangles()
        return self.permutation @ lower @ upper

    def _stretch_bounds(self, certified, bound):
        matrix = self.lower_upper.numpy().astype(np.float64)
        eye = np.eye(len(matrix))
        lower = np.tril(matrix, -1) + eye
        upper = np.triu(matrix, 1) + np.diag(np.exp(np.diag(matrix)))
        inverse = scipy.linalg.solve_triangular(upper, scipy.linalg.solve_triangular(lower, eye, lower=True))
        stretch = float(np.linalg.norm(lower @ upper, 2)) * _EXCESS
        stretch_of_inverse = float(np.linalg.norm(inverse, 2)) * _EXCESS
        return StretchBounds(stretch, stretch_of_inverse, order=2.0)

    def _triangles(self):
        matrix = self.lower_upper
        diagonal = tf.linalg.diag_part(matrix)
        lower = tf.linalg.set_diag(tf.linalg.band_part(matrix, -1, 0), tf.ones_like(diagonal))
        upper = tf.linalg.set_diag(tf.linalg.band_part(matrix, 0, -1), tf.exp(diagonal))
        return lower, upper

    def _forward(self, x):
        return self._mix(x, self.weight())

    def _inverse(self, y):
        lower, upper = self._triangles()
        inverse = tf.linalg.triangular_solve(lower, tf.transpose(self.permutation))
        inverse = tf.linalg.triangular_solve(upper, inverse, lower=False)
        return self._mix(y, inverse)

    def _mix(self, x, matrix):
        return tf.ensure_shape(tf.tensordot(x, matrix, [[-1], [1]]), x.shape)

    def _forward_log_det_jacobian(self, x):
        return tf.linalg.trace(self.lower_upper)


def _rotation(size, seed):
    """Returns a uniformly distributed orthogonal matrix with determinant 1."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=[size, size]))
    q *= np.sign(np.diag(r))
    q[:, 0] *= np.sign(np.linalg.det(q))
    return q


def _factors(weight):
    """Returns P, and one matrix of L, s and U, with `weight = P (I + L) (U + diag(e^s))`.

    With S the signs of the diagonal of U in an LU factorization, P L U = (P S) (S L S) (S U).
    """
    permutation, lower, upper = scipy.linalg.lu(weight)
    signs = np.sign(np.diag(upper))
    lower = signs[:, np.newaxis] * lower * signs
    upper = signs[:, np.newaxis] * upper
    lower_upper = np.tril(lower, -1) + np.diag(np.log(np.diag(upper))) + np.triu(upper, 1)
    return {"permutation": permutation * signs, "lower_upper": lower_upper}
