"""The training loop behind `resflow-train`."""

import json
import math
import os
import shlex
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from tf_resflow.data import Dataset
from tf_resflow.models.averaging import AveragedWeights
from tf_resflow.models.build import build_model, check_dataset
from tf_resflow.models.step import NON_FINITE, assert_finite, check_compiles, train_step
from tf_resflow.progress import bar, shown, stage
from tf_resflow.training.checkpoints import Checkpoints
from tf_resflow.training.config import validate_config
from tf_resflow.training.data import initial_batch, load_checked, replica_batches
from tf_resflow.training.metrics import held_out_scores, ranked_steps, read_metrics
from tf_resflow.training.metrics_writer import MetricsWriter
from tf_resflow.training.non_finite import NotFinite, diagnosed
from tf_resflow.training.optimizer import make_optimizer
from tf_resflow.training.report import Report
from tf_resflow.training.signals import signals_noted
from tf_resflow.training.strategies import (
    check_agreement,
    is_chief,
    lost_workers_explained,
    num_workers,
    of_all_workers,
)
from tf_resflow.training.workdir import Workdir, write_json
from tf_resflow.writing import finite_or_none

if TYPE_CHECKING:
    from ml_collections import ConfigDict

__all__ = ["Interrupted", "train"]

_SECONDS_BETWEEN_FETCHES = 1.0
_STEPS_BETWEEN_AGREEMENTS = 10
_LONG = 3600.0  # seconds of a run that is offered a smaller model


class Interrupted(Exception):
    """A signal stopped the run after a step, and after its state was saved as a path."""

    def __init__(self, signum: int, step: int, path: str):
        super().__init__(
            f"Stopped by {signal.Signals(signum).name} after step {step}; saved as {path}. "
            "Run the same command again to resume."
        )
        self.signum = signum


