"""The state of a run on disk."""

import pathlib
import re
import shutil
from typing import Any

import keras
import tensorflow as tf
from absl import logging

from tf_resflow.models.keras_training import KerasTraining
from tf_resflow.training.workdir import REMEDY, newest_first
from tf_resflow.writing import unwritable_told


class Checkpoints:
    """Saves and restores the state of a run: the model, the optimizer with its averages, the step and the seed.

    Args:
      directory: the directory of the checkpoints.
      model: a built `FlowModel` or `HybridModel`.
      optimizer: its built optimizer.
      seed: the seed of the run.
      keep: number of checkpoints to keep, the newest ones; 0 to write none.
      is_chief: whether this process writes them. All workers have the same state.

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
        self._manager: Any = None
        self._checkpoint = tf.train.Checkpoint(
            model=model, optimizer=optimizer, step=self._step, seed=tf.Variable(seed, dtype=tf.int64, name="seed")
        )
        self._floats = [v for v in model.weights + optimizer.variables if "float" in v.dtype]
        self._keep = keep if is_chief else 0

    def is_finite(self) -> bool:
        """Whether the weights and the state of the optimizer are finite."""
        return all(tf.reduce_all(tf.math.is_finite(value)) for value in self._floats)

    def save(self, step: int) -> str:
        """Saves the state after a step, unless it is saved already; returns the path of the checkpoint."""
        path = self._path(step)
        if self.latest and int(self._step) == step:
            return self.latest
        self._step.assign(step)
        if self._keep:
            try:
                with unwritable_told(path):
                    self._manager = self._manager or tf.train.CheckpointManager(
                        self._checkpoint, str(self._directory), max_to_keep=self._keep, step_counter=self._step
                    )
                    self._manager.save(checkpoint_number=step)
            except OSError:
                shutil.rmtree(f"{path}_temp", ignore_errors=True)
                raise
        self.latest = path
        return path

    def restore(self, best_step: int | None = None) -> int:
        """Restores the newest checkpoint that can be read, and returns its step, or 0 if there is none.

        Given the step with the best score, restores only that checkpoint, and warns if it was not kept.
        """
        paths, errors = newest_first(self._directory), []
        if best_step is not None:
            paths = [path for path in paths if path == self._path(best_step)]
            if not paths:
                logging.warning(
                    "The last state is used: %s has no checkpoint of step %d, whose validation score is the best. "
                    "Such a checkpoint is kept only while train.keep_best is set.",
                    *(self._directory, best_step),
                )
        for path in paths:
            try:
                self._read(path)
                self.latest = path
                return int(self._step)
            except (tf.errors.OpError, IndexError) as error:
                errors.append(_first_line(error))
                logging.warning("The checkpoint %s cannot be read and was skipped: %s", path, errors[-1])
        if paths:
            raise ValueError(
                f"None of the {len(paths)} checkpoints in {self._directory} can be read: {errors[0]}. {REMEDY}"
            )
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
                f"The checkpoint {path} does not fit the model of this config: {_first_line(error)}. "
                "Was it written by another version? Choose another --workdir to train again."
            ) from None

    def _path(self, step):
        return str(self._directory / f"ckpt-{step}")


def _first_line(error):
    """The message of an error, without TensorFlow's graph."""
    message = getattr(error, "message", None) or str(error)
    return re.sub(r"^{{.*?}}\s*|\s*\[Op:\w+\]", "", message).splitlines()[0][:400].rstrip(".")
