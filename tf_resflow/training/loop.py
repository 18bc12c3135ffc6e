"""Training loop of `resflow-train`."""

import contextlib
import json
import os
from typing import Any

import keras
import tensorflow as tf

from tf_resflow.config_fields import ConfigDict
from tf_resflow.console import shown, stage
from tf_resflow.models.averaging import WeightAverage
from tf_resflow.models.build import build_model, check_dataset
from tf_resflow.models.step import assert_finite, train_step
from tf_resflow.training.checkpoints import Checkpoints
from tf_resflow.training.config import validate_config
from tf_resflow.training.data import initial_batch, load_checked, replica_batches
from tf_resflow.training.hooks import Evaluating, Logging, Saving, Stopping
from tf_resflow.training.metrics import read_metrics
from tf_resflow.training.metrics_writer import MetricsWriter
from tf_resflow.training.non_finite import diagnosed
from tf_resflow.training.optimizer import make_optimizer
from tf_resflow.training.report import Report
from tf_resflow.training.strategies import check_agreement, is_chief, lost_workers_explained
from tf_resflow.training.workdir import Workdir


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
    with lost_workers_explained(strategy):
        files = Workdir(workdir, is_chief=is_chief(strategy))
        common = config.copy_and_resolve_references()
        common.data.data_dir = ""  # may differ between workers
        with files.locked():
            done = files.read_result(config)
            check_agreement(strategy, f"{common} {done}", "The configs of the workers differ. Use the same on all.")
            files.check_config(config)
            if done:
                return done | {"line": f"Already done: {done['line']}"}
            with shown(progress):
                return _train(config, files, strategy, jit)


def _train(config, files, strategy, jit):
    train = config.train
    keras.utils.set_random_seed(config.seed)
    with stage("data"):
        dataset = load_checked(config, files, lambda dataset: _check_fit(config, dataset, strategy))
    with strategy.scope():
        model = build_model(config, dataset)
        optimizer = make_optimizer(train, model.trainable_variables)
        model.compile(optimizer=optimizer)
    average = WeightAverage(model, train.ema_momentum)
    saved = {"seed": config.seed, "is_chief": files.is_chief}
    checkpoints = Checkpoints(files.checkpoints, model, optimizer, average, keep=train.keep, **saved)
    best = Checkpoints(files.best, model, optimizer, average, keep=1, **saved)
    report = Report(config, model, dataset, strategy=strategy)

    start = checkpoints.restore()
    lines = [line for line in read_metrics(files.path) if line["step"] <= start]
    message = f"The workers find different checkpoints; this one finds {checkpoints.latest}. Give all one workdir."
    check_agreement(strategy, json.dumps([start, lines]), message)
    if start == 0:
        if dataset.levels is None:
            _ = report.baselines  # warns before the first step if the data cannot have a density
        x, condition = model.condition.split(initial_batch(config, dataset, labels=bool(model.condition)))
        model.initialize(x, config.seed, **({"condition": condition} if model.condition else {}))
        average.start()
    labels = model.takes_pairs
    batches = iter(replica_batches(strategy, dataset, train.batch_size, config.seed, start, labels=labels))
    take_step = _compiled_step(strategy, model, average, jit)

    files.begin(config, dataset)
    with MetricsWriter(files.output, start) as writer:
        log = Logging(train, writer, optimizer, start)
        saving = Saving(train, checkpoints, log)
        stopping = Stopping(train, saving, strategy)
        evaluating = Evaluating(config, report, average, best, writer, lines, log, stopping)
        with log, contextlib.ExitStack() as stack:
            evaluating.make_up(start)
            step = start
            while step < train.steps and not evaluating.are_over:
                step += 1
                batch, seed = next(batches), tf.constant([config.seed, step], tf.int32)
                is_first = step == start + 1  # a signal during its tracing has its usual effect
                tracing = stage("building the graph, which can take a minute or two")
                with diagnosed(model, strategy, checkpoints.latest, batch, seed):
                    with tracing if is_first else contextlib.nullcontext():
                        metrics = take_step(batch, seed)
                    for hook in (log, saving, stopping, evaluating):
                        hook.after_step(step, metrics)
                if is_first:
                    stack.enter_context(stopping)
        return evaluating.finish(step, files)


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
    size, replicas = config.train.batch_size, strategy.num_replicas_in_sync
    if size % replicas:
        raise ValueError(
            f"config.train.batch_size is {size}, but it must be a multiple of the number of replicas, {replicas}."
        )
