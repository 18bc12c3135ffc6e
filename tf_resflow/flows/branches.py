"""The networks inside the blocks: residual branches of Lipschitz layers, and unconstrained ones for couplings."""

import keras
import numpy as np

from tf_resflow import layers

__all__ = ["ACTIVATIONS", "conv_branch", "coupling_network", "dense_branch", "dense_coupling_network"]

ACTIVATIONS = {
    "lipswish": layers.LipSwish,
    "clipswish": layers.CLipSwish,
    "maxmin": layers.MaxMin,
    "fullsort": layers.FullSort,
    "lipschitz_cube": layers.LipschitzCube,
    "elu": lambda **kwargs: keras.layers.Activation("elu", **kwargs),
    "softplus": lambda **kwargs: keras.layers.Activation("softplus", **kwargs),
    "relu": lambda **kwargs: keras.layers.Activation("relu", **kwargs),
    "tanh": lambda **kwargs: keras.layers.Activation("tanh", **kwargs),
}
"""The activations of a branch by name: functions of the keyword arguments of a `keras.layers.Layer`."""


class _Layers:
    """Makes the layers of a branch: one dtype, one activation, seeds in sequence, orders in pairs."""

    def __init__(self, activation, coefficient, norms, num_layers, seed, dtype):
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation is one of {', '.join(ACTIVATIONS)}; got {activation!r}.")
        norms = _norms(norms, num_layers, dtype)
        if len(norms) != num_layers + 1:
            raise ValueError(
                f"{num_layers} layers have {num_layers + 1} norms (before, between and after them); got {norms}."
            )
        self._activation = activation
        self._coefficient = coefficient
        self._norms = norms
        self._seeds = np.random.default_rng(seed)
        self._dtype = dtype
        self._count = {"activation": 0, "linear": 0}

    def _number(self, kind):
        self._count[kind] += 1
        return self._count[kind] - 1

    def input(self, shape):
        return keras.Input(shape, dtype=self._dtype)

    def activation(self):
        name = f"{self._activation}_{self._number('activation')}"
        return ACTIVATIONS[self._activation](dtype=self._dtype, name=name)

    def _linear(self, layer, *args, label):
        i = self._number("linear")
        return layer(
            *args,
            coefficient=self._coefficient,
            domain=self._norms[i],
            codomain=self._norms[i + 1],
            kernel_initializer=self._initializer(),
            dtype=self._dtype,
            name=f"{label}_{i}",
        )

    def _initializer(self):
        seed = int(self._seeds.integers(2**31))
        return keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform", seed=seed)

    def dense(self, units):
        return self._linear(layers.LipschitzDense, units, label="dense")

    def conv(self, filters, kernel_size):
        return self._linear(layers.LipschitzConv2D, filters, kernel_size, label="conv")

    def condition(self, units):
        return keras.layers.Dense(
            units, kernel_initializer=self._initializer(), dtype=self._dtype, name="condition"
        )


def _norms(norms, num_layers, dtype):
    if norms is None:
        return (2.0,) * (num_layers + 1)
    if norms == "learned":
        orders = [layers.LearnedOrder(dtype=dtype, name=f"order_{i}") for i in range(num_layers)]
        return (*orders, orders[0])
    return tuple(norms)


def conv_branch(
    event_shape,
    width,
    kernels=(3, 1, 3),
    activation="lipswish",
    coefficient=0.98,
    norms=None,
    preactivation=True,
    seed=0,
    dtype="float32",
):
    """Convolutions with activations between them, on images `[H, W, C]`.

    The paper's: activation, 3x3, activation, 1x1, activation, 3x3, with 512 channels in between.

    Args:
      event_shape: `(H, W, C)`; the largest images that it will see.
      width: channels of the inner layers.
      kernels: odd kernel sizes, one for each layer.
      activation: a key of `ACTIVATIONS`.
      coefficient: Lipschitz bound of each layer.
      norms: orders of the norms before, between and after the layers; `None` for 2 everywhere; "learned" for
        orders that the branch learns, beginning with 2, the last equal to the first.
      preactivation: whether an activation comes first.
      seed: `int`, of the kernels.
      dtype: of the parameters.

    Returns:
      A built `keras.Sequential`.

    Raises:
      ValueError: for an unknown activation or a wrong number of norms.

    References:
      Chen et al. 2019, Appendix E.
    """
    make = _Layers(activation, coefficient, norms, len(kernels), seed, dtype)
    stack = [make.input(event_shape)]
    if preactivation:
        stack.append(make.activation())
    for i, size in enumerate(kernels):
        last = i == len(kernels) - 1
        stack.append(make.conv(event_shape[-1] if last else width, size))
        if not last:
            stack.append(make.activation())
    return keras.Sequential(stack, name="branch")


