"""The classifier of a hybrid model, with a head for each scale of the flow."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_resflow import bijectors
from tf_resflow.flows.networks import network_policy
from tf_resflow.serialization import SerializableLayer
from tf_resflow.typing import TensorLike


class ActNormLayer(SerializableLayer):
    """`tf_resflow.bijectors.ActNorm` as a Keras layer: `exp(log_scale) (x + shift)`, per channel."""

    def __init__(self, channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channels = channels
        self.act_norm = bijectors.ActNorm([channels], dtype=self.variable_dtype, name=self.name)
        self._parameters = self.act_norm.keras_variables
        self.built = True

    def call(self, inputs: TensorLike) -> tf.Tensor:
        return tf.cast(self.act_norm.forward(tf.cast(inputs, self.variable_dtype)), self.compute_dtype)


def multiscale_classifier(
    feature_shapes: Sequence[Sequence[int | None]],
    num_classes: int,
    num_features: int = 256,
    *,
    seed: int = 0,
    dtype: str | None = None,
) -> keras.Model:
    """Builds a classifier with a head for each feature of a flow, and a linear layer from all heads to the logits.

    A head is a 3x3 convolution, an ActNorm, a ReLU, and a global average pooling.

    ```python
    import tensorflow as tf
    import tf_resflow as resflow
    flow = resflow.flows.image_flow((8, 8, 1), num_blocks=(1, 1), width=8, num_fc_blocks=0)
    shapes = flow.feature_shapes((8, 8, 1))
    classifier = resflow.flows.multiscale_classifier(shapes, num_classes=10)
    images = tf.fill([5, 8, 8, 1], 0.5)
    features = resflow.bijectors.forward_features(flow, images, compute_log_det=False).features
    print(classifier(features).shape)
    # (5, 10)
    ```

    Args:
      feature_shapes: list of `(H, W, C)`, such as the result of the flow's method `feature_shapes`.
      num_features: number of channels of each head.
      seed: `int` seed for the kernels.
      dtype: dtype of the parameters and computations; `None` for the variable dtype of Keras's global policy.

    Returns:
      A built `keras.Model` that maps the list of features to logits `[batch, num_classes]`.

    References:
      Chen et al. 2019, Section 5.3 and its appendix on hybrid modeling.
    """
    dtype = network_policy(dtype).variable_dtype
    seeds = np.random.default_rng(seed)

    def options(kind, name):
        kernel = kind(seed=int(seeds.integers(2**31)))
        return {"kernel_initializer": kernel, "dtype": dtype, "name": name}

    inputs = [keras.Input(shape, dtype=dtype, name=f"scale{i}") for i, shape in enumerate(feature_shapes)]
    pooled = []
    for i, x in enumerate(inputs):
        conv = options(keras.initializers.HeNormal, f"scale{i}_conv")
        x = keras.layers.Conv2D(num_features, 3, padding="same", **conv)(x)
        x = ActNormLayer(num_features, dtype=dtype, name=f"scale{i}_act_norm")(x)
        x = keras.layers.ReLU(dtype=dtype)(x)
        pooled.append(keras.layers.GlobalAveragePooling2D(dtype=dtype)(x))
    x = keras.layers.Concatenate(dtype=dtype)(pooled)
    linear = options(keras.initializers.GlorotUniform, "logits")
    classifier = keras.Model(inputs, keras.layers.Dense(num_classes, **linear)(x), name="classifier")
    # Otherwise the model casts its inputs to the dtype of its own policy, not of its layers' policy.
    classifier.autocast = False
    return classifier
