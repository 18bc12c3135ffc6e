"""Features of images by Inception-v3, for FID."""

import keras
import numpy as np
import tensorflow as tf

from tf_resflow.typing import TensorLike

__all__ = ["InceptionFeatures"]

_SIZE = 299


class InceptionFeatures:
    """The 2,048 features of the last pooling layer of Inception-v3.

    Images are scaled to [-1, 1] and resized to 299 x 299 (bilinear, without antialiasing); a single channel is
    repeated three times.

    The weights of Keras differ from those behind the FID in the literature (TensorFlow's graph of December 2015,
    whose pooling also differs). Distances in these features rank models, but cannot be compared with published
    ones. For that, pass a file of the original weights, converted to this architecture.

    Args:
      levels: number of levels of the images.
      weights: "imagenet", which Keras downloads once; a file of weights of
        `keras.applications.InceptionV3(include_top=False)`; or `None` for random weights.

    Raises:
      ValueError: when the weights cannot be loaded.

    References:
      Szegedy et al., "Rethinking the Inception Architecture for Computer Vision" (2016).
      Heusel et al., "GANs Trained by a Two Time-Scale Update Rule" (2017).
    """

    def __init__(self, levels: int = 256, weights: str | None = "imagenet"):
        network = _network(weights)

        @tf.function(autograph=False, reduce_retracing=True)
        def features(images):
            return network(_preprocessed(images, levels), training=False)

        self._features = features

    def __call__(self, images: TensorLike) -> np.ndarray:
        """Computes the features.

        Args:
          images: `[batch, height, width, 1 or 3]` with values 0, ..., levels - 1.

        Returns:
          A float32 array `[batch, 2048]`.
        """
        return self._features(tf.convert_to_tensor(images)).numpy()


def _preprocessed(images, levels):
    x = tf.cast(images, tf.float32) * (2.0 / (levels - 1)) - 1.0
    x = tf.image.resize(x, [_SIZE, _SIZE])
    return tf.tile(x, [1, 1, 1, 3]) if x.shape[-1] == 1 else x


def _network(weights):
    try:
        return keras.applications.InceptionV3(
            include_top=False, weights=weights, input_shape=(_SIZE, _SIZE, 3), pooling="avg"
        )
    except Exception as error:  # Keras raises a bare Exception when a download fails.
        raise ValueError(
            f"The Inception weights {weights!r} cannot be loaded: {str(error).rstrip('.')}. Pass a file of weights "
            "of keras.applications.InceptionV3(include_top=False), or run where 'imagenet' can be downloaded."
        ) from error
