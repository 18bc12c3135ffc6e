"""Optimizers and learning rate schedules."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_resflow.models.averaging import warm_up_average
from tf_resflow.models.updates import adam_move, read, update_variable
from tf_resflow.private_api import share_updates

_MUON_MOMENTUM = 0.95


@keras.saving.register_keras_serializable("tf_resflow")
class Muon(keras.optimizers.AdamW):
    """Applies Muon to kernels, as matrices with one column per output, and AdamW to all other variables.

    Unlike Keras's Muon, it also applies to the kernels of convolutions. It has no `amsgrad`.

    References:
      Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024.
      Liu et al., Muon is scalable for LLM training, 2025: the size of the update.
    """

    def build(self, variables):
        """Creates the state of the optimizer, and records which variables are kernels."""
        if self.amsgrad:
            raise ValueError("Got amsgrad=True, which Muon does not support. Leave it out.")
        if not self.built:
            self._are_kernels = [variable.name.endswith("kernel") for variable in variables]
            share_updates(self, self._update)
        super().build(variables)

    def _update(self, index, variable, *args):
        rule = _muon_move(tuple(variable.shape)) if self._are_kernels[index] else adam_move(self)
        update_variable(rule, variable, *args)


def _muon_move(shape):
    """Returns the update of a kernel by a matrix with nearly equal singular values, scaled like AdamW."""
    size = 0.2 * max(math.prod(shape[:-1]), shape[-1]) ** 0.5

    def move(variable, moments, gradient, rate, without_bias):
        momentum = _MUON_MOMENTUM * read(moments[0], gradient) + gradient
        tf.raw_ops.AssignVariableOp(resource=moments[0], value=momentum)
        direction = tf.reshape(gradient + _MUON_MOMENTUM * momentum, [-1, shape[-1]])
        update = tf.reshape(_nearly_orthogonal(direction), shape)
        tf.raw_ops.AssignSubVariableOp(resource=variable, value=size * rate * update)

    return ("muon",), move


def _nearly_orthogonal(x):
    """Returns U T V' for x = U S V', with nearly equal singular values T, by five Newton-Schulz iterations."""
    wide = x.shape[0] < x.shape[1]
    x = x if wide else tf.transpose(x)
    x = x / (tf.norm(x) + 1e-7)
    for _ in range(5):
        square = x @ tf.transpose(x)
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x if wide else tf.transpose(x)


OPTIMIZERS = {"adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW, "muon": Muon}


def learning_rate_schedule(config: Any) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """Returns the learning rate schedule of the `train` section of a config.

    A linear warm-up reaches `learning_rate` after `warmup_steps` iterations. Then the rate stays constant
    (`schedule="constant"`) or falls to zero at `steps` along half a cosine (`schedule="cosine"`). A warm-up that
    leaves no steps for the cosine is shortened to half of the steps.
    """
    rate, warmup = config.learning_rate, config.warmup_steps
    if config.schedule == "cosine" and warmup >= config.steps:
        warmup = config.steps // 2
    start = rate / warmup if warmup else rate
    if config.schedule == "cosine":
        target = rate if warmup else None
        return keras.optimizers.schedules.CosineDecay(
            start, config.steps - warmup, warmup_target=target, warmup_steps=warmup
        )
    if warmup > 1:
        return keras.optimizers.schedules.PolynomialDecay(start, warmup - 1, end_learning_rate=rate)
    return rate


def make_optimizer(config: Any, variables: Sequence[keras.Variable]) -> keras.Optimizer:
    """Builds the optimizer of the `train` section of a config, with a warm-up of the averaged weights' momentum.

    Weight decay applies only to variables named "kernel", not to biases, ActNorms or orders of norms.
    """
    optimizer = OPTIMIZERS[config.optimizer](
        learning_rate_schedule(config),
        beta_2=config.beta_2,
        weight_decay=config.weight_decay,
        global_clipnorm=config.global_clipnorm or None,
        use_ema=config.ema_momentum > 0,
        ema_momentum=config.ema_momentum,
    )
    optimizer.exclude_from_weight_decay(var_list=[v for v in variables if not v.name.endswith("kernel")])
    optimizer.build(variables)
    warm_up_average(optimizer)
    return optimizer
