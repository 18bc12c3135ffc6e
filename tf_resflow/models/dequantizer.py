"""Variational dequantization: noise with a learned density, conditioned on the integers."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from tf_resflow import bijectors, flows
from tf_resflow._internal.seeds import random_uniform, split_seed, stateless_seed
from tf_resflow._internal.serialization import Serializable
from tf_resflow._internal.typing import DType, Seed, TensorLike
from tf_resflow.bijectors.base import Context, pass_through
from tf_resflow.bijectors.flow import keras_parts
from tf_resflow.flows.networks import network_policy
from tf_resflow.logdet import LogDetEstimator, default_estimator


class Dequantizer(Protocol):
    """The interface of the `dequantizer` of a `FlowModel`: a density q(u | x) of noise in the unit cube.

    A dequantizer with weights must be a `keras.Layer`.
    """

    def sample_and_log_prob(
        self, x: tf.Tensor, seed: tf.Tensor, *, log_det_estimator: Any = None, sets: int | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Draws noise u, and evaluates its log-density.

        Args:
          x: Floats `[batch, *event_shape]` between 0 and 1: the centers (x + 1/2) / levels of the integers' cells.
          seed: Integer tensor of shape `[2]`.
          log_det_estimator: Estimator of the log-determinants; `None` for the training estimator.
          sets: `None`, or the number of equal parts of the batch whose examples share the random numbers.

        Returns:
          u with the shape of x and values between 0 and 1, and log q(u | x) `[batch]` in nats. Both are
          differentiable with respect to the weights.
        """


