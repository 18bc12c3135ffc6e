"""Loading and saving of trained models with their runs."""

import copy
import os
import pathlib
import tempfile
import zipfile
from typing import Any

import keras

from tf_resflow.data.config import PLACES
from tf_resflow.data.data_info import DataInfo
from tf_resflow.logdet import Exact, default_estimator
from tf_resflow.models import build_model, evaluation_estimator
from tf_resflow.models.averaging import WeightAverage
from tf_resflow.models.keras_training import KerasTraining
from tf_resflow.training.checkpoints import Checkpoints
from tf_resflow.training.metrics import held_out_scores, ranked_steps, read_metrics
from tf_resflow.training.optimizer import make_optimizer
from tf_resflow.training.packed import MODELS, OF_RUN, PackedRun, has_only_model, opened
from tf_resflow.training.workdir import PRETRAINED, Workdir, read_json
from tf_resflow.writing import check_output_path, whole_file, write_json

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
        self.model, self.config, self.data = model, config, data
        self.step, self.workdir, self.result, self.is_best = step, workdir, result, is_best

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

    def estimator(
        self, name: str | None = None, num_probes: int | None = None, *, stderr: float | None = None
    ) -> tuple[str, Any]:
        """Returns the name and the estimator for an evaluation, see `tf_resflow.models.evaluation_estimator`.

        For a requested standard error, vectors of up to 256 coordinates are exact by default, because averages of
        many estimates would take longer.
        """
        space = self.model.data_space
        if stderr is not None and name is num_probes is None and len(space.event_shape) == 1:
            is_exact = isinstance(default_estimator(space.num_dimensions, "scores"), Exact)
            name = "exact" if is_exact else None
        options: dict[str, Any] = {"dequantizer": space.dequantizer, "name": name, "num_probes": num_probes}
        return evaluation_estimator(self.config, self.model.flow, space.event_shape, **options)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Saves the model as a `.keras` file, with the config, the properties of the data, and the result.

        `load` and the commands accept the file instead of the directory, and `keras.models.load_model` loads its
        model. Training cannot resume from it. It holds the names of data files, but no folders.
        """
        check_output_path(path, [".keras"])
        config = copy.deepcopy(self.config)
        config.data.update({place: pathlib.Path(config.data[place]).name for place in PLACES} | {"data_dir": ""})
        with tempfile.TemporaryDirectory() as folder, whole_file(path) as temporary:
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
    """Loads the model of a run with its averaged weights. The data set is not needed.

    ```python
    import tf_resflow as resflow
    run = resflow.load("digits")  # a pretrained model
    images = run.model.sample(4, seed=0)
    log_prob = run.model.log_prob(images, seed=1, evaluation=True)
    print(images.shape, images.dtype.name, log_prob.shape, run.step)
    # (4, 8, 8, 1) uint8 (4,) 2000
    ```

    Args:
      workdir: Directory of a run of `resflow-train`, file that `Run.save` wrote, or `.keras` file of any model of
        this library; or a pretrained model: "pretrained:digits", "pretrained:mnist" or "pretrained:pinwheel". The
        prefix is optional if there is no directory or file with this name.

    Returns:
      A `Run`; or, for a `.keras` file without a run, its model or `PosteriorEstimator`.

    Raises:
      ValueError: If there is no trained run, or its files are damaged.
    """
    if has_only_model(pathlib.Path(workdir).expanduser()):
        model = keras.models.load_model(workdir)
        return getattr(model, "estimator", model)
    if workdir in MODELS and not pathlib.Path(workdir).exists():
        workdir = f"{PRETRAINED}{workdir}"
    files = opened(workdir)
    config, data = files.read_config(), files.read_data()
    files.check_trained()
    model = build_model(config, data)
    result = read_json(files.result) if files.result.exists() else None
    if isinstance(files, PackedRun):
        model.load_weights(files.weights)
        return Run(model, config, files.step, files.source, data, result, files.is_best)
    optimizer = make_optimizer(config.train, model.trainable_variables)
    average = WeightAverage(model, config.train.ema_momentum)
    ranked, best = ranked_steps(held_out_scores(read_metrics(files.path), "validation"), model.objective), 0
    if config.train.keep_best and ranked:
        best = Checkpoints(files.best, model, optimizer, average).restore(ranked[0])
    step = best or Checkpoints(files.checkpoints, model, optimizer, average).restore()
    average.apply()
    return Run(model, config, step, files.path, data, result, is_best=best > 0)
