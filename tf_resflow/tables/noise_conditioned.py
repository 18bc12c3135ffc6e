"""A flow that models noisy vectors at all noise levels at once."""

import functools
import gc
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tf_resflow.bijectors import Flow, Whiten
from tf_resflow.flows.vector_flows import vector_flow
from tf_resflow.logdet import default_estimator
from tf_resflow.models.flow_model import FlowModel
from tf_resflow.models.optimizers import Adam
from tf_resflow.models.repeated_training import (
    Best,
    RepeatedTraining,
    Schedule,
    assign,
    draw_rows,
    permuted,
    values_of,
)
from tf_resflow.tables.arguments import LEAST_NOISE, MOST_NOISE
from tf_resflow.tables.coordinates import Vectors

ENTROPY = 0.5 * math.log(2 * math.pi * math.e)  # of the standard normal distribution
_BATCH = 128
_STEPS = 15  # times the square root of the number of rows, see `num_steps`
_FEW = 500  # rows
_MOST_STEPS = 4000
_ROUNDS = 30  # evaluations of the held-out rows in a training
_LEAST_ROUND = 20  # steps between evaluations
_WARMUP = 0.1  # fraction of the steps
_PATIENCE = 0.4  # fraction of the steps
_RACE = 0.25  # fraction of the steps after which the whitening is chosen
_LONGEST_RACE = 200  # most steps after which the whitening is chosen
_HELD_OUT = 500  # least number of noisy copies of held-out rows
_FIRST = 1000  # least number of rows that initialize the ActNorms
_COEFFICIENT = 0.97  # Lipschitz bound of each layer
_LEARNING_RATE = 0.04  # maximum for Adam
_EXTREME = 0.02  # fraction of the rows on each side that is winsorized
_FLOOR = 0.1  # standard deviation of the noise that is added to the whitening's covariance


