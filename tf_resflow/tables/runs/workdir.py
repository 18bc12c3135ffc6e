"""The directory of a run on a table and its files."""

import os
import pathlib
from typing import Any

import numpy as np

from tf_resflow._internal.writing import atomic_write
from tf_resflow.data.files import explain_read_errors
from tf_resflow.tables.runs.config import TASK, default_config, validate_config
from tf_resflow.training.config_fields import ConfigDict
from tf_resflow.training.workdir import Workdir, check_unchanged, read_json, stored_config

# Fields that may change when a run resumes, because the rows are compared.
_FREE = ("data.path", "data.path_test", "data.read_options.")


class TableWorkdir(Workdir):
    """The files of a run on a table. data.json has a hash of the rows.

    Attributes:
      members: Folder of the trained members.
      density: The fitted density.
    """

    def __init__(self, path: str | os.PathLike[str]):
        super().__init__(path)
        self.members = self.path / "members"
        self.density = self.path / "density.npz"

    def is_begun(self) -> bool:
        """Whether a run has trained a member here."""
        return any(path.exists() for path in (self.members / "0.npz", self.density, self.result))

    def is_done(self) -> bool:
        """Whether a run has ended here."""
        return self.density.exists() and self.result.exists()

    def check_trained(self) -> None:
        """Raises ValueError if no run has ended here."""
        if not self.is_done():
            raise ValueError(
                f"{self.path} has no fitted density yet: {self.density.name} or {self.result.name} is missing. Run "
                "resflow-train with the same config until it ends."
            )

    def check_config(self, config: ConfigDict) -> None:
        """Raises ValueError if the directory belongs to another run."""
        if self.config.exists() and not is_table_run(self.path):
            raise ValueError(f"{self.path} belongs to a run that is not on a table. Choose another --workdir.")
        if self.is_begun():
            check_unchanged(self.path, self.read_config(), config, _FREE)

    def read_config(self) -> Any:
        """Returns the config of the run. Raises ValueError if it is missing or has unknown fields or values."""
        return stored_config(self.path, default_config(), validate_config)


class Members(dict[int, tuple[list[np.ndarray], bool]]):
    """The trained members of a density by position: their weights, and whether they whiten. Each is also a file."""

    def __init__(self, folder: pathlib.Path):
        super().__init__()
        self.folder = folder
        for path in folder.glob("[0-9]*.npz"):
            with explain_read_errors(path, "a member of a density"), np.load(path, allow_pickle=False) as file:
                whiten, *weights = file.values()
            super().__setitem__(int(path.stem), (weights, bool(whiten)))

    def __setitem__(self, index: int, member: tuple[list[np.ndarray], bool]) -> None:
        super().__setitem__(index, member)
        weights, whiten = member
        with atomic_write(self.folder / f"{index}.npz") as temporary:
            np.savez(temporary, whiten, *weights)


def is_table_run(workdir: str | os.PathLike[str]) -> bool:
    """Whether a directory has the config of a run on a table."""
    config = pathlib.Path(workdir).expanduser() / "config.json"
    return config.is_file() and read_json(config).get("task") == TASK
