"""Trains one model many times, with early stopping and without compiling again."""

import contextlib
import dataclasses
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tf_resflow import layers
from tf_resflow._internal.private_api import silence_retracing
from tf_resflow.models.flow_model import FlowModel
from tf_resflow.models.step import train_step

_CHUNK = 256  # examples evaluated at once, padded so that the rounding of a value does not depend on other examples
_STEPS_PER_CALL = 64  # limits the memory of their batches


class Best(NamedTuple):
    """The best weights of a training: the held-out loss, the number of steps until then, and the values."""

    loss: float = np.inf
    step: int = 0
    values: Sequence[np.ndarray] = ()


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The steps of a training.

    Args:
      num_steps: Maximum number of steps.
      num_rounds: Number of rounds of about equally many steps. The held-out loss is evaluated after each of them.
      learning_rate: Maximum learning rate.
      warmup: Fraction of the steps in which the learning rate increases linearly. Then it decays along a cosine.
      patience: Fraction of the steps. Training ends when the held-out loss has not decreased for this long.
    """

    num_steps: int
    num_rounds: int
    learning_rate: float
    warmup: float
    patience: float

    def rounds(self) -> list[np.ndarray]:
        """Returns the numbers of the steps of each round."""
        return np.array_split(np.arange(self.num_steps), self.num_rounds)

    def learning_rates(self) -> np.ndarray:
        """Returns the learning rate of each step."""
        steps = np.arange(self.num_steps)
        warmup = self.warmup * self.num_steps
        decay = 0.5 * (1 + np.cos(np.pi * np.maximum(steps - warmup, 0) / (self.num_steps - warmup)))
        return (self.learning_rate * np.minimum((steps + 1) / warmup, 1) * decay).astype(np.float32)


class RepeatedTraining:
    """Trains a conditional model many times with the same graphs, from given weights.

    The members of an ensemble, the candidates for a setting, and later fits share one compiled step. They use the
    variables of the model in turn. The weights of a member are the list of the values of these variables.

    Args:
      model: A conditional `FlowModel`, whose variables hold the weights of the current training.
      optimizer: A Keras optimizer.
      batch_size: Number of examples per step.
      condition_shape: Shape of the conditions. Keras's TimeDistributed, for sets, is wrong if a size is not known.
      dtype: Dtype of the conditions.

    Attributes:
      variables: The variables of the model, including its statistics, whose values are the weights of a member.
      lock: Hold it while the variables are in use, because several threads may share the object.
    """

    def __init__(
        self,
        model: FlowModel,
        optimizer: Any,
        batch_size: int,
        condition_shape: Sequence[int],
        dtype: Any = tf.float32,
    ):
        self.model = model
        self.batch_size = batch_size
        self.condition_shape = tuple(condition_shape)
        self.lock = threading.RLock()
        self.variables = member_variables(model)
        model.compile(optimizer)
        event_shape = model.data_space.event_shape
        event_dtype = model.distribution.dtype
        signature = [
            tf.TensorSpec([None, batch_size, *event_shape], event_dtype),
            tf.TensorSpec([None, batch_size, *condition_shape], dtype),
            tf.TensorSpec([None]),
            tf.TensorSpec([None, 2], tf.int32),
        ]
        self._steps = silence_retracing(tf.function(self._take_steps, input_signature=signature, autograph=False))
        self._log_probs = tf.function(
            lambda *chunks: tf.map_fn(
                lambda chunk: model.log_prob(chunk[0], 0, condition=chunk[1], evaluation=True),
                chunks,
                parallel_iterations=1,
                fn_output_signature=event_dtype,
            ),
            input_signature=[
                tf.TensorSpec([None, _CHUNK, *event_shape], event_dtype),
                tf.TensorSpec([None, _CHUNK, *condition_shape], dtype),
            ],
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
        schedule: Schedule,
        batches: Callable[[np.ndarray], Sequence[np.ndarray]],
        held_out_loss: Callable[[], float],
        best: Best | None = None,
        report: Callable[[int, float], Any] = lambda step, loss: False,
    ) -> Best:
        """Trains from the current weights, and returns the best weights, which the variables need not have then.

        Training ends early as the schedule says, or, with a warning, when a step fails because the loss or its
        gradient is not finite.

        Args:
          rounds: Those of the schedule, or consecutive ones of them.
          schedule: The learning rates and the patience.
          batches: Function of an array of numbers of steps that returns examples `[steps, batch, ...]`, their
            conditions, and seeds `[steps, 2]`.
          held_out_loss: Function that evaluates the current weights.
          best: The best weights of an earlier part of the training.
          report: Function called after each round with the number of steps and the held-out loss. Training ends
            if it returns a true value.
        """
        best = best or Best()
        rates = schedule.learning_rates()
        for steps in rounds:
            if steps[0] - best.step >= schedule.patience * schedule.num_steps:
                break
            x, condition, seeds = batches(steps)
            try:
                for start in range(0, len(steps), _STEPS_PER_CALL):
                    chunk = slice(start, start + _STEPS_PER_CALL)
                    self._steps(x[chunk], condition[chunk], rates[steps[chunk]], seeds[chunk])
            except tf.errors.InvalidArgumentError as error:
                if not best.values:
                    raise
                warnings.warn(f"A training stopped early: {error}", stacklevel=4)
                break
            num_steps = int(steps[-1]) + 1
            loss = float(np.nan_to_num(held_out_loss(), nan=np.inf))
            if not best.values or loss < best.loss:
                best = Best(loss, num_steps, values_of(self.variables))
            if report(num_steps, loss):
                break
        return best

    def finish(self, best: Best) -> list[np.ndarray]:
        """Sets the variables to the best weights, makes the norms of the layers tight, and returns the values."""
        assign(self.variables, best.values)
        layers.converge_norms(self.model)
        return values_of(self.variables)

    @contextlib.contextmanager
    def using(self, values: Sequence[np.ndarray]) -> Iterator[FlowModel]:
        """Context manager that sets the variables to the weights of a member, and returns the model."""
        with self.lock:
            assign(self.variables, values)
            yield self.model

    def log_probs(self, x: np.ndarray, condition: np.ndarray) -> np.ndarray:
        """Returns the log-densities `[num]` of examples with the current weights, in float64."""
        num_chunks = -(-len(x) // _CHUNK)
        chunks = [np.resize(values, [num_chunks, _CHUNK, *values.shape[1:]]) for values in (x, condition)]
        return np.ravel(self._log_probs(*chunks))[: len(x)].astype(np.float64)

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


def values_of(variables: Iterable[Any]) -> list[np.ndarray]:
    """Returns the values of variables as arrays."""
    return [variable.numpy() for variable in variables]


def assign(variables: Iterable[Any], values: Any) -> None:
    """Assigns values to variables."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def draw_rows(weights: np.ndarray, num: int, rng: Any) -> np.ndarray:
    """Draws `num` row indices in proportion to the weights, each about equally often if the weights are equal."""
    if np.ptp(weights) > 0:
        return rng.choice(len(weights), num, p=weights / weights.sum()).astype(np.int32)
    epochs = -(-num // len(weights))
    return np.concatenate([rng.permutation(len(weights)) for _ in range(epochs)])[:num].astype(np.int32)
