"""The networks inside the blocks: residual branches of Lipschitz layers, and unconstrained ones for couplings."""

import collections
import functools
import math
from collections.abc import Sequence

import keras
import numpy as np

from tf_resflow import layers
from tf_resflow.flows.activations import Activation, make_activation
from tf_resflow.flows.dtypes import DType, network_policy
from tf_resflow.layers.masked_dense import MaskedDense
from tf_resflow.sequences import check_sequence

__all__ = [
    "autoregressive_network",
    "check_dense_net",
    "conv_branch",
    "coupling_network",
    "dense_branch",
    "dense_coupling_network",
    "dense_net_branch",
]

Norms = Sequence[float] | str | None


class _Layers:
    """Makes the layers of a branch in order: with one dtype and activation, seeds, and norms that chain."""

    def __init__(self, num_layers, activation, coefficient, norms, normalization, seed, policy):
        if norms is None:
            norms = (2.0,) * (num_layers + 1)
        elif norms == "learned":
            dtype = policy.variable_dtype
            orders = [layers.LearnedOrder(dtype=dtype, name=f"order_{i}") for i in range(num_layers)]
            norms = (*orders, orders[0])
        check_sequence("norms", norms, f"({norms},) * {num_layers + 1}")
        if len(norms) != num_layers + 1:
            raise ValueError(
                f"{num_layers} layers need {num_layers + 1} norms (before, between and after them); got {norms}."
            )
        self._activation, self._coefficient = activation, coefficient
        self._norms, self._normalization = tuple(norms), normalization
        self._seeds = np.random.default_rng(seed)
        self._dtype = policy.name
        self._counts: collections.Counter[str] = collections.Counter()

    def activation(self):
        label = self._activation if isinstance(self._activation, str) else "activation"
        return make_activation(self._activation, dtype=self._dtype, name=self._name(label))

    def dense(self, units):
        return layers.LipschitzDense(units, **self._linear("dense"))

    def conv(self, filters, kernel_size):
        return layers.LipschitzConv2D(filters, kernel_size, **self._linear("conv"))

    def concatenation(self):
        return layers.LearnableConcatenation(self._coefficient, dtype=self._dtype, name=self._name("concatenation"))

    def initializer(self):
        """That of the next kernel."""
        seed = int(self._seeds.integers(2**31))
        return keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform", seed=seed)

    def _linear(self, label):
        domain, codomain = self._norms[self._counts[label] :][:2]
        return {
            "coefficient": self._coefficient,
            "domain": domain,
            "codomain": codomain,
            "normalization": self._normalization,
            "kernel_initializer": self.initializer(),
            "dtype": self._dtype,
            "name": self._name(label),
        }

    def _name(self, label):
        self._counts[label] += 1
        return f"{label}_{self._counts[label] - 1}"


def _shifted(h, condition, shape, initializer, dtype):
    """The tensor h plus a dense layer of the condition, of a shape that broadcasts to that of h."""
    shift = keras.layers.Dense(shape[-1], kernel_initializer=initializer, dtype=dtype, name="condition")(condition)
    if len(condition.shape) - 1 < len(shape):
        shift = keras.layers.Reshape(shape, dtype=dtype)(shift)
    return keras.layers.Add(dtype=dtype)([h, shift])


def _network(name, x, head, tail, condition_shape, shape, initializer, dtype):
    """Layers on x; a dense layer of a condition, if there is one, shifts the output of the head by that shape."""
    if condition_shape is None:
        return keras.Sequential([x, *head, *tail], name=name)
    h = x
    for layer in head:
        h = layer(h)
    condition = keras.Input(condition_shape, dtype=x.dtype)
    h = _shifted(h, condition, shape, initializer(), dtype)
    for layer in tail:
        h = layer(h)
    return keras.Model([x, condition], h, name=name)


