"""Training loop of `resflow-train`."""

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from tf_resflow import data
from tf_resflow._internal.console import DeferredSignals, progress_bar, show_progress, stage
from tf_resflow._internal.writing import finite_or_none, write_json
from tf_resflow.models.averaging import WeightAverage
from tf_resflow.models.step import assert_finite, train_step
from tf_resflow.training.build import build_model, check_dataset
from tf_resflow.training.checkpoints import Checkpoints, make_optimizer
from tf_resflow.training.config import validate_config
from tf_resflow.training.config_fields import ConfigDict
from tf_resflow.training.metrics import MetricsWriter, held_out_scores, ranked_steps
from tf_resflow.training.non_finite import NotFinite, explain_non_finite
from tf_resflow.training.report import Report
from tf_resflow.training.runs import with_run_statistics
from tf_resflow.training.strategies import (
    check_agreement,
    explain_lost_workers,
    is_chief,
    make_gather,
    num_workers,
    replica_batches,
)
from tf_resflow.training.workdir import Workdir, read_metrics

_SHOWN = ("bits_per_dim", "nats", "accuracy")  # in the progress bar
_STEPS_BETWEEN_AGREEMENTS = 10


class Interrupted(Exception):
    """Raised when a signal stops the run, after the state was saved."""

    def __init__(self, signum: int, step: int, path: str):
        what = f"Stopped by {signal.Signals(signum).name} after step {step}; saved as {path}."
        super().__init__(f"{what} Run the same command again to resume.")
        self.signum = signum