class NoiseConditionedFlow:
    r"""A flow that models the densities \\(p_\sigma\\) of \\(x + \sigma \epsilon\\), \\(\epsilon \sim N(0, I)\\).

    \\(\log \sigma\\) is a condition of the flow. In training, it is uniform between the logarithms of 0.003 and 1.
    One training therefore gives densities from sharp to smooth, and held-out rows can select one. The flow is a
    `Whiten` with fixed statistics, followed by residual blocks with CPila activations. Training returns the weights
    instead of storing them, so fits with the same sizes can share the graphs of this object.

    Args:
      size: Size of the vectors, which are standardized.
      condition_size: Size of the vector that conditions the density of each row.
      num_blocks: See `tf_resflow.flows.vector_flow`, also for `hidden`.

    References:
      Kim et al., SoftFlow: probabilistic framework for normalizing flow on manifolds, 2020.
    """

    def __init__(
        self, size: int, condition_size: int = 0, *, num_blocks: int = 4, hidden: Sequence[int] = (64, 64)
    ):
        self.size = size
        self.model = make_model(size, condition_size, num_blocks, hidden)
        self._initial_weights = self.model.get_weights()
        optimizer = Adam(_LEARNING_RATE, global_clipnorm=1.0)
        self._training = RepeatedTraining(self.model, optimizer, _BATCH, [1 + condition_size])

    def train(
        self,
        rows: Vectors,
        held_out: Vectors,
        weights: np.ndarray,
        held_out_weights: np.ndarray,
        *,
        whiten: bool | None,
        seed: int,
        steps: int,
        verbose: Any = 0,
    ) -> tuple[list[np.ndarray], bool]:
        """Trains from new initial weights, with early stopping on the loss of the held-out rows.

        Each step draws vectors of rows and adds noise. Returns weights and whether they whiten.

        Args:
          rows: Rows to train on, drawn in proportion to their `weights` `[num]`.
          held_out: Held-out rows. Their losses are winsorized, so one outlier does not stop the training.
          whiten: Whether the first bijector whitens the rows; otherwise it is the identity. `None` tries both until
            a quarter of the steps, and continues with the whitening if its held-out losses are clearly lower.
          seed: Seed of the initial weights and of all draws.
          steps: Largest number of steps, see `num_steps`.
          verbose: See `tf_resflow.tables.FlowDensity`.
        """
        examples = _Examples(rows, held_out, weights, held_out_weights, steps, seed)
        num_rounds = min(_ROUNDS, -(-steps // _LEAST_ROUND))
        schedule = Schedule(steps, num_rounds, _LEARNING_RATE, _WARMUP, _PATIENCE)
        bar = keras.utils.Progbar(steps, verbose=int(verbose in (1, "auto")), stateful_metrics=["held_out_nats"])

        def report(step, loss, is_last=False):
            bar.update(step, [("held_out_nats", examples.mean_log_scale - loss)], finalize=is_last)

        def run(rounds, best=None):
            loss = lambda: -winsorize(self._log_probs(examples.held_out)).mean()  # noqa: E731
            return self._training.run(rounds, schedule, examples.batches, loss, best, report)

        rounds = schedule.rounds()
        with self._training.lock:
            if whiten is None:
                num_raced = sum(numbers[0] < min(_RACE * steps, _LONGEST_RACE) for numbers in rounds)
                best, whiten = self._race(examples, seed, lambda: run(rounds[:num_raced]))
                best = run(rounds[num_raced:], best)
            else:
                self._start(examples, whiten, seed)
                best = run(rounds)
            trained_weights = self._training.finish(best)
        report(steps, best.loss, is_last=True)
        if verbose == 2:
            nats = examples.mean_log_scale - best.loss
            print(f"step {best.step:,} of at most {steps:,}: held_out_nats {nats:.4f}")
        return trained_weights, whiten

    def _race(self, examples, seed, run):
        """Trains with and without whitening. Returns the best weights of the winner, and whether it whitens.

        The variables are then those at the end of the winner's training.
        """
        variables = [*self._training.variables, *self.model.optimizer.variables]
        racers = {}
        for whiten in (False, True):
            self._start(examples, whiten, seed)
            best = run()
            racers[whiten] = _Racer(best, self._log_probs(examples.held_out), values_of(variables))
        gains = racers[True].log_probs - racers[False].log_probs
        _, row, num_copies = np.unique(examples.held_out_rows, return_inverse=True, return_counts=True)
        mean_gains = np.bincount(row, gains) / num_copies  # over the copies of a row
        whiten = is_significant(mean_gains, num_copies)
        assign(variables, racers[whiten].values)
        return racers[whiten].best, whiten

    def num_steps(self, num: int) -> int:
        """Returns the number of steps for `num` rows: max(15 sqrt(num), num - 500), but at most 4,000.

        With more than 10 columns, it is proportional to their number, up to twice as large with 20.
        """
        steps = min(max(_STEPS * math.sqrt(num), num - _FEW), _MOST_STEPS)
        return math.ceil(steps * np.clip(self.size / 10, 1, 2))

    def log_prob(self, weights: list[np.ndarray], values: np.ndarray) -> np.ndarray:
        """Returns the log-densities `[num]` of vectors with their conditions, in float64."""
        with self._training.using(weights):
            return self._log_probs(np.asarray(values))

    def sample(self, weights: list[np.ndarray], condition: np.ndarray, noise: float, seed: int) -> np.ndarray:
        """Draws a vector at a noise level for each condition `[num, condition_size]`."""
        codes = np.full([len(condition), 1], noise_code(noise))
        with self._training.using(weights) as model:
            return model.sample([], seed, condition=np.hstack([codes, condition]).astype(np.float32)).numpy()

    def _log_probs(self, values):
        vectors, condition = np.split(values.astype(np.float32), [self.size], axis=1)
        return self._training.log_probs(vectors, condition)

    def _start(self, examples, whiten, seed):
        """Resets the weights and the optimizer, but keeps the graphs."""
        initial_weights = permuted(self._initial_weights, np.random.default_rng(seed))
        statistics = values_of([*self.model.statistics.values()])
        self._training.start(initial_weights + statistics)
        covariance = np.eye(self.size)
        if whiten:
            covariance = np.atleast_2d(np.cov(examples.first.T.astype(np.float64))) + covariance * _FLOOR**2
        self.model.flow.bijectors[0].assign(np.zeros(self.size), covariance)
        self.model.initialize(examples.first, seed, condition=examples.first_condition)


class _Racer(NamedTuple):
    """A training that was stopped to be compared with another one."""

    best: Best
    log_probs: np.ndarray  # of the noisy held-out vectors, at the end
    values: list[np.ndarray]  # of the variables of the model and the optimizer, at the end


class _Examples:
    """The noisy vectors that a training draws, see `NoiseConditionedFlow.train`.

    Attributes:
      held_out: Noisy held-out vectors with their conditions.
      held_out_rows: The index of the row of each of them.
      first: Noisy vectors that initialize the whitening and the ActNorms.
      first_condition: Their conditions.
      mean_log_scale: Mean difference of the log-density of held-out rows and that of their vectors.
    """

    def __init__(self, rows, held_out, weights, held_out_weights, steps, seed):
        rng = np.random.default_rng(seed)
        self.held_out_rows = draw_rows(held_out_weights, max(_HELD_OUT, len(held_out_weights)), rng)
        self.held_out = np.hstack(_add_noise(held_out, self.held_out_rows, rng))
        first_rows = draw_rows(weights, max(_FIRST, min(len(weights), 2 * _FIRST)), rng)
        self.first, self.first_condition = _add_noise(rows, first_rows, rng)
        log_scales = held_out.log_scale + ENTROPY * held_out.is_blank.sum(axis=1)
        self.mean_log_scale = np.mean(log_scales[self.held_out_rows])
        self._rows = rows
        self._seed = seed
        self._row_indices = draw_rows(weights, steps * _BATCH, rng).reshape(steps, _BATCH)

    def batches(self, steps):
        """Returns the vectors, conditions and seeds of consecutive steps, see `RepeatedTraining.run`."""
        rng = np.random.default_rng([self._seed, steps[0]])
        x, condition = _add_noise(self._rows, self._row_indices[steps], rng)
        return x, condition, rng.integers(2**31, size=[len(steps), 2], dtype=np.int32)


def make_model(size: int, condition_size: int, num_blocks: int, hidden: Sequence[int]) -> FlowModel:
    """Builds the model of noisy vectors. Its condition begins with the code of the noise level."""
    options: dict[str, Any] = {"coefficient": _COEFFICIENT, "condition_size": 1 + condition_size}
    options |= {"log_det_estimator": default_estimator(size, "tables"), "dtype": "float32"}
    whiten = Whiten(np.zeros(size), np.eye(size), dtype=tf.float32)
    flow = Flow([whiten, vector_flow(size, num_blocks, hidden, **options)])
    estimator = default_estimator(size, "scores").with_sets(1)
    shape = [1 + condition_size]
    return FlowModel(flow, [size], condition_shape=shape, evaluation_log_det_estimator=estimator)


def noise_code(noise: float) -> float:
    """Returns the code of a noise level, from -1 to 1."""
    return 2 * math.log(noise / LEAST_NOISE) / math.log(MOST_NOISE / LEAST_NOISE) - 1


@functools.lru_cache(maxsize=4)  # the graphs of one have about 85 MB
def shared_flow(size: int, condition_size: int, num_blocks: int, hidden: tuple[int, ...]) -> NoiseConditionedFlow:
    """Returns the `NoiseConditionedFlow` that all fits with these sizes in a process share."""
    gc.collect()  # frees the graphs that are no longer shared, which are in reference cycles
    return NoiseConditionedFlow(size, condition_size, num_blocks=num_blocks, hidden=hidden)


def winsorize(values: np.ndarray) -> np.ndarray:
    """Clips values to their 2 % and 98 % quantiles."""
    return np.clip(values, *np.quantile(values, [_EXTREME, 1 - _EXTREME]))


def is_significant(gains: np.ndarray, weights: np.ndarray, num_errors: float = 2.0) -> bool:
    """Returns whether the mean of winsorized gains exceeds two standard errors, or another number of them."""
    gains = winsorize(gains)
    shares = weights / weights.sum()
    mean = gains @ shares
    return bool(mean > num_errors * np.sqrt((gains - mean) ** 2 @ shares**2))


def _add_noise(rows, indices, rng):
    """Draws vectors of the rows with these indices and adds noise. Returns them with the conditions of the flow."""
    lower = rows.lower[indices]
    widths = rows.widths[indices]
    is_blank = rows.is_blank[indices]
    code = rng.uniform(-1.0, 1.0, [*indices.shape, 1])
    noise = rng.standard_normal(lower.shape)
    level = LEAST_NOISE * (MOST_NOISE / LEAST_NOISE) ** ((code + 1) / 2)
    x = lower + widths * rng.uniform(size=lower.shape) + np.hypot(is_blank, level) * noise
    condition = np.concatenate([code, rows.condition[indices]], axis=-1)
    return x.astype(np.float32), condition.astype(np.float32)