def conv_branch(
    event_shape: Sequence[int],
    width: int,
    kernels: Sequence[int] = (3, 1, 3),
    *,
    activation: Activation = "lipswish",
    coefficient: float = 0.98,
    norms: Norms = None,
    normalization: str = "induced",
    preactivation: bool = True,
    condition_size: int | Sequence[int] | None = None,
    seed: int = 0,
    dtype: DType = None,
) -> keras.Model:
    """Convolutions with activations between them, on images `[H, W, C]`.

    The paper's: activation, 3x3, activation, 1x1, activation, 3x3, with 512 channels in between. What is not listed
    is as of `dense_branch`.

    Args:
      event_shape: `(H, W, C)` of the largest images.
      width: channels of the inner layers.
      kernels: odd kernel sizes, one for each layer.
      condition_size: size of a conditional vector, of which an unconstrained dense layer gives each channel of the
        first layer's output a shift; or the shape `[H, W, features]` of a conditional image, of which it gives each
        pixel its own; `None` for an unconditional branch.

    Returns:
      A built `keras.Sequential`, or a `keras.Model` of `[x, condition]`.

    Raises:
      ValueError: for a condition of a single layer, whose derivative would not depend on it.

    References:
      Chen et al. 2019, Appendix E.
    """
    check_sequence("event_shape", event_shape, "(32, 32, 3)")
    check_sequence("kernels", kernels, "(3, 1, 3)")
    if condition_size is not None and len(kernels) < 2:
        raise ValueError("A branch with a condition needs two layers: give two kernels.")
    policy = network_policy(dtype)
    make = _Layers(len(kernels), activation, coefficient, norms, normalization, seed, policy)
    x = keras.Input(event_shape, dtype=policy.variable_dtype)
    stack = []
    for i, size in enumerate(kernels):
        if i or preactivation:
            stack.append(make.activation())
        stack.append(make.conv(event_shape[-1] if i == len(kernels) - 1 else width, size))
    first = 2 if preactivation else 1
    shape = [condition_size] if isinstance(condition_size, int) else condition_size
    head, tail = stack[:first], stack[first:]
    return _network("branch", x, head, tail, shape, (1, 1, width), make.initializer, policy.name)


def dense_branch(
    event_shape: Sequence[int],
    hidden: Sequence[int],
    *,
    activation: Activation = "lipswish",
    coefficient: float = 0.98,
    norms: Norms = None,
    normalization: str = "induced",
    preactivation: bool = False,
    condition_size: int | None = None,
    seed: int = 0,
    dtype: DType = None,
) -> keras.Model:
    """Dense layers with activations between them, on vectors, or on flattened events of any shape.

    Args:
      event_shape: shape of an event.
      hidden: widths of the inner layers, at least one.
      activation: "lipswish", "clipswish", "cpila", "maxmin", "fullsort", "lipschitz_cube", or a name in
        `keras.activations`; a Keras layer, which is copied for each place, or its class; or a function of a tensor.
        Its Lipschitz constant must be known (see `tf_resflow.layers.register_rule`).
      coefficient: Lipschitz bound of each layer.
      norms: orders of the norms before, between and after the layers; `None` for 2 everywhere; "learned" for
        orders that the branch learns, beginning with 2, the last equal to the first.
      normalization: of the kernels: "induced", by an estimate of their norms; or "schatten", by an upper bound of
        the norm 2 -> 2 (see `tf_resflow.layers.LipschitzDense`).
      preactivation: whether an activation comes first.
      condition_size: size of a conditional vector, which an unconstrained dense layer adds to the output of
        the first layer; `None` for an unconditional branch.
      dtype: dtype policy, see `image_flow`.

    Returns:
      A built `keras.Sequential`, or a `keras.Model` of `[x, condition]`.

    Raises:
      ValueError: for an unknown activation or normalization, a wrong number of norms, norms other than 2 with
        "schatten", or no hidden layer.
    """
    check_sequence("event_shape", event_shape, f"({event_shape},)")
    check_sequence("hidden", hidden, f"({hidden},)")
    if not hidden:
        raise ValueError("hidden must hold the width of at least one inner layer.")
    policy = network_policy(dtype)
    make = _Layers(len(hidden) + 1, activation, coefficient, norms, normalization, seed, policy)
    size = int(np.prod(event_shape))
    x = keras.Input(event_shape, dtype=policy.variable_dtype)
    head = [keras.layers.Flatten(dtype=policy.name)] if len(event_shape) > 1 else []
    head += [make.activation()] if preactivation else []
    head.append(make.dense(hidden[0]))
    tail = [make.activation()]
    for width in hidden[1:]:
        tail += [make.dense(width), make.activation()]
    tail.append(make.dense(size))
    if len(event_shape) > 1:
        tail.append(keras.layers.Reshape(event_shape, dtype=policy.name))
    shape = None if condition_size is None else [condition_size]
    return _network("branch", x, head, tail, shape, (hidden[0],), make.initializer, policy.name)


