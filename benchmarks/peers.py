"""TFP's RealNVP and masked autoregressive flow with networks of Keras, to compare residual flows with."""

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

tfb = tfp.bijectors


def real_nvp(size: int, depth: int, width: int, seed: int = 0) -> tuple[tfb.Bijector, list[tf.Variable]]:
    """Returns coupling layers and their weights. Each layer changes half of the coordinates.

    Args:
      size: number of coordinates.
      depth: number of layers.
      width: units of each of the two hidden layers of a network.
      seed: seed of the weights.
    """
    kept = size // 2
    networks = [_network(kept, 2 * (size - kept), width, seed + i) for i in range(depth)]

    def layer(network):
        return tfb.RealNVP(kept, shift_and_log_scale_fn=lambda x, num: tf.split(network(x), 2, axis=-1))

    return _chain(size, layer, networks)


def autoregressive(size: int, depth: int, width: int, seed: int = 0) -> tuple[tfb.Bijector, list[tf.Variable]]:
    """Returns autoregressive layers with the masks of MADE, and their weights. See `real_nvp` for the arguments."""
    networks = [_network(size, 2 * size, width, seed + i, masked=True) for i in range(depth)]

    def layer(network):
        return tfb.MaskedAutoregressiveFlow(lambda x: tf.split(network(x), 2, axis=-1))

    return _chain(size, layer, networks)


def _chain(size, layer, networks):
    """Returns one layer per network, with the coordinates reversed between layers, and the weights."""
    reversal = list(range(size))[::-1]
    bijector = tfb.Chain([part for network in networks for part in (layer(network), tfb.Permute(reversal))])
    return bijector, [weight.value for network in networks for weight in network.trainable_variables]


class _MaskedDense(keras.layers.Dense):
    """A dense layer whose output j depends only on inputs whose degree is at most the degree of j."""

    def __init__(self, before, after, **kwargs):
        super().__init__(len(after), **kwargs)
        self._mask = (before[:, np.newaxis] <= after).astype(np.float32)

    def call(self, inputs):
        return self.activation(tf.matmul(inputs, self.kernel * self._mask) + self.bias)


def _network(inputs, outputs, width, seed, masked=False):
    """Returns two hidden layers and an output that is small at first.

    If masked, the shift and log scale of a coordinate depend only on earlier coordinates.
    """
    sizes, activations = (width, width, outputs), ("relu", "relu", None)
    hidden = np.arange(width) % max(1, inputs - 1)
    degrees = np.arange(inputs), hidden, hidden, np.tile(np.arange(inputs) - 1, 2)
    layers = []
    for i, activation in enumerate(activations):
        kernel = keras.initializers.VarianceScaling(1.0 if activation else 1e-4, seed=seed + 100 * i)
        options = {"activation": activation, "kernel_initializer": kernel}
        if masked:
            layers.append(_MaskedDense(degrees[i], degrees[i + 1], **options))
        else:
            layers.append(keras.layers.Dense(sizes[i], **options))
    return keras.Sequential([keras.Input([inputs]), *layers])
