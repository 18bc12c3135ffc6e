"""A Gaussian baseline for density models, and the Fréchet distance between features, such as FID."""

import math
import warnings

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from tf_resflow._internal.typing import TensorLike

_CHUNK = 4096  # examples held in float64 at a time
_SIZE = 299  # height and width of Inception's input


class FeatureMoments:
    """Accumulates the mean and covariance of features batch by batch, in float64.

    Attributes:
      num: Number of examples so far.
      mean: Mean of the examples, `[size]`.
      scatter: Sum of (x - mean)(x - mean)' over the examples, `[size, size]`.

    References:
      Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances" (1979).
    """

    def __init__(self) -> None:
        self.num = 0
        self.mean = self.scatter = np.zeros(())

    def update(self, features: ArrayLike) -> None:
        """Adds features `[batch, size]`."""
        features = np.asarray(features, np.float64)
        num = len(features)
        mean = features.mean(axis=0)
        centered = features - mean
        step = mean - self.mean
        total = self.num + num
        update = centered.T @ centered + np.outer(step, step) * (self.num * num / total)
        self.scatter = self.scatter + update
        self.mean = self.mean + step * (num / total)
        self.num = total

    @property
    def covariance(self) -> np.ndarray:
        """The sample covariance `[size, size]`."""
        return self.scatter / (self.num - 1)


def gaussian_baseline(train: np.ndarray, test: np.ndarray, levels: int | None = None) -> float:
    r"""Fits a full-covariance Gaussian to the training data and returns its held-out score.

    Integer data are dequantized: \\(x = (v + u) / L\\) with \\(u \sim U(0, 1)^D\\). Both expectations over \\(u\\)
    have a closed form. The noise adds \\(I / (12 L^2)\\) to the covariance, and
    \\(\mathrm{tr}(S^{-1}) / (12 L^2)\\) to the expected square \\(E_u[(x - m)^T S^{-1} (x - m)]\\) of a
    test example.

    Args:
      train: Array `[num_train, ...]`, integers if `levels` is given.
      test: Array `[num_test, ...]`.
      levels: Number of levels of integer data; `None` for continuous data.

    Returns:
      The mean negative log-likelihood of `test`: bits/dim if `levels` is given, else nats.

    Raises:
      ValueError: If the covariance is singular up to rounding.
    """
    size = math.prod(train.shape[1:])
    moments = FeatureMoments()
    for x in _chunks(train, levels, size):
        moments.update(x)
    noise = 0.0 if levels is None else 1 / (12 * levels**2)
    covariance = moments.scatter / moments.num + noise * np.eye(size)
    variance = np.diag(covariance)
    eps = np.finfo(train.dtype).eps if train.dtype.kind == "f" else 0.0
    # Rounding of the data and of float64 sums adds this variance to each coordinate.
    rounding = eps**2 * (moments.mean**2 + variance) + math.sqrt(len(train)) * np.finfo(np.float64).eps * variance
    try:
        np.linalg.cholesky(covariance - size * np.diag(rounding))
    except np.linalg.LinAlgError:
        raise ValueError(
            f"The covariance of {len(train):,} training examples with {size:,} columns is singular up to rounding. "
            "Remove constant or dependent columns, or pass more examples."
        ) from None
    factor = np.linalg.cholesky(covariance)
    inverse = np.linalg.inv(factor)
    squares = sum(np.sum(((x - moments.mean) @ inverse.T) ** 2) for x in _chunks(test, levels, size))
    square = squares / len(test) + noise * np.sum(inverse**2)
    nats = 0.5 * (square + size * math.log(2 * math.pi)) + np.sum(np.log(np.diag(factor)))
    return float(nats if levels is None else nats / (size * math.log(2)) + math.log2(levels))


def _chunks(examples, levels, size):
    """Yields the examples as float64 rows. Integers become the centers of their cells in the unit cube."""
    for start in range(0, len(examples), _CHUNK):
        x = examples[start : start + _CHUNK].reshape(-1, size).astype(np.float64)
        yield x if levels is None else (x + 0.5) / levels


def frechet_distance(first: FeatureMoments, second: FeatureMoments) -> float:
    r"""Returns the squared 2-Wasserstein distance between the normal distributions with these moments.

        d^2 = |m_1 - m_2|^2 + tr S_1 + tr S_2 - 2 tr (S_1 S_2)^(1/2)

    The estimate from n examples is biased upward. The bias falls like 1 / n and depends on the model, so compare
    only values for the same n.

    Warns:
      UserWarning: if a set has no more examples than features, which makes its covariance singular.

    References:
      Heusel et al., "GANs Trained by a Two Time-Scale Update Rule" (2017), equation 6.
      Chong and Forsyth, "Effectively Unbiased FID" (2020), on the bias.
    """
    covariances = [first.covariance, second.covariance]
    num = min(first.num, second.num)
    if num <= len(first.mean):
        warnings.warn(
            f"{num} examples have a singular covariance of {len(first.mean)} features, so the Fréchet distance "
            "is far too large. Use more examples than features.",
            stacklevel=2,
        )
    # If S = F F', the last trace is the sum of the singular values of F_1' F_2.
    roots = [np.linalg.eigh(covariance) for covariance in covariances]
    factors = [vectors * np.sqrt(np.maximum(values, 0.0)) for values, vectors in roots]
    cross = np.linalg.svd(factors[0].T @ factors[1], compute_uv=False).sum()
    traces = sum(np.trace(covariance) for covariance in covariances)
    distance = np.sum((first.mean - second.mean) ** 2) + traces - 2.0 * cross
    return float(max(distance, 0.0))


class InceptionFeatures:
    """Computes the 2,048 features of the last pooling layer of Inception-v3.

    Images are scaled to [-1, 1] and resized to 299 x 299 (bilinear, without antialiasing); a single channel is
    repeated three times. The weights in Keras differ from those used for FID in the literature. Distances in these
    features rank models. Compare them with published values only if `weights` is a file of the original weights.

    Args:
      levels: Number of levels of the images.
      weights: Weights of `keras.applications.InceptionV3(include_top=False)`: "imagenet", which Keras downloads
        once; a file; or `None` for random weights.

    References:
      Szegedy et al., "Rethinking the Inception Architecture for Computer Vision" (2016).
      Heusel et al., "GANs Trained by a Two Time-Scale Update Rule" (2017).
    """

    def __init__(self, levels: int = 256, weights: str | None = "imagenet"):
        settings = {"include_top": False, "input_shape": (_SIZE, _SIZE, 3), "pooling": "avg"}
        network = keras.applications.InceptionV3(weights=weights, **settings)

        @tf.function(autograph=False, reduce_retracing=True)
        def features(images):
            x = tf.image.resize(tf.cast(images, tf.float32) * (2.0 / (levels - 1)) - 1.0, [_SIZE, _SIZE])
            return network(tf.image.grayscale_to_rgb(x) if x.shape[-1] == 1 else x, training=False)

        self._features = features

    def __call__(self, images: TensorLike) -> np.ndarray:
        """Returns the features `[batch, 2048]` of integer images `[batch, height, width, 1 or 3]`."""
        return self._features(tf.convert_to_tensor(images)).numpy()
