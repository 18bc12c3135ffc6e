"""The devices that a run uses, by name."""

import tensorflow as tf

__all__ = ["STRATEGIES"]


def _auto():
    several = len(tf.config.list_logical_devices("GPU")) > 1
    return tf.distribute.MirroredStrategy() if several else tf.distribute.get_strategy()


STRATEGIES = {
    "auto": _auto,
    "default": tf.distribute.get_strategy,
    "mirrored": tf.distribute.MirroredStrategy,
}
"""Strategies by name, as functions of no argument: "auto" is mirrored over several GPUs, else one device."""
