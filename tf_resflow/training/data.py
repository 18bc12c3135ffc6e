"""The data of a run."""

import pathlib

from tf_resflow import data
from tf_resflow.training.workdir import Workdir

__all__ = ["load_checked", "load_data"]


def load_data(workdir, data_dir=None, data_path=None):
    """Loads the data set that a run was trained on.

    Args:
      workdir: directory of a run.
      data_dir: where TensorFlow Datasets finds it, if not where it was.
      data_path: its file or folder, if not where it was.

    Returns:
      A `Dataset`.

    Raises:
      ValueError: when the directory has no run, or the data are missing, malformed, or others than those.
    """
    files = Workdir(workdir)
    config = files.read_config()
    moved = {"data_dir": data_dir, "path": data_path}
    config.data.update({field: value for field, value in moved.items() if value is not None})
    path = config.data.path
    if path and not pathlib.Path(path).expanduser().exists():
        raise ValueError(
            f"The data of the run in {files.path} are not at {path} (looked for {pathlib.Path(path).absolute()}). "
            "If they have moved, say where they are by --data_path."
        )
    return load_checked(config, files)


def load_checked(config, files, check=None):
    """Loads the data set of a config, and compares it with the one that its workdir belongs to.

    Args:
      config: the run's configuration.
      files: its `Workdir`.
      check: function of the data set that is called before what takes long.

    Returns:
      A `Dataset`; with the statistics of its channels, where a hybrid model normalizes by them.

    Raises:
      ValueError: when the data are missing, malformed, or not those that the run was begun with.
    """
    dataset = data.load(config.data)
    if check:
        check(dataset)
    if config.task == "hybrid" and config.model.logit_alpha is None:
        dataset = dataset.with_channel_statistics()
    files.check_data(dataset)
    return dataset
