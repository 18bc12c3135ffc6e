"""Loading and saving of trained models with their runs and data."""

import copy
import dataclasses
import os
import pathlib
import zipfile
from collections.abc import Callable
from typing import Any

import keras
from absl import logging

from tf_resflow import data, evaluation
from tf_resflow._internal.console import stage
from tf_resflow._internal.writing import atomic_write, check_output_path, new_temporary_folder, write_json
from tf_resflow.data.config import PLACES
from tf_resflow.data.data_info import DataInfo
from tf_resflow.logdet import LogDetEstimator
from tf_resflow.models.averaging import WeightAverage
from tf_resflow.models.hybrid_model import HybridModel
from tf_resflow.models.keras_training import KerasTraining
from tf_resflow.training.build import build_estimator, build_model, estimator_name
from tf_resflow.training.checkpoints import Checkpoints, make_optimizer
from tf_resflow.training.config_fields import ConfigDict
from tf_resflow.training.metrics import held_out_scores, ranked_steps
from tf_resflow.training.workdir import (
    MODELS,
    OF_RUN,
    PRETRAINED,
    PackedRun,
    Workdir,
    has_only_model,
    open_workdir,
    read_json,
    read_metrics,
)

__all__ = ["Run", "load"]


class Run:
    """A trained model and its run, as returned by `load`.

    Attributes:
      model: A `FlowModel` or `HybridModel` with the averaged weights of the newest checkpoint or, with
        `config.train.keep_best`, of the best one on validation. If that one was not kept, a warning is logged.
      config: The config of the run, an `ml_collections.ConfigDict`.
      step: Number of training steps.
      workdir: Directory or file of the run, a `pathlib.Path`.
      data: Properties of the data: `name`, `event_shape`, `levels`, `num_classes`, `sizes`, and the
        `mean` and `std` that normalize the input of the model.
      result: Content of result.json, or None if training has not finished.
      is_best: Whether the weights are those of the best checkpoint, which may be older than the newest.
    """

    # In a dataclass, Pyright would treat the model as a descriptor of unknown type.

    def __init__(
        self,
        model: KerasTraining,
        config: Any,
        step: int,
        workdir: pathlib.Path,
        data: DataInfo,
        result: dict[str, Any] | None = None,
        is_best: bool = False,
    ) -> None:
        self.model = model
        self.config = config
        self.step = step
        self.workdir = workdir
        self.data = data
        self.result = result
        self.is_best = is_best

    @property
    def note(self) -> str:
        """Addition to messages if the weights are the best on validation; empty if they are the newest."""
        return f" of step {self.step:,}, the best on validation" if self.is_best else ""

    @property
    def density(self) -> Any:
        """The `FlowModel` whose density was trained. Raises ValueError if the run has only a classifier."""
        density = self.model.trained_density()
        if density is None:
            raise ValueError(
                "The run has only a classifier (config.hybrid.density_weight is 0), so it has no likelihood and no "
                "samples. Train with a density_weight above 0."
            )
        return density

    def log_det_estimator(self, name: str | None = None, num_probes: int | None = None) -> LogDetEstimator:
        """Returns an estimator of the log-determinants for evaluation.

        Args:
          name: See `tf_resflow.training.build_estimator`, also for `num_probes`. The default is the model's
            evaluation estimator.
        """
        density: Any = self.model.density if isinstance(self.model, HybridModel) else self.model
        default = density.evaluation_log_det_estimator
        if name is None and num_probes is None:
            return default
        return build_estimator(
            self.config.model,
            self.model.data_space.event_shape,
            "evaluation",
            name=name or estimator_name(default),
            num_probes=num_probes,
        )

    def likelihood(
        self, name: str | None, num_probes: int | None, stderr: float | None, examples: Callable[[], Any]
    ) -> evaluation.LogLikelihood:
        """Returns the object that estimates log-likelihoods of the density.

        Args:
          name: See `log_det_estimator`, also for `num_probes`. For a standard error, the default is that of
            `tf_resflow.evaluation.LogLikelihood`.
          stderr: Target standard error of a score in nats. The number of estimates is the one that `examples` need.
          examples: Function that returns examples, or for a conditional model pairs of examples and conditions.
            Examples without their labels get the labels 0, 1, ... in turn.
        """
        has_default = name is None and num_probes is None
        estimator = None if has_default else self.log_det_estimator(name, num_probes)
        likelihood = evaluation.LogLikelihood(self.density, stderr=stderr, log_det_estimator=estimator)
        if stderr is None:
            return likelihood
        batch = examples()
        x, condition = batch if isinstance(batch, tuple) else (batch, None)
        return evaluation.LogLikelihood(
            self.density,
            num_samples=likelihood.required_samples(x, condition),
            log_det_estimator=likelihood.log_det_estimator,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Saves the model as a `.keras` file, with the config, the properties of the data, and the result.

        `load` and the commands accept the file instead of the directory, and `keras.models.load_model` loads its
        model. Training cannot resume from it. It holds the names of data files, but no folders.
        """
        check_output_path(path, [".keras"])
        config = copy.deepcopy(self.config)
        for field in PLACES:
            config.data[field] = pathlib.Path(config.data[field]).name
        config.data.data_dir = ""
        with new_temporary_folder() as folder, atomic_write(path) as temporary:
            files = Workdir(folder)
            files.describe(config, self.data, {})
            if self.result is not None:
                write_json(files.result, self.result)
            write_json(files.path / "weights.json", {"step": self.step, "is_best": self.is_best})
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as file:
                for member in sorted(files.path.iterdir()):
                    file.write(member, OF_RUN + member.name)
                self.model.save(files.path / "model.keras")  # Keras does not compress it
                with zipfile.ZipFile(files.path / "model.keras") as model:
                    for name in model.namelist():
                        file.writestr(name, model.read(name))

    def __repr__(self) -> str:
        return f"Run(model={self.model}, step={self.step}, workdir={self.workdir}, data={self.data})"


def load(workdir: str | os.PathLike[str]) -> Any:
    """Loads a run or a model, see `tf_resflow.load`."""
    if has_only_model(pathlib.Path(workdir).expanduser()):
        model = keras.models.load_model(workdir)
        return getattr(model, "estimator", model)
    if workdir in MODELS and not pathlib.Path(workdir).exists():
        workdir = f"{PRETRAINED}{workdir}"
    files = open_workdir(workdir)
    config = files.read_config()
    info = files.read_data()
    files.check_trained()
    model = build_model(config, info)
    if isinstance(files, PackedRun):
        model.load_weights(files.weights)
        step = files.step
        is_best = files.is_best
    else:
        step, is_best = _restored(files, config, model)
    result = read_json(files.result) if files.result.exists() else None
    return Run(model, config, step, files.source, info, result, is_best)


def _restored(files, config, model):
    """Restores the averaged weights of the checkpoint to use. Returns its step, and whether it is the best one."""
    optimizer = make_optimizer(config.train, model.trainable_variables)
    average = WeightAverage(model, config.train.ema_momentum)
    ranked = ranked_steps(held_out_scores(read_metrics(files.path), "validation"), model.objective)
    best = 0
    if config.train.keep_best and ranked:
        best = Checkpoints(files.best, model, optimizer, average).restore(ranked[0])
    step = best or Checkpoints(files.checkpoints, model, optimizer, average).restore()
    average.apply()
    return step, best > 0


def load_data(
    workdir: str | os.PathLike[str], *, data_dir: str | None = None, data_path: str | None = None
) -> data.Dataset:
    """Loads the data set that a run was trained on.

    Args:
      workdir: Directory of a run, file of a saved run, or "pretrained:NAME", see `tf_resflow.load`.
      data_dir: TensorFlow Datasets folder of the data, if it has moved.
      data_path: File or folder of the data, if it has moved.
    """
    files = open_workdir(workdir)
    config = files.config_of_data(data_dir=data_dir, data_path=data_path)
    with stage("data"):
        return with_run_statistics(config, data.load(config.data), files)


def load_held_out(workdir: str | os.PathLike[str], **paths: str | None) -> data.Dataset | None:
    """Loads the data set of a run for p-values. Returns None and logs a warning if the data are missing."""
    try:
        return load_data(workdir, **paths)
    except ValueError as error:
        logging.warning("There are no p-values, because the held-out data cannot be loaded: %s", error)
        return None


def with_run_statistics(config: ConfigDict, dataset: data.Dataset, files: Workdir) -> data.Dataset:
    """Returns a config's data set with the statistics of its run. Raises ValueError if the run has other data."""
    begun = files.read_data() if files.is_begun() else None
    if begun is None or begun.mean is None or dataset.levels is None:
        needs_statistics = config.task == "hybrid" and not config.model.logit_alpha
        if needs_statistics:
            dataset = dataset.with_channel_statistics()
    else:  # a converted checkpoint keeps its published statistics
        dataset = dataclasses.replace(dataset, mean=begun.mean, std=begun.std)
    files.check_data(dataset)
    return dataset
