"""The files of a run, in a directory or in a single file, and the pretrained models. Needs no TensorFlow."""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import socket
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np
from absl import logging

from tf_resflow._internal.messages import suggest
from tf_resflow._internal.settings import differences, flat_fields
from tf_resflow._internal.writing import explain_write_errors, new_temporary_folder, write_json
from tf_resflow.data.config import PLACES
from tf_resflow.data.data_info import DataInfo
from tf_resflow.training.config import FREE_FIELDS, default_config, validate_config
from tf_resflow.training.config_fields import ConfigDict

if sys.platform != "win32":
    import fcntl

MODELS = {
    "digits": "14e2890faccd42760a9fe5b6c4760cc59ab1d3ba304d5796d44866cb88d194ff",
    "mnist": "458ee789fbc10e4a67bbccceb235a444ab6e2d2d1309810280033ba265351b18",
    "pinwheel": "1357912655b6d1668d6b282f618cad9954f69c2b54c498b612137e36f7df594a",
}
"""The SHA-256 of each pretrained file, by the name of its model."""

PRETRAINED = "pretrained:"  # prefix of the name of a pretrained model, which is given instead of a workdir
_PACKED = pathlib.Path(__file__).parents[2] / "pretrained"  # in a checkout

_ABSOLUTE = "absolute_paths"  # key in config.json next to the sections of the config
_OBSOLETE = "data."  # a run of an earlier version may have more fields with this prefix
_REMOVED = {"model.normalization": "induced"}  # other fields of earlier versions, and the value that is now implied
REMEDY = "Restore it from a backup, or choose another --workdir to train again. Nothing was changed."

