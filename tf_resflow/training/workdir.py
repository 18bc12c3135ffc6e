"""The directory of a run: the files that it holds, and the config that it belongs to."""

import contextlib
import json
import os
import pathlib
import re
import socket
import tempfile
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging

from tf_resflow.config_fields import suggest
from tf_resflow.data.column_codes import ColumnCodes
from tf_resflow.data.config import PLACES
from tf_resflow.data.data_info import DataInfo
from tf_resflow.plurals import counted
from tf_resflow.training.config import default_config, flat_fields, validate_config
from tf_resflow.training.metrics import read_metrics
from tf_resflow.writing import locked, unwritable_told, whole_file

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from tf_resflow.data import Dataset

__all__ = [
    "PRETRAINED",
    "Workdir",
    "missing_file",
    "newest_first",
    "none_readable",
    "read_json",
    "write_json",
    "write_text",
]

PRETRAINED = "pretrained:"  # before the name of a released model, in the place of a workdir

# Fields that a later run may change: they do not affect the weights at a given step.
_FREE = (
    "data.data_dir",
    "data.download",
    "data.read_options.",
    "train.log_every",
    "train.eval_every",
    "train.checkpoint_every",
    "train.keep",
    "train.keep_best",
    "train.patience",
    "eval.",
    "model.estimator.eval.",
)

_ABSOLUTE = "absolute_paths"  # in config.json, beside the sections of the config
_OBSOLETE = ("data.categories", "data.ordered")  # fields that are empty in the pretrained models
_REMEDY = "Restore it from a backup, or choose another --workdir to train again. Nothing was changed."


