"""The training loop behind `resflow-train`."""

import contextlib
import json
import math
import signal
import threading
import time

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from tf_resflow.models import build_model
from tf_resflow.models.step import NON_FINITE, train_step
from tf_resflow.progress import bar, shown, stage
from tf_resflow.training.averaging import AveragedWeights
from tf_resflow.training.checkpoints import Checkpoints, check_state
from tf_resflow.training.config import validate_config, with_fitting_warmup
from tf_resflow.training.data import load_checked
from tf_resflow.training.metrics import read_metrics
from tf_resflow.training.metrics_writer import MetricsWriter
from tf_resflow.training.non_finite import NonFiniteError, find_largest_norm, find_non_finite
from tf_resflow.training.optimizer import make_optimizer
from tf_resflow.training.report import Report
from tf_resflow.training.strategies import check_agreement, is_chief, num_workers
from tf_resflow.training.workdir import Workdir, write_json

__all__ = ["Interrupted", "WorkerLostError", "train"]

_SECONDS_BETWEEN_LOOKS = 1.0
_STEPS_BETWEEN_AGREEMENTS = 10


class Interrupted(Exception):
    """A signal stopped the run after its state was saved.

    Args:
      signum: number of the signal.
      step: steps taken.
      path: the checkpoint.
    """

    def __init__(self, signum, step, path):
        super().__init__(
            f"Stopped by {signal.Signals(signum).name} after step {step}; saved as {path}. "
            "Run the same command again to resume."
        )
        self.signum = signum


class WorkerLostError(ConnectionError):
    """Another worker has stopped, so that this one cannot go on."""


def train(config, workdir, strategy=None, progress=True):
    """Trains, or resumes, the run of a config in its workdir.

    A resumed run takes the same steps as an uninterrupted one: the batch and the random numbers of
    a step are pure functions of the seed and the step.

    Args:
      config: see `default_config`.
      workdir: directory of the run.
      strategy: a `tf.distribute.Strategy`; by default the current one.
      progress: whether to show progress bars.

    Returns:
      A dict: what `result.json` has, among it the `line` that says it. A finished run gives it again at once.

    Raises:
      ValueError: when the config, the workdir or the data are not right.
      NonFiniteError: when the loss or a gradient becomes NaN or infinite.
      Interrupted: on SIGINT or SIGTERM, after saving: of several workers one that is signalled stops all.
      WorkerLostError: when another worker has stopped without that.
      OSError: when the workdir does not take what is to be saved.
    """
    validate_config(config)
    config = _with_fitting_warmup(config)
    strategy = strategy or tf.distribute.get_strategy()
    with _lost_workers_told(strategy):
        files = Workdir(workdir, is_chief(strategy))
        check_agreement(strategy, _of_all_workers(config), "The workers have different configs: give all the same.")
        with files.locked():
            files.prepare(config)
            check_state(files)
            done = files.read_result(config)
            check_agreement(strategy, json.dumps(done), "The workers find different results: give one --workdir.")
            if done:
                return done | {"line": f"Already done: {done['line']}"}
            with shown(progress):
                return _train(config, files, strategy)


def _with_fitting_warmup(config):
    fitting = with_fitting_warmup(config)
    if fitting is not config:
        logging.warning(
            "config.train.warmup_steps = %d leaves none of %d steps to the cosine: shortened to %d.",
            config.train.warmup_steps,
            config.train.steps,
            fitting.train.warmup_steps,
        )
    return fitting


def _train(config, files, strategy):
    keras.utils.set_random_seed(config.seed)
    with stage("data"):
        dataset = load_checked(config, files, lambda dataset: _check_fit(config, dataset, strategy))
    run = _Run(config, files, strategy, dataset)
    files.write_data(dataset)
    files.write_config(config)
    return run.train()


