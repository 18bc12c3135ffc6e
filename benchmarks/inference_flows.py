"""The flows that `inference.py` compares: residual and monotone blocks, and TFP's RealNVP, MAF, IAF and FFJORD.

All flows map latent vectors to data. A condition enters the first layer of each network.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import tf_resflow as resflow

tfb = tfp.bijectors

_MOST_EXACT = 32  # largest number of coordinates for which FFJORD trains with exact traces


class Candidate(NamedTuple):
    """A flow to compare.

    Attributes:
      bijector: the map from latent to data.
      exact: the same map with exact log-determinants, for scores.
      arguments: function of a condition or None, a seed, and bound networks or None, which returns the keyword
        arguments of both maps.
      update: function that is called after each step.
      initialize: function of data and a condition, called once.
      has_path_derivative: whether samples can be differentiated, and then their log-densities.
    """

    bijector: tfb.Bijector
    exact: tfb.Bijector
    arguments: Callable[[Any, Any, Any], dict]
    update: Callable[[], Any] = lambda: None
    initialize: Callable[[Any, Any], Any] = lambda x, condition: None
    has_path_derivative: bool = True


def residual(
    size,
    num_parameters,
    *,
    samples,
    condition_size,
    seed,
    num_blocks=4,
    num_affine=0,
    activation=None,
    **options,
):
    """Returns residual blocks with two hidden layers and affine layers on the data side, cheap to train.

    The affine layers are autoregressive. With a condition, there is also an affine map whose matrix and shift are
    functions of the condition, as in a `PosteriorEstimator`.
    """
    given, parts = condition_size or 0, 1 if activation == "lipswish" else 2

    def count(width):
        inputs = width * (size + given + 1 + bool(given))
        block = inputs + width * (parts * width + 1 + parts * size) + size
        affine = inputs + width * (width + 1 + 2 * size) + 2 * size
        return num_blocks * block + num_affine * affine + bool(given) * (given + 1) * _num_affine(size)

    width = _width(count, num_parameters)
    flow = resflow.flows.vector_flow(
        size,
        num_blocks,
        (width, width),
        activation=activation,
        coefficient=0.97,
        affine_layers=(0, num_affine) if samples else (num_affine, 0),
        condition_size=condition_size,
        log_det_estimator=resflow.logdet.Exact() if samples else None,
        seed=seed,
        **options,
    )
    if given:
        network = keras.layers.Dense(_num_affine(size), kernel_initializer="zeros")
        affine = resflow.bijectors.ConditionalAffine(keras.Sequential([keras.Input([given]), network]))
        flow = resflow.bijectors.Flow([affine, flow])
    bijector = flow if samples else tfb.Invert(flow)
    return Candidate(
        bijector,
        resflow.bijectors.with_log_det_estimator(bijector, resflow.logdet.Exact()),
        lambda condition, seed, networks: {
            "seed": seed,
            **_given(condition),
            **({} if networks is None else {"networks": networks}),
        },
        update=functools.partial(resflow.layers.update_norms, flow),
        initialize=lambda x, condition: (
            None if samples else resflow.bijectors.initialize(flow, x, [0, 0], condition=condition)
        ),
    )


def mixed(*args, samples, **options):
    """Returns the same flow with the numbers of affine layers that the builders recommend."""
    num_blocks, num_affine = (1, 3) if samples else (2, 2)
    return residual(*args, samples=samples, num_blocks=num_blocks, num_affine=num_affine, **options)


def _num_affine(size):
    """Returns the number of values of a triangular matrix and a shift."""
    return size * (size + 3) // 2


def real_nvp(size, num_parameters, *, samples, condition_size, seed, num_layers=6):
    """Returns affine coupling layers, with the coordinates shuffled between them."""
    del samples  # both directions are equally cheap
    kept = size // 2
    given, outputs = condition_size or 0, 2 * (size - kept)
    width = _width(lambda w: num_layers * (w * (w + kept + given + outputs + 2) + outputs), num_parameters)

    def layer(i):
        network = Network([kept, width, width, outputs], seed + 100 * i, given)
        return tfb.RealNVP(kept, shift_and_log_scale_fn=_Pair(network), name=f"layer_{i}")

    shuffles = np.random.default_rng(seed)
    orders = [[1, 0] if size == 2 else shuffles.permutation(size).tolist() for _ in range(num_layers)]
    return _chain([part for i in range(num_layers) for part in (layer(i), tfb.Permute(orders[i]))])


def autoregressive(size, num_parameters, *, samples, condition_size, seed, num_layers=4):
    """Returns masked autoregressive layers: IAF, which samples cheaply, or MAF, whose density is cheap."""
    given = condition_size or 0
    width = _width(lambda w: num_layers * (w * (w + 3 * size + given + 2) + 2 * size), num_parameters)
    hidden = np.arange(width) % max(1, size - 1)
    degrees = [np.arange(size), hidden, hidden, np.tile(np.arange(size) - 1, 2)]
    masks = [(before[:, np.newaxis] <= after) for before, after in zip(degrees[:-1], degrees[1:], strict=True)]

    def layer(i):
        network = Network([size, width, width, 2 * size], seed + 100 * i, given, masks)
        maf = tfb.MaskedAutoregressiveFlow(_Pair(network), name=f"layer_{i}")
        return tfb.Invert(maf, name=f"layer_{i}") if samples else maf

    reversal = list(range(size))[::-1]
    return _chain([part for i in range(num_layers) for part in (layer(i), tfb.Permute(reversal))])


def ffjord(size, num_parameters, *, samples, condition_size, seed):
    """Returns a continuous flow with TFP's default solver."""
    del samples
    given = condition_size or 0
    width = _width(lambda w: w * (w + 2 * size + given + 3) + size, num_parameters)
    network = Network([size, width, width, size], seed, given + 1)

    def velocity(time, x, condition=None):
        time = tf.fill([tf.shape(x)[0], 1], tf.cast(time, x.dtype))
        return network(x, time if condition is None else tf.concat([condition, time], axis=1))

    exact = tfb.FFJORD(velocity, trace_augmentation_fn=tfb.ffjord.trace_jacobian_exact)
    bijector = exact if size <= _MOST_EXACT else tfb.FFJORD(velocity)
    exact.network = bijector.network = network  # the bijectors do not find it inside the function
    return Candidate(
        bijector,
        exact,
        lambda condition, *_: _given(condition),
        has_path_derivative=False,
    )


