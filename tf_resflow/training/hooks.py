"""Hooks that the training loop calls after each step, with its number (from 1) and its metrics on the device."""

import contextlib
import math
import signal
import time
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from tf_resflow.config_fields import ConfigDict
from tf_resflow.console import DeferredSignals, bar, stage
from tf_resflow.models.averaging import WeightAverage
from tf_resflow.training.checkpoints import Checkpoints
from tf_resflow.training.metrics import held_out_scores, ranked_steps
from tf_resflow.training.metrics_writer import MetricsWriter
from tf_resflow.training.non_finite import NotFinite
from tf_resflow.training.report import Report
from tf_resflow.training.strategies import num_workers, of_all_workers
from tf_resflow.training.workdir import Workdir
from tf_resflow.writing import finite_or_none, write_json

_SHOWN = ("bits_per_dim", "nats", "accuracy")  # in the progress bar
_SECONDS_BETWEEN_FETCHES = 1.0
_STEPS_BETWEEN_AGREEMENTS = 10


class Interrupted(Exception):
    """Raised when a signal stops the run, after the state was saved."""

    def __init__(self, signum: int, step: int, path: str):
        what = f"Stopped by {signal.Signals(signum).name} after step {step}; saved as {path}."
        super().__init__(f"{what} Run the same command again to resume.")
        self.signum = signum


class Logging:
    """Writes the mean metrics every `train.log_every` steps. As a context manager, shows progress after a step.

    Metrics are fetched from the device about once per second, because each fetch waits for the device.
    """

    def __init__(self, train: ConfigDict, writer: MetricsWriter, optimizer: keras.Optimizer, start: int):
        self._train, self._writer, self._optimizer = train, writer, optimizer
        self._progress: Any = None  # begins after the first step, which takes longer
        self._pending: list[tuple[int, Mapping[str, tf.Tensor]]] = []  # on the device
        self._window: list[dict[str, float]] = []  # fetched, but not written
        self._fetched = time.monotonic()
        self._clock = self._fetched, start

    def __enter__(self) -> "Logging":
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.close()

    def after_step(self, step: int, metrics: Mapping[str, tf.Tensor]) -> None:
        """Stores the metrics, and fetches or writes them when due."""
        self._pending.append((step, metrics))
        options = {"total": self._train.steps, "initial": step - 1, "unit": "step", "position": 0}
        self._progress = self._progress or bar(desc="training", **options)
        self._progress.update()
        if time.monotonic() - self._fetched > _SECONDS_BETWEEN_FETCHES:
            self.fetch()
        if step % self._train.log_every == 0:
            self._write(step)

    def fetch(self) -> None:
        """Fetches the metrics of all steps so far. Raises `NotFinite` if one of them is not finite."""
        pending, self._pending = self._pending, []
        for step, metrics in pending:
            values = {name: float(value) for name, value in metrics.items()}
            if wrong := [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]:
                raise NotFinite(wrong[0], step)
            self._window.append(values)
            texts = [f"{values[name]:.3f} {name}" for name in _SHOWN if name in values]
            self._progress.set_postfix_str(", ".join(texts), refresh=False)
        self._fetched = time.monotonic()

    def restart_clock(self, step: int) -> None:
        """Excludes the time of an evaluation from the steps per second."""
        self._clock = time.monotonic(), step

    def _write(self, step):
        """Writes the means over the steps since the last line or since the run resumed, and the number of steps."""
        self.fetch()
        time_before, step_before = self._clock
        means = {name: np.mean([metrics[name] for metrics in self._window]) for name in self._window[0]}
        rates = {"averaged_steps": len(self._window), "learning_rate": self._optimizer.learning_rate}
        rates["steps_per_second"] = (step - step_before) / (self._fetched - time_before)
        self._writer.scalars(step, "train", means | rates)
        self._window = []
        self._clock = self._fetched, step


class Saving:
    """Saves the state every `train.checkpoint_every` steps, before each evaluation, and at the end."""

    def __init__(self, train: ConfigDict, checkpoints: Checkpoints, log: Logging):
        self._train, self._checkpoints, self._log = train, checkpoints, log

    def after_step(self, step: int, metrics: Mapping[str, tf.Tensor]) -> None:
        """Saves the state if due."""
        train = self._train
        if step % train.checkpoint_every == 0 or step % train.eval_every == 0 or step == train.steps:
            self.save(step)

    def save(self, step: int) -> str:
        """Saves the state unless already saved, and returns the path. Raises `NotFinite` instead of saving NaN."""
        self._log.fetch()
        if not self._checkpoints.is_finite():
            raise NotFinite("A weight is NaN or infinite", step)
        return self._checkpoints.save(step)