_MOST_COMPRESSED = 100  # largest allowed ratio of the unpacked size of a member to its compressed size
_SMALL = 10_000  # bytes; smaller members count as this size
OF_RUN = "run/"
"""Prefix of the run's files in a `.keras` file, except the weights. There, the file config.json is the model's."""


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
            self._scratch = new_temporary_folder()
            self.output = pathlib.Path(self._scratch.name)
        self.figures = self.output / "figures"
        self.result = self.output / "result.json"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Creates the directory, and locks it against other trainers until the context or the process ends."""
        if not self.is_chief:
            yield
            return
        with explain_write_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / "lock").open("a+", encoding="utf-8")
        with file:
            try:
                if sys.platform == "win32":
                    raise OSError("File locks are not supported on Windows.")
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise BlockingIOError(
                    f"Another trainer is running in {self.path}: {file.read().strip()}. Wait until it ends, stop "
                    "it, or choose another --workdir."
                ) from None
            except OSError as error:
                logging.warning("%s cannot be locked (%s). Do not start another trainer there.", self.path, error)
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            yield

    def begin(self, config: ConfigDict, dataset: DataInfo) -> None:
        """Creates the folders, and writes the config and the properties of the data."""
        with explain_write_errors(self.path):
            self.figures.mkdir(parents=True, exist_ok=True)
            if self.is_chief:
                self.checkpoints.mkdir(exist_ok=True)
                tempfile.TemporaryFile(dir=self.checkpoints).close()  # raises if no file can be written
        if self.is_chief:
            self.describe(config, dataset, self.absolute_paths(config))

    def describe(self, config: ConfigDict, dataset: DataInfo, absolute_paths: Mapping[str, str]) -> None:
        """Writes the config, the absolute paths of its data, and the properties of the data that a model needs."""
        write_json(self.config, config.to_dict() | {_ABSOLUTE: dict(absolute_paths)})
        write_json(self.data, _data_info(dataset))

    def read_config(self) -> Any:
        """Returns the config of the run. Raises ValueError if it is missing or has unknown fields or values."""
        return stored_config(self.path, default_config(), validate_config, self.source)

    def config_of_data(self, *, data_dir: str | None = None, data_path: str | None = None) -> Any:
        """Returns the config of the run with the given paths of its data, by default those of training.

        If `data_path` is given, the files of other splits are also searched for in its folder.
        """
        config = self.read_config()
        absolute_paths = read_json(self.config).get(_ABSOLUTE, {})
        new_paths = {"data_dir": data_dir, "path": data_path}
        for field in PLACES:
            stored = config.data[field]
            paths = [new_paths[field]] if new_paths.get(field) else [absolute_paths.get(f"data.{field}"), stored]
            if data_path and stored and field not in new_paths:
                paths.append(str(pathlib.Path(data_path).parent / pathlib.Path(stored).name))
            candidates = [path for path in paths if path]
            existing = [path for path in candidates if pathlib.Path(path).expanduser().exists()]
            if candidates and not existing and field != "data_dir":
                raise ValueError(
                    f"The data of the run in {self.source} are not at {' or '.join(map(_absolute, candidates))}. "
                    "Give the new path as --data_path."
                )
            config.data[field] = (existing or candidates[-1:] or [""])[0]
        return config

    def absolute_paths(self, config: ConfigDict) -> dict[str, str]:
        """Returns a dict of fields to absolute data paths. URLs, which TFDS also accepts, are omitted."""
        paths = {f"data.{field}": config.data[field] for field in PLACES}
        return {field: _absolute(path) for field, path in paths.items() if path and "://" not in path}

    def check_data(self, dataset: DataInfo) -> None:
        """Raises ValueError if the directory belongs to a run with different data."""
        if not self.is_begun():
            return
        now = _data_info(dataset)
        before = _data_info(self.read_data())
        for key in ("event_shape", "levels", "num_classes", "sizes"):
            is_unknown = before[key] is None and key in ("num_classes", "sizes")  # in a converted checkpoint
            if before[key] != now[key] and not is_unknown:
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
        before = self.read_config()
        paths = self.absolute_paths(config)
        paths_before = read_json(self.config).get(_ABSOLUTE, {})
        same_paths = {field for field in paths if paths[field] == paths_before.get(field)}
        free = FREE_FIELDS | same_paths
        if config.train.schedule == "constant" and config.train.steps > before.train.steps:
            free |= {"train.steps"}
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


class PackedRun(Workdir):
    """The files of a run in a single file that `Run.save` wrote. They stay unpacked while this object exists."""

    def __init__(self, path: pathlib.Path):
        self._unpacked = new_temporary_folder()
        super().__init__(self._unpacked.name)
        self.source = path
        self.weights = self.path / "model.weights.h5"
        needed = {"config.json", "data.json", "weights.json", self.weights.name}
        try:
            with zipfile.ZipFile(path) as file:
                names = {name.removeprefix(OF_RUN): name for name in _checked_names(file)}
                for name in needed | ({"result.json"} & set(names)):
                    (self.path / name).write_bytes(file.read(names[name]))
            info = read_json(self.path / "weights.json")
            self.step = info["step"]
            self.is_best = info["is_best"]
        except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"{path} is not a complete file of a trained run: {error}. Give the workdir of a run, or a file "
                "that `resflow.load(workdir).save(file)` wrote."
            ) from None

    def is_begun(self) -> bool:
        """Returns True, because a saved run always has trained weights."""
        return True


def open_workdir(workdir: str | os.PathLike[str]) -> Workdir:
    """Returns the files of a run in a directory or in a single file, or of the model "pretrained:NAME"."""
    text = os.fspath(workdir)
    if text.startswith(PRETRAINED):
        return PackedRun(_released(text.removeprefix(PRETRAINED)))
    path = pathlib.Path(text).expanduser()
    return PackedRun(path) if path.is_file() else Workdir(path)


def _released(name):
    """Returns the path of the file of a model, in a checkout or the user's cache."""
    if name not in MODELS:
        raise ValueError(
            f"There is no pretrained model {name!r}; {suggest(name, MODELS)} Give one of {', '.join(MODELS)}."
        )
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tf_resflow"
    paths = [folder / f"{name}.keras" for folder in (_PACKED, cache)]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise ValueError(
            f"The pretrained model {name!r} is not on this machine. Download {name}.keras from the folder "
            f"pretrained/ of the repository to {cache}, or give the path of the file instead of the name."
        )
    if hashlib.sha256(path.read_bytes()).hexdigest() != MODELS[name]:
        raise ValueError(
            f"{path} is not the model {name!r} of this version: its SHA-256 differs. Download it again from the "
            "folder pretrained/ of the repository."
        )
    return path


