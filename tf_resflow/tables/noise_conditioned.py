"""A flow that models noisy vectors at all noise levels at once."""

import functools
import gc
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_resflow import layers
from tf_resflow.bijectors import Flow, Whiten
from tf_resflow.flows.vector_flows import vector_flow
from tf_resflow.logdet import default_estimator
from tf_resflow.models.flow_model import FlowModel
from tf_resflow.models.optimizers import Adam
from tf_resflow.models.repeated_training import (
    RepeatedTraining,
    assign,
    draw_rows,
    learning_rates,
    permuted,
    values_of,
)
from tf_resflow.tables.arguments import LEAST_NOISE, MOST_NOISE
from tf_resflow.tables.coordinates import Vectors

ENTROPY = 0.5 * math.log(2 * math.pi * math.e)  # of the standard normal distribution
_BATCH = 128
_STEPS, _FEW, _MOST_STEPS = 15, 500, 4000  # of a training, see `num_steps`
_ROUNDS, _LEAST_ROUND = 30, 20  # evaluations of the held-out rows in a training, at least _LEAST_ROUND steps apart
_WARMUP, _PATIENCE = 0.1, 0.4  # fractions of the steps of a training
_RACE, _LONGEST_RACE = 0.5, 600  # fraction of the steps, and most steps, after which the whitening is chosen
_HELD_OUT = 500  # least number of noisy copies of held-out rows
_FIRST = 1000  # least number of rows that initialize the ActNorms
_COEFFICIENT, _LEARNING_RATE = 0.97, 0.04  # Lipschitz bound of each layer; maximum for Adam
_EXTREME = 0.02  # fraction of the rows on each side that is winsorized
_FLOOR = 0.1  # standard deviation of the noise that is added to the whitening's covariance


