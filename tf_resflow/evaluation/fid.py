"""The Fréchet distance between two sets of features: FID if they are those of Inception-v3."""

import warnings

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from tf_resflow.typing import TensorLike

_SIZE = 299  # of the images that Inception takes


class FeatureMoments:
    """Accumulates the mean and the covariance of features batch by batch, in float64.

    ```python
    import numpy as np
    import tf_resflow as resflow
    moments = resflow.evaluation.FeatureMoments()
    for batch in np.array([[[0.0], [2.0]], [[4.0], [6.0]]]):
        moments.update(batch)
    print(moments.num, moments.mean, moments.covariance)
    # 4 [3.] [[6.66666667]]
    ```

    Attributes:
      num: number of examples so far.
      mean: their mean `[size]`.
      scatter: the sum of (x - mean)(x - mean)' over them, `[size, size]`.

    References:
      Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances" (1979).
    """

    def __init__(self) -> None:
        self.num = 0
        self.mean = self.scatter = np.zeros(())

    def update(self, features: ArrayLike) -> None:
        """Adds features `[batch, size]`."""
        features = np.asarray(features, np.float64)
        num, mean = len(features), features.mean(axis=0)
        centered, step = features - mean, mean - self.mean
        total = self.num + num
        update = centered.T @ centered + np.outer(step, step) * (self.num * num / total)
        self.scatter = self.scatter + update
        self.mean = self.mean + step * (num / total)
        self.num = total

    @property
    def covariance(self) -> np.ndarray:
        """The sample covariance `[size, size]`."""
        return self.scatter / (self.num - 1)


def frechet_distance(first: FeatureMoments, second: FeatureMoments) -> float:
    r"""The squared 2-Wasserstein distance of the two normal distributions with these moments.

        d^2 = |m_1 - m_2|^2 + tr S_1 + tr S_2 - 2 tr (S_1 S_2)^(1/2)

    The estimate from n examples is biased upwards by an amount that falls like 1 / n and depends on the model, so
    compare only values for the same n.

    Warns:
      UserWarning: if there are no more examples than features, which makes a covariance singular.

    References:
      Heusel et al., "GANs Trained by a Two Time-Scale Update Rule" (2017), equation 6.
      Chong and Forsyth, "Effectively Unbiased FID" (2020), on the bias.
    """
    covariances = [first.covariance, second.covariance]
    if (num := min(first.num, second.num)) <= len(first.mean):
        warnings.warn(
            f"{num} examples have a singular covariance of {len(first.mean)} features, so their Fréchet distance "
            "is far too large: use more examples.",
            stacklevel=2,
        )
    # With factors S = F F' the last trace is the sum of the singular values of F_1' F_2.
    roots = [np.linalg.eigh(covariance) for covariance in covariances]
    factors = [vectors * np.sqrt(np.maximum(values, 0.0)) for values, vectors in roots]
    cross = np.linalg.svd(factors[0].T @ factors[1], compute_uv=False).sum()
    traces = sum(np.trace(covariance) for covariance in covariances)
    distance = np.sum((first.mean - second.mean) ** 2) + traces - 2.0 * cross
    return float(max(distance, 0.0))


class InceptionFeatures:
    """The 2,048 features of the last pooling layer of Inception-v3.

    Images are scaled to [-1, 1] and resized to 299 x 299 (bilinear, without antialiasing); a single channel is
    repeated three times.

    The weights of Keras differ from those behind the FID in the literature. Distances in these features rank
    models, but cannot be compared with published ones, unless you pass a file of the original weights.

    Args:
      levels: number of levels of the images.
      weights: of `keras.applications.InceptionV3(include_top=False)`: "imagenet", which Keras downloads once; a
        file; or `None` for random weights.

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
        """The features `[batch, 2048]` of integer images `[batch, height, width, 1 or 3]`."""
        return self._features(tf.convert_to_tensor(images)).numpy()
