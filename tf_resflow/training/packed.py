"""Trained runs in one file each, and those that are released with the library."""

import hashlib
import os
import pathlib
import tempfile
import zipfile
from typing import Any

from tf_resflow.config_fields import suggest
from tf_resflow.training.workdir import PRETRAINED, Workdir, read_json

__all__ = ["MODELS", "PackedRun", "opened", "write_packed"]

MODELS = {
    "digits": "1315eb98cf2ea0e9925165df2722ff6a982235b3dc0892d36b88a8a356cc1be7",
    "pinwheel": "d4130dd61b9eb4c16554585084c697322dccf5a805c548e24a9d5410b5602ca6",
}
"""The SHA-256 of each released file, by the name of its model."""

_RELEASED = pathlib.Path(__file__).parents[2] / "pretrained"  # of a checkout
_WEIGHTS, _RESULT = "model.weights.h5", "result.json"
_NEEDED = ("config.json", "data.json", "weights.json", _WEIGHTS)


class PackedRun(Workdir):
    """The files of a trained run that `write_packed` wrote, unpacked to be read.

    Args:
      path: the .zip file.

    Attributes:
      weights: path of the file of weights.

    Raises:
      ValueError: when the file is not that of a run.
    """

    def __init__(self, path: pathlib.Path):
        self._unpacked = tempfile.TemporaryDirectory()
        folder = pathlib.Path(self._unpacked.name) / path.name
        super().__init__(folder)
        self.source = path
        self.weights = folder / _WEIGHTS
        try:
            with zipfile.ZipFile(path) as file:
                names = [*_NEEDED, *({_RESULT} & set(file.namelist()))]
                for name in names:
                    file.extract(name, folder)
        except (zipfile.BadZipFile, KeyError, OSError) as error:
            raise ValueError(
                f"{path} is not a whole file of a trained run: {error}. Give the workdir of a run, or a file that "
                "`resflow.load(workdir).save(file)` wrote."
            ) from None

    def config_of_data(self, *, data_dir: str | None = None, data_path: str | None = None) -> Any:
        """The config of the run with the places of its data, which the file does not tell: as they are given."""
        config = super().config_of_data(data_dir=data_dir, data_path=data_path)
        if config.data.name in ("images", "tabular") and not config.data.path:
            raise ValueError(f"{self.source} does not hold the data of its run: give their path by --data_path.")
        return config

    def step(self) -> tuple[int, bool]:
        """The training step of the weights, and whether they are the best on validation."""
        found = read_json(self.path / "weights.json")
        return found["step"], found["is_best"]

    def is_begun(self) -> bool:
        """True: the weights are trained."""
        return True

    def check_trained(self) -> None:
        """Does nothing: the weights are there."""


def write_packed(path: str | os.PathLike[str], folder: pathlib.Path) -> None:
    """Packs the files of a `folder` that `PackedRun` reads."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name in (*_NEEDED, _RESULT):
            if (folder / name).exists():
                file.write(folder / name, name)


def opened(workdir: str | os.PathLike[str]) -> Workdir:
    """The files of a trained run: in a directory, in one file, or of a released model as "pretrained:NAME".

    Raises:
      ValueError: when there is no such model, its file is missing or another one, or a file is not that of a run.
    """
    place = os.fspath(workdir)
    if place.startswith(PRETRAINED):
        return PackedRun(_released(place.removeprefix(PRETRAINED)))
    path = pathlib.Path(place).expanduser()
    return PackedRun(path) if path.is_file() else Workdir(path)


def _released(name):
    """The file of a released model, in a checkout or the user's cache, after a check of its hash."""
    if name not in MODELS:
        raise ValueError(
            f"There is no pretrained model {name!r}; {suggest(name, MODELS)} Give one of {', '.join(MODELS)}."
        )
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tf_resflow"
    found = [folder / f"{name}.zip" for folder in (_RELEASED, cache) if (folder / f"{name}.zip").is_file()]
    if not found:
        raise ValueError(
            f"The pretrained model {name!r} is not on this machine. Download {name}.zip from the folder "
            f"pretrained/ of the repository to {cache}, or give the path of the file in its place."
        )
    digest = hashlib.sha256(found[0].read_bytes()).hexdigest()
    if digest != MODELS[name]:
        raise ValueError(
            f"{found[0]} is not the model {name!r} of this version: its SHA-256 is {digest[:12]}..., not "
            f"{MODELS[name][:12]}... Download it again from the folder pretrained/ of the repository."
        )
    return found[0]
