"""A density of noisy vectors for all noise levels at once."""

import functools
import math
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tf_resflow.bijectors import Flow, Whiten
from tf_resflow.flows.vector_flows import vector_flow
from tf_resflow.logdet import default_estimator
from tf_resflow.models.flow_model import FlowModel
from tf_resflow.seeds import split_seed, stateless_seed

LEAST_NOISE, MOST_NOISE = 0.003, 1.0  # standard deviations of the noise, for standardized vectors
_BATCH = 128
_STEPS, _MOST_STEPS = 30, 8000  # a training has max(rows, _STEPS sqrt(rows)) steps, but at most _MOST_STEPS
_ROUND = 20  # steps between evaluations of the held-out rows
_WARMUP, _PATIENCE = 0.1, 0.4  # fractions of the steps of a training
_HELD_OUT = 500  # least number of noisy copies of held-out rows
_CHUNK = 256  # rows scored at once, padded so that the rounding of a score does not depend on other rows
_FIRST = 1000  # least number of rows that initialize the ActNorms
_COEFFICIENT, _LEARNING_RATE = 0.97, 5e-3  # Lipschitz bound of each layer; maximum for AdamW
_EXTREME = 0.02  # fraction of the rows on each side that is winsorized
_FLOOR = 0.1  # standard deviation of the noise that is added to the whitening's covariance


class Rows(NamedTuple):
    """Vectors, with their conditions and weights."""

    values: np.ndarray  # [num, size], the lower edges of cells in discrete coordinates; NaN marks a missing value
    widths: np.ndarray  # [num, size], the widths of the cells, 0 in continuous coordinates
    condition: np.ndarray  # [num, condition_size]
    weights: np.ndarray | None = None  # [num]

    def take(self, places: np.ndarray) -> "Rows":
        """Returns the rows with these indices."""
        weights = None if self.weights is None else self.weights[places]
        return Rows(self.values[places], self.widths[places], self.condition[places], weights)


class Weights(NamedTuple):
    """The weights and statistics after a training."""

    values: list[np.ndarray]
    statistics: dict[str, np.ndarray]


