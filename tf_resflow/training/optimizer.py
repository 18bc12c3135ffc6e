"""Optimizers and learning rate schedules."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_resflow.models.optimizers import Adam, Muon


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
    """Builds the optimizer of the `train` section of a config.

    Weight decay applies only to variables named "kernel", not to biases, ActNorms or orders of norms. Under a
    strategy with n replicas, `train_step` gives the optimizer 1/n of the summed gradient, and the optimizer clips
    that at 1/n of `global_clipnorm`.
    """
    kind = Muon if config.optimizer == "muon" else Adam
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    optimizer = kind(
        learning_rate_schedule(config),
        beta_2=config.beta_2,
        weight_decay=config.weight_decay or None,
        global_clipnorm=config.global_clipnorm / replicas or None,
    )
    optimizer.exclude_from_weight_decay(var_list=[v for v in variables if not v.name.endswith("kernel")])
    optimizer.build(variables)
    return optimizer