def train(
    config: ConfigDict,
    workdir: str | os.PathLike[str],
    *,
    strategy: tf.distribute.Strategy | None = None,
    jit: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Trains the run of a config in its workdir, or resumes it.

    A resumed run equals an uninterrupted one, because batches and random numbers depend only on seed and step.

    Args:
      config: A config with the fields of `default_config`.
      workdir: Directory of the run.
      strategy: A `tf.distribute.Strategy`. The default is the current strategy.
      jit: Whether to compile the whole step with XLA, which takes longer to start.
      progress: Whether to show bars on a terminal, and otherwise lines of the logger `tf_resflow` at level INFO.

    Returns:
      The content of `result.json`, a dict with a summary `line`. A finished run returns it without training.

    Raises:
      ValueError: If the config, the workdir or the data are invalid.
      NonFiniteError: If the loss, a gradient or a weight becomes NaN or infinite.
      Interrupted: On SIGINT or SIGTERM, when the state was saved. A signal to one worker stops all workers. During
        the first step, and the evaluations of a single worker, signals have their usual effect.
      WorkerLostError: If another worker stops for another reason.
    """
    validate_config(config)
    strategy = strategy or tf.distribute.get_strategy()
    with explain_lost_workers(strategy):
        files = Workdir(workdir, is_chief=is_chief(strategy))
        common = config.copy_and_resolve_references()
        common.data.data_dir = ""  # may differ between workers
        with files.locked():
            done = files.read_result(config)
            check_agreement(strategy, f"{common} {done}", "The configs of the workers differ. Use the same on all.")
            files.check_config(config)
            if done:
                return done | {"line": f"Already done: {done['line']}"}
            with show_progress(progress):
                return _train(config, files, strategy, jit)


def _train(config, files, strategy, jit):
    keras.utils.set_random_seed(config.seed)
    with stage("data"):
        dataset = data.load(config.data)
        _check_fit(config, dataset, strategy)
        dataset = with_run_statistics(config, dataset, files)
    state = State(config, dataset, files, strategy)
    report = Report(config, state.model, dataset, strategy=strategy)
    start = state.checkpoints.restore()
    lines = _agreed_lines(files, strategy, start, state.checkpoints.latest)
    if start == 0:
        if dataset.levels is None:
            _ = report.baselines  # warns before the first step if the data cannot have a density
        state.initialize(config, dataset)
    labels = state.model.expects_pairs
    batches = iter(replica_batches(strategy, dataset, config.train.batch_size, config.seed, start, labels=labels))
    take_step = _compiled_step(strategy, state.model, state.average, jit)
    files.begin(config, dataset)
    with contextlib.closing(MetricsWriter(files.output, start)) as writer:
        gather = make_gather(strategy)
        log = Logging(config.train, writer, state.optimizer, start)
        evaluating = Evaluating(config, report, state.average, state.best, writer, lines, gather)
        steps = Steps(config, strategy, state, take_step, log, evaluating, gather)
        last = steps.take(batches, start)
        return evaluating.finish(last, files)


def _agreed_lines(files, strategy, start, checkpoint):
    """Returns the lines of metrics up to the restored step. Raises ValueError if workers restored others."""
    lines = [line for line in read_metrics(files.path) if line["step"] <= start]
    message = f"The workers find different checkpoints; this one finds {checkpoint}. Give all one workdir."
    check_agreement(strategy, json.dumps([start, lines]), message)
    return lines


class State:
    """The model of a run, its optimizer, the average of its weights, and the checkpoints of all three.

    Attributes:
      checkpoints: The newest states.
      best: The state with the best score on validation.
    """

    def __init__(self, config: ConfigDict, dataset: data.Dataset, files: Workdir, strategy: tf.distribute.Strategy):
        with strategy.scope():
            self.model = build_model(config, dataset)
            self.optimizer = make_optimizer(config.train, self.model.trainable_variables)
            self.model.compile(optimizer=self.optimizer)
        self.average = WeightAverage(self.model, config.train.ema_momentum)
        saved = (self.model, self.optimizer, self.average)
        options = {"seed": config.seed, "is_chief": files.is_chief}
        self.checkpoints = Checkpoints(files.checkpoints, *saved, keep=config.train.keep, **options)
        self.best = Checkpoints(files.best, *saved, keep=1, **options)

    def initialize(self, config: ConfigDict, dataset: data.Dataset) -> None:
        """Initializes the model with training examples, and starts the average."""
        condition = self.model.condition
        batch = initial_batch(config, dataset, labels=bool(condition))
        if condition:
            x, labels = batch
            self.model.initialize(x, config.seed, condition=labels)
        else:
            self.model.initialize(batch, config.seed)
        self.average.start()

    def save(self, step: int) -> str:
        """Saves the newest state and returns its path. Raises NotFinite if a weight is not finite."""
        if not self.checkpoints.is_finite():
            raise NotFinite
        return self.checkpoints.save(step)


class Steps:
    """Takes the steps of a run. After a step, logs, saves the state, stops on a signal, and evaluates, when due."""

    def __init__(
        self,
        config: ConfigDict,
        strategy: tf.distribute.Strategy,
        state: State,
        take_step: Callable[[Any, tf.Tensor], Mapping[str, tf.Tensor]],
        log: "Logging",
        evaluating: "Evaluating",
        gather: Callable[[int], list[int]],
    ):
        self._train = config.train
        self._seed = config.seed
        self._strategy = strategy
        self._state = state
        self._take_step = take_step
        self._log = log
        self._evaluating = evaluating
        self._gather = gather
        self._signals = DeferredSignals()
        self._is_alone = num_workers(strategy) == 1

    def take(self, batches: Iterator[Any], start: int) -> int:
        """Takes the steps after `start`, and returns the last one."""
        step = start
        with contextlib.closing(self._log), contextlib.ExitStack() as stack:
            is_due = 0 < start < self._train.steps and start % self._train.eval_every == 0
            if is_due and start not in self._evaluating.scores:  # the run was stopped before this evaluation
                self._evaluate(start)
            while step < self._train.steps and not self._evaluating.are_over:
                step += 1
                is_first = step == start + 1
                self._take(step, next(batches), is_first)
                if is_first:  # a signal during its tracing has its usual effect
                    stack.enter_context(self._signals)
        return step

    def _take(self, step, batch, is_first):
        seed = tf.constant([self._seed, step], tf.int32)
        is_evaluated = step % self._train.eval_every == 0
        tracing = stage("building the graph, which can take a minute or two")
        latest = self._state.checkpoints.latest
        with explain_non_finite(self._state.model, self._strategy, latest, batch, seed):
            with tracing if is_first else contextlib.nullcontext():
                metrics = self._take_step(batch, seed)
            self._log.after_step(step, metrics)
            if step % self._train.checkpoint_every == 0 or is_evaluated or step == self._train.steps:
                self._state.save(step)
            if self._is_alone or is_evaluated or step % _STEPS_BETWEEN_AGREEMENTS == 0:
                self._stop_on_signal(step)
            if is_evaluated:
                self._evaluate(step)

    def _stop_on_signal(self, step):
        signum = max(self._gather(self._signals.received))  # several workers stop after the same step
        if signum:
            raise Interrupted(signum, step, self._state.save(step))

    def _evaluate(self, step):
        # On a single machine, a signal may interrupt an evaluation, because the state was saved before.
        with self._signals.suspended() if self._is_alone else contextlib.nullcontext():
            self._evaluating.evaluate(step)
        self._log.restart_clock(step)


def initial_batch(config: ConfigDict, dataset: data.Dataset, *, labels: bool = False) -> Any:
    """Returns the training examples that initialize a model: one batch, but at least 64 examples if available."""
    size = max(config.train.batch_size, 64)
    size = min(size, dataset.sizes.get("train") or size)
    return next(iter(dataset.train_batches(size, config.seed, labels=labels)))


def _compiled_step(strategy, model, average, jit):
    """Returns a function of a batch and a seed that takes a step on every replica and updates the average.

    The function returns the means of the metrics.
    """

    def on_replica(batch, seed):
        return train_step(model, batch, seed)

    if jit:
        on_replica = tf.function(on_replica, autograph=False, jit_compile=True)

    @tf.function(autograph=False)
    def take_step(batch, seed):
        metrics = strategy.run(on_replica, (batch, seed))
        means = {name: strategy.reduce("MEAN", value, axis=None) for name, value in metrics.items()}
        if jit:  # XLA removes the assertion in the step
            assert_finite(means[model.objective], means["gradient_norm"])
        average.update()
        return means

    return take_step


def _check_fit(config, dataset, strategy):
    """Raises ValueError if the data or the devices do not meet the requirements of the config."""
    check_dataset(config, dataset)
    if config.eval.split not in dataset.sizes:
        raise ValueError(
            f"config.eval.split is {config.eval.split!r}; choose one of the splits of {dataset.name!r}, "
            f"{sorted(dataset.sizes)}."
        )
    if (config.train.keep_best or config.train.patience) and "validation" not in dataset.sizes:
        raise ValueError(
            f"config.train.keep_best and patience need a validation split, but {dataset.name!r} has none. Set "
            "config.data.validation_fraction above 0, or train.keep_best=False and train.patience=0."
        )
    batch_size = config.train.batch_size
    num_replicas = strategy.num_replicas_in_sync
    if batch_size % num_replicas:
        raise ValueError(
            f"config.train.batch_size is {batch_size}, but it must be a multiple of the number of replicas, "
            f"{num_replicas}."
        )


class Logging:
    """Writes the mean metrics every `train.log_every` steps, and shows progress until `close` is called."""

    def __init__(self, train: ConfigDict, writer: MetricsWriter, optimizer: keras.Optimizer, start: int):
        self._train = train
        self._writer = writer
        self._optimizer = optimizer
        self._progress: Any = None  # begins after the first step, which takes longer
        self._window: list[Mapping[str, tf.Tensor]] = []  # on the device, because fetching them waits for it
        self._time = time.monotonic()  # when the window begins
        self._step = start

    def close(self) -> None:
        """Removes the progress bar."""
        if self._progress is not None:
            self._progress.close()

    def after_step(self, step: int, metrics: Mapping[str, tf.Tensor]) -> None:
        """Stores the metrics, and writes them when due."""
        self._window.append(metrics)
        options = {"total": self._train.steps, "initial": step - 1, "unit": "step", "position": 0}
        self._progress = self._progress or progress_bar(desc="training", **options)
        self._progress.update()
        if step % self._train.log_every == 0:
            self._write(step)

    def restart_clock(self, step: int) -> None:
        """Excludes the time of an evaluation from the steps per second."""
        self._time = time.monotonic()
        self._step = step

    def _write(self, step):
        """Writes the means over the steps since the last line or since the run resumed, and the number of steps."""
        means = {name: np.mean([float(metrics[name]) for metrics in self._window]) for name in self._window[0]}
        now = time.monotonic()
        rates = {
            "averaged_steps": len(self._window),
            "learning_rate": self._optimizer.learning_rate,
            "steps_per_second": (step - self._step) / (now - self._time),
        }
        self._writer.scalars(step, "train", means | rates)
        texts = [f"{means[name]:.3f} {name}" for name in _SHOWN if name in means]
        self._progress.set_postfix_str(", ".join(texts), refresh=False)
        self._window = []
        self._time = now
        self._step = step


class Evaluating:
    """Scores the averaged weights on one split every `train.eval_every` steps, and previews samples of images.

    With `train.keep_best`, the state with the best score so far is saved in `best` and used for the result. The run
    ends after `train.patience` scores without a better one. Both depend only on metrics.jsonl, so a resumed run
    decides as an uninterrupted one does.

    Attributes:
      scores: Dict of each evaluated step to its scores.
      are_over: Whether the patience of a worker has ended.
    """

    def __init__(
        self,
        config: ConfigDict,
        report: Report,
        average: WeightAverage,
        best: Checkpoints,
        writer: MetricsWriter,
        lines: list[dict[str, Any]],
        gather: Callable[[int], list[int]],
    ):
        self._train = config.train
        self._final_split = config.eval.split
        self._split = report.selection_split
        self._report = report
        self._average = average
        self._best = best
        self._writer = writer
        self._gather = gather
        self.scores = held_out_scores(lines, self._split)
        self._evaluated: int | None = None  # the step of the last evaluation in this process
        self.are_over = self._patience_has_ended()

    def evaluate(self, step: int) -> None:
        """Evaluates the weights, and saves the state if it is the best one."""
        with self._average.applied():
            scores = self._report.scores(self._split)
            grid = self._report.sample_grid()
        self.scores[step] = scores
        if self._train.keep_best:
            scores["best_step"] = self._ranked_steps()[0]
            if scores["best_step"] == step:
                self._best.save(step)
        self._writer.scalars(step, self._split, scores)
        if grid is not None:
            self._writer.image(step, "samples", grid)
        self._evaluated = step
        self.are_over = any(self._gather(int(self._patience_has_ended())))  # after all have saved

    def finish(self, last: int, files: Workdir) -> dict[str, Any]:
        """Writes the figures and the result of the last or the best step, and returns the result."""
        if self._evaluated != last and not (self._train.keep_best and last in self.scores):
            self.evaluate(last)
        best = self._ranked_steps()[0]
        kept = self._best.restore(best) if self._train.keep_best else 0
        step = kept or last
        scores: Any = self.scores.get(step)
        with self._average.applied():
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
        result["best"] = self.scores[best][self._report.objective]
        warning = self._report.warning(result, best=best, last=last)
        if warning:
            logging.warning("%s", warning)
            result["warning"] = warning
        result = finite_or_none(result | {"line": self._report.line(result)})
        write_json(files.result, result)
        return result

    def _ranked_steps(self):
        return ranked_steps(self.scores, self._report.objective)

    def _patience_has_ended(self):
        patience = self._train.patience
        ranked = self._ranked_steps()
        return bool(patience) and sum(step > ranked[0] for step in ranked) >= patience
