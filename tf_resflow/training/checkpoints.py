"""The state of a run on disk."""

import re

import tensorflow as tf

__all__ = ["Checkpoints"]


class Checkpoints:
    """Saves and restores all that a run continues from.

    That is the model's weights with their power iterations, the optimizer with its moments and its
    averaged weights, the step (which, with the seed, is the position in the data and in the random
    numbers), the seed and the best held-out score so far. `tf.train.CheckpointManager` writes under
    a temporary name and renames: a killed save leaves the older checkpoint.

    Args:
      directory: where the checkpoints are.
      model: a built `FlowModel`.
      optimizer: its built optimizer.
      seed: the seed of the run.
      keep: how many checkpoints to keep, newest first.
    """

    def __init__(self, directory, model, optimizer, seed=0, keep=3):
        self.step = tf.Variable(0, dtype=tf.int64, name="step")
        self.best = tf.Variable(float("inf"), dtype=tf.float64, name="best")
        self._seed = tf.Variable(seed, dtype=tf.int64, name="seed")
        self._checkpoint = tf.train.Checkpoint(
            model=model, optimizer=optimizer, step=self.step, best=self.best, seed=self._seed
        )
        values = [v for v in model.weights + optimizer.variables if "float" in v.dtype]

        @tf.function(autograph=False)
        def all_finite():
            finite = [tf.reduce_all(tf.math.is_finite(value)) for value in values]
            return tf.reduce_all(tf.stack(finite))

        self._all_finite = all_finite
        self._manager = tf.train.CheckpointManager(
            self._checkpoint, str(directory), max_to_keep=keep, step_counter=self.step
        )

    @property
    def latest(self):
        """Path of the newest checkpoint, or None."""
        return self._manager.latest_checkpoint

    def is_finite(self):
        """Whether the weights and the state of the optimizer are finite."""
        return bool(self._all_finite())

    def save(self, step):
        """Saves the state as that of `step`, unless it is there already.

        Args:
          step: number of training steps taken.
        """
        if self.latest and int(self.step) == step:
            return
        self.step.assign(step)
        self._manager.save(checkpoint_number=step)

    def restore(self):
        """Restores the newest checkpoint, if there is one.

        Returns:
          The number of training steps that the restored state has taken; 0 without a checkpoint.

        Raises:
          ValueError: when the checkpoint is of another model.
        """
        if self.latest is None:
            return 0
        status = None
        try:
            status = self._checkpoint.restore(self.latest)
            status.assert_consumed()
        except (AssertionError, ValueError) as error:
            if status is not None:
                status.expect_partial()  # the error says it; TensorFlow would log each variable
            raise ValueError(
                f"The checkpoint {self.latest} does not fit the model of this config: {_in_short(error)}. "
                "Was it written by another version? Choose another --workdir to train anew."
            ) from None
        return int(self.step)


def _in_short(error):
    """TensorFlow's message without the values of the variables that it names."""
    names = re.findall(r"<tf\.Variable '([^']+)'", str(error))
    if not names:
        return str(error).splitlines()[0][:300].rstrip(".")
    more = ", ..." if len(names) > 3 else ""
    return f"it has no values for {', '.join(names[:3])}{more}"