def _chain(layers):
    """Returns the candidate for layers in the order of their application."""
    bijector = tfb.Chain(layers[::-1])
    names = [layer.name for layer in layers if not isinstance(layer, tfb.Permute)]

    return Candidate(bijector, bijector, lambda condition, *_: {name: _given(condition) for name in names})


def _given(condition):
    return {} if condition is None else {"condition": condition}


def _width(count, num_parameters):
    """Returns the smallest width of hidden layers, at least 4, for about this number of parameters."""
    width = 4
    while count(width + 0.5) < num_parameters:
        width += 1
    return width


class Network(tf.Module):
    """Dense layers with SiLU between them.

    Args:
      sizes: sizes of the input, the hidden layers and the output.
      seed: seed of the kernels.
      condition_size: size of a condition, which has its own kernel in the first layer; 0 for no condition.
      masks: masks that multiply the kernels.
      scale: initial scale of the last kernel.
    """

    def __init__(self, sizes, seed, condition_size=0, masks=None, scale=0.01):
        super().__init__()
        generator = np.random.default_rng(seed)

        def kernel(inputs, outputs, scale=1.0):
            values = scale * generator.normal(size=[inputs, outputs]) / np.sqrt(inputs)
            return tf.Variable(values.astype(np.float32))

        *before, last = zip(sizes[:-1], sizes[1:], strict=True)
        self._kernels = [*(kernel(*pair) for pair in before), kernel(*last, scale)]
        self._biases = [tf.Variable(tf.zeros([outputs])) for outputs in sizes[1:]]
        self._masks = None if masks is None else [tf.constant(mask, tf.float32) for mask in masks]
        self._condition_kernel = kernel(condition_size, sizes[1]) if condition_size else None

    def __call__(self, x, condition=None):
        """Returns the output for inputs `[batch, size]`."""
        for i, (kernel, bias) in enumerate(zip(self._kernels, self._biases, strict=True)):
            x = tf.matmul(x, kernel if self._masks is None else kernel * self._masks[i]) + bias
            if i == 0 and condition is not None:
                x += tf.matmul(condition, self._condition_kernel)
            if i < len(self._kernels) - 1:
                x = tf.nn.silu(x)
        return x


class _Pair(tf.Module):
    """The shift and the log-scale, in the form that TFP's bijectors expect.

    The log-scale is between -2 and 2. Without bounds, outliers of small tables would cost even more.
    """

    def __init__(self, network):
        super().__init__()
        self._network = network

    def __call__(self, x, units=None, condition=None):
        shift, log_scale = tf.split(self._network(x, condition), 2, axis=-1)
        return shift, 2 * tf.tanh(log_scale / 2)


FLOWS = {
    "residual": residual,
    "mixed": mixed,
    "lipswish": functools.partial(residual, activation="lipswish"),
    "monotone": functools.partial(residual, block=resflow.bijectors.MonotoneBlock),
    "schatten": functools.partial(residual, normalization="schatten"),
    "real_nvp": real_nvp,
    "autoregressive": autoregressive,
    "ffjord": ffjord,
}
