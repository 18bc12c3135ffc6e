"""Loading of a run's data, and distribution of its batches to devices."""

import dataclasses
import os
from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf

from tf_resflow import data
from tf_resflow.config_fields import ConfigDict
from tf_resflow.models.build import with_statistics
from tf_resflow.training.packed import opened
from tf_resflow.training.workdir import Workdir


def load_data(
    workdir: str | os.PathLike[str], *, data_dir: str | None = None, data_path: str | None = None
) -> data.Dataset:
    """Loads the data set that a run was trained on.

    Args:
      workdir: Directory of a run, file of a saved run, or "pretrained:NAME", see `tf_resflow.load`.
      data_dir: TensorFlow Datasets folder of the data, if it has moved.
      data_path: File or folder of the data, if it has moved.
    """
    files = opened(workdir)
    return load_checked(files.config_of_data(data_dir=data_dir, data_path=data_path), files)


def load_checked(
    config: ConfigDict, files: Workdir, check: Callable[[data.Dataset], None] = lambda dataset: None
) -> data.Dataset:
    """Loads a config's data set and calls `check` with it. Raises ValueError if it differs from the run's data."""
    begun = files.read_data() if files.is_begun() else None
    dataset = data.load(config.data)
    check(dataset)
    if begun is None or begun.mean is None or dataset.levels is None:
        dataset = with_statistics(config, dataset)
    else:  # a converted checkpoint keeps its published statistics
        dataset = dataclasses.replace(dataset, mean=begun.mean, std=begun.std)
    files.check_data(dataset)
    return dataset


def initial_batch(config: ConfigDict, dataset: data.Dataset, *, labels: bool = False) -> Any:
    """Returns the training examples that initialize a model: one batch, but at least 64 examples if available."""
    size = max(config.train.batch_size, 64)
    size = min(size, dataset.sizes.get("train") or size)
    return next(iter(dataset.train_batches(size, config.seed, labels=labels)))


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