class Workdir:
    """The files of a run.

    The directory belongs to a run from its first checkpoint on: until then another may take its place.

    - `config.json`: the config, and the absolute paths of its data as "absolute_paths"
    - `data.json`: a `DataInfo`
    - `checkpoints/`, with `best/` in it if the config keeps the best one
    - `metrics.jsonl`, `events/` (TensorBoard), `figures/`, `result.json`
    - `lock`, which its trainer holds

    Args:
      path: the directory.
      is_chief: whether this process writes to it. The other workers read config.json, data.json and the checkpoints
        there, and write the rest to a temporary directory.

    Attributes:
      source: what was given: the directory, or the file that it was unpacked from.
    """

    def __init__(self, path: str | os.PathLike[str], *, is_chief: bool = True):
        if os.fspath(path).startswith(PRETRAINED):
            raise ValueError(f"{path} is a trained model, which is only read. Give a folder as --workdir.")
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
        """Makes the directory, and keeps other trainers out of it until the context or the process ends.

        Only the chief of several workers takes the lock. Raises ValueError if another process trains there, and
        OSError if the directory cannot be written.
        """
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
                logging.warning("%s cannot be locked (%s): start no other trainer there.", self.path, error)
            if not is_free:
                file.seek(0)
                trainer = file.read().strip() or "a process that just began"
                raise ValueError(
                    f"Another trainer is at work in {self.path}: {trainer}. Wait until it ends, stop it, or "
                    "choose another --workdir."
                )
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            yield

    def begin(self, config: "ConfigDict", dataset: "Dataset | DataInfo") -> None:
        """Makes the folders, and writes the config and what a model must know of the data."""
        with unwritable_told(self.path):
            self.figures.mkdir(parents=True, exist_ok=True)
            if self.is_chief:
                self.checkpoints.mkdir(exist_ok=True)
                tempfile.TemporaryFile(dir=self.checkpoints).close()
        if self.is_chief:
            self.describe(config, dataset, _places(config))

    def describe(self, config: "ConfigDict", dataset: "Dataset | DataInfo", places: Mapping[str, str]) -> None:
        """Writes the config, the absolute paths of its data, and what a model must know of the data."""
        write_json(self.config, _plain(config.to_dict()) | {_ABSOLUTE: dict(places)})
        write_json(self.data, _data_info(dataset))

    def read_config(self) -> Any:
        """Returns the config of the run; raises ValueError if there is none, or for unknown fields or values."""
        if not self.config.exists():
            raise ValueError(
                f"{self.source} is not the workdir of a run: it has no config.json. Give the "
                "--workdir that resflow-train was run with."
            )
        config, stored = default_config(), read_json(self.config)
        stored.pop(_ABSOLUTE, None)
        fields = {key: value for key, value in flat_fields(stored).items() if key not in _OBSOLETE}
        known = flat_fields(config)
        try:
            if unknown := sorted(fields.keys() - known.keys()):
                raise ValueError(f"it has the unknown key {unknown[0]!r}; {suggest(unknown[0], known)}")
            config.update_from_flattened_dict(fields)
            validate_config(config)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{self.source}: config.json is not a config of this version: {error} Restore the file from a "
                "backup, or use the version that wrote it."
            ) from None
        return config

    def config_of_data(self, *, data_dir: str | None = None, data_path: str | None = None) -> Any:
        """Returns the config of the run with the paths of its data: as given, or else as in training.

        Files of other splits are also looked for beside `data_path`.

        Raises:
          ValueError: when there is no run, or its files are not there.
        """
        config, absolute = self.read_config(), self._absolute_places()
        given = {"data_dir": data_dir, "path": data_path}
        for place in PLACES:
            stored, paths = config.data[place], [given.get(place)]
            if given.get(place) is None:
                paths = [absolute.get(f"data.{place}"), stored]
                if data_path and stored and place != "data_dir":
                    paths.append(str(pathlib.Path(data_path).parent / pathlib.Path(stored).name))
            named = [path for path in paths if path]
            found = [path for path in named if pathlib.Path(path).expanduser().exists()]
            if named and not found and place != "data_dir":
                raise ValueError(
                    f"The data of the run in {self.source} are not at {named[-1]} (looked for "
                    f"{' and '.join(dict.fromkeys(map(_absolute, named)))}). If they have moved, give their new "
                    "path by --data_path."
                )
            config.data[place] = (found or named[-1:] or [""])[0]
        return config

    def check_data(self, dataset: "Dataset") -> None:
        """Raises ValueError if the directory belongs to a run with other data."""
        if not (self.data.exists() and self.is_begun()):
            return
        now, before = _data_info(dataset), _data_info(self.read_data())
        for key in sorted(now.keys() - {"name"}):
            if before[key] is None and key in ("num_classes", "sizes"):  # which a converted checkpoint may not know
                continue
            if not _is_same(key, before, now):
                raise ValueError(
                    f"The data {dataset.name!r} are not those that the run in {self.source} was begun with: "
                    f"their {key} was {_short(before[key])}, but now it is {_short(now[key])}. Restore them, or "
                    "train on these in another --workdir."
                )

    def read_result(self, config: "ConfigDict") -> dict[str, Any] | None:
        """Returns the content of result.json, or None if training with this config would change it."""
        path = self.path / "result.json"
        if not path.exists() or self.read_config().to_dict() != config.to_dict():
            return None
        result = read_json(path)
        figures = [self.path / "figures" / name for name in result.get("figures", ())]
        is_over = result.get("last_step", result.get("step")) == config.train.steps
        is_over = is_over or result.get("ended_by_patience") == config.train.patience
        return result if is_over and all(figure.exists() for figure in figures) else None

    def read_data(self) -> DataInfo:
        """Returns what the model of the run must know of its data."""
        if not self.data.exists():
            raise ValueError(f"{self.source} has no data.json: resflow-train has not begun to train there.")
        info = read_json(self.data)
        try:
            for field in ("mean", "std", "condition_mean", "condition_std"):
                info[field] = None if info.get(field) is None else np.asarray(info[field], np.float32)
            for field in ("columns", "condition_columns"):
                info[field] = None if info.get(field) is None else tuple(info[field])
            for field in ("codes", "condition_codes"):
                info[field] = None if info.get(field) is None else ColumnCodes.from_json(info[field])
            return DataInfo(**info | {"event_shape": tuple(info["event_shape"])})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self.source}: data.json does not describe data ({type(error).__name__}: {error}). Restore it "
                "from a backup."
            ) from None

    def check_config(self, config: "ConfigDict") -> None:
        """Raises ValueError if the directory belongs to a run of another config, or one that has lost its state.

        Fields that do not affect the weights may change, and the number of steps may grow if the schedule of the
        learning rate does not depend on it.
        """
        self._check_state()
        if not self.config.exists() or not self.is_begun():
            return
        old = flat_fields(_plain(self.read_config().to_dict()))
        new = flat_fields(_plain(config.to_dict()))
        places, places_before = _places(config), self._absolute_places()
        for key, before in sorted(old.items()):
            now, hint = new[key], ""
            if before == now or key.startswith(_FREE) or (key in places and places[key] == places_before.get(key)):
                continue
            if key == "train.steps":
                if config.train.schedule == "constant" and now > before:
                    continue
                hint = " (steps may only grow, and only with a constant learning rate)"
            raise ValueError(
                f"{self.path} belongs to a run with config.{key} = {before!r}, but now it is "
                f"{now!r}{hint}. Resume with the same config, or choose another --workdir."
            )

    def is_begun(self) -> bool:
        """Whether a run has saved a checkpoint here, even if the checkpoint was lost since."""
        first = _first_checkpoint(self.read_config()) if self.config.exists() else 0
        return bool(newest_first(self.checkpoints)) or self._is_done() or self._last_step() > first

    def check_empty(self) -> None:
        """Raises ValueError unless the directory is empty, or can be made."""
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise ValueError(
                f"{self.path} exists and is not empty, and a run is never overwritten. Choose another --workdir."
            )

    def check_trained(self) -> None:
        """Raises ValueError if there is no checkpoint of a run."""
        if not newest_first(self.checkpoints):
            raise ValueError(
                f"{self.path} has no checkpoint yet. Let resflow-train run until its first one "
                f"(after {counted(_first_checkpoint(self.read_config()), 'step')}, and when it is interrupted)."
            )

    def _check_state(self):
        """Raises ValueError if a run was begun in the directory, and files that it continues from are missing.

        A run that was killed before its first checkpoint starts again, with the same steps.
        """
        paths, last = newest_first(self.checkpoints), self._last_step()
        if not (paths or last or self._is_done()):
            return
        for path in (self.config, self.data):
            if not path.exists():
                raise ValueError(f"{path} is missing beside the checkpoints or metrics of a run. {_REMEDY}")
        if paths and all(map(missing_file, paths)):
            raise none_readable(paths, missing_file(paths[0]))
        if not paths and self.is_begun():
            raise ValueError(
                f"{self.path} has metrics up to step {last}, but {self.checkpoints} is empty. {_REMEDY}"
            )
        if not paths:
            logging.warning("%s has no checkpoint: the run was stopped before, and starts again.", self.path)

    def _absolute_places(self):
        return read_json(self.config).get(_ABSOLUTE, {})

    def _is_done(self):
        return (self.path / "result.json").exists()

    def _last_step(self):
        return max((line["step"] for line in read_metrics(self.path)), default=0)


