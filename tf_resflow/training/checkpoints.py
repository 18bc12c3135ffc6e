"""The state of a run on disk."""

import pathlib
import re
import shutil

import keras
import tensorflow as tf
from absl import logging

from tf_resflow.models.keras_training import KerasTraining
from tf_resflow.training.metrics import read_metrics
from tf_resflow.training.workdir import Workdir

__all__ = ["Checkpoints", "check_state"]


def check_state(files: Workdir) -> None:
    """Raises ValueError if a run was begun in a workdir, and files that it continues from are missing or damaged.

    A run that was killed before its first checkpoint starts again, with the same steps.
    """
    paths, lines = _newest_first(files.checkpoints), read_metrics(files.path)
    if not (paths or lines or files.result.exists()):
        return
    for path in (files.config, files.data):
        if not path.exists():
            raise ValueError(f"{path} is missing beside the checkpoints or metrics of a run. {_REMEDY}")
    last = max((line["step"] for line in lines), default=0)
    if not paths and (files.result.exists() or last > files.read_config().train.checkpoint_every):
        raise ValueError(f"{files.path} has metrics up to step {last}, but {files.checkpoints} is empty. {_REMEDY}")
    if not paths:
        logging.warning("%s has no checkpoint: the run was stopped before, and starts again.", files.path)
    if paths and all(_missing(path) for path in paths):
        raise ValueError(_none_readable(paths, _missing(paths[0])))


class Checkpoints:
    """Saves and restores the state of a run: the model, the optimizer with its averages, the step and the seed.

    The step and the seed are the position in the data and in the random numbers. `tf.train.CheckpointManager`
    writes under a temporary name and renames: a killed save leaves the older checkpoint.

    Args:
      directory: the directory of the checkpoints.
      model: a built `FlowModel` or `HybridModel`.
      optimizer: its built optimizer.
      seed: the seed of the run.
      keep: number of checkpoints to keep, the newest ones; 0 for a reader, who writes none.
      is_chief: whether this process writes them. All workers have the same state, and only the chief saves it.

    Attributes:
      latest: path of the checkpoint that was restored or saved last, or None.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        model: KerasTraining,
        optimizer: keras.Optimizer,
        *,
        seed: int = 0,
        keep: int = 0,
        is_chief: bool = True,
    ):
        self._step = tf.Variable(0, dtype=tf.int64, name="step")
        self.latest: str | None = None
        self._directory = pathlib.Path(directory)
        self._manager: tf.train.CheckpointManager | None = None
        self._checkpoint = tf.train.Checkpoint(
            model=model, optimizer=optimizer, step=self._step, seed=tf.Variable(seed, dtype=tf.int64, name="seed")
        )
        values = [v for v in model.weights + optimizer.variables if "float" in v.dtype]

        @tf.function(autograph=False)
        def all_finite():
            finite = [tf.reduce_all(tf.math.is_finite(value)) for value in values]
            return tf.reduce_all(tf.stack(finite))

        self._all_finite = all_finite
        self._keep = keep if is_chief else 0

    def is_finite(self) -> bool:
        """Whether the weights and the state of the optimizer are finite."""
        return bool(self._all_finite())

    def save(self, step: int) -> str:
        """Saves the state after a step, unless it is saved already; returns the path of the checkpoint."""
        if not self.latest or int(self._step) != step:
            self._step.assign(step)
            if self._keep:
                self._write(step)
            self.latest = self._path(step)
        return self.latest

    def _write(self, step):
        try:
            if self._manager is None:
                self._manager = tf.train.CheckpointManager(
                    self._checkpoint, str(self._directory), max_to_keep=self._keep, step_counter=self._step
                )
            self._manager.save(checkpoint_number=step)
        except (tf.errors.OpError, OSError) as error:
            shutil.rmtree(f"{self._path(step)}_temp", ignore_errors=True)
            before = f"The last one, {self.latest}, is untouched" if self.latest else "There is none before"
            raise OSError(
                f"The checkpoint {self._path(step)} cannot be saved: {_first_line(error)}. {before}. Make room, or "
                "make the directory writable, and run the same command again."
            ) from None

    def restore(self) -> int:
        """Restores the newest checkpoint that can be read, and warns of those that cannot; returns its step, or 0.

        Raises:
          ValueError: when the checkpoint is of another model, or none can be read.
        """
        paths, errors = _newest_first(self._directory), []
        for path in paths:
            try:
                self._read(path)
            except (tf.errors.OpError, IndexError) as error:
                errors.append(_missing(path) or f"{path}: {_first_line(error)}")
                logging.warning("The checkpoint %s cannot be read and was skipped: %s", path, errors[-1])
            else:
                self.latest = path
                return int(self._step)
        if paths:
            raise ValueError(_none_readable(paths, errors[0]))
        return 0

    def _read(self, path):
        status = None
        try:
            status = self._checkpoint.restore(path)
            status.assert_consumed()
        except (AssertionError, ValueError) as error:
            if status is not None:
                status.expect_partial()  # TensorFlow would log each variable
            raise ValueError(
                f"The checkpoint {path} does not fit the model of this config: {_in_short(error)}. "
                "Was it written by another version? Choose another --workdir to train again."
            ) from None

    def _path(self, step):
        return str(self._directory / f"ckpt-{step}")


_REMEDY = "Restore it from a backup, or choose another --workdir to train again. Nothing was changed."


def _newest_first(directory):
    """The paths of the checkpoints that were saved.

    They have an index, which is written after their data, or are in TensorFlow's list, which is written last: if
    the index is then missing, it was lost. Data alone are the remains of a save that was cut short.
    """
    names = [path.stem for path in directory.glob("*.index")]
    if (directory / "checkpoint").is_file():
        content = (directory / "checkpoint").read_text(encoding="utf-8", errors="replace")
        names += re.findall(r'(ckpt-\d+)"', content)
    steps = {int(name[5:]) for name in names if re.fullmatch(r"ckpt-\d+", name)}
    return [str(directory / f"ckpt-{step}") for step in sorted(steps, reverse=True)]


def _exists(path):
    return pathlib.Path(f"{path}.index").exists()


def _missing(path):
    """A message about the missing file of a checkpoint, empty if there is none."""
    directory, name = pathlib.Path(path).parent, pathlib.Path(path).name
    if not _exists(path):
        return f"{path}.index is missing"
    return "" if list(directory.glob(f"{name}.data-*")) else f"{path}.data-00000-of-00001 is missing"


def _none_readable(paths, reason):
    directory = pathlib.Path(paths[0]).parent
    return f"None of the {len(paths)} checkpoints in {directory} can be read: {reason}. {_REMEDY}"


def _in_short(error):
    """TensorFlow's message without the values of the variables that it names."""
    names = re.findall(r"<tf\.Variable '([^']+)'", str(error))
    if not names:
        return str(error).splitlines()[0][:300].rstrip(".")
    more = ", ..." if len(names) > 3 else ""
    return f"it has no values for {', '.join(names[:3])}{more}"


def _first_line(error):
    """The message of an error, without TensorFlow's graph."""
    message = getattr(error, "message", None) or str(error)
    return re.sub(r"^{{.*?}}\s*|\s*\[Op:\w+\]", "", message).splitlines()[0].rstrip(".")
