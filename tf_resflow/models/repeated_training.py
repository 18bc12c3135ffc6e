"""Trains one model many times, with early stopping and without compiling again."""

import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tf_resflow.models.flow_model import FlowModel
from tf_resflow.models.step import train_step
from tf_resflow.private_api import silence_retracing

_CHUNK = 256  # examples evaluated at once, padded so that the rounding of a value does not depend on other examples
_AT_ONCE = 64  # steps per call, which limits the memory of their batches


class Best(NamedTuple):
    """The best weights of a training: the held-out loss, the number of steps until then, and the values."""

    loss: float = np.inf
    step: int = 0
    values: Sequence[np.ndarray] = ()


class RepeatedTraining:
    """Trains a conditional model many times with the same graphs, from given weights.

    The members of an ensemble, the candidates for a setting, and later fits share one compiled step.

    Args:
      model: a conditional `FlowModel`, whose variables hold the weights of the current training.
      optimizer: a Keras optimizer.
      batch_size: number of examples per step.
      condition_shape: shape of the conditions. Keras's TimeDistributed, for sets, is wrong if a size is not known.
      dtype: dtype of the conditions.

    Attributes:
      variables: the variables of the model, including its statistics, whose values are the weights of a member.
      lock: hold it while the variables are in use, because several threads may share the object.
    """

    def __init__(
        self,
        model: FlowModel,
        optimizer: Any,
        batch_size: int,
        condition_shape: Sequence[int],
        dtype: Any = tf.float32,
    ):
        self.model, self.batch_size, self.lock = model, batch_size, threading.RLock()
        self.condition_shape = tuple(condition_shape)
        self.variables = member_variables(model)
        model.compile(optimizer)
        shapes = model.data_space.event_shape, condition_shape
        kinds = [*zip(shapes, (model.distribution.dtype, dtype), strict=True)]
        batches = [tf.TensorSpec([None, batch_size, *shape], kind) for shape, kind in kinds]
        signature = [*batches, tf.TensorSpec([None]), tf.TensorSpec([None, 2], tf.int32)]
        self._steps = silence_retracing(tf.function(self._take_steps, input_signature=signature, autograph=False))
        self._log_prob = tf.function(
            lambda x, condition: model.log_prob(x, 0, condition=condition, evaluation=True),
            input_signature=[tf.TensorSpec([_CHUNK, *shape], kind) for shape, kind in kinds],
            autograph=False,
        )

    def start(self, values: Sequence[np.ndarray]) -> None:
        """Sets the variables, and resets the optimizer."""
        assign(self.variables, values)
        for variable in self.model.optimizer.variables:
            variable.assign(tf.zeros_like(variable))

    def run(
        self,
        rounds: Sequence[np.ndarray],
        batches: Callable[[np.ndarray], Sequence[np.ndarray]],
        rates: np.ndarray,
        held_out_loss: Callable[[], float],
        patience: float,
        best: Best | None = None,
        report: Callable[[int, float], Any] = lambda step, loss: False,
    ) -> Best:
        """Trains from the current weights, and returns the best weights, which the variables need not have then.

        It ends when the held-out loss has not decreased for `patience` steps, or, with a warning, when a step fails
        because the loss or its gradient is not finite.

        Args:
          rounds: arrays of consecutive numbers of steps. The held-out loss is evaluated after each of them.
          batches: function of such an array that returns examples `[steps, batch, ...]`, their conditions, and
            seeds `[steps, 2]`.
          rates: `[steps]`, learning rates.
          held_out_loss: function that evaluates the current weights.
          best: the best weights of an earlier part of the training.
          report: function called after each round with the number of steps and the held-out loss. Training ends
            if it returns a true value.
        """
        best = best or Best()
        for chosen in rounds:
            if chosen[0] - best.step >= patience:
                break
            x, condition, seeds = batches(chosen)
            try:
                for start in range(0, len(chosen), _AT_ONCE):
                    part = slice(start, start + _AT_ONCE)
                    self._steps(x[part], condition[part], rates[chosen[part]], seeds[part])
            except tf.errors.InvalidArgumentError as error:
                if not best.values:
                    raise
                warnings.warn(f"A training stopped early: {error}", stacklevel=4)
                break
            loss = float(np.nan_to_num(held_out_loss(), nan=np.inf))
            if not best.values or loss < best.loss:
                best = Best(loss, int(chosen[-1]) + 1, values_of(self.variables))
            if report(int(chosen[-1]) + 1, loss):
                break
        return best

    def log_probs(self, x: np.ndarray, condition: np.ndarray) -> np.ndarray:
        """Returns the log-densities `[num]` of examples with the current weights, in float64."""
        parts = [np.resize(part, [-(-len(x) // _CHUNK), _CHUNK, *part.shape[1:]]) for part in (x, condition)]
        found = [self._log_prob(*pair).numpy() for pair in zip(*parts, strict=True)]
        return np.concatenate(found)[: len(x)].astype(np.float64)

    def _take_steps(self, *batches):
        """Performs a step for each batch, condition, learning rate and seed, and returns the mean loss."""

        def take(batch):
            x, condition, rate, seed = batch
            self.model.optimizer.learning_rate.assign(rate)
            return train_step(self.model, (x, condition), seed)[self.model.objective]

        dtype = self.model.distribution.dtype
        return tf.reduce_mean(tf.map_fn(take, batches, parallel_iterations=1, fn_output_signature=dtype))


def member_variables(model: FlowModel) -> list[Any]:
    """Returns the variables whose values are the weights of a member, including the statistics of the data."""
    return [*model.weights, *model.statistics.values()]


def permuted(variables: Sequence[Any], rng: np.random.Generator) -> list[np.ndarray]:
    """Returns values with the elements of each variable in random order.

    The elements of a kernel are independent draws from one distribution, so these are other initial weights.
    """
    return [rng.permutation(np.ravel(value)).reshape(np.shape(value)) for value in variables]


def values_of(variables: Sequence[Any]) -> list[np.ndarray]:
    """Returns the values of variables as arrays."""
    return [variable.numpy() for variable in variables]


def assign(variables: Sequence[Any], values: Any) -> None:
    """Assigns values to variables."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def learning_rates(steps: int, maximum: float, warmup: float) -> np.ndarray:
    """Returns the learning rate of each step: linear in the fraction `warmup` of the steps, then half a cosine."""
    step, warmup = np.arange(steps), warmup * steps
    decay = 0.5 * (1 + np.cos(np.pi * np.maximum(step - warmup, 0) / (steps - warmup)))
    return (maximum * np.minimum((step + 1) / warmup, 1) * decay).astype(np.float32)


def draw_rows(weights: np.ndarray, num: int, rng: Any) -> np.ndarray:
    """Draws `num` row indices in proportion to the weights, each about equally often if the weights are equal."""
    if np.ptp(weights) > 0:
        return rng.choice(len(weights), num, p=weights / weights.sum()).astype(np.int32)
    epochs = -(-num // len(weights))
    return np.concatenate([rng.permutation(len(weights)) for _ in range(epochs)])[:num].astype(np.int32)
