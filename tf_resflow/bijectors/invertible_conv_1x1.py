"""The invertible 1x1 convolution of Glow."""

import numpy as np
import scipy.linalg
import tensorflow as tf

from tf_resflow.bijectors.base import LipschitzConstants
from tf_resflow.bijectors.parametrized import VariableBijector
from tf_resflow.typing import DType

_EXCESS = 1.0 + 1e-9  # covers the rounding error of a norm in float64


class InvertibleConv1x1(VariableBijector):
    r"""Multiplies the channels x of each pixel by a trained matrix: `y = W x`.

    \\(W = P (I + L) (U + \mathrm{diag}(e^s))\\) with strictly triangular L and U, and
    \\(\log|\det J| = H W \sum_c s_c\\) for images `[H, W, C]`. L, s and U are trained, and stored in one matrix. P
    is a fixed permutation with fixed signs. The initial W is a random rotation. An event is the channels of a
    pixel; TFP sums over the pixels of an image. `forward` maps data to latent, unlike in distrax and FlowJAX.

    Args:
      num_channels: C.
      seed: `int`, seed of the rotation.
      dtype: of the variables.

    References:
      Kingma and Dhariwal, Glow, 2018, Section 3.2.
    """

    def __init__(
        self, num_channels: int, seed: int = 0, dtype: DType = "float32", *, name: str = "invertible_conv_1x1"
    ) -> None:
        parameters = dict(locals())
        self._event_shape = tf.TensorShape([num_channels])
        values = _factors(_rotation(num_channels, seed))
        super().__init__(values, dtype, frozen=("permutation",), parameters=parameters, name=name)

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

    def _lipschitz_constants(self, certified, bound):
        matrix = self.lower_upper.numpy().astype(np.float64)
        eye, diagonal = np.eye(len(matrix)), np.diag(np.exp(np.diag(matrix)))
        lower, upper = np.tril(matrix, -1) + eye, np.triu(matrix, 1) + diagonal
        inverse = scipy.linalg.solve_triangular(upper, scipy.linalg.solve_triangular(lower, eye, lower=True))
        forward, backward = (float(np.linalg.norm(part, 2)) * _EXCESS for part in (lower @ upper, inverse))
        return LipschitzConstants(forward, backward, order=2.0)

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
    lower, upper = signs[:, np.newaxis] * lower * signs, signs[:, np.newaxis] * upper
    lower_upper = np.tril(lower, -1) + np.diag(np.log(np.diag(upper))) + np.triu(upper, 1)
    return {"permutation": permutation * signs, "lower_upper": lower_upper}