class NoiseConditionedDensity:
    r"""A flow that models the densities \\(p_\sigma\\) of \\(x + \sigma \epsilon\\), \\(\epsilon \sim N(0, I)\\).

    \\(\log \sigma\\) is a condition of the flow. In training, it is uniform between the logarithms of 0.003 and 1.
    One training therefore gives densities from sharp to smooth, and held-out rows can select one. The flow is a
    `Whiten` with fixed statistics, followed by residual blocks with CPila activations. In training, missing values
    are drawn from a standard normal distribution, without noise. Training returns the weights instead of storing
    them, so fits with the same sizes can share the graphs of this object.

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
        self.size, self._condition_size = size, condition_size
        options: dict[str, Any] = {"coefficient": _COEFFICIENT, "condition_size": 1 + condition_size}
        self._make_flow = functools.partial(vector_flow, size, num_blocks, hidden, **options)
        self._model = self._make_model(0)
        self._whiten = self._model.flow.bijectors[0]
        self._decay_steps, self._warmup_steps = (tf.Variable(1.0, trainable=False) for _ in range(2))
        warmup = {"warmup_target": _LEARNING_RATE, "warmup_steps": self._warmup_steps}
        rate = keras.optimizers.schedules.CosineDecay(0.0, self._decay_steps, **warmup)
        self._model.compile(keras.optimizers.AdamW(rate, global_clipnorm=1.0), steps_per_execution=_ROUND)
        self._lock = threading.RLock()
        self._log_prob = tf.function(
            lambda x, condition: self._model.log_prob(x, 0, condition=condition, evaluation=True),
            input_signature=[tf.TensorSpec([_CHUNK, size]), tf.TensorSpec([_CHUNK, 1 + condition_size])],
            autograph=False,
        )

    def _make_model(self, seed):
        flow = Flow([Whiten(np.zeros(self.size), np.eye(self.size)), self._make_flow(seed=seed)])
        estimator = default_estimator(self.size, "scores").with_sets(1)
        shape = [1 + self._condition_size]
        return FlowModel(flow, [self.size], condition_shape=shape, evaluation_log_det_estimator=estimator)

    def train(
        self, rows: Rows, held_out: Rows, *, whiten: bool, seed: int, steps: int, verbose: Any = 0
    ) -> Weights:
        """Trains from new initial weights, with early stopping on the loss of the held-out rows.

        Each step draws rows uniformly from their cells and adds noise.

        Args:
          held_out: held-out rows. Their losses are winsorized, so one outlier does not stop the training.
          whiten: whether the first bijector whitens the rows; otherwise it is the identity.
          seed: seed of the initial weights and of all draws.
          steps: largest number of steps, see `num_steps`.
        """
        epochs = -(-steps // _ROUND)
        rng = np.random.default_rng(seed)
        check = _noisy_copies(held_out, max(_HELD_OUT, len(held_out.values)), rng)
        x, condition = _noisy_copies(rows, max(_FIRST, min(len(rows.values), 2 * _FIRST)), rng)
        values = np.concatenate(check, axis=1)

        def add_loss(epoch, logs):
            logs["val_loss"] = -without_extremes(self._log_probs(values)).mean()

        patience = max(4, math.ceil(_PATIENCE * epochs))
        stop = keras.callbacks.EarlyStopping(patience=patience, restore_best_weights=True)
        callbacks = [keras.callbacks.LambdaCallback(on_epoch_end=add_loss), stop]
        with self._lock:
            self._reset(seed, epochs * _ROUND)
            if whiten:
                covariance = np.atleast_2d(np.cov(x.numpy().T.astype(np.float64))) + _FLOOR**2 * np.eye(self.size)
                self._whiten.assign(np.zeros(self.size), covariance)
            self._model.initialize(x, seed, condition=condition)
            batches = _noisy_batches(rows, epochs * _ROUND, rng)
            options = {"steps_per_epoch": _ROUND, "epochs": epochs, "verbose": verbose, "shuffle": False}
            self._model.fit(batches, callbacks=callbacks, **options)
            statistics = {key: variable.numpy() for key, variable in self._whiten.statistics.items()}
            return Weights(self._model.get_weights(), statistics)

    @staticmethod
    def num_steps(num: int) -> int:
        """Returns the number of steps for `num` rows: max(num, 30 sqrt(num)), but at most 8,000."""
        return math.ceil(min(max(_STEPS * math.sqrt(num), num), _MOST_STEPS))

    def log_prob(self, weights: Weights, rows: Rows, noise: float) -> np.ndarray:
        """Returns the log-densities `[num]` at a noise level, in float64."""
        with self._lock:
            self._set(weights)
            return self._log_probs(np.concatenate([rows.values, _flow_condition(rows.condition, noise)], axis=1))

    def sample(self, weights: Weights, condition: np.ndarray, noise: float, seed: int) -> np.ndarray:
        """Draws a vector at a noise level for each condition `[num, condition_size]`."""
        with self._lock:
            self._set(weights)
            coded = _flow_condition(condition, noise).astype(np.float32)
            return self._model.sample(len(condition), seed, condition=coded).numpy()

    def _log_probs(self, values):
        padded = np.resize(values.astype(np.float32), [-(-len(values) // _CHUNK), _CHUNK, values.shape[1]])
        found = [self._log_prob(part[:, : self.size], part[:, self.size :]).numpy() for part in padded]
        return np.concatenate(found)[: len(values)].astype(np.float64)

    def _reset(self, seed, steps):
        """Resets the weights and the optimizer, but keeps the graphs."""
        self._model.set_weights(self._make_model(seed).get_weights())
        self._whiten.assign(np.zeros(self.size), np.eye(self.size))
        for variable in self._model.optimizer.variables:
            variable.assign(keras.ops.zeros_like(variable))
        self._warmup_steps.assign(_WARMUP * steps)
        self._decay_steps.assign(steps - _WARMUP * steps)

    def _set(self, weights):
        self._model.set_weights(weights.values)
        for key, variable in self._whiten.statistics.items():
            variable.assign(weights.statistics[key])


@functools.lru_cache(maxsize=8)
def shared_density(
    size: int, condition_size: int, num_blocks: int, hidden: tuple[int, ...]
) -> NoiseConditionedDensity:
    """Returns the `NoiseConditionedDensity` that all fits with these sizes in a process share."""
    return NoiseConditionedDensity(size, condition_size, num_blocks=num_blocks, hidden=hidden)


def without_extremes(values: np.ndarray) -> np.ndarray:
    """Clips values to their 2 % and 98 % quantiles."""
    return np.clip(values, *np.quantile(values, [_EXTREME, 1 - _EXTREME]))


def _flow_condition(condition, noise):
    """Returns the condition of the flow: a code of the noise level from -1 to 1, and the condition of the rows."""
    code = 2 * np.log(noise / LEAST_NOISE) / np.log(MOST_NOISE / LEAST_NOISE) - 1
    return np.concatenate([np.full([len(condition), 1], code), condition], axis=1)


def _noisy_copies(rows, num, rng):
    return _add_noise(_tensors(rows), _draw_rows(rows, num, rng), _seed(rng))


def _noisy_batches(rows, steps, rng):
    tensors, seed = _tensors(rows), _seed(rng)

    def noisy(step, places):
        return _add_noise(tensors, places, tf.random.experimental.stateless_fold_in(seed, step))

    places = _draw_rows(rows, steps * _BATCH, rng).reshape(steps, _BATCH)
    return tf.data.Dataset.from_tensor_slices((np.arange(steps, dtype=np.int32), places)).map(noisy).prefetch(4)


def _seed(rng):
    return stateless_seed(int(rng.integers(2**31)))


def _draw_rows(rows, num, rng):
    """Draws `num` row indices, each about equally often, or in proportion to the weights."""
    if rows.weights is not None:
        return rng.choice(len(rows.values), num, p=rows.weights / rows.weights.sum()).astype(np.int32)
    epochs = -(-num // len(rows.values))
    return np.concatenate([rng.permutation(len(rows.values)) for _ in range(epochs)])[:num].astype(np.int32)


def _tensors(rows):
    with tf.device("CPU"):
        return [tf.constant(part, tf.float32) for part in (rows.values, rows.widths, rows.condition)]


def _add_noise(tensors, places, seed):
    values, widths, condition = tensors
    seeds = tf.unstack(split_seed(seed, 3))
    x = tf.gather(values, places)
    code = tf.random.stateless_uniform([x.shape[0], 1], seeds[0], -1.0, 1.0)
    level = LEAST_NOISE * (MOST_NOISE / LEAST_NOISE) ** ((code + 1) / 2)
    noise = tf.random.stateless_normal(x.shape, seeds[1])
    cells = tf.gather(widths, places) * tf.random.stateless_uniform(x.shape, seeds[2])
    x = tf.where(tf.math.is_nan(x), noise, x + cells + level * noise)
    return x, tf.concat([code, tf.gather(condition, places)], axis=1)