def has_only_model(path: pathlib.Path) -> bool:
    """Whether a path is a `.keras` file with a model but without a run."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as file:
        names = _checked_names(file)
        return "metadata.json" in names and f"{OF_RUN}config.json" not in names


def _checked_names(file):
    """Returns the sorted names of the members. Raises ValueError if one would unpack to far more than its size."""
    for member in file.infolist():
        if member.file_size > _MOST_COMPRESSED * max(member.compress_size, _SMALL):
            raise ValueError(f"{file.filename}: {member.filename} would unpack to {member.file_size:,} bytes")
    return sorted(file.namelist())


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
    known = flat_fields(config.to_dict())
    fields = flat_fields(stored)
    try:
        if fields.get("data.name") == "tabular":
            raise ValueError("it is a run on a table of an earlier version.")
        if fields.get("task") == "table" != config.task:
            raise ValueError("it is a run on a table.")
        for name, value in _REMOVED.items():
            if fields.pop(name, value) != value:
                raise ValueError(f"config.{name} must be {value!r}; other values are no longer supported.")
        config.update_from_flattened_dict(
            {key: value for key, value in fields.items() if key in known or not key.startswith(_OBSOLETE)}
        )
        validate(config)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{source}: config.json is not a valid config of this version: {error} Restore the file from a backup, "
            "or use the version that wrote it."
        ) from None
    return config


def check_unchanged(path: pathlib.Path, before: ConfigDict, now: ConfigDict, free: Collection[str]) -> None:
    """Raises ValueError if a field differs between configs, unless it or its section is in `free`.

    Args:
      path: Directory of the run.
      before: Config of the run.
      now: Config to resume the run with.
      free: Names of fields, and of sections with a dot at their end, that may differ.
    """
    free_sections = tuple(name for name in free if name.endswith("."))
    fields_before = flat_fields(before.to_dict())
    fields_now = flat_fields(now.to_dict())
    for field in differences(fields_before, fields_now):
        if field in free or field.startswith(free_sections):
            continue
        hint = ""
        if field == "train.steps":
            hint = " (steps may only increase, and only with a constant learning rate)"
        raise ValueError(
            f"{path} belongs to a run with config.{field} = {fields_before[field]!r}, but now it is "
            f"{fields_now[field]!r}{hint}. Resume with the same config, or choose another --workdir."
        )


def read_metrics(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Returns the lines of a run's metrics.jsonl as dicts. Truncated lines are skipped.

    An example of a line is `{"step": 100, "split": "train", "bits_per_dim": 2.31}`.

    Raises:
      ValueError: If a line is neither valid nor truncated JSON.
    """
    path = pathlib.Path(workdir) / "metrics.jsonl"
    texts = path.read_bytes().splitlines() if path.exists() else []
    lines = []
    for number, text in enumerate(texts, 1):
        try:
            lines.append(json.loads(text))
        except ValueError:
            if text and not text.startswith(b"{"):
                raise ValueError(
                    f"Line {number} of {path} is damaged: {text[:40]!r}. Restore the file from a backup, or remove "
                    "the line."
                ) from None
    return lines


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

    A checkpoint has an index file. Data files alone are left from an interrupted save.
    """
    steps = [int(path.stem[5:]) for path in directory.glob("*.index") if re.fullmatch(r"ckpt-\d+", path.stem)]
    return [str(directory / f"ckpt-{step}") for step in sorted(steps, reverse=True)]


def _data_info(dataset):
    info = {field.name: getattr(dataset, field.name) for field in dataclasses.fields(DataInfo)}
    return json.loads(json.dumps(info, default=lambda value: value.tolist()))


def _absolute(path):
    return str(pathlib.Path(path).expanduser().absolute())
