"""Residual branches: networks of Lipschitz layers."""

import collections
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from tf_resflow import layers
from tf_resflow._internal.messages import suggest
from tf_resflow.flows.names import ACTIVATION_LAYERS
from tf_resflow.flows.networks import DType, EventShape, network_policy, shape_of_event, shifted, stacked
from tf_resflow.layers.lipschitz_layer import COEFFICIENT

Activation = str | Callable[..., Any]
Norms = Sequence[float] | str | None


def make_activation(activation: Activation, **kwargs: Any) -> Any:
    """Returns a new Keras layer for an `activation` of `dense_branch`; `kwargs` are its name and dtype."""
    if isinstance(activation, keras.layers.Layer):
        return type(activation).from_config({**activation.get_config(), **kwargs})
    if activation in ACTIVATION_LAYERS:
        activation = getattr(layers, ACTIVATION_LAYERS[activation])
    if isinstance(activation, str) and not hasattr(keras.activations, activation):
        names = [*ACTIVATION_LAYERS, *layers.keras_rules.SLOPES]
        raise ValueError(f"activation is {activation!r}: {suggest(activation, names)} Known: {', '.join(names)}.")
    return activation(**kwargs) if isinstance(activation, type) else keras.layers.Activation(activation, **kwargs)


class _Layers:
    """Creates the layers of a branch in order, where each codomain norm is the next layer's domain norm."""

    def __init__(self, num_layers, activation, coefficient, norms, seed, dtype):
        self.policy = network_policy(dtype)
        if norms is None:
            norms = (2.0,) * (num_layers + 1)
        elif norms == "learned":
            options = {"dtype": self.policy.variable_dtype}
            orders = [layers.LearnedOrder(name=f"order_{i}", **options) for i in range(num_layers)]
            norms = (*orders, orders[0])
        if len(norms) != num_layers + 1:
            raise ValueError(
                f"Got {len(norms)} norms: {norms}. {num_layers} layers need {num_layers + 1} norms: one before the "
                "first layer, one between every two layers, and one after the last layer."
            )
        self._activation = activation
        self._norms = norms
        self._options = {"coefficient": coefficient, "dtype": self.policy.name}
        self._seeds = np.random.default_rng(seed)
        self._counts: collections.Counter[str] = collections.Counter()

    def activation(self):
        label = self._activation if isinstance(self._activation, str) else "activation"
        return make_activation(self._activation, dtype=self.policy.name, name=self._name(label))

    def linear(self, *sizes):
        """Returns a dense layer of a number of units, or a convolution of a number of filters and a kernel size."""
        kind, label = (layers.LipschitzConv2D, "conv") if len(sizes) == 2 else (layers.LipschitzDense, "dense")
        domain, codomain = self._norms[self._counts[label] :][:2]
        options = {**self._options, "domain": domain, "codomain": codomain}
        return kind(*sizes, kernel_initializer=self.initializer(), name=self._name(label), **options)

    def concatenation(self):
        return layers.LearnableConcatenation(**self._options, name=self._name("concatenation"))

    def initializer(self):
        seed = int(self._seeds.integers(2**31))
        return keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform", seed=seed)

    def _name(self, label):
        self._counts[label] += 1
        return f"{label}_{self._counts[label] - 1}"


def conv_branch(
    event_shape: EventShape,
    width: int,
    kernels: Sequence[int] = (3, 1, 3),
    *,
    activation: Activation = "lipswish",
    coefficient: float = COEFFICIENT,
    norms: Norms = None,
    preactivation: bool = True,
    condition_size: int | Sequence[int] | None = None,
    seed: int = 0,
    dtype: DType = None,
) -> keras.Model:
    """Builds a branch of convolutions with activations between them, for images `[H, W, C]`.

    The paper uses activation, 3x3, activation, 1x1, activation, 3x3, with 512 inner channels. See `dense_branch`
    for the result, and for the arguments that are not listed here.

    Args:
      event_shape: `(H, W, C)` of the largest images.
      width: Number of channels of the inner layers.
      kernels: Odd kernel sizes, one for each layer.
      condition_size: Size of a condition vector, or shape `[H, W, features]` of a condition image. The output of
        the first layer is shifted by an unconstrained dense layer of the condition: per channel for a vector, and
        per pixel and channel for an image. `None` for an unconditional branch.

    References:
      Chen et al. 2019, Appendix E.
    """
    event_shape = shape_of_event(event_shape, "an image")
    make = _Layers(len(kernels), activation, coefficient, norms, seed, dtype)
    widths = [width] * (len(kernels) - 1) + [event_shape[-1]]
    sizes = [*zip(widths, kernels, strict=True)]
    return _branch(make, event_shape, sizes, preactivation, condition_size, (1, 1, widths[0]))


