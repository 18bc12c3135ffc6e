"""Networks that summarize an observation as a vector: of numbers, of a series or an image, and of a set."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tf_resflow._internal.functions import compressed

_LEAST_SERIES = 16  # shortest vector that may be a series
_LAGS = 8  # largest lag of the autocorrelations
_LEAST_SIZE = 4  # smallest side of the last image or series of a convolutional summary


def vector_summary(
    shape: Sequence[Any], *, num_linear: int = 0, seed: int = 0, dtype: str = "float32"
) -> keras.Model:
    """Returns a network with two hidden layers of 64 units, 32 outputs, and linear functions of the observation.

    The input has outliers on a logarithmic scale. A vector of at least 16 numbers may be a series. Then the layer
    "choice" selects whether these functions see the numbers themselves, or moments and autocorrelations.
    """
    x = keras.Input(shape, dtype=dtype)
    flat = keras.layers.Activation(compressed, dtype=dtype)(keras.layers.Flatten(dtype=dtype)(x))
    inputs = flat
    is_series = num_linear and len(shape) == 1 and shape[0] >= _LEAST_SERIES
    if is_series:
        statistics = _series_statistics(flat)
        flat, statistics = Choice(dtype=dtype, name="choice")([flat, statistics])
        inputs = keras.layers.Concatenate(dtype=dtype)([flat, statistics])
    features = _dense(inputs, (64, 64, 32), _initializers(seed), dtype)
    if is_series:
        features = keras.layers.Concatenate(dtype=dtype)([features, statistics])
    if num_linear:
        linear = keras.layers.Dense(
            num_linear, use_bias=False, kernel_initializer="zeros", dtype=dtype, name="linear"
        )
        features = keras.layers.Concatenate(dtype=dtype)([features, linear(flat)])
    return keras.Model(x, features, name="summary")


def convolutional_summary(shape: Sequence[int], *, seed: int = 0, dtype: str = "float32") -> keras.Model:
    """Returns a summary of a series `[time, channels]` or an image `[height, width, channels]`.

    Convolutions of width 5 with 32, 64, 64 and so on channels halve the sides, until the smallest is at most 4.
    Two dense layers follow.

    ```python
    import tf_resflow as resflow
    print(resflow.sbi.convolutional_summary([100, 2]).output_shape)
    # (None, 32)
    ```

    Args:
      shape: Shape of an observation.
      seed: Seed of the initial weights.
      dtype: Dtype of the layers: that of the parameters.
    """
    rank = len(shape) - 1
    initializers = _initializers(seed)
    if rank not in (1, 2):
        raise ValueError(f"The shape is {shape}. Give [time, channels] or [height, width, channels].")
    layer = keras.layers.Conv1D if rank == 1 else keras.layers.Conv2D
    h = x = keras.Input(shape, dtype=dtype)
    for i in range(max(1, math.ceil(math.log2(min(shape[:rank]) / _LEAST_SIZE)))):
        options = {"kernel_initializer": next(initializers), "strides": 2, "padding": "same", "dtype": dtype}
        h = layer(64 if i else 32, 5, activation="silu", **options)(h)
    features = _dense(keras.layers.Flatten(dtype=dtype)(h), (64, 32), initializers, dtype)
    return keras.Model(x, features, name="summary")


def set_summary(
    shape: Sequence[int], *, embedding: keras.Layer | None = None, seed: int = 0, dtype: str = "float32"
) -> keras.Model:
    r"""Returns a summary of any number of independent observations of the same parameters, `[num, *shape]`.

    The result is a network of \\(m, \sqrt n m\\) and \\(\log n\\), where m is the mean of the embeddings of n
    observations. So that one batch can hold sets of different sizes, elements that are all NaN are left out.

    ```python
    import numpy as np
    import tf_resflow as resflow
    summary = resflow.sbi.set_summary([2])
    x = np.float32([[[0.1, 0.2], [0.3, 0.4]], [[0.5, 0.6], [np.nan, np.nan]]])  # a set of two and a set of one
    print(summary(x).shape)
    # (2, 32)
    ```

    Args:
      shape: Shape of one observation.
      embedding: A built Keras layer or model from an observation to a vector, such as a `convolutional_summary`. By
        default, two hidden layers of 64 units, and 32 outputs.
      seed: Seed of the initial weights.
      dtype: Dtype of the layers: that of the parameters.

    References:
      Zaheer et al., "Deep sets" (2017).
    """
    if embedding is None:
        embedding = vector_summary(shape, seed=seed, dtype=dtype)
    x = keras.Input([None, *shape], dtype=dtype)
    elements = ops.cast(x, dtype)
    is_present = ops.any(ops.logical_not(ops.isnan(elements)), axis=[*range(2, 2 + len(shape))])
    present = ops.expand_dims(ops.cast(is_present, dtype), -1)
    embedded = keras.layers.TimeDistributed(embedding, dtype=dtype)(
        ops.where(ops.isnan(elements), ops.zeros_like(elements), elements)
    )
    count = ops.maximum(ops.sum(present, axis=1), 1.0)
    mean = ops.sum(embedded * present, axis=1) / count
    pooled = keras.layers.Concatenate(dtype=dtype)([mean, mean * ops.sqrt(count), ops.log(count)])
    return keras.Model(x, _dense(pooled, (64, 32), _initializers(seed + 1), dtype), name="summary")


def _dense(h, units, initializers, dtype):
    """Applies dense layers with SiLU between them."""
    for index, num in enumerate(units):
        activation = "silu" if index < len(units) - 1 else None
        h = keras.layers.Dense(num, activation, kernel_initializer=next(initializers), dtype=dtype)(h)
    return h


def _initializers(seed):
    """Yields initializers with different seeds."""
    seeds = np.random.default_rng(seed)
    while True:
        yield keras.initializers.GlorotUniform(int(seeds.integers(2**31)))


@keras.saving.register_keras_serializable("tf_resflow")
class Choice(keras.layers.Layer):
    """Replaces the second of two inputs by zeros, or the first if the weight `is_second` is 1."""

    def build(self, input_shape: Any) -> None:
        """Creates the weight, which is not trained."""
        self.is_second = self.add_weight(shape=(1,), initializer="zeros", trainable=False, name="is_second")

    def call(self, inputs: Any) -> list[Any]:
        """Returns both inputs, one of them as zeros."""
        first, second = inputs
        is_second = ops.cast(self.is_second, first.dtype)
        return [(1 - is_second) * first, is_second * second]

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the shapes of the inputs."""
        return input_shape


def _series_statistics(x: Any) -> Any:
    """Maps series `[batch, time]` to the moments and autocorrelations of x and of log |x|, `[batch, 20]`."""
    statistics = []
    for series in (x, ops.log(ops.abs(x) + 0.05)):
        mean = ops.mean(series, axis=1, keepdims=True)
        deviations = series - mean
        variance = ops.mean(deviations**2, axis=1, keepdims=True) + 1e-6
        statistics += [mean, ops.log(variance)]
        for lag in range(1, _LAGS + 1):
            covariance = ops.mean(deviations[:, lag:] * deviations[:, :-lag], axis=1, keepdims=True)
            statistics.append(covariance / variance)
    return ops.concatenate(statistics, axis=1)