class _Run:
    """The parts of a run, and the order in which they work."""

    def __init__(self, config, files, strategy, dataset):
        self._config, self._files = config, files
        self._strategy, self._dataset = strategy, dataset
        with strategy.scope():
            self._model = build_model(config, dataset)
            self._optimizer = make_optimizer(config.train, self._model.trainable_variables)
            self._model.compile(optimizer=self._optimizer)
        self._checkpoints = Checkpoints(
            files.checkpoints, self._model, self._optimizer, config.seed, config.train.keep, files.is_chief
        )
        self._averaged = AveragedWeights(self._model, self._optimizer)
        self._report = Report(config, self._model, dataset, strategy)
        self._pending = []  # (step, metrics) whose values have not been fetched
        self._window = []  # fetched metrics that have not been logged
        validated = "validation" in dataset.sizes
        self._split = "validation" if validated else config.eval.split  # of the evaluations while it trains
        self._scores = []  # of these evaluations, as in metrics.jsonl
        self._evaluated = None  # the step of this process' last one

    def train(self):
        """Trains from the newest checkpoint to the last step; returns the result."""
        start, steps = self._checkpoints.restore(), self._config.train.steps
        lines = [line for line in read_metrics(self._files.path) if line["step"] <= start]
        evaluations = [line for line in lines if "num_examples" in line]
        self._scores = [line for line in evaluations if line["split"] == self._split]
        check_agreement(
            self._strategy,
            json.dumps([start, self._scores]),
            f"The workers find different checkpoints or scores; this one finds {self._checkpoints.latest}. Give "
            "all the same --workdir, which all of them see.",
        )
        if start == 0:
            self._initialize()
        with MetricsWriter(self._files.output, start) as self._writer:
            with bar("training", steps, start) as self._bar, _signal_taken() as taken:
                self._take_steps(start, steps, taken)
                self._save(steps)
            return self._finish(steps)

    def _initialize(self):
        """The data-dependent initialisation, from the first training batch."""
        self._report.check_data()
        seed, size = self._config.seed, self._config.train.batch_size
        batch = next(iter(self._dataset.train_batches(size, seed)))
        self._model.initialize(batch, seed)

    def _take_steps(self, start, steps, taken):
        train, seed = self._config.train, self._config.seed
        labels = self._config.task == "hybrid"
        batches = self._dataset.train_batches(train.batch_size, seed, start, labels)
        batches = iter(self._strategy.experimental_distribute_dataset(batches))
        take = self._compiled_step()
        self._clock = time.monotonic(), start
        self._looked = time.monotonic()
        self._bar.set_postfix_str("building the graph, for up to a minute or two")
        if 0 < start < steps and start % train.eval_every == 0 and start not in [s["step"] for s in self._scores]:
            self._evaluate(start)  # the run was stopped between a checkpoint and its evaluation
        for step in range(start + 1, steps + 1):
            self._batch = next(batches)
            try:
                signum = tf.constant(taken.signum or 0)
                metrics = take(self._batch, tf.constant([seed, step], tf.int32), signum)
            except tf.errors.InvalidArgumentError as error:
                self._look()
                found = self._find_non_finite(step)
                if found is None and NON_FINITE not in str(error):
                    raise
                raise self._non_finite(NON_FINITE, step, found) from None
            mean_signum = metrics.pop("signum")
            self._pending.append((step, metrics))
            self._bar.update()
            if time.monotonic() - self._looked > _SECONDS_BETWEEN_LOOKS:
                self._look()
            if step % train.log_every == 0:
                self._log(step)
            stop = self._agreed(step, mean_signum, taken)
            if step % train.checkpoint_every == 0 or stop:
                self._save(step)
            if stop:
                raise Interrupted(stop, step, self._checkpoints.latest)
            if step % train.eval_every == 0:
                self._evaluate(step)

    def _compiled_step(self):
        """One step on every replica, of a batch, a seed and this worker's signal, to the means of the metrics."""
        strategy, model = self._strategy, self._model

        def replica_step(batch, seed, signum):
            return {**train_step(model, batch, seed), "signum": tf.cast(signum, tf.float32)}

        @tf.function(autograph=False)
        def take(batch, seed, signum):
            metrics = strategy.run(replica_step, (batch, seed, signum))
            return {
                name: strategy.reduce(tf.distribute.ReduceOp.MEAN, value, axis=None)
                for name, value in metrics.items()
            }

        return take

    def _agreed(self, step, mean, taken):
        """The signal to stop by after this step, or None: all workers have to see it after the same step.

        That asks for a value from the device, and so is done every few steps.
        """
        if num_workers(self._strategy) == 1:
            return taken.signum
        seen = step % _STEPS_BETWEEN_AGREEMENTS == 0 and mean > 0
        return (taken.signum or signal.SIGTERM) if seen else None

    def _look(self):
        """Fetches the metrics of the steps since the last look; stops if one is not finite.

        A look waits for the device, so it is not taken at every step.
        """
        pending, self._pending = self._pending, []
        unit = self._report.unit
        for step, metrics in pending:
            metrics = {name: float(value) for name, value in metrics.items()}
            if unit == self._report.objective:
                metrics[unit] = metrics.pop("loss")
            for name, value in metrics.items():
                if not math.isfinite(value):
                    raise self._non_finite(f"{name} is {value}", step, self._find_non_finite(step))
            self._window.append(metrics)
            shown = [f"{metrics[name]:.3f} {name}" for name in (unit, "accuracy") if name in metrics]
            self._bar.set_postfix_str(", ".join(shown), refresh=False)
        self._looked = time.monotonic()

    def _log(self, step):
        self._look()
        values = {name: np.mean([m[name] for m in self._window]) for name in self._window[0]}
        values["learning_rate"] = self._optimizer.learning_rate
        time_before, step_before = self._clock
        values["steps_per_second"] = (step - step_before) / (self._looked - time_before)
        self._writer.scalars(step, "train", values)
        self._window = []
        self._clock = self._looked, step

    def _evaluate(self, step):
        """The scores on the validation split, if there is one, and samples, under the averaged weights."""
        self._look()
        with self._averaged:
            scores = self._report.scores(self._split)
            grid = self._report.sample_grid()
        self._writer.scalars(step, self._split, scores)
        if grid is not None:
            self._writer.image(step, "samples", grid)
        self._scores.append({"step": step, **scores})
        self._evaluated = step
        self._clock = time.monotonic(), step

    def _save(self, step):
        self._stop_if_not_finite(step)
        self._checkpoints.save(step)

    def _stop_if_not_finite(self, step):
        self._look()
        if not self._checkpoints.is_finite():
            raise self._non_finite("A weight is NaN or infinite", step, self._find_non_finite(step))

    def _non_finite(self, what, step, found):
        found = found or find_largest_norm(self._model)
        latest = self._checkpoints.latest
        if latest and not self._checkpoints.is_finite():
            self._checkpoints.restore()
            before = self._find_non_finite(step) or find_largest_norm(self._model)
            found += f" As it was in {latest}: {before}"
        return NonFiniteError(what, step, found, latest)

    def _find_non_finite(self, step):
        parts = [self._strategy.experimental_local_results(part) for part in tf.nest.flatten(self._batch)]
        batches = [tf.nest.pack_sequence_as(self._batch, batch) for batch in zip(*parts, strict=True)]
        return find_non_finite(self._model, batches, tf.constant([self._config.seed, step], tf.int32))

    def _finish(self, step):
        if self._evaluated != step:
            self._evaluate(step)
        scores, split = self._scores[-1], self._config.eval.split
        with self._averaged:
            if split != self._split:
                scores = self._report.scores()
                self._writer.scalars(step, split, scores)
            result = self._report.result(step, scores)
            with stage("figures"):
                result |= self._report.figures(self._files.figures)
        if split != self._split:
            result[self._split] = self._scores[-1]
        result["figures"] = sorted(path.name for path in self._files.figures.iterdir())
        result["best"] = self._best()
        result["line"] = self._report.line(result)
        write_json(self._files.result, result)
        return result

    def _best(self):
        """The best score so far on as many examples as the last one."""
        same = [s for s in self._scores if s["num_examples"] == self._scores[-1]["num_examples"]]
        values = [s[self._report.objective] for s in same]
        return min(value for value in values if value is not None)  # what is not finite is null in the file