class NoiseConditionedFlow:
    r"""A flow that models the densities \\(p_\sigma\\) of \\(x + \sigma \epsilon\\), \\(\epsilon \sim N(0, I)\\).

    \\(\log \sigma\\) is a condition of the flow. In training, it is uniform between the logarithms of 0.003 and 1.
    One training therefore gives densities from sharp to smooth, and held-out rows can select one. The flow is a
    `Whiten` with fixed statistics, followed by residual blocks with CPila activations. Training returns the weights
    instead of storing them, so fits with the same sizes can share the graphs of this object.

    Args:
      size: size of the vectors, which are standardized.
      condition_size: size of the vector that conditions the density of each row.
      num_blocks: see `tf_resflow.flows.vector_flow`, also for `hidden`.

    References:
      Kim et al., SoftFlow: probabilistic framework for normalizing flow on manifolds, 2020.
    """

    def __init__(
        self, size: int, condition_size: int = 0, *, num_blocks: int = 4, hidden: Sequence[int] = (64, 64)
    ):
        self.size = size
        model = make_model(size, condition_size, num_blocks, hidden)
        self.model, self._initial_weights = model, model.get_weights()
        optimizer = Adam(_LEARNING_RATE, global_clipnorm=1.0)
        self._training = RepeatedTraining(model, optimizer, _BATCH, [1 + condition_size])

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
          rows: rows to train on, drawn in proportion to their `weights` `[num]`.
          held_out: held-out rows. Their losses are winsorized, so one outlier does not stop the training.
          whiten: whether the first bijector whitens the rows; otherwise it is the identity. `None` tries both until
            half of the steps, and continues with the whitening if its held-out losses are clearly lower.
          seed: seed of the initial weights and of all draws.
          steps: largest number of steps, see `num_steps`.
          verbose: see `tf_resflow.tables.FlowDensity`.
        """
        rng = np.random.default_rng(seed)
        copied = draw_rows(held_out_weights, max(_HELD_OUT, len(held_out_weights)), rng)
        check = np.hstack(_add_noise(held_out, copied, rng))
        first = draw_rows(weights, max(_FIRST, min(len(weights), 2 * _FIRST)), rng)
        x, condition = _add_noise(rows, first, rng)
        places = draw_rows(weights, steps * _BATCH, rng).reshape(steps, _BATCH)
        rates = learning_rates(steps, _LEARNING_RATE, _WARMUP)
        shift = np.mean((held_out.log_scale + ENTROPY * held_out.is_missing.sum(axis=1))[copied])
        bar = keras.utils.Progbar(steps, verbose=int(verbose in (1, "auto")), stateful_metrics=["held_out_nats"])
        training = self._training

        def batches(chosen):
            draws = np.random.default_rng([seed, chosen[0]])
            noisy = _add_noise(rows, places[chosen], draws)
            return *noisy, draws.integers(2**31, size=[len(chosen), 2], dtype=np.int32)

        def report(step, loss):
            bar.update(step, [("held_out_nats", shift - loss)], finalize=False)

        def run(rounds, best=None):
            loss = lambda: -winsorize(self._log_probs(check)).mean()  # noqa: E731
            return training.run(rounds, batches, rates, loss, _PATIENCE * steps, best, report)

        rounds = np.array_split(np.arange(steps), min(_ROUNDS, -(-steps // _LEAST_ROUND)))
        num_raced = sum(chosen[0] < min(_RACE * steps, _LONGEST_RACE) for chosen in rounds) if whiten is None else 0
        variables, racers = [*training.variables, *self.model.optimizer.variables], {}
        with training.lock:
            for way in (False, True) if whiten is None else (whiten,):
                self._start(x, condition, way, seed)
                racers[way] = run(rounds[:num_raced]), self._log_probs(check), values_of(variables)
            if whiten is None:
                _, row, nums = np.unique(copied, return_inverse=True, return_counts=True)
                gains = np.bincount(row, racers[True][1] - racers[False][1]) / nums  # means over copies of a row
                whiten = is_significant(gains, nums)
            best, _, values = racers[whiten]
            assign(variables, values)
            best = run(rounds[num_raced:], best)
            assign(training.variables, best.values)
            layers.converge_norms(self.model)
            bar.update(steps, [("held_out_nats", shift - best.loss)], finalize=True)
            if verbose == 2:
                print(f"step {best.step:,} of at most {steps:,}: held_out_nats {shift - best.loss:.4f}")
            return values_of(training.variables), whiten

    def num_steps(self, num: int) -> int:
        """Returns the number of steps for `num` rows: max(15 sqrt(num), num - 500), but at most 4,000.

        With more than 10 columns, it is proportional to their number, up to twice as large with 20.
        """
        steps = min(max(_STEPS * math.sqrt(num), num - _FEW), _MOST_STEPS)
        return math.ceil(steps * np.clip(self.size / 10, 1, 2))

    def log_prob(self, weights: list[np.ndarray], values: np.ndarray) -> np.ndarray:
        """Returns the log-densities `[num]` of vectors with their conditions, in float64."""
        with self._training.lock:
            assign(self._training.variables, weights)
            return self._log_probs(np.asarray(values))

    def sample(self, weights: list[np.ndarray], condition: np.ndarray, noise: float, seed: int) -> np.ndarray:
        """Draws a vector at a noise level for each condition `[num, condition_size]`."""
        with self._training.lock:
            assign(self._training.variables, weights)
            coded = np.hstack([np.full([len(condition), 1], noise_code(noise)), condition]).astype(np.float32)
            return self.model.sample([], seed, condition=coded).numpy()

    def _log_probs(self, values):
        return self._training.log_probs(*np.split(values.astype(np.float32), [self.size], axis=1))

    def _start(self, x, condition, whiten, seed):
        """Resets the weights and the optimizer, but keeps the graphs."""
        statistics = values_of([*self.model.statistics.values()])
        self._training.start(permuted(self._initial_weights, np.random.default_rng(seed)) + statistics)
        noise = np.eye(self.size) * _FLOOR**2
        covariance = np.atleast_2d(np.cov(x.T.astype(np.float64))) + noise if whiten else np.eye(self.size)
        self.model.flow.bijectors[0].assign(np.zeros(self.size), covariance)
        self.model.initialize(x, seed, condition=condition)


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


def is_significant(gains: np.ndarray, weights: np.ndarray) -> bool:
    """Returns whether the mean of winsorized gains exceeds two standard errors."""
    gains, weights = winsorize(gains), weights / weights.sum()
    mean = gains @ weights
    return bool(mean > 2 * np.sqrt((gains - mean) ** 2 @ weights**2))


def _add_noise(rows, places, rng):
    """Draws vectors of the rows with these indices and adds noise. Returns them with the conditions of the flow."""
    values, widths, is_missing = (part[places] for part in (rows.values, rows.widths, rows.is_missing))
    code, noise = rng.uniform(-1.0, 1.0, [*places.shape, 1]), rng.standard_normal(values.shape)
    level = LEAST_NOISE * (MOST_NOISE / LEAST_NOISE) ** ((code + 1) / 2)
    x = values + widths * rng.uniform(size=values.shape) + np.hypot(is_missing, level) * noise
    return x.astype(np.float32), np.concatenate([code, rows.condition[places]], axis=-1).astype(np.float32)