class FlowDequantizer(Serializable, keras.layers.Layer):
    r"""Noise \\(u = \sigma(f(\epsilon; c(x)))\\) from a residual flow f of logistic noise, given the context c(x).

    \\(\log q(u \mid x) = \log p(\epsilon) - \log|\det J_f(\epsilon)| - \sum_i \log \sigma'(f_i)\\), with
    \\(\log p(\epsilon) = \sum_i \log \sigma'(\epsilon_i)\\). If f is the identity, u is uniform. The residual
    branches are Lipschitz only in their input, not in the context.

    Args:
      event_shape: Shape of an example: `(H, W, C)` for convolutions, any other for dense layers.
      width: Number of channels inside the networks.
      log_det_estimator: By default `tf_resflow.logdet.default_estimator` for training.
      dtype: Dtype policy, see `tf_resflow.flows.image_flow`. All networks compute in its variable dtype.

    Attributes:
      flow: The flow f.
      context: The network c.

    References:
      Ho et al., Flow++, 2019, Section 3.1.
      Ahn et al., Invertible Monotone Operators for Normalizing Flows, 2022: residual blocks with a context.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        num_blocks: int = 2,
        width: int = 32,
        *,
        log_det_estimator: Callable[..., Any] | None = None,
        seed: int = 0,
        dtype: DType = None,
        name: str = "dequantizer",
    ):
        dtype = network_policy(dtype).variable_dtype
        super().__init__(name=name, dtype=dtype, autocast=False)
        self.event_shape = tuple(event_shape)
        self._width = width
        self._seed = seed
        log_det_estimator = log_det_estimator or default_estimator(math.prod(event_shape), "training")
        seeds = np.random.default_rng(seed).integers(2**31, size=num_blocks + 1).tolist()
        self.context = _context_network(self.event_shape, width, seeds.pop(), dtype)
        members: list[Any] = []
        for i, block_seed in enumerate(seeds):
            branch = _branch(self.event_shape, width, block_seed, dtype)
            block = bijectors.ResidualBlock(branch, log_det_estimator, has_condition=True, name=f"block{i}")
            members += [block, bijectors.ActNorm(self.event_shape, dtype=dtype, name=f"block{i}_act_norm")]
        self.flow = bijectors.Flow(members, name="dequantization")
        self._keras_parts = keras_parts(self.flow)
        self.built = True

    @property
    def parameters(self) -> dict[str, Any]:
        """Arguments that the layer was built with."""
        blocks = bijectors.flow.residual_blocks(self.flow)
        return {
            "event_shape": self.event_shape,
            "num_blocks": len(blocks),
            "width": self._width,
            "log_det_estimator": blocks[0].log_det_estimator,
            "seed": self._seed,
            "dtype": self.dtype,
            "name": self.name,
        }

    def sample_and_log_prob(
        self,
        x: TensorLike,
        seed: Seed = None,
        *,
        log_det_estimator: Callable[..., Any] | None = None,
        sets: int | None = None,
        networks: bijectors.Networks | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Draws u and evaluates log q(u | x), see `Dequantizer`. `networks` are the bound networks of the flow."""
        x = tf.cast(x, self.dtype)
        noise_seed, flow_seed = tf.unstack(split_seed(stateless_seed(seed), 2))
        rows = tf.shape(x)[0] if sets is None else sets
        uniform = random_uniform(tf.concat([[rows], self.event_shape], 0), noise_seed, x.dtype)
        noise = tf.math.log(uniform) - tf.math.log1p(-uniform)
        if sets is not None:
            noise = tf.repeat(noise, tf.shape(x)[0] // sets, axis=0)
        noise = tf.ensure_shape(noise, x.shape)
        arguments = {"seed": flow_seed, "condition": self.context(2.0 * x - 1.0)}
        arguments |= {} if networks is None else {"networks": networks}
        log_det_estimator = log_det_estimator or bijectors.flow.residual_blocks(self.flow)[0].log_det_estimator
        if sets is not None:
            log_det_estimator = with_sets(log_det_estimator, sets)
        flow = bijectors.with_log_det_estimator(self.flow, log_det_estimator)
        logits, flow_log_det, *_ = pass_through(flow, noise, Context(arguments))
        log_q = _log_logistic(noise) - flow_log_det - _log_logistic(logits)
        return tf.sigmoid(logits), log_q


def noise_log_det_estimator(log_det_estimator: Any, evaluation_log_det_estimator: Any) -> Any:
    """Returns the estimator for a dequantizer: the flow's, or the evaluation estimator for a dict by block."""
    return evaluation_log_det_estimator if isinstance(log_det_estimator, Mapping) else log_det_estimator


def with_sets(log_det_estimator: Any, num: int) -> Any:
    """Returns the estimator with shared random numbers in each of `num` equal parts of a batch."""
    return log_det_estimator.with_sets(num) if isinstance(log_det_estimator, LogDetEstimator) else log_det_estimator


def _log_logistic(logits):
    axes = list(range(1, logits.shape.rank))
    return -tf.reduce_sum(tf.math.softplus(logits) + tf.math.softplus(-logits), axes)


def _branch(event_shape, width, seed, dtype):
    options: dict[str, Any] = {"seed": seed, "dtype": dtype}
    if len(event_shape) == 3:
        options |= {"preactivation": False, "condition_size": (*event_shape[:2], width)}
        return flows.conv_branch(event_shape, width, **options)
    return flows.dense_branch(event_shape, (width, width), condition_size=width, **options)


def _context_network(event_shape, width, seed, dtype):
    layers = [keras.Input(event_shape, dtype=dtype)]
    if len(event_shape) == 3:
        make_layer = functools.partial(keras.layers.Conv2D, kernel_size=3, padding="same")
    else:
        layers.append(keras.layers.Flatten(dtype=dtype))
        make_layer = keras.layers.Dense
    for i, layer_seed in enumerate(np.random.default_rng(seed).integers(2**31, size=2).tolist()):
        kernel = keras.initializers.HeNormal(seed=layer_seed)
        options = {"activation": "swish", "kernel_initializer": kernel, "dtype": dtype, "name": f"context_{i}"}
        layers.append(make_layer(width, **options))
    network = keras.Sequential(layers, name="context")
    network.autocast = False  # the policy of the model can differ from the policy of its layers
    return network