def dense_branch(
    event_shape,
    hidden,
    activation="lipswish",
    coefficient=0.98,
    norms=None,
    preactivation=False,
    condition_size=None,
    seed=0,
    dtype="float32",
):
    """Dense layers with activations between them, on vectors, or on flattened events of any shape.

    Args:
      event_shape: shape of an event.
      hidden: widths of the inner layers, at least one.
      activation: a key of `ACTIVATIONS`.
      coefficient: Lipschitz bound of each layer.
      norms: orders of the norms before, between and after the layers; `None` for 2 everywhere; "learned" for
        orders that the branch learns, beginning with 2, the last equal to the first.
      preactivation: whether an activation comes first.
      condition_size: size of a conditional vector, which an unconstrained dense layer adds to the output of
        the first layer; `None` for an unconditional branch.
      seed: `int`, of the kernels.
      dtype: of the parameters.

    Returns:
      A built `keras.Sequential`, or a `keras.Model` of `[x, condition]`.

    Raises:
      ValueError: for an unknown activation, a wrong number of norms, or no hidden layer.
    """
    if not hidden:
        raise ValueError("hidden holds the width of at least one inner layer.")
    make = _Layers(activation, coefficient, norms, len(hidden) + 1, seed, dtype)
    size = int(np.prod(event_shape))
    x = make.input(event_shape)
    head = [keras.layers.Flatten(dtype=dtype)] if len(event_shape) > 1 else []
    head += [make.activation()] if preactivation else []
    head.append(make.dense(hidden[0]))
    tail = [make.activation()]
    for width in hidden[1:]:
        tail += [make.dense(width), make.activation()]
    tail.append(make.dense(size))
    if len(event_shape) > 1:
        tail.append(keras.layers.Reshape(event_shape, dtype=dtype))
    if condition_size is None:
        return keras.Sequential([x, *head, *tail], name="branch")
    condition = make.input([condition_size])
    h = x
    for layer in head:
        h = layer(h)
    h = keras.layers.Add(dtype=dtype)([h, make.condition(hidden[0])(condition)])
    for layer in tail:
        h = layer(h)
    return keras.Model([x, condition], h, name="branch")


def coupling_network(
    event_shape,
    width,
    kernels=(3, 1, 3),
    split="channels",
    num_parameters=2,
    seed=0,
    dtype="float32",
):
    """Unconstrained convolutions with ReLU between them, for a coupling on images `[H, W, C]`.

    The last layer starts at zero, so that the coupling starts near the identity.

    Args:
      event_shape: `(H, W, C)`.
      width: channels of the inner layers.
      kernels: kernel sizes, one for each layer.
      split: as of the coupling; by "channels" the first `C // 2` are those that it keeps.
      num_parameters: values for each element that is mapped: 2 for `AffineCoupling`, 1 for `AdditiveCoupling`.
      seed: `int`, of the kernels.
      dtype: of the parameters.

    Returns:
      A built `keras.Sequential`.

    Raises:
      ValueError: when there is one channel, to be split by channels.

    References:
      Kingma and Dhariwal, Glow, 2018, Section 3.3.
    """
    channels, outputs = _coupling_channels(event_shape, split, num_parameters)
    options = _coupling_options(len(kernels), seed, dtype)
    stack = [keras.Input((*event_shape[:-1], channels), dtype=dtype)]
    for filters, size, option in zip([width] * (len(kernels) - 1) + [outputs], kernels, options, strict=True):
        stack.append(keras.layers.Conv2D(filters, size, padding="same", **option))
    return keras.Sequential(stack, name="network")


def dense_coupling_network(event_shape, hidden, split="channels", num_parameters=2, seed=0, dtype="float32"):
    """As `coupling_network`, of dense layers: on vectors, or on flattened images.

    Args:
      event_shape: shape of an event.
      hidden: widths of the inner layers.
      split: see `coupling_network`.
      num_parameters: see `coupling_network`.
      seed: `int`, of the kernels.
      dtype: of the parameters.

    Returns:
      A built `keras.Sequential`.

    Raises:
      ValueError: when there is one channel (or coordinate), to be split by channels.
    """
    channels, outputs = _coupling_channels(event_shape, split, num_parameters)
    output_shape = (*event_shape[:-1], outputs)
    options = _coupling_options(len(hidden) + 1, seed, dtype)
    stack = [keras.Input((*event_shape[:-1], channels), dtype=dtype)]
    if len(event_shape) > 1:
        stack.append(keras.layers.Flatten(dtype=dtype))
    for units, option in zip([*hidden, int(np.prod(output_shape))], options, strict=True):
        stack.append(keras.layers.Dense(units, **option))
    if len(event_shape) > 1:
        stack.append(keras.layers.Reshape(output_shape, dtype=dtype))
    return keras.Sequential(stack, name="network")


def _coupling_channels(event_shape, split, num_parameters):
    """Channels that the network of a coupling takes and gives."""
    channels = event_shape[-1]
    if split == "checkerboard":
        return channels, num_parameters * channels
    if channels < 2:
        raise ValueError(
            f"Events of shape {tuple(event_shape)} have one channel, which cannot be split: use "
            "split='checkerboard', or squeeze the images first."
        )
    return channels // 2, num_parameters * (channels - channels // 2)


def _coupling_options(num_layers, seed, dtype):
    """Arguments of each layer: ReLU and seeded kernels, and a last layer that starts at zero."""
    seeds = np.random.default_rng(seed)
    for i in range(num_layers):
        last = i == num_layers - 1
        kernel = keras.initializers.HeNormal(seed=int(seeds.integers(2**31)))
        yield {
            "activation": None if last else "relu",
            "kernel_initializer": "zeros" if last else kernel,
            "dtype": dtype,
            "name": f"layer_{i}",
        }
