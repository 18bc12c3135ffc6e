"""The directory of a run on a table and its files."""

import os
import pathlib
from collections.abc import Iterator, MutableMapping
from typing import Any

import numpy as np

from tf_resflow.config_fields import ConfigDict
from tf_resflow.data.files import readable
from tf_resflow.tables.config import TASK, default_config, validate_config
from tf_resflow.training.workdir import REMEDY, Workdir, read_json
from tf_resflow.writing import unwritable_told, whole_file, write_json


class TableWorkdir(Workdir):
    """The files of a run on a table.

    Attributes:
      members: The members that are trained, by position.
      density: The file of the fitted density.
    """

    free = ("data.read_options.",)
    places = ("path", "path_test")
    obsolete = ()

    def __init__(self, path: str | os.PathLike[str]):
        super().__init__(path)
        self.members = Members(self.path / "members")
        self.density = self.path / "density.npz"

    def new_config(self) -> Any:
        """Returns a config with the default values of all fields."""
        return default_config()

    def validate(self, config: ConfigDict) -> None:
        """Raises ValueError if a value of a config is invalid."""
        validate_config(config)

    def is_begun(self) -> bool:
        """Whether a run has trained a member here."""
        return len(self.members) > 0 or self.density.exists()

    def check_trained(self) -> None:
        """Raises ValueError if there is no fitted density."""
        if not self.density.exists():
            raise ValueError(
                f"{self.path} has no fitted density yet: {self.density.name} is missing. Run resflow-train with "
                "the same config until it ends."
            )

    def start(self, config: ConfigDict, data: dict[str, Any]) -> None:
        """Creates the folders, and writes the config and a description of the data.

        Raises ValueError if the directory belongs to a run with different data.
        """
        if self.is_begun() and (before := read_json(self.data)) != data:
            key = next(key for key in data if before.get(key) != data[key])
            raise ValueError(
                f"{config.data.path} differs from the data of the run in {self.path}: {key} was "
                f"{before.get(key)!s:.80}, but now it is {data[key]!s:.80}. Restore the original file, or train on "
                "the new one in another --workdir."
            )
        with unwritable_told(self.path):
            self.figures.mkdir(parents=True, exist_ok=True)
            self.members.path.mkdir(exist_ok=True)
        write_json(self.config, config.to_dict() | {"absolute_paths": self.absolute_places(config)})
        write_json(self.data, data)

    def read_sizes(self) -> dict[str, int]:
        """Returns the number of rows of each split."""
        return read_json(self.data)["sizes"]

    def read_result(self, config: ConfigDict) -> dict[str, Any] | None:
        """Returns the content of result.json, or None if a run with `config` has not ended here."""
        if not (self.result.exists() and self.density.exists()):
            return None
        result = read_json(self.result)
        return result if all((self.figures / name).exists() for name in result["figures"]) else None

    def _check_not_lost(self):
        if self.config.exists() and not is_table_run(self.path):
            raise ValueError(f"{self.path} belongs to a run that is not on a table. Choose another --workdir.")
        if self.result.exists():
            raise ValueError(f"{self.path} has a result.json, but the members of the run are missing. {REMEDY}")


class Members(MutableMapping[int, tuple[list[np.ndarray], bool]]):
    """The trained members of a density, each in a file: pairs of weights and whether they whiten."""

    def __init__(self, path: pathlib.Path):
        self.path = path

    def __getitem__(self, place: int) -> tuple[list[np.ndarray], bool]:
        if not (path := self._file(place)).exists():
            raise KeyError(place)
        with readable(path, "a member of a density"), np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        whiten = bool(arrays.pop("whiten"))
        return [arrays[name] for name in sorted(arrays)], whiten

    def __setitem__(self, place: int, member: tuple[list[np.ndarray], bool]) -> None:
        weights, whiten = member
        arrays: dict[str, Any] = {f"{i:04}": array for i, array in enumerate(weights)}
        with whole_file(self._file(place)) as temporary:
            np.savez(temporary, whiten=whiten, **arrays)

    def __delitem__(self, place: int) -> None:
        self._file(place).unlink()

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(int(path.stem) for path in self.path.glob("[0-9]*.npz")))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _file(self, place):
        return self.path / f"{place}.npz"


def is_table_run(workdir: str | os.PathLike[str]) -> bool:
    """Whether a directory has the config of a run on a table."""
    config = pathlib.Path(workdir).expanduser() / "config.json"
    return config.is_file() and read_json(config).get("task") == TASK