class Stopping(DeferredSignals):
    """Context manager in which a SIGINT or SIGTERM stops the run after the current step, with a checkpoint.

    Several workers stop after the same step. An evaluation on a single machine can be interrupted at any time,
    because the state was saved before.
    """

    def __init__(self, train: ConfigDict, saving: Saving, strategy: tf.distribute.Strategy):
        super().__init__()
        self._saving, self.gather = saving, of_all_workers(strategy)
        self._is_alone, self._eval_every = num_workers(strategy) == 1, train.eval_every

    def after_step(self, step: int, metrics: Mapping[str, tf.Tensor]) -> None:
        """Saves the state and raises `Interrupted` if a signal was received."""
        is_due = self._is_alone or step % _STEPS_BETWEEN_AGREEMENTS == 0 or step % self._eval_every == 0
        if is_due and (signum := max(self.gather(self.received))):
            raise Interrupted(signum, step, self._saving.save(step))

    def during_evaluation(self) -> contextlib.AbstractContextManager[None]:
        """Context manager of an evaluation."""
        return self.suspended() if self._is_alone else contextlib.nullcontext()


class Evaluating:
    """Scores the averaged weights on one split every `train.eval_every` steps, and previews samples of images.

    With `train.keep_best`, the state with the best score so far is saved in `best` and used for the result. The run
    ends after `train.patience` scores without a better one. Both depend only on metrics.jsonl, so a resumed run
    decides as an uninterrupted one does.
    """

    def __init__(
        self,
        config: ConfigDict,
        report: Report,
        average: WeightAverage,
        best: Checkpoints,
        writer: MetricsWriter,
        lines: list[dict[str, Any]],
        log: Logging,
        stopping: Stopping,
    ):
        self._train, self._final_split = config.train, config.eval.split
        self._split = report.selection_split
        self._report, self._average, self._best = report, average, best
        self._writer, self._log, self._stopping = writer, log, stopping
        self._scores = held_out_scores(lines, self._split)
        self._evaluated: int | None = None  # the step of the last evaluation in this process
        self.are_over = self._patience_has_ended()

    def make_up(self, start: int) -> None:
        """Evaluates the step that the run resumes from, if the run was stopped before this evaluation."""
        is_due = 0 < start < self._train.steps and start % self._train.eval_every == 0
        if is_due and start not in self._scores:
            self.after_step(start, {})

    def after_step(self, step: int, metrics: Mapping[str, tf.Tensor]) -> None:
        """Evaluates if due."""
        if step % self._train.eval_every == 0:
            self._log.fetch()
            with self._stopping.during_evaluation():
                self._evaluate(step)
            self._log.restart_clock(step)

    def _evaluate(self, step):
        with self._average.in_place():
            scores = self._report.scores(self._split)
            grid = self._report.sample_grid()
        self._scores[step] = scores
        if self._train.keep_best:
            scores["best_step"] = self._ranked_steps()[0]
            if scores["best_step"] == step:
                self._best.save(step)
        self._writer.scalars(step, self._split, scores)
        if grid is not None:
            self._writer.image(step, "samples", grid)
        self._evaluated = step
        self.are_over = any(self._stopping.gather(int(self._patience_has_ended())))  # after all have saved

    def finish(self, last: int, files: Workdir) -> dict[str, Any]:
        """Writes the figures and the result of the last or the best step, and returns the result."""
        if self._evaluated != last and not (self._train.keep_best and last in self._scores):
            self._evaluate(last)
        best = self._ranked_steps()[0]
        kept = self._best.restore(best) if self._train.keep_best else 0
        step = kept or last
        scores: Any = self._scores.get(step)
        with self._average.in_place():
            final = scores
            if self._split != self._final_split or step != self._evaluated:
                final = self._report.scores()
                self._writer.scalars(step, self._final_split, final)
            result = self._report.result(step, final)
            with stage("figures"):
                result |= self._report.figures(files.figures)
        if self._split != self._final_split:
            result[self._split] = scores and {"step": step, **scores}
        if kept:
            result["last_step"] = last
        if last < self._train.steps:
            result["ended_by_patience"] = self._train.patience
        result["figures"] = sorted(path.name for path in files.figures.iterdir())
        result["best"] = self._scores[best][self._report.objective]
        if warning := self._report.warning(result, best=best, last=last):
            logging.warning("%s", warning)
            result["warning"] = warning
        result = finite_or_none(result | {"line": self._report.line(result)})
        write_json(files.result, result)
        return result

    def _ranked_steps(self):
        return ranked_steps(self._scores, self._report.objective)

    def _patience_has_ended(self):
        ranked, patience = self._ranked_steps(), self._train.patience
        return bool(patience) and sum(step > ranked[0] for step in ranked) >= patience
