"""The optimizer of a run, and checkpoints of its state."""

import pathlib
import re
import shutil
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from absl import logging

from tf_resflow._internal.writing import explain_write_errors
from tf_resflow.models.averaging import WeightAverage
from tf_resflow.models.keras_training import KerasTraining
from tf_resflow.models.optimizers import Adam, Muon
from tf_resflow.training.workdir import REMEDY, newest_first


def learning_rate_schedule(config: Any) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """Returns the learning rate schedule of the `train` section of a config.

    A linear warm-up reaches `learning_rate` after `warmup_steps` iterations. Then the rate stays constant
    (`schedule="constant"`) or falls to zero at `steps` along half a cosine (`schedule="cosine"`). A warm-up that
    leaves no steps for the cosine is shortened to half of the steps.
    """
    rate = config.learning_rate
    warmup = config.warmup_steps
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


class Checkpoints:
    """Saves and restores the state of a run: the model, the optimizer, the average, the step and the seed.

    Args:
      keep: Number of newest checkpoints to keep. If 0, no checkpoints are written.
      is_chief: Whether this process writes checkpoints. All workers have the same state.

    Attributes:
      latest: Path of the checkpoint that was last restored or saved, or None.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        model: KerasTraining,
        optimizer: keras.Optimizer,
        average: WeightAverage,
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
            model=model,
            optimizer=optimizer,
            average=average,
            step=self._step,
            seed=tf.Variable(seed, dtype=tf.int64, name="seed"),
        )
        self._floats = [v for v in model.weights + optimizer.variables if "float" in v.dtype] + average.values
        self._keep = keep if is_chief else 0

    def is_finite(self) -> bool:
        """Whether the weights, their average and the state of the optimizer are finite."""
        return all(tf.reduce_all(tf.math.is_finite(value)) for value in self._floats)

    def save(self, step: int) -> str:
        """Saves the state after a step, unless it is already saved. Returns the path of the checkpoint."""
        path = self._path(step)
        if self.latest and int(self._step) == step:
            return self.latest
        self._step.assign(step)
        if self._keep:
            try:
                with explain_write_errors(path):
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
        """Restores the newest readable checkpoint and returns its step, or 0 if there are no checkpoints.

        If `best_step` is given, restores only the checkpoint of this step, and logs a warning if it was not kept.
        """
        paths = newest_first(self._directory)
        errors = []
        if best_step is not None:
            paths = [path for path in paths if path == self._path(best_step)]
            if not paths:
                logging.warning(
                    "%s has no checkpoint of step %d, which has the best validation score. The last checkpoint is "
                    "used instead. To keep the best checkpoint, train with train.keep_best=True.",
                    self._directory,
                    best_step,
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
                status.expect_partial()  # otherwise TensorFlow logs every variable
            raise ValueError(
                f"The checkpoint {path} does not fit the model of this config: {_first_line(error)}. Use the "
                "version that wrote it, or choose another --workdir to train again."
            ) from None

    def _path(self, step):
        return str(self._directory / f"ckpt-{step}")


def _first_line(error):
    """Returns the first line of an error message, without the names of graph operations."""
    message = getattr(error, "message", None) or str(error)
    return re.sub(r"^{{.*?}}\s*|\s*\[Op:\w+\]", "", message).splitlines()[0][:400].rstrip(".")
