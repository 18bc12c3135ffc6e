"""The training loop behind `resflow-train`."""

import json
import math
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from tf_resflow.data import Dataset
from tf_resflow.models.averaging import AveragedWeights
from tf_resflow.models.build import build_model, check_dataset
from tf_resflow.models.step import NON_FINITE, assert_finite, check_compiles, train_step
from tf_resflow.progress import bar, shown, stage
from tf_resflow.training.checkpoints import Checkpoints
from tf_resflow.training.config import validate_config
from tf_resflow.training.data import load_checked, replica_batches
from tf_resflow.training.metrics import read_metrics
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


class Interrupted(Exception):
    """A signal stopped the run after its state was saved.

    Args:
      signum: number of the signal.
      step: steps taken.
      path: the checkpoint.
    """

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
        first = next(iter(dataset.train_batches(train.batch_size, seed, labels=bool(model.condition))))
        x, condition = model.condition.split(first)
        model.initialize(x, seed, **({"condition": condition} if model.condition else {}))
    batches = iter(replica_batches(strategy, dataset, train.batch_size, seed, start, labels=model.takes_pairs))
    take_step, gather = _compiled_step(strategy, model, jit), of_all_workers(strategy)
    split = "validation" if "validation" in dataset.sizes else config.eval.split

    files.begin(config, dataset)
    with MetricsWriter(files.output, start) as writer:
        evaluations = _Evaluations(config, split, report, AveragedWeights(model, optimizer), writer, lines)
        with bar("training", train.steps, start) as progress, signals_noted() as noted:
            log = _StepLog(writer, optimizer, progress, (model.data_space.unit, "accuracy"), start)
            if 0 < start < train.steps and start % train.eval_every == 0 and not evaluations.has(start):
                evaluations.evaluate(start)  # the run was stopped between a checkpoint and its evaluation
                log.restart(start)
            for step in range(start + 1, train.steps + 1):
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
                    if step % train.checkpoint_every == 0 or step == train.steps or stop:
                        log.fetch()
                        if not checkpoints.is_finite():
                            raise NotFinite("A weight is NaN or infinite", step)
                        saved = checkpoints.save(step)
                    if stop:
                        raise Interrupted(stop, step, saved)
                    if step % train.eval_every == 0:
                        log.fetch()
                        evaluations.evaluate(step)
                        log.restart(step)
        return evaluations.finish(train.steps, files)


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

    def __init__(self, writer, optimizer, progress, names, start):
        self._writer, self._optimizer = writer, optimizer
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

    def write(self, step):
        """Writes the means over the steps since the last line."""
        self.fetch()
        values = {name: np.mean([metrics[name] for metrics in self._window]) for name in self._window[0]}
        values["learning_rate"] = self._optimizer.learning_rate
        time_before, step_before = self._clock
        values["steps_per_second"] = (step - step_before) / (self._fetched - time_before)
        self._writer.scalars(step, "train", values)
        self._window = []
        self._clock = self._fetched, step

    def restart(self, step):
        """Restarts the clock of the speed, after an evaluation."""
        self._clock = time.monotonic(), step


class _Evaluations:
    """The scores of a run under the averaged weights: of one split during training, of the config's at its end."""

    def __init__(self, config, split, report, averaged, writer, lines):
        self._split, self._final_split = split, config.eval.split
        self._report, self._averaged, self._writer = report, averaged, writer
        self._scores = [line for line in lines if "num_examples" in line and line["split"] == self._split]
        self._evaluated = None  # the step of the last evaluation in this process

    def has(self, step):
        """Whether the scores of a step are known."""
        return step in [scores["step"] for scores in self._scores]

    def evaluate(self, step):
        """Writes the scores and a grid of samples."""
        with self._averaged:
            scores = self._report.scores(self._split)
            grid = self._report.sample_grid()
        self._writer.scalars(step, self._split, scores)
        if grid is not None:
            self._writer.image(step, "samples", grid)
        self._scores.append({"step": step, **scores})
        self._evaluated = step

    def finish(self, step, files):
        """Writes the figures and the result, and returns it."""
        if self._evaluated != step:
            self.evaluate(step)
        scores = self._scores[-1]
        with self._averaged:
            if self._split != self._final_split:
                scores = self._report.scores()
                self._writer.scalars(step, self._final_split, scores)
            result = self._report.result(step, scores)
            with stage("figures"):
                result |= self._report.figures(files.figures)
        if self._split != self._final_split:
            result[self._split] = self._scores[-1]
        result["figures"] = sorted(path.name for path in files.figures.iterdir())
        result["best"] = self._best()
        result = finite_or_none(result | {"line": self._report.line(result)})
        write_json(files.result, result)
        return result

    def _best(self):
        """The best score so far on as many examples as the last one."""
        same = [s for s in self._scores if s["num_examples"] == self._scores[-1]["num_examples"]]
        values = [s[self._report.objective] for s in same]
        return min(value for value in values if value is not None)  # NaN and infinity are null in the file


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
    replicas = strategy.num_replicas_in_sync
    if config.train.batch_size % replicas:
        raise ValueError(
            f"config.train.batch_size is {config.train.batch_size}; it must be a multiple of the "
            f"{replicas} replicas that share it."
        )
