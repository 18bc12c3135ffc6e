"""The directory of a run and its files."""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from tf_resflow.config_fields import ConfigDict
from tf_resflow.data.config import PLACES
from tf_resflow.data.data_info import DataInfo
from tf_resflow.training.config import default_config, flat_fields, validate_config
from tf_resflow.training.metrics import read_metrics
from tf_resflow.writing import locked, unwritable_told, write_json

PRETRAINED = "pretrained:"  # prefix of the name of a pretrained model, which is given instead of a workdir

# Fields and sections that may change when a run resumes, because they do not affect the weights at a given step.
_FREE = (
    "data.data_dir",
    "data.download",
    "train.log_every",
    "train.eval_every",
    "train.checkpoint_every",
    "train.keep",
    "train.keep_best",
    "train.patience",
    "eval.",
    "model.estimator.eval.",
)

_ABSOLUTE = "absolute_paths"  # key in config.json next to the sections of the config
_OBSOLETE = "data."  # a run of an earlier version may have more fields with this prefix
REMEDY = "Restore it from a backup, or choose another --workdir to train again. Nothing was changed."


class Workdir:
    """The files of a run.

    Until a run has saved its first checkpoint, another run may take over the directory.

    Args:
      is_chief: Whether this process writes to the directory. Other workers read config.json, data.json and the
        checkpoints there, and write everything else to a temporary directory.

    Attributes:
      source: The directory, or the file that it was unpacked from.
    """

    def __init__(self, path: str | os.PathLike[str], *, is_chief: bool = True):
        if os.fspath(path).startswith(PRETRAINED):
            raise ValueError(f"{path} is a pretrained model, which is read-only. Give a folder as --workdir.")
        self.path = self.source = pathlib.Path(path).expanduser()
        self.config = self.path / "config.json"
        self.data = self.path / "data.json"
        self.checkpoints = self.path / "checkpoints"
        self.best = self.checkpoints / "best"
        self.is_chief = is_chief
        self.output = self.path
        if not is_chief:
            self._scratch = tempfile.TemporaryDirectory()
            self.output = pathlib.Path(self._scratch.name)
        self.figures = self.output / "figures"
        self.result = self.output / "result.json"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Creates the directory, and locks it against other trainers until the context or the process ends."""
        if not self.is_chief:
            yield
            return
        with unwritable_told(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / "lock").open("a+", encoding="utf-8")
        with file:
            try:
                is_free = locked(file.fileno())
            except OSError as error:
                is_free = True
                logging.warning("%s cannot be locked (%s). Do not start another trainer there.", self.path, error)
            if not is_free:
                file.seek(0)
                raise BlockingIOError(
                    f"Another trainer is running in {self.path}: {file.read().strip()}. Wait until it ends, stop "
                    "it, or choose another --workdir."
                )
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            yield

    def begin(self, config: ConfigDict, dataset: DataInfo) -> None:
        """Creates the folders, and writes the config and the properties of the data."""
        with unwritable_told(self.path):
            self.figures.mkdir(parents=True, exist_ok=True)
            if self.is_chief:
                self.checkpoints.mkdir(exist_ok=True)
                tempfile.TemporaryFile(dir=self.checkpoints).close()  # raises if no file can be written
        if self.is_chief:
            self.describe(config, dataset, self.absolute_places(config))

    def describe(self, config: ConfigDict, dataset: DataInfo, places: Mapping[str, str]) -> None:
        """Writes the config, the absolute paths of its data, and the properties of the data that a model needs."""
        write_json(self.config, config.to_dict() | {_ABSOLUTE: dict(places)})
        write_json(self.data, _data_info(dataset))

    def read_config(self) -> Any:
        """Returns the config of the run. Raises ValueError if it is missing or has unknown fields or values."""
        return stored_config(self.path, default_config(), validate_config, self.source)

    def config_of_data(self, *, data_dir: str | None = None, data_path: str | None = None) -> Any:
        """Returns the config of the run with the given paths of its data, by default those of training.

        If `data_path` is given, the files of other splits are also searched for in its folder.
        """
        config, absolute = self.read_config(), read_json(self.config).get(_ABSOLUTE, {})
        given = {"data_dir": data_dir, "path": data_path}
        for place in PLACES:
            stored = config.data[place]
            paths = [given[place]] if given.get(place) else [absolute.get(f"data.{place}"), stored]
            if data_path and stored and place not in given:
                paths.append(str(pathlib.Path(data_path).parent / pathlib.Path(stored).name))
            named = [path for path in paths if path]
            found = [path for path in named if pathlib.Path(path).expanduser().exists()]
            if named and not found and place != "data_dir":
                raise ValueError(
                    f"The data of the run in {self.source} are not at {' or '.join(map(_absolute, named))}. Give "
                    "the new path as --data_path."
                )
            config.data[place] = (found or named[-1:] or [""])[0]
        return config

    def absolute_places(self, config: ConfigDict) -> dict[str, str]:
        """Returns a dict of fields to absolute data paths. URLs, which TFDS also accepts, are omitted."""
        given = {place: config.data[place] for place in PLACES}
        return {f"data.{place}": _absolute(path) for place, path in given.items() if path and "://" not in path}

    def check_data(self, dataset: DataInfo) -> None:
        """Raises ValueError if the directory belongs to a run with different data."""
        if not self.is_begun():
            return
        now, before = _data_info(dataset), _data_info(self.read_data())
        for key in sorted(now.keys() - {"name"}):
            if before[key] is None and key in ("num_classes", "sizes"):  # may be unknown in a converted checkpoint
                continue
            if not _is_same(key, before, now):
                raise ValueError(
                    f"The data {dataset.name!r} differ from the data of the run in {self.source}: {key} was "
                    f"{before[key]!s:.80}, but now it is {now[key]!s:.80}. Restore the original data, or train on "
                    "the new data in another --workdir."
                )

    def read_result(self, config: ConfigDict) -> dict[str, Any] | None:
        """Returns the content of result.json, or None if training with `config` would change it."""
        path = self.path / "result.json"
        if not path.exists() or self.read_config().to_dict() != config.to_dict():
            return None
        result = read_json(path)
        figures = [self.path / "figures" / name for name in result.get("figures", ())]
        is_over = result.get("last_step", result.get("step")) == config.train.steps
        is_over = is_over or result.get("ended_by_patience") == config.train.patience
        return result if is_over and all(figure.exists() for figure in figures) else None

    def read_data(self) -> DataInfo:
        """Returns the properties of the data that the model of the run needs."""
        info = read_json(self.data)
        info = {field.name: info[field.name] for field in dataclasses.fields(DataInfo) if field.name in info}
        for field in ("mean", "std"):
            info[field] = None if info.get(field) is None else np.asarray(info[field], np.float32)
        return DataInfo(**info | {"event_shape": tuple(info["event_shape"])})

    def check_config(self, config: ConfigDict) -> None:
        """Raises ValueError if the directory belongs to a run with another config, or a run with missing files.

        Fields that do not affect the weights may change, and steps may be added if the learning rate is constant.
        """
        if not self.is_begun():
            self._check_not_lost()
            return
        for path in (self.config, self.data):
            if not path.exists():
                raise ValueError(f"{path} is missing, but there are checkpoints of a run. {REMEDY}")
        before, free = self.read_config(), [*_FREE]
        places, stored = self.absolute_places(config), read_json(self.config).get(_ABSOLUTE, {})
        free += [place for place in places if places[place] == stored.get(place)]
        if config.train.schedule == "constant" and config.train.steps > before.train.steps:
            free.append("train.steps")
        check_unchanged(self.path, before, config, free)

    def is_begun(self) -> bool:
        """Whether a run has saved a checkpoint here."""
        return bool(newest_first(self.checkpoints))

    def _check_not_lost(self):
        """Raises ValueError if a run has lost its checkpoints, because a new run would overwrite its metrics."""
        # A run that was killed before its first checkpoint may start again, because it repeats the same steps.
        last = max((line["step"] for line in read_metrics(self.path)), default=0)
        first = 0
        if self.config.exists():
            train = self.read_config().train
            first = min(train.steps, train.checkpoint_every, train.eval_every)
        if last > first or (self.path / "result.json").exists():
            raise ValueError(
                f"{self.path} has metrics up to step {last}, but {self.checkpoints} is empty. {REMEDY}"
            )

    def check_empty(self) -> None:
        """Raises ValueError unless the directory is empty or does not exist."""
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise ValueError(
                f"{self.path} exists and is not empty. Files are never overwritten: choose another --workdir."
            )

    def check_trained(self) -> None:
        """Raises ValueError if there is no checkpoint of a run."""
        if not self.is_begun():
            raise ValueError(f"{self.path} has no checkpoint yet. Run resflow-train until it saves a checkpoint.")


def stored_config(
    path: pathlib.Path,
    config: Any,
    validate: Callable[[ConfigDict], None],
    source: pathlib.Path | None = None,
) -> Any:
    """Sets the fields of a config to those in the config.json of a directory, and returns it.

    Raises ValueError if the file is missing or has unknown fields or values. The error names `source`.
    """
    source = source or path
    if not (path / "config.json").exists():
        raise ValueError(f"{source} is not the workdir of a run: it has no config.json. Give the workdir of a run.")
    stored = read_json(path / "config.json")
    stored.pop(_ABSOLUTE, None)
    known = flat_fields(config)
    fields = {
        key: value for key, value in flat_fields(stored).items() if key in known or not key.startswith(_OBSOLETE)
    }
    try:
        if fields.get("data.name") == "tabular":
            raise ValueError("it is a run on a table of an earlier version.")
        if fields.get("task") == "table" != config.task:
            raise ValueError("it is a run on a table.")
        config.update_from_flattened_dict(fields)
        validate(config)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{source}: config.json is not a valid config of this version: {error} Restore the file from a backup, "
            "or use the version that wrote it."
        ) from None
    return config


def check_unchanged(path: pathlib.Path, before: ConfigDict, now: ConfigDict, free: Sequence[str]) -> None:
    """Raises ValueError if a field differs between configs, unless the field or its section is in `free`."""
    sections = tuple(name for name in free if name.endswith("."))
    old, new = (flat_fields(json.loads(json.dumps(each.to_dict()))) for each in (before, now))
    for key, value in sorted(old.items()):
        if value != new[key] and key not in free and not key.startswith(sections):
            hint = (
                " (steps may only increase, and only with a constant learning rate)" if key == "train.steps" else ""
            )
            raise ValueError(
                f"{path} belongs to a run with config.{key} = {value!r}, but now it is {new[key]!r}{hint}. Resume "
                "with the same config, or choose another --workdir."
            )


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Returns the object in a JSON file. Raises ValueError if the file does not contain an object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError(f"it should contain an object, not {value!r:.40}")
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}. Restore it from a backup.") from None
    return value


def newest_first(directory: pathlib.Path) -> list[str]:
    """Returns the paths of the checkpoints in a directory, newest first, without TensorFlow.

    A checkpoint has an index file or is in TensorFlow's list. Data files alone are left from an interrupted save.
    """
    names = [path.stem for path in directory.glob("*.index")]
    if (directory / "checkpoint").is_file():
        content = (directory / "checkpoint").read_text(encoding="utf-8", errors="replace")
        names += re.findall(r'(ckpt-\d+)"', content)
    steps = {int(name[5:]) for name in names if re.fullmatch(r"ckpt-\d+", name)}
    return [str(directory / f"ckpt-{step}") for step in sorted(steps, reverse=True)]


def _data_info(dataset):
    info = {field.name: getattr(dataset, field.name) for field in dataclasses.fields(DataInfo)}
    return json.loads(json.dumps(info, default=lambda value: value.tolist()))


def _is_same(key, before, now):
    """Whether the values of a key are equal, for statistics up to rounding errors."""
    is_statistic = key in ("mean", "std") and None not in (before[key], now[key])
    if not is_statistic or len(before[key]) != len(now[key]):
        return before[key] == now[key]
    tolerance = 1e-5 * np.asarray(now["std"])
    return np.allclose(before[key], now[key], rtol=1e-5, atol=tolerance)


def _absolute(path):
    return str(pathlib.Path(path).expanduser().absolute())
