"""The state of a run on disk."""

import pathlib
import re
import shutil

import tensorflow as tf
from absl import logging

from tf_resflow.training.workdir import write_text

__all__ = ["Checkpoints"]


class Checkpoints:
    """Saves and restores all that a run continues from.

    That is the model's weights with their power iterations, the optimizer with its moments and its
    averaged weights, the step (which, with the seed, is the position in the data and in the random
    numbers) and the seed. `tf.train.CheckpointManager` writes under
    a temporary name and renames: a killed save leaves the older checkpoint.

    Args:
      directory: where the checkpoints are.
      model: a built `FlowModel`.
      optimizer: its built optimizer.
      seed: the seed of the run.
      keep: how many checkpoints to keep, newest first; 0 for a reader, who writes none.
      is_chief: whether this process writes them. All workers have the same state, and only the chief saves it.

    Attributes:
      latest: path of the checkpoint that was restored or saved last, or None.
    """

    def __init__(self, directory, model, optimizer, seed=0, keep=0, is_chief=True):
        self.step = tf.Variable(0, dtype=tf.int64, name="step")
        self._seed = tf.Variable(seed, dtype=tf.int64, name="seed")
        self.latest = None
        self._directory = pathlib.Path(directory)
        self._manager = None
        self._checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer, step=self.step, seed=self._seed)
        values = [v for v in model.weights + optimizer.variables if "float" in v.dtype]

        @tf.function(autograph=False)
        def all_finite():
            finite = [tf.reduce_all(tf.math.is_finite(value)) for value in values]
            return tf.reduce_all(tf.stack(finite))

        self._all_finite = all_finite
        if keep and is_chief:
            self._list()
            self._manager = tf.train.CheckpointManager(
                self._checkpoint, str(directory), max_to_keep=keep, step_counter=self.step
            )

    def is_finite(self):
        """Whether the weights and the state of the optimizer are finite."""
        return bool(self._all_finite())

    def save(self, step):
        """Saves the state as that of `step`, unless it is there already.

        Args:
          step: number of training steps taken.

        Raises:
          OSError: when the file system does not take it.
        """
        if self.latest and int(self.step) == step:
            return
        self.step.assign(step)
        if self._manager is not None:
            self._write(step)
        self.latest = self._path(step)

    def _write(self, step):
        try:
            self._manager.save(checkpoint_number=step)
        except (tf.errors.OpError, OSError) as error:
            shutil.rmtree(f"{self._path(step)}_temp", ignore_errors=True)
            before = f"The last one, {self.latest}, is untouched" if self.latest else "There is none before"
            raise OSError(
                f"The checkpoint {self._path(step)} cannot be saved: {_first_line(error)}. {before}. Make room, or "
                "make the directory writable, and run the same command again."
            ) from None

    def restore(self):
        """Restores the newest checkpoint that can be read, if there is one; warns of those that cannot.

        Returns:
          The number of training steps that the restored state has taken; 0 without a checkpoint.

        Raises:
          ValueError: when the checkpoint is of another model, or none can be read.
        """
        paths = self._newest_first()
        for path in paths:
            try:
                self._read(path)
            except (tf.errors.OpError, IndexError) as error:
                logging.warning("The checkpoint %s cannot be read and was skipped: %s", path, _first_line(error))
            else:
                self.latest = path
                return int(self.step)
        if paths:
            raise ValueError(
                f"None of the {len(paths)} checkpoints in {self._directory} can be read. Restore one from a "
                "backup, or choose another --workdir to train anew."
            )
        return 0

    def _read(self, path):
        status = None
        try:
            status = self._checkpoint.restore(path)
            status.assert_consumed()
        except (AssertionError, ValueError) as error:
            if status is not None:
                status.expect_partial()  # the error says it; TensorFlow would log each variable
            raise ValueError(
                f"The checkpoint {path} does not fit the model of this config: {_in_short(error)}. "
                "Was it written by another version? Choose another --workdir to train anew."
            ) from None

    def _path(self, step):
        return str(self._directory / f"ckpt-{step}")

    def _newest_first(self):
        """The paths of the checkpoints that are there; an index is written when its data are."""
        names = [re.fullmatch(r"ckpt-(\d+)", path.stem) for path in self._directory.glob("*.index")]
        return [self._path(step) for step in sorted((int(name[1]) for name in names if name), reverse=True)]

    def _list(self):
        """Brings the list that the manager reads in line with the files: a crash may have left it behind."""
        paths = self._newest_first()[::-1]
        if paths:
            state = tf.compat.v1.train.generate_checkpoint_state_proto(
                str(self._directory),
                paths[-1],
                paths,
                all_model_checkpoint_timestamps=[pathlib.Path(f"{path}.index").stat().st_mtime for path in paths],
                last_preserved_timestamp=0.0,
            )
            write_text(self._directory / "checkpoint", str(state))


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