def write_json(path: pathlib.Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON file in one piece: a reader sees the old file or the new one."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file in one piece."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Reads a JSON file that holds an object; raises ValueError if it does not."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError(f"it should hold an object, not {value!r:.40}")
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}. Restore it from a backup.") from None
    return value


def newest_first(directory: pathlib.Path) -> list[str]:
    """The paths of the checkpoints in a directory, found without TensorFlow.

    A checkpoint has an index, which is written after its data, or is in TensorFlow's list, which is written last. A
    checkpoint in the list without an index has lost it. Data alone are the remains of a save that was cut short.
    """
    names = [path.stem for path in directory.glob("*.index")]
    if (directory / "checkpoint").is_file():
        content = (directory / "checkpoint").read_text(encoding="utf-8", errors="replace")
        names += re.findall(r'(ckpt-\d+)"', content)
    steps = {int(name[5:]) for name in names if re.fullmatch(r"ckpt-\d+", name)}
    return [str(directory / f"ckpt-{step}") for step in sorted(steps, reverse=True)]


def missing_file(path: str) -> str:
    """The message about the missing file of a checkpoint; empty if there is none."""
    directory, name = pathlib.Path(path).parent, pathlib.Path(path).name
    if not pathlib.Path(f"{path}.index").exists():
        return f"{path}.index is missing"
    return "" if list(directory.glob(f"{name}.data-*")) else f"{path}.data-00000-of-00001 is missing"


def none_readable(paths: list[str], reason: str) -> ValueError:
    """The error when no checkpoint can be read, for the reason of the newest."""
    return ValueError(
        f"None of the checkpoints in {pathlib.Path(paths[0]).parent} can be read ({len(paths)} found): {reason}. "
        f"{_REMEDY}"
    )


def _first_checkpoint(config):
    """The step after which a run saves its first checkpoint: before the first score, if one can be the best."""
    train = config.train
    chooses = train.keep_best or train.patience > 0
    return min(train.steps, train.checkpoint_every, train.eval_every if chooses else train.steps)


def _data_info(dataset):
    info = {field: getattr(dataset, field) for field in DataInfo._fields}
    return json.loads(json.dumps(info, default=_as_json))


def _as_json(value):
    return value.to_json() if isinstance(value, ColumnCodes) else value.tolist()


def _is_same(key, before, now):
    """Whether the values of a key are equal; statistics up to the rounding of sums."""
    if before[key] == now[key] or not key.endswith(("mean", "std")) or None in (before[key], now[key]):
        return before[key] == now[key]
    tolerance = 1e-5 * np.asarray(now[key.replace("mean", "std")])
    same_size = len(before[key]) == len(now[key])
    return same_size and np.allclose(before[key], now[key], rtol=1e-5, atol=tolerance)


def _short(value):
    return np.array2string(np.asarray(value), precision=4, threshold=6) if isinstance(value, list) else repr(value)


def _absolute(path):
    return str(pathlib.Path(path).expanduser().absolute())


def _places(config):
    """The absolute paths of the data of a config, by their fields, without URLs, which TFDS takes, too."""
    given = {place: config.data[place] for place in PLACES}
    return {f"data.{place}": _absolute(path) for place, path in given.items() if path and "://" not in path}


def _plain(value):
    """The value as read from JSON: tuples as lists."""
    return json.loads(json.dumps(value))