@contextlib.contextmanager
def _lost_workers_told(strategy):
    """Says of the errors of collective operations what they mean."""
    try:
        yield
    except tf.errors.OpError as error:
        lost = isinstance(error, (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError))
        if num_workers(strategy) == 1 or not (lost or "ollective" in str(error)):
            raise
        raise WorkerLostError(
            "Another worker has stopped; its own message says why. Run the same command again on every worker: the "
            "run resumes from its newest checkpoint."
        ) from None


def _of_all_workers(config):
    """What all workers are to have in common of a config: all but where the data are."""
    fields = config.to_dict()
    del fields["data"]["data_dir"]
    return json.dumps(fields, sort_keys=True)


def _check_fit(config, dataset, strategy):
    """Raises ValueError where the config asks of the data or the devices what they have not."""
    kind = "image" if len(dataset.event_shape) == 3 else "vector"
    if config.model.kind != kind:
        raise ValueError(
            f"config.model.kind is {config.model.kind!r}, but an example of {dataset.name!r} has "
            f"the shape {dataset.event_shape}: set it to {kind!r}."
        )
    if config.task == "hybrid" and dataset.num_classes is None:
        raise ValueError(
            f"config.task is 'hybrid', but {dataset.name!r} has no labels: choose a data set that has them, such "
            "as digits, mnist, cifar10 or svhn_cropped."
        )
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


class _Taken:
    """Which signal has come, if any."""

    signum = None


@contextlib.contextmanager
def _signal_taken():
    """Notes a first SIGINT or SIGTERM, so that the step can end; a second one acts as ever."""
    taken, previous = _Taken(), {}

    def restore():
        for signum, handler in previous.items():
            signal.signal(signum, handler)

    def note(signum, _):
        taken.signum = signum
        restore()

    if threading.current_thread() is threading.main_thread():
        previous = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield taken
    finally:
        restore()
