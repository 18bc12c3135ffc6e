"""Trains the networks of an ensemble on pairs of vectors and observations."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from tf_resflow._internal.console import progress_bar
from tf_resflow.models.repeated_training import Best, RepeatedTraining, Schedule, draw_rows

_WARMUP = 0.25  # fraction of the steps of a training
_PATIENCE = 0.75  # fraction of the steps of a training
_TRIAL = 3  # the trainings that choose a setting have 1 / _TRIAL of the epochs

Start = Callable[
    [int, float], list[np.ndarray]
]  # the initial weights of a network, given its number and the choice


class Pairs(NamedTuple):
    """Unconstrained vectors, and the observations that they are to be predicted from."""

    vectors: np.ndarray  # [num, size]
    x: np.ndarray  # [num, *condition_shape]


class PairTraining:
    """Trains networks on the same pairs, one after another, and counts their steps in one progress bar.

    Args:
      repeated_training: The `RepeatedTraining` of the architecture. Hold its lock during the training.
      kept: The pairs to train on.
      held_out: The pairs of the held-out loss.
      epochs: Number of passes over the pairs.
      learning_rate: Maximum learning rate.
      seed: Seed of the first network. The others have the next seeds.
    """

    def __init__(
        self,
        repeated_training: RepeatedTraining,
        kept: Pairs,
        held_out: Pairs,
        *,
        epochs: int,
        learning_rate: float,
        seed: int,
    ):
        self._training = repeated_training
        self._kept = kept
        self._held_out = held_out
        self._epochs = epochs
        self._trial_epochs = max(1, epochs // _TRIAL)
        self._steps_per_epoch = -(-len(kept.x) // repeated_training.batch_size)
        self._learning_rate = learning_rate
        self._seed = seed
        self._bar: Any = None
        self._num_members = 0

    @contextlib.contextmanager
    def progress(self, num_candidates: int, num_members: int, is_shown: bool) -> Iterator[None]:
        """Context manager that shows the steps of the candidates of `best_setting`, and of the members."""
        num_trials = num_candidates if num_candidates > 1 else 0
        num_epochs = num_trials * self._trial_epochs + num_members * self._epochs
        total = num_epochs * self._steps_per_epoch
        with progress_bar(is_shown, total=total, unit="step", leave=False) as self._bar:
            self._num_members = num_members
            self._describe(0)
            yield

    def best_setting(
        self, start: Start, choices: Sequence[float], weight_decays: Sequence[float]
    ) -> tuple[float, float]:
        """Returns the choice and the weight decay with the best held-out loss in short trainings.

        For each choice, weight decays are tried in this order, until one is worse than the one before it.
        """
        if len(choices) * len(weight_decays) == 1:
            return choices[0], weight_decays[0]
        candidates = []
        for choice in choices:
            initial_weights = start(0, choice)
            losses: list[float] = []
            for weight_decay in weight_decays:
                _, best, _ = self._train(initial_weights, weight_decay, self._seed, self._trial_epochs)
                losses.append(best.loss)
                if len(losses) > 1 and losses[-1] > losses[-2]:
                    break
            index = int(np.argmin(losses))
            candidates.append((losses[index], weight_decays[index], choice))
        _, weight_decay, choice = min(candidates)
        return choice, weight_decay

    def train_member(
        self,
        initial_weights: Sequence[np.ndarray],
        weight_decay: float,
        index: int,
        callbacks: Sequence[keras.callbacks.Callback],
    ) -> tuple[list[np.ndarray], keras.callbacks.History]:
        """Trains a member, and returns its weights and its history. They may be the initial weights."""
        self._describe(index)
        start, best, history = self._train(
            initial_weights, weight_decay, self._seed + index, self._epochs, callbacks
        )
        return self._training.finish(min(start, best, key=lambda weights: weights.loss)), history

    def _describe(self, index):
        self._bar.set_description_str(f"network {index + 1} of {self._num_members}")

    def _train(self, initial_weights, weight_decay, seed, epochs, callbacks=()):
        """Trains from initial weights. Returns these and the best weights as `Best`, and the history."""
        training = self._training
        num_steps = epochs * self._steps_per_epoch
        schedule = Schedule(num_steps, epochs, self._learning_rate, _WARMUP, _PATIENCE)
        rng = np.random.default_rng([seed, epochs])
        num_drawn = num_steps * training.batch_size
        rows = draw_rows(np.ones(len(self._kept.x)), num_drawn, rng).reshape(num_steps, -1)
        history = keras.callbacks.History()
        all_callbacks = keras.callbacks.CallbackList([*callbacks, history], model=training.model)
        step_before = self._bar.n

        def batches(steps):
            seeds = rng.integers(2**31, size=[len(steps), 2], dtype=np.int32)
            return self._kept.vectors[rows[steps]], self._kept.x[rows[steps]], seeds

        def report(step, loss):
            all_callbacks.on_epoch_end(len(history.epoch), {"val_loss": loss})
            self._bar.update(step_before + step - self._bar.n)
            return training.model.stop_training

        training.model.optimizer.weight_decay.assign(weight_decay)
        training.model.stop_training = False
        training.start(initial_weights)
        start = Best(self._held_out_loss(), 0, initial_weights)
        all_callbacks.on_train_begin()
        best = training.run(schedule.rounds(), schedule, batches, self._held_out_loss, report=report)
        all_callbacks.on_train_end()
        self._bar.update(step_before + num_steps - self._bar.n)
        return start, best, history

    def _held_out_loss(self):
        log_probs = self._training.log_probs(self._held_out.vectors, self._held_out.x)
        return float(np.nan_to_num(-log_probs.mean(), nan=np.inf))


def split_pairs(pairs: Pairs, validation_fraction: float, seed: int) -> tuple[Pairs, Pairs]:
    """Returns the pairs to train on and the held-out pairs, both in random order."""
    num = len(pairs.x)
    is_held_out = held_out_rows(num, validation_fraction, seed)
    order = np.random.default_rng(seed).permutation(num)  # the first pairs initialize and check
    kept_rows = order[~is_held_out[order]]
    rows = order[is_held_out[order]]
    return Pairs(pairs.vectors[kept_rows], pairs.x[kept_rows]), Pairs(pairs.vectors[rows], pairs.x[rows])


def held_out_rows(num: int, fraction: float, seed: int) -> np.ndarray:
    """Returns which of `num` pairs are held out: one of each 1 / fraction, and the same ones if pairs are added."""
    num_held_out = int(fraction * num)
    if not 1 <= num_held_out < num - 1:
        raise ValueError(
            f"validation_fraction={fraction} of {num} pairs holds out {num_held_out}. Hold out at least one pair, "
            "and keep at least two."
        )
    ends = (np.arange(num_held_out + 1) / fraction).astype(int)
    draws = np.random.default_rng(seed).random(num_held_out)
    is_held_out = np.zeros(num, bool)
    is_held_out[(ends[:-1] + draws * np.diff(ends)).astype(int)] = True
    return is_held_out