def dense_net_branch(
    event_shape: Sequence[int],
    depth: int,
    growth: int,
    *,
    kernel_size: int | None = 3,
    stem: int | None = None,
    activation: Activation = "clipswish",
    coefficient: float = 0.98,
    normalization: str = "induced",
    condition_size: int | None = None,
    seed: int = 0,
    dtype: DType = None,
) -> keras.Model:
    r"""The DenseNet of an i-DenseNet, on vectors or images: each layer sees x and the output of all before it.

    \\(h_{i+1} = [\eta_1 h_i, \eta_2 \phi(W_i h_i + b_i)]\\) from \\(h_0 = x\\), with the weights of a
    `tf_resflow.layers.LearnableConcatenation`, and \\(g(x) = W h_\mathrm{depth} + b\\). All norms are of order 2.
    With coefficients c the constant is \\(c^{\mathrm{depth} + 1}\\), times c with a stem. What is not listed is as
    of `dense_branch`.

    ```python
    import tf_resflow as resflow
    branch = resflow.flows.dense_net_branch((8, 8, 1), depth=3, growth=16)
    print(branch.layers[-1].kernel.shape, f"{resflow.layers.lipschitz_constant(branch):.4f}")
    # (1, 1, 49, 1) 0.9224
    ```

    Args:
      event_shape: `(H, W, C)` of the largest images, or another shape.
      depth: number of concatenations.
      growth: channels that each of them adds. An activation that doubles its channels, as "clipswish" and "cpila"
        do, needs an even number.
      kernel_size: odd size of the convolutions \\(W_i\\) on images, after which comes one of size 1; `None` for
        dense layers on flattened events. Vectors have dense layers.
      stem: channels of a linear layer before the first concatenation; `None` for no such layer.
      coefficient: Lipschitz bound of each layer and of each concatenation.

    Returns:
      A built `keras.Model` of x, or of `[x, condition]`.

    Raises:
      ValueError: for a depth below 1, or a growth that the activation cannot make.

    References:
      Perugachi-Diaz et al. 2021, Section 3; the fully connected blocks of its code have a stem of 64.
    """
    check_sequence("event_shape", event_shape, f"({event_shape},)")
    policy = network_policy(dtype)
    make = _Layers(depth + 1 + (stem is not None), activation, coefficient, None, normalization, seed, policy)
    parts = make_activation(activation).compute_output_shape((None, 2))[-1] // 2
    if depth < 1 or growth < 1 or growth % parts:
        raise ValueError(
            f"A DenseNet needs a depth of at least 1, and with {activation!r} a growth that is a multiple of "
            f"{parts}; got depth={depth} and growth={growth}."
        )
    is_image = len(event_shape) == 3 and kernel_size is not None
    shape = tuple(event_shape) if is_image else (int(np.prod(event_shape)),)

    def linear(units, size=kernel_size):
        return make.conv(units, size) if is_image else make.dense(units)

    shapes = [event_shape] + ([] if condition_size is None else [[condition_size]])
    inputs = [keras.Input(each, dtype=policy.variable_dtype) for each in shapes]
    conditions = inputs[1:]

    def applied(layer, h):
        """The output of the layer; that of the first one is shifted by the condition."""
        h = layer(h)
        if not conditions:
            return h
        size = (*(1,) * (len(shape) - 1), h.shape[-1])
        return _shifted(h, conditions.pop(), size, make.initializer(), policy.name)

    h = inputs[0] if len(shape) == len(event_shape) else keras.layers.Flatten(dtype=policy.name)(inputs[0])
    if stem is not None:
        h = applied(linear(stem), h)
    for _ in range(depth):
        h = make.concatenation()([h, make.activation()(applied(linear(growth // parts), h))])
    h = linear(shape[-1], 1)(h)
    if len(shape) != len(event_shape):
        h = keras.layers.Reshape(event_shape, dtype=policy.name)(h)
    return keras.Model(inputs, h, name="branch")


def check_dense_net(dense_net: tuple[int, int], norms: Norms) -> None:
    """Raises ValueError unless `dense_net` is a depth and a growth, and all orders are 2."""
    if not (isinstance(dense_net, (tuple, list)) and len(dense_net) == 2):
        raise ValueError(f"dense_net must be a depth and a growth, such as (3, 16); got {dense_net!r}.")
    if norms is not None and (isinstance(norms, str) or any(order != 2 for order in norms)):
        raise ValueError(f"A DenseNet is Lipschitz in the norm of order 2 only: leave norms out; got {norms!r}.")


def coupling_network(
    event_shape: Sequence[int],
    width: int,
    kernels: Sequence[int] = (3, 1, 3),
    *,
    split: str = "channels",
    num_parameters: int = 2,
    condition_size: int | None = None,
    seed: int = 0,
    dtype: DType = None,
) -> keras.Model:
    """Unconstrained convolutions with ReLU between them, for a coupling on images `[H, W, C]`.

    The last layer starts at zero, so the coupling starts near the identity.

    Args:
      event_shape: `(H, W, C)`.
      width: channels of the inner layers.
      kernels: kernel sizes, one for each layer.
      split: see `tf_resflow.bijectors.AffineCoupling`; by "channels" it keeps the first `C // 2`.
      num_parameters: values for each element that is mapped: 2 for `AffineCoupling`, 1 for `AdditiveCoupling`.
      condition_size: size of a conditional vector, of which a dense layer gives each channel of the first layer's
        output a shift; `None` for an unconditional coupling.
      dtype: dtype policy, see `image_flow`.

    Returns:
      A built `keras.Sequential`, or a `keras.Model` of `[x, condition]`.

    References:
      Kingma and Dhariwal, Glow, 2018, Section 3.3.
    """
    check_sequence("event_shape", event_shape, "(32, 32, 3)")
    check_sequence("kernels", kernels, "(3, 1, 3)")
    policy = network_policy(dtype)
    channels, outputs = _coupling_channels(event_shape, split, num_parameters)
    widths = [width] * (len(kernels) - 1) + [outputs]
    linear = [
        functools.partial(keras.layers.Conv2D, *pair, padding="same") for pair in zip(widths, kernels, strict=True)
    ]
    x = keras.Input((*event_shape[:-1], channels), dtype=policy.variable_dtype)
    return _coupling_network(x, linear, (1, 1, widths[0]), condition_size, seed, policy)


def dense_coupling_network(
    event_shape: Sequence[int],
    hidden: Sequence[int],
    *,
    split: str = "channels",
    num_parameters: int = 2,
    condition_size: int | None = None,
    seed: int = 0,
    dtype: DType = None,
) -> keras.Model:
    """Like `coupling_network`, with dense layers of the widths `hidden`, on vectors or on flattened images."""
    check_sequence("event_shape", event_shape, f"({event_shape},)")
    check_sequence("hidden", hidden, f"({hidden},)")
    policy = network_policy(dtype)
    channels, outputs = _coupling_channels(event_shape, split, num_parameters)
    output_shape = (*event_shape[:-1], outputs)
    widths = [*hidden, math.prod(output_shape)]
    linear = [functools.partial(keras.layers.Dense, units) for units in widths]
    x = keras.Input((*event_shape[:-1], channels), dtype=policy.variable_dtype)
    before, after = [], []
    if len(event_shape) > 1:
        before = [keras.layers.Flatten(dtype=policy.name)]
        after = [keras.layers.Reshape(output_shape, dtype=policy.name)]
    return _coupling_network(x, linear, (widths[0],), condition_size, seed, policy, before, after)


def autoregressive_network(
    event_size: int,
    hidden: Sequence[int],
    *,
    reverse: bool = False,
    condition_size: int | None = None,
    seed: int = 0,
    dtype: DType = None,
) -> keras.Model:
    """Masked dense layers with SiLU between them, for a `tf_resflow.bijectors.AffineAutoregressive`.

    Two values for each coordinate, which depend on the coordinates before it alone; and on all of a condition. The
    last layer starts at zero, so the bijector starts as the identity.

    Args:
      event_size: number of coordinates.
      hidden: widths of the inner layers, at least one.
      reverse: whether the coordinates are in reverse order.
      condition_size: size of a conditional vector, of which a dense layer shifts the output of the first layer.
      dtype: dtype policy, see `image_flow`.

    Returns:
      A built `keras.Sequential`, or a `keras.Model` of `[x, condition]`.

    References:
      Germain et al., MADE, 2015, Section 4.
    """
    check_sequence("hidden", hidden, f"({hidden},)")
    if event_size < 1:
        raise ValueError(f"event_size must be at least 1; got {event_size}.")
    policy = network_policy(dtype)
    order = np.arange(event_size)[:: -1 if reverse else 1]
    first = 0 if condition_size is None else -1  # a unit of degree -1 sees the condition alone
    degrees = [_degrees(width, first, event_size - 2) for width in hidden]
    degrees = [order, *degrees, np.tile(order, 2) - 1]
    seeds = np.random.default_rng(seed)

    def masked(i):
        initializer = keras.initializers.HeNormal(int(seeds.integers(2**31))) if i < len(hidden) else "zeros"
        inputs, outputs = (each.tolist() for each in degrees[i : i + 2])
        return MaskedDense(inputs, outputs, initializer, dtype=policy.name, name=f"layer_{i}")

    stack = [masked(0)]
    for i in range(len(hidden)):
        stack += [keras.layers.Activation("silu", dtype=policy.name), masked(i + 1)]
    x = keras.Input([event_size], dtype=policy.variable_dtype)
    shape = None if condition_size is None else [condition_size]
    of_condition = keras.initializers.HeNormal(int(seeds.integers(2**31)))
    return _network("network", x, stack[:1], stack[1:], shape, (hidden[0],), lambda: of_condition, policy.name)


def _degrees(width, first, last):
    """The degrees of so many units: each in turn, or if there are more degrees than units, evenly among them."""
    if width <= last - first:
        return np.rint(np.linspace(last, first, width)).astype(int)
    return np.arange(width) % max(1, last - first + 1) + first


def _coupling_channels(event_shape, split, num_parameters):
    """Channels of the input and of the output of a coupling's network."""
    channels = event_shape[-1]
    if split == "checkerboard":
        return channels, num_parameters * channels
    if channels < 2:
        raise ValueError(
            f"Events of shape {tuple(event_shape)} have one channel, which cannot be split: use "
            "split='checkerboard', or squeeze the images first."
        )
    return channels // 2, num_parameters * (channels - channels // 2)


def _coupling_network(x, linear, shape, condition_size, seed, policy, before=(), after=()):
    """Linear layers with ReLU between them, the last of zeros; a condition shifts the output of the first."""
    seeds = np.random.default_rng(seed)
    kernels = [keras.initializers.HeNormal(int(seeds.integers(2**31))) for _ in linear]
    # Of a ReLU that follows the sum of a dense layer and a shift TensorFlow logs an error when it fuses them.
    relu = "relu" if condition_size is None else functools.partial(keras.ops.maximum, 0.0)
    stack = []
    for i, make in enumerate(linear):
        kernel = "zeros" if i == len(linear) - 1 else kernels[i]
        stack += [keras.layers.Activation(relu, dtype=policy.name)] if i else []
        stack.append(make(kernel_initializer=kernel, dtype=policy.name, name=f"layer_{i}"))
    condition_shape = None if condition_size is None else [condition_size]
    head, tail = [*before, stack[0]], [*stack[1:], *after]
    of_condition = kernels[-1] if len(linear) > 1 else "zeros"
    return _network("network", x, head, tail, condition_shape, shape, lambda: of_condition, policy.name)
