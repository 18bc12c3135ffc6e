"""Optimizers of Keras with a warmed-up average of the weights, and schedules of the learning rate."""

from collections.abc import Sequence
from typing import Any

import keras

from tf_resflow.models.averaging import WarmedUpAverage
from tf_resflow.private_api import ClipsSummedGradients, MuonOfKernels

__all__ = ["OPTIMIZERS", "Adam", "AdamW", "Muon", "learning_rate_schedule", "make_optimizer"]


@keras.saving.register_keras_serializable("tf_resflow")
class Adam(WarmedUpAverage, ClipsSummedGradients, keras.optimizers.Adam):
    """Adam with a warmed-up average of the weights; `ema_momentum` is the limit of the momentum."""


@keras.saving.register_keras_serializable("tf_resflow")
class AdamW(WarmedUpAverage, ClipsSummedGradients, keras.optimizers.AdamW):
    """AdamW with a warmed-up average of the weights; `ema_momentum` is the limit of the momentum."""


@keras.saving.register_keras_serializable("tf_resflow")
class Muon(WarmedUpAverage, ClipsSummedGradients, MuonOfKernels):
    """Muon for kernels, AdamW for all else, and a warmed-up average; `ema_momentum` is the limit of the momentum.

    References:
      Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024.
      Liu et al., Muon is scalable for LLM training, 2025: the size of the update.
    """


OPTIMIZERS = {"adam": Adam, "adamw": AdamW, "muon": Muon}


def learning_rate_schedule(config: Any) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """The learning rate of the `train` section of a config, as a function of the iteration.

    A linear warm-up reaches `learning_rate` after `warmup_steps` iterations. Then the rate stays
    (`schedule="constant"`) or falls to zero at `steps` on half a cosine (`schedule="cosine"`). A warm-up that
    leaves no step to the cosine is shortened to half of the steps.
    """
    rate, warmup = config.learning_rate, config.warmup_steps
    if config.schedule == "cosine" and warmup >= config.steps:
        warmup = config.steps // 2
    start = rate / warmup if warmup else rate
    if config.schedule == "cosine":
        return keras.optimizers.schedules.CosineDecay(
            start,
            config.steps - warmup,
            warmup_target=rate if warmup else None,
            warmup_steps=warmup,
        )
    if warmup > 1:
        return keras.optimizers.schedules.PolynomialDecay(start, warmup - 1, end_learning_rate=rate)
    return rate


def make_optimizer(config: Any, variables: Sequence[keras.Variable]) -> keras.Optimizer:
    """Builds the optimizer of the `train` section of a config for trainable variables.

    Weight decay applies to kernels alone, found by the name that Keras gives them: not to biases, the parameters of
    ActNorm, of 1x1 convolutions and of activations, or orders of norms.
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
    return optimizer
