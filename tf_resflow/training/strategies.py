"""The devices that a run uses, by name."""

import json
import os
import zlib

import tensorflow as tf

__all__ = ["STRATEGIES", "check_agreement", "is_chief", "num_workers"]


def _auto():
    if len(_workers()) > 1:
        return _multiworker()
    several = len(tf.config.list_logical_devices("GPU")) > 1
    return tf.distribute.MirroredStrategy() if several else tf.distribute.get_strategy()


def _multiworker():
    if not _workers():
        raise ValueError(
            "The strategy multiworker needs the environment variable TF_CONFIG on each machine, such as "
            '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}, with '
            "an index of its own."
        )
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except (ValueError, TypeError) as error:
        raise ValueError(f"TF_CONFIG is not right: {error} It is {os.environ['TF_CONFIG']!r}.") from None


def _tpu():
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver()
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, tf.errors.OpError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"No TPU was found: {reason}. Run on a TPU VM, or set TPU_NAME to a TPU's name.") from None
    return tf.distribute.TPUStrategy(resolver)


STRATEGIES = {
    "auto": _auto,
    "default": tf.distribute.get_strategy,
    "mirrored": tf.distribute.MirroredStrategy,
    "multiworker": _multiworker,
    "tpu": _tpu,
}
"""Strategies by name, as functions of no argument, which raise ValueError where the machines are not there.

"auto" is multiworker where TF_CONFIG names several workers, else mirrored over several GPUs, else one device.
"""


def is_chief(strategy):
    """Whether this process is the one that writes checkpoints and summaries."""
    return strategy.extended.should_checkpoint


def num_workers(strategy):
    """The number of processes that train together."""
    return len(_workers()) if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) else 1


def check_agreement(strategy, text, message):
    """Raises ValueError with the message, on all workers, unless all of them have the same text."""
    if num_workers(strategy) == 1:
        return

    digest = zlib.crc32(text.encode())

    @tf.function(autograph=False)
    def digests():
        own = strategy.run(lambda: tf.constant([digest], tf.int64))
        return strategy.gather(own, axis=0)

    if len(set(digests().numpy())) > 1:
        raise ValueError(message)


def _workers():
    """The addresses in TF_CONFIG."""
    text = os.environ.get("TF_CONFIG") or "{}"
    try:
        cluster = json.loads(text).get("cluster", {})
        jobs = [cluster.get("chief", []), cluster.get("worker", [])]
    except (json.JSONDecodeError, AttributeError):
        jobs = [None]
    if not all(isinstance(addresses, list) for addresses in jobs):
        raise ValueError(f"TF_CONFIG is no JSON object with a cluster of lists of workers: {text!r}.")
    return sum(jobs, [])
