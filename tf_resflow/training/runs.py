"""A trained model from its workdir."""

import copy
import os
import pathlib
import tempfile
import zipfile
from typing import Any

import keras

from tf_resflow.data.config import PLACES
from tf_resflow.data.data_info import DataInfo
from tf_resflow.models import build_model, evaluation_estimator
from tf_resflow.models.averaging import AveragedWeights
from tf_resflow.models.keras_training import KerasTraining
from tf_resflow.training.checkpoints import Checkpoints
from tf_resflow.training.metrics import held_out_scores, ranked_steps, read_metrics
from tf_resflow.training.optimizer import make_optimizer
from tf_resflow.training.packed import MODELS, OF_RUN, PackedRun, has_only_model, opened
from tf_resflow.training.workdir import PRETRAINED, Workdir, read_json, write_json
from tf_resflow.writing import check_output_path, whole_file

__all__ = ["Run", "load"]


class Run:
    """A trained model, and how it was trained: see `load`.

    Attributes:
      model: a `FlowModel` or `HybridModel` with the averaged weights of the newest checkpoint or, if
        `config.train.keep_best`, of the best one on validation. A warning says if that one was not kept.
      config: the configuration of the run, an `ml_collections.ConfigDict`.
      step: number of training steps.
      workdir: the directory or the file, a `pathlib.Path`.
      data: what is known of the data without them: `name`, `event_shape`, `levels`, `num_classes`, `sizes`,
        `columns`, and the `mean` and `std` that normalize the input of the model.
      result: the content of result.json; None before the end of the training.
      is_best: whether the weights are those of the best checkpoint, which may be older than the newest.
    """

    # A dataclass would make Pyright take the model for a descriptor of unknown type.

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
        """What a message adds about weights that are the best on validation; empty for the newest."""
        return f" of step {self.step:,}, the best on validation" if self.is_best else ""

    @property
    def density(self) -> Any:
        """The `FlowModel` whose density was trained; a ValueError if the run has trained a classifier only."""
        density = self.model.trained_density()
        if density is None:
            raise ValueError("The run has a classifier only (hybrid.density_weight = 0): no likelihood or samples.")
        return density

    def estimator(self, name: str | None = None, num_probes: int | None = None) -> tuple[str, Any]:
        """The name and the estimator of an evaluation, see `tf_resflow.models.evaluation_estimator`."""
        space = self.model.data_space
        options: dict[str, Any] = {"dequantizer": space.dequantizer, "name": name, "num_probes": num_probes}
        return evaluation_estimator(self.config, self.model.flow, space.event_shape, **options)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the model as a `.keras` file, with the config, what is known of the data, and the result.

        `load` and the commands accept the file instead of the directory, and `keras.models.load_model` loads its
        model. Training cannot continue from it. It has no folders of the data, but their file names, the columns of
        a table and the levels of its categories.
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
                self.model.save(files.path / "model.keras")  # which is not compressed
                with zipfile.ZipFile(files.path / "model.keras") as model:
                    for name in model.namelist():
                        file.writestr(name, model.read(name))

    def __repr__(self) -> str:
        """One line, without the config and the result, which take a page."""
        return f"Run(model={self.model}, step={self.step}, workdir={self.workdir}, data={self.data})"


def load(workdir: str | os.PathLike[str]) -> Any:
    """Loads the model of a run, with its averaged weights. The data are not needed.

    ```python
    import tf_resflow as resflow
    run = resflow.load("digits")  # or the directory of a run
    images = run.model.sample(4, seed=0)
    log_prob = run.model.log_prob(images, seed=1, evaluation=True)
    print(images.shape, images.dtype.name, log_prob.shape, run.step)
    # (4, 8, 8, 1) uint8 (4,) 2000
    ```

    Args:
      workdir: directory of a run of `resflow-train`; a file that the `save` of a loaded run wrote; or the name of a
        pretrained model, "digits", "mnist" or "pinwheel", if there is no such directory. "pretrained:digits" is
        always the model. It can also be a `.keras` file of any model of this library.

    Returns:
      A `Run`; for a `.keras` file without a run, its model or `PosteriorEstimator`.
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
    ranked, best = ranked_steps(held_out_scores(read_metrics(files.path), "validation"), model.objective), 0
    if config.train.keep_best and ranked:
        best = Checkpoints(files.best, model, optimizer).restore(ranked[0])
    step = best or Checkpoints(files.checkpoints, model, optimizer).restore()
    AveragedWeights(model, optimizer).apply()
    return Run(model, config, step, files.path, data, result, is_best=best > 0)