def dense_branch(
    event_shape: EventShape,
    hidden: Sequence[int],
    *,
    activation: Activation = "lipswish",
    coefficient: float = COEFFICIENT,
    norms: Norms = None,
    preactivation: bool = False,
    condition_size: int | None = None,
    seed: int = 0,
    dtype: DType = None,
) -> keras.Model:
    """Builds a branch of dense layers with activations between them, for vectors or flattened events.

    Args:
      event_shape: Shape of an event; an `int` is the size of a vector.
      hidden: Widths of the inner layers, at least one.
      activation: "lipswish", "clipswish", "cpila", "maxmin", "fullsort", "lipschitz_cube", or a name in
        `keras.activations`; a Keras layer, which is copied for each use, or its class; or a function of a tensor.
        Its Lipschitz constant must be known (see `tf_resflow.layers.register_rule`).
      coefficient: Lipschitz bound of each layer.
      norms: Orders of the norms before, between and after the layers. `None` for 2 everywhere; "learned" to train
        the orders, which are 2 initially, with one shared order for the first and the last norm.
      preactivation: Whether the branch starts with an activation.
      condition_size: Size of a condition vector. An unconstrained dense layer of the condition shifts the output
        of the first layer. `None` for an unconditional branch.
      dtype: Dtype policy, see `image_flow`.

    Returns:
      A built `keras.Sequential`, or a `keras.Model` of `[x, condition]`.
    """
    event_shape = shape_of_event(event_shape)
    make = _Layers(len(hidden) + 1, activation, coefficient, norms, seed, dtype)
    sizes = [(units,) for units in [*hidden, math.prod(event_shape)]]
    return _branch(make, event_shape, sizes, preactivation, condition_size, (hidden[0],))


def _branch(make, event_shape, sizes, preactivation, condition_size, shift_shape):
    head = [make.activation()] if preactivation else []
    head.append(make.linear(*sizes[0]))
    tail = []
    for size in sizes[1:]:
        tail.append(make.activation())
        tail.append(make.linear(*size))
    shapes = event_shape, event_shape
    return stacked("branch", shapes, head, tail, condition_size, shift_shape, make.initializer(), make.policy)


def dense_net_branch(
    event_shape: EventShape,
    depth: int,
    growth: int,
    *,
    kernel_size: int | None = 3,
    stem: int | None = None,
    activation: Activation = "clipswish",
    coefficient: float = COEFFICIENT,
    condition_size: int | None = None,
    seed: int = 0,
    dtype: DType = None,
) -> keras.Model:
    r"""Builds the DenseNet branch of an i-DenseNet, for vectors or images.

    Each layer receives x and the outputs of all earlier layers. From \\(h_0 = x\\), the branch computes
    \\(h_{i+1} = [\eta_1 h_i, \eta_2 \phi(W_i h_i + b_i)]\\), where \\(\eta\\) are the weights of a
    `tf_resflow.layers.LearnableConcatenation`, and returns \\(g(x) = W h_\mathrm{depth} + b\\). All norms have
    order 2. With the coefficient c, the Lipschitz constant is \\(c^{\mathrm{depth} + 1}\\), or
    \\(c^{\mathrm{depth} + 2}\\) with a stem. See `dense_branch` for the arguments that are not listed here.

    ```python
    import tf_resflow as resflow
    branch = resflow.flows.dense_net_branch((8, 8, 1), depth=3, growth=16)
    print(branch.layers[-1].kernel.shape, f"{resflow.layers.lipschitz_constant(branch):.4f}")
    # (1, 1, 49, 1) 0.9224
    ```

    Args:
      event_shape: `(H, W, C)` of the largest images, or another shape; an `int` is the size of a vector.
      depth: Number of concatenations.
      growth: Number of channels that each concatenation adds. It must be even for an activation that doubles the
        number of channels, such as "clipswish" and "cpila".
      kernel_size: Odd kernel size of the convolutions \\(W_i\\) on images; the last convolution W has kernel size
        1. `None` uses dense layers on flattened events. Vectors always use dense layers.
      stem: Number of channels of a linear layer before the first concatenation; `None` for no stem.
      coefficient: Lipschitz bound of each layer and of each concatenation.

    Returns:
      A built `keras.Model` of `x`, or of `[x, condition]`.

    References:
      Perugachi-Diaz et al. 2021, Section 3. The fully connected blocks in its code have a stem of 64.
    """
    event_shape = shape_of_event(event_shape)
    make = _Layers(depth + 1 + (stem is not None), activation, coefficient, None, seed, dtype)
    policy = make.policy
    factor = make_activation(activation).compute_output_shape((None, 2))[-1] // 2  # of the number of channels
    if growth % factor:
        raise ValueError(f"growth is {growth}, but activation={activation!r} needs a multiple of {factor}.")
    is_image = len(event_shape) == 3 and kernel_size is not None
    shape = event_shape if is_image else (math.prod(event_shape),)

    shapes = [event_shape] + ([] if condition_size is None else [(condition_size,)])
    inputs = [keras.Input(input_shape, dtype=policy.variable_dtype) for input_shape in shapes]
    conditions = inputs[1:]

    def linear(h, units, size=kernel_size):
        """Applies the next linear layer. The condition shifts the output of the first one."""
        h = make.linear(*((units, size) if is_image else (units,)))(h)
        if not conditions:
            return h
        shift_shape = (*(1,) * (len(shape) - 1), units)
        return shifted(h, conditions.pop(), shift_shape, make.initializer(), policy)

    h = inputs[0] if len(shape) == len(event_shape) else keras.layers.Flatten(dtype=policy.name)(inputs[0])
    if stem is not None:
        h = linear(h, stem)
    for _ in range(depth):
        h = make.concatenation()([h, make.activation()(linear(h, growth // factor))])
    h = linear(h, shape[-1], 1)
    if len(shape) != len(event_shape):
        h = keras.layers.Reshape(event_shape, dtype=policy.name)(h)
    return keras.Model(inputs, h, name="branch")


def check_dense_net(dense_net: tuple[int, int] | None, norms: Norms) -> None:
    """Raises a ValueError for norms with a DenseNet, which would ignore them."""
    if dense_net is not None and norms is not None:
        raise ValueError(f"Got norms={norms!r}, but a DenseNet has norms of order 2. Leave out norms or dense_net.")
