"""Distribution strategies by name, their batches, and communication between workers."""

import contextlib
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import tensorflow as tf

from tf_resflow import data


def _auto():
    if len(_workers()) > 1:
        return _multiworker()
    several = len(tf.config.list_logical_devices("GPU")) > 1
    return tf.distribute.MirroredStrategy() if several else tf.distribute.get_strategy()


def _multiworker():
    if not _workers():
        raise ValueError(
            "--strategy=multiworker needs the environment variable TF_CONFIG, with another index on each worker: "
            '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}.'
        )
    return tf.distribute.MultiWorkerMirroredStrategy()


STRATEGIES: dict[str, Callable[[], tf.distribute.Strategy]] = {
    "auto": _auto,
    "default": tf.distribute.get_strategy,
    "mirrored": tf.distribute.MirroredStrategy,
    "multiworker": _multiworker,
}
"""Dict of the name of each strategy to a function without arguments that creates it."""


class WorkerLostError(ConnectionError):
    """Raised when another worker has stopped, so this one cannot continue."""


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes checkpoints and summaries."""
    return strategy.extended.should_checkpoint


def num_workers(strategy: tf.distribute.Strategy) -> int:
    """Returns the number of processes that train together."""
    return len(_workers()) if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) else 1


def make_gather(strategy: tf.distribute.Strategy) -> Callable[[int], list[int]]:
    """Returns a function that gathers an integer from each worker. All workers must call it."""
    if num_workers(strategy) == 1:
        return lambda number: [number]

    @tf.function(autograph=False)
    def gather(number):
        return strategy.gather(strategy.run(lambda number: number[tf.newaxis], (number,)), axis=0)

    return lambda number: gather(tf.constant(number, tf.int64)).numpy().tolist()


def check_agreement(strategy: tf.distribute.Strategy, text: str, message: str) -> None:
    """Raises ValueError with `message` on all workers, unless all workers have the same `text`."""
    if len(set(make_gather(strategy)(zlib.crc32(text.encode())))) > 1:
        raise ValueError(message)


def replica_batches(
    strategy: tf.distribute.Strategy,
    dataset: data.Dataset,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    *,
    labels: bool = False,
) -> Iterable[Any]:
    """Splits the batches of `Dataset.train_batches` between the replicas of a strategy, on their devices.

    `batch_size` counts the examples of all replicas, and replica r receives the r-th of equal parts. Each worker
    decodes only the parts of its replicas. Images are sent to the device as uint8, during the previous step.
    """

    def worker_batches(context):
        share = context.input_pipeline_id, context.num_input_pipelines
        batches = dataset.train_batches(batch_size, seed, start_step, labels=labels, share=share)
        return batches.rebatch(batch_size // context.num_replicas_in_sync, drop_remainder=True)

    batches = strategy.distribute_datasets_from_function(worker_batches)
    gpus = tf.config.list_logical_devices("GPU")
    if gpus and isinstance(batches, tf.data.Dataset):  # the default strategy leaves batches on the host
        batches = batches.apply(tf.data.experimental.prefetch_to_device(gpus[0].name))
    return batches


@contextlib.contextmanager
def explain_lost_workers(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Turns errors of collective operations into a `WorkerLostError`."""
    try:
        yield
    except tf.errors.OpError as error:
        lost = isinstance(error, (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError))
        if num_workers(strategy) == 1 or not (lost or "ollective" in str(error)):
            raise
        raise WorkerLostError(
            "Another worker has stopped; its own message says why. Run the same command again on every worker to "
            "resume from the newest checkpoint."
        ) from None


def _workers():
    try:
        cluster = tf.distribute.cluster_resolver.TFConfigClusterResolver().cluster_spec().as_dict()
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"TF_CONFIG is {os.environ['TF_CONFIG']!r}, which is not a cluster: {error}") from None
    return [*cluster.get("chief", []), *cluster.get("worker", [])]
