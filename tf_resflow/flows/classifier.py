"""The classifier of a hybrid model, with a head for each scale of the flow."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_resflow import bijectors
from tf_resflow._internal.serialization import SerializableLayer
from tf_resflow._internal.typing import TensorLike
from tf_resflow.flows.networks import network_policy
from tf_resflow.layers.attributes import variables_of


class ActNormLayer(SerializableLayer):
    """`tf_resflow.bijectors.ActNorm` as a Keras layer: `exp(log_scale) (x + shift)`, per channel."""

    def __init__(self, channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channels = channels
        self.act_norm = bijectors.ActNorm([channels], dtype=self.variable_dtype, name=self.name)
        self._parameters = variables_of(self.act_norm)
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

    A head is a 3x3 convolution, an ActNorm, a ReLU, and a global average pooling. See `tf_resflow.HybridModel` for
    an example and references.

    Args:
      feature_shapes: List of `(H, W, C)`, such as the result of the flow's method `feature_shapes`.
      num_features: Number of channels of each head.
      seed: `int` seed for the kernels.
      dtype: Dtype of the parameters and computations; `None` for the variable dtype of Keras's global policy.

    Returns:
      A built `keras.Model` that maps the list of features to logits `[batch, num_classes]`.
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
