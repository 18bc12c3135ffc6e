"""The data of a run."""

import os
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from tf_resflow import data
from tf_resflow.models.build import with_statistics
from tf_resflow.training.workdir import Workdir

if TYPE_CHECKING:
    from ml_collections import ConfigDict

__all__ = ["load_checked", "load_data"]


def load_data(
    workdir: str | os.PathLike[str], *, data_dir: str | None = None, data_path: str | None = None
) -> data.Dataset:
    """Loads the data set that a run was trained on.

    Args:
      workdir: directory of a run.
      data_dir: the TensorFlow Datasets folder, if the data have moved.
      data_path: their file or folder, if the data have moved.

    Returns:
      A `Dataset`.

    Raises:
      ValueError: when the directory has no run, or the data are missing, malformed, or not those of the run.
    """
    files = Workdir(workdir)
    config = files.read_config()
    moved = {"data_dir": data_dir, "path": data_path}
    config.data.update({field: value for field, value in moved.items() if value is not None})
    path = config.data.path
    if path and not pathlib.Path(path).expanduser().exists():
        raise ValueError(
            f"The data of the run in {files.path} are not at {path} (looked for {pathlib.Path(path).absolute()}). "
            "If they have moved, give their new path by --data_path."
        )
    return load_checked(config, files)


def load_checked(
    config: "ConfigDict", files: Workdir, check: Callable[[data.Dataset], None] = lambda dataset: None
) -> data.Dataset:
    """Loads the data set of a config, and compares it with the one that its workdir belongs to.

    Args:
      config: the run's configuration.
      files: its `Workdir`.
      check: function of the data set, called before any long work.

    Returns:
      A `Dataset`; with the statistics of its channels, if a hybrid model normalizes by them.

    Raises:
      ValueError: when the data are missing, malformed, or not those that the run was begun with.
    """
    dataset = data.load(config.data)
    check(dataset)
    dataset = with_statistics(config, dataset)
    files.check_data(dataset)
    return dataset
