"""Export of the model of a run."""

import os
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from tf_resflow import serving
from tf_resflow._internal.writing import new_version_folder
from tf_resflow.training.runs import Run, load, load_held_out

__all__ = ["export_run"]

_NUM_EXAMPLES = 16  # number of samples of the model whose standard error is measured
_MOST_HELD_OUT = 10_000

_ABOUT = """\
The model was trained on {run.data.name} for {run.step:,} steps with {train.optimizer}, batch size
{train.batch_size}, learning rate {train.learning_rate:g} and seed {run.config.seed}. {result}."""


def export_run(
    workdir: str | os.PathLike[str],
    export_dir: str | os.PathLike[str],
    *,
    version: int | None = None,
    log_det_estimator: str | None = None,
    num_probes: int | None = None,
    stderr: float | None = None,
    num_samples: int | None = None,
    data_dir: str | None = None,
    data_path: str | None = None,
    **settings: Any,
) -> pathlib.Path:
    """Exports the model of a run with its averaged weights, and the scores of up to 10,000 held-out examples.

    If the data are missing, the export has no p-values, and a warning is logged.

    Args:
      workdir: Directory of a run of `resflow-train`.
      export_dir: See `tf_resflow.serving.export`, also for `version`.
      log_det_estimator: Name of an estimator, see `tf_resflow.training.build_estimator`.
      num_probes: Number of probes per estimate. Not used for "exact".
      stderr: Target standard error of `log_prob`, in nats, for samples of the model. Determines `num_samples`, see
        `tf_resflow.evaluation.LogLikelihood`.
      num_samples: Number of estimates per `log_prob`. The default is 8.
      data_dir: See `tf_resflow.training.load_data`, also for `data_path`.
      **settings: `seed`, `max_samples`, `max_batch`, `signatures` and `precise` of `tf_resflow.serving.export`.

    Returns:
      The path of the version.
    """
    if stderr is not None and num_samples is not None:
        raise ValueError(f"Got both num_samples={num_samples} and stderr={stderr}. Pass only one of them.")
    run = load(workdir)
    new_version_folder(export_dir, version)
    if num_samples is not None:
        settings["num_samples"] = num_samples
    settings["log_det_estimator"] = run.log_det_estimator(log_det_estimator, num_probes)
    if stderr is not None:
        condition = None
        if run.model.condition:
            condition = np.arange(_NUM_EXAMPLES) % run.model.condition.num_classes
        examples = run.density.sample(_NUM_EXAMPLES, seed=0, condition=condition)
        likelihood = run.likelihood(log_det_estimator, num_probes, stderr, lambda: examples)
        reached = likelihood.estimate(examples, seed=0, condition=condition).stderr
        settings["log_det_estimator"] = likelihood.log_det_estimator
        settings["num_samples"] = likelihood.num_samples
        settings["measured"] = {"stderr": float(tf.sqrt(tf.reduce_mean(reached**2)))}
    dataset = load_held_out(run.workdir, data_dir=data_dir, data_path=data_path)
    if dataset is not None:
        evaluation = run.config.eval
        num_held_out = min(evaluation.num_examples or _MOST_HELD_OUT, _MOST_HELD_OUT)
        settings["held_out"] = dataset.eval_batches(
            evaluation.split, evaluation.batch_size, num_held_out, labels=bool(run.model.condition)
        )
    return serving.export(run.model, export_dir, version=version, about=_about(run), **settings)


def _about(run: Run) -> str:
    """Returns a paragraph on how the model was trained."""
    result = run.result["line"] if run.result else "It has not been evaluated"
    return _ABOUT.format(run=run, train=run.config.train, result=result)
