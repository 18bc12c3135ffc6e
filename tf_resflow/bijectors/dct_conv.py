"""Convolution in the domain of the cosine transform, which can be initialized to whiten images."""

import numpy as np
import tensorflow as tf
from scipy import fft

from tf_resflow.bijectors.base import LipschitzConstants
from tf_resflow.bijectors.parametrized import VariableBijector
from tf_resflow.typing import DType, Shape, TensorLike

_LEAST_VARIANCE, _LEAST_SHARE = 1e-6, 1e-4  # added to the variance of a channel, absolute and relative


class DCTConv(VariableBijector):
    r"""Mixes the channels of images per frequency: `y = T^{-1} W T x`, with the discrete cosine transform T.

    T is the orthonormal DCT-II of the rows and columns of each channel. W mixes the C channels of each frequency
    \\(f\\): \\(W_f = \mathrm{diag}(e^{s_f}) (I + L_f)\\) with strictly lower triangular \\(L_f\\), so
    \\(\log|\det J| = \sum_f \sum_c s_{fc}\\). L and s are trained. They are the lower part and the diagonal of one
    array; its upper part is not used. `forward` maps data to latent, unlike in distrax and FlowJAX.

    The initial map is the identity. After `initialize`, a normal base has about the likelihood of a normal
    distribution with full covariance, because the frequencies of natural images are almost uncorrelated.

    Args:
      event_shape: `[H, W, C]`.
      dtype: of the variables.

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
          x: the batch, `[batch, ..., H, W, C]`.
          inverse: whether to whiten `inverse(x)` instead.
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

    _initialize = initialize

    def _lipschitz_constants(self, certified, bound):
        lower = self.lower.numpy().astype(np.float64)
        scale = np.exp(np.einsum("hwcc->hwc", lower))
        matrices = scale[..., np.newaxis] * (np.tril(lower, -1) + np.eye(lower.shape[-1]))
        singular = np.linalg.svd(matrices, compute_uv=False)
        return LipschitzConstants(float(singular.max()), float(1.0 / singular.min()), order=2.0)

    def _transform(self, x, inverse=False):
        """Returns the coefficients of images x, or with `inverse` the images of coefficients x."""
        rows, columns = (tf.constant(part.T if inverse else part, x.dtype) for part in self._cosines)
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