def train(
    config: "ConfigDict",
    workdir: str | os.PathLike[str],
    *,
    strategy: tf.distribute.Strategy | None = None,
    jit: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Trains, or resumes, the run of a config in its workdir.

    A resumed run takes the same steps as an uninterrupted one: the batch and the random numbers of
    a step are pure functions of the seed and the step. (With another `jit` it agrees to rounding.)

    Args:
      config: see `default_config`.
      workdir: directory of the run.
      strategy: a `tf.distribute.Strategy`; by default the current one.
      jit: whether XLA compiles the whole step, which takes longer to start.
      progress: whether to show progress bars.

    Returns:
      A dict: the content of `result.json`, including a `line` for the screen. A finished run returns it at once.

    Raises:
      ValueError: when the config, the workdir or the data are wrong, or `jit` is True for several replicas that are
        not GPUs.
      NonFiniteError: when the loss or a gradient becomes NaN or infinite.
      Interrupted: on SIGINT or SIGTERM, after saving: of several workers one that is signaled stops all.
      WorkerLostError: when another worker has stopped for another reason.
      OSError: when the workdir cannot be written.
    """
    validate_config(config)
    strategy = strategy or tf.distribute.get_strategy()
    if jit:
        check_compiles(strategy)
    with lost_workers_explained(strategy):
        files = Workdir(workdir, is_chief=is_chief(strategy))
        check_agreement(strategy, _common_fields(config), "The workers have different configs: give all the same.")
        with files.locked():
            files.check_config(config)
            done = files.read_result(config)
            check_agreement(strategy, json.dumps(done), "The workers find different results: give one --workdir.")
            if done:
                return done | {"line": f"Already done: {done['line']}"}
            with shown(progress):
                return _train(config, files, strategy, jit)


def _train(config, files, strategy, jit):
    """The run, from its data to its result."""
    train, seed = config.train, config.seed
    keras.utils.set_random_seed(seed)
    with stage("data"):
        dataset = load_checked(config, files, lambda dataset: _check_fit(config, dataset, strategy))
    with strategy.scope():
        model = build_model(config, dataset)
        optimizer = make_optimizer(train, model.trainable_variables)
        model.compile(optimizer=optimizer)
    checkpoints = Checkpoints(
        files.checkpoints, model, optimizer, seed=seed, keep=train.keep, is_chief=files.is_chief
    )
    best = Checkpoints(files.best, model, optimizer, seed=seed, keep=1, is_chief=files.is_chief)
    report = Report(config, model, dataset, strategy=strategy)

    start = checkpoints.restore()
    lines = [line for line in read_metrics(files.path) if line["step"] <= start]
    check_agreement(
        strategy,
        json.dumps([start, lines]),
        f"The workers find different checkpoints or scores; this one finds {checkpoints.latest}. Give all the same "
        "--workdir, which all of them see.",
    )
    if start == 0:
        report.check_data()
        x, condition = model.condition.split(initial_batch(config, dataset, labels=bool(model.condition)))
        model.initialize(x, seed, **({"condition": condition} if model.condition else {}))
    batches = iter(replica_batches(strategy, dataset, train.batch_size, seed, start, labels=model.takes_pairs))
    take_step, gather = _compiled_step(strategy, model, jit), of_all_workers(strategy)
    split = "validation" if "validation" in dataset.sizes else config.eval.split

    files.begin(config, dataset)
    with MetricsWriter(files.output, start) as writer:
        averaged = AveragedWeights(model, optimizer)
        evaluations = _Evaluations(config, split, report, averaged, writer, lines, best, gather)
        with bar("training", train.steps, start) as progress, signals_noted() as noted:
            log = _StepLog(
                writer, optimizer, progress, (model.data_space.unit, "accuracy"), start, _shorter(config)
            )
            if 0 < start < train.steps and start % train.eval_every == 0 and start not in evaluations.scores:
                evaluations.evaluate(start)  # the run was stopped between a checkpoint and its evaluation
                log.restart(start)
            step = start
            while step < train.steps and not evaluations.are_over:
                step += 1
                batch = next(batches)
                with diagnosed(model, strategy, checkpoints, batch, seed):
                    try:
                        metrics = take_step(batch, tf.constant([seed, step], tf.int32))
                    except tf.errors.InvalidArgumentError as error:
                        log.fetch()
                        raise NotFinite(NON_FINITE, step, None if NON_FINITE in str(error) else error) from None
                    log.add(step, metrics)
                    if step % train.log_every == 0:
                        log.write(step)
                    stop = noted.signum
                    if num_workers(strategy) > 1:  # all of them have to stop after the same step
                        stop = step % _STEPS_BETWEEN_AGREEMENTS == 0 and max(gather(noted.signum or 0))
                    is_evaluated = step % train.eval_every == 0
                    is_candidate = is_evaluated and (train.keep_best or train.patience > 0)
                    if step % train.checkpoint_every == 0 or step == train.steps or stop or is_candidate:
                        log.fetch()
                        if not checkpoints.is_finite():
                            raise NotFinite("A weight is NaN or infinite", step)
                        saved = checkpoints.save(step)
                    if stop:
                        raise Interrupted(stop, step, saved)
                    if is_evaluated:
                        log.fetch()
                        evaluations.evaluate(step)
                        log.restart(step)
        return evaluations.finish(step, files)


def _compiled_step(strategy, model, jit):
    """One step on every replica: a function of a batch and a seed to the means of the metrics."""

    def on_replica(batch, seed):
        return train_step(model, batch, seed)

    if jit:
        on_replica = tf.function(on_replica, autograph=False, jit_compile=True)

    @tf.function(autograph=False)
    def take_step(batch, seed):
        metrics = strategy.run(on_replica, (batch, seed))
        means = {
            name: strategy.reduce(tf.distribute.ReduceOp.MEAN, value, axis=None) for name, value in metrics.items()
        }
        if jit:  # which left out the assertion of the step
            assert_finite(means[model.objective], means["gradient_norm"])
        return means

    return take_step


class _StepLog:
    """The metrics of the steps, on their way from the device to metrics.jsonl.

    To fetch them waits for the device, so it is not done at every step.
    """

    def __init__(self, writer, optimizer, progress, names, start, shorter):
        self._writer, self._optimizer = writer, optimizer
        self._shorter, self._is_told, self._first = shorter, False, None
        self._progress, self._names = progress, names
        self._pending = []  # (step, metrics) on the device
        self._window = []  # metrics that are fetched, and not written
        self._fetched = time.monotonic()
        self._clock = self._fetched, start
        progress.set_postfix_str("building the graph, for up to a minute or two")

    def add(self, step, metrics):
        """Takes the metrics of a step."""
        self._pending.append((step, metrics))
        self._progress.update()
        if time.monotonic() - self._fetched > _SECONDS_BETWEEN_FETCHES:
            self.fetch()

    def fetch(self):
        """Fetches the metrics of the steps since the last time; raises if one is not finite."""
        pending, self._pending = self._pending, []
        for step, metrics in pending:
            metrics = {name: float(value) for name, value in metrics.items()}
            for name, value in metrics.items():
                if not math.isfinite(value):
                    raise NotFinite(f"{name} is {value}", step)
            self._window.append(metrics)
            shown = [f"{metrics[name]:.3f} {name}" for name in self._names if name in metrics]
            self._progress.set_postfix_str(", ".join(shown), refresh=False)
        self._fetched = time.monotonic()
        if pending:
            self._tell_speed(pending[-1][0])

    def _tell_speed(self, step):
        """Says once, not of the first step, how long a step and the run take, and what would take less."""
        if self._is_told or self._progress.disable:
            return
        if self._first is None:
            self._first = self._fetched, step
            return
        time_before, step_before = self._first
        seconds = (self._fetched - time_before) / (step - step_before)
        left = seconds * (self._progress.total - step)
        text = f"A step takes {seconds:.2g} s: {self._progress.format_interval(left)} to go."
        if left > _LONG:
            text += f" For a shorter run, in another --workdir: {self._shorter}."
        self._progress.write(text, file=sys.stderr)
        self._is_told = True

    def write(self, step):
        """Writes the means over the steps since the last line, or since the run was resumed, and their number."""
        self.fetch()
        values = {name: np.mean([metrics[name] for metrics in self._window]) for name in self._window[0]}
        values["averaged_steps"] = len(self._window)
        values["learning_rate"] = self._optimizer.learning_rate
        time_before, step_before = self._clock
        values["steps_per_second"] = (step - step_before) / (self._fetched - time_before)
        self._writer.scalars(step, "train", values)
        self._window = []
        self._clock = self._fetched, step

    def restart(self, step):
        """Restarts the clock of the speed, after an evaluation."""
        self._clock = time.monotonic(), step
        self._first = None


class _Evaluations:
    """The scores of a run under the averaged weights: of one split during training, of the config's at its end.

    With `train.keep_best` the state that has the best score so far is saved in `best`, and the end scores it. The
    training is over after `train.patience` scores without a better one. Both follow from the lines of metrics.jsonl
    alone: a resumed run decides as an uninterrupted one.
    """

    def __init__(self, config, split, report, averaged, writer, lines, best, gather):
        self._train, self._split, self._final_split = config.train, split, config.eval.split
        self._report, self._averaged, self._writer = report, averaged, writer
        self._best, self._gather = best, gather
        self.scores = held_out_scores(lines, split)
        self._evaluated = None  # the step of the last evaluation in this process
        self.are_over = self._patience_has_ended()

    def evaluate(self, step):
        """Writes the scores and a grid of samples, and saves the state if it is the best."""
        with self._averaged:
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
        self.are_over = any(self._gather(int(self._patience_has_ended())))  # and the best is saved on all workers

    def finish(self, last, files):
        """Writes the figures and the result, of the last step or of the best, and returns it."""
        if self._evaluated != last and not (self._train.keep_best and last in self.scores):
            self.evaluate(last)
        best = self._ranked_steps()[0]
        kept = self._best.restore(best) if self._train.keep_best else 0
        step = kept or last
        scores = self.scores.get(step)
        with self._averaged:
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
        if warning := self._report.warning(result, best=best, last=last):
            logging.warning("%s", warning)
            result["warning"] = warning
        result = finite_or_none(result | {"line": self._report.line(result)})
        write_json(files.result, result)
        return result

    def _ranked_steps(self):
        return ranked_steps(self.scores, self._report.objective)

    def _patience_has_ended(self):
        ranked, patience = self._ranked_steps(), self._train.patience
        return bool(patience) and sum(step > ranked[0] for step in ranked) >= patience


def _shorter(config):
    """Flags of a config whose steps take less time, or that has fewer."""
    train, model, data = config.train, config.model, config.data
    fields = {"train.steps": max(1, train.steps // 2), "train.batch_size": max(1, train.batch_size // 2)}
    fields["model.num_blocks"] = tuple(max(1, num // 2) for num in model.num_blocks)
    if data.name == "images" and (size := data.image_size or data.max_image_size) > 8:
        fields = {"data.image_size": size // 2, **fields}
    return " or ".join(f"--config.{name}={shlex.quote(str(value))}" for name, value in fields.items())


def _common_fields(config):
    """The part of a config that all workers must share: all but where the data are."""
    fields = config.to_dict()
    del fields["data"]["data_dir"]
    return json.dumps(fields, sort_keys=True)


def _check_fit(config: "ConfigDict", dataset: Dataset, strategy: tf.distribute.Strategy) -> None:
    """Raises ValueError if the data or the devices lack what the config needs."""
    check_dataset(config, dataset)
    if config.eval.split not in dataset.sizes:
        raise ValueError(
            f"config.eval.split is {config.eval.split!r}; {dataset.name!r} has {sorted(dataset.sizes)}."
        )
    if (config.train.keep_best or config.train.patience) and "validation" not in dataset.sizes:
        raise ValueError(
            f"config.train.keep_best and patience choose by a validation split, and {dataset.name!r} has none: set "
            "config.data.validation_fraction above 0, or train.keep_best=False and train.patience=0."
        )
    replicas = strategy.num_replicas_in_sync
    if config.train.batch_size % replicas:
        raise ValueError(
            f"config.train.batch_size is {config.train.batch_size}; it must be a multiple of the "
            f"{replicas} replicas that share it."
        )
