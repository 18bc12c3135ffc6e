"""Runs saved as single files, and the pretrained models of the library."""

import hashlib
import io
import os
import pathlib
import tempfile
import zipfile
import zlib

from tf_resflow.messages import suggest
from tf_resflow.training.workdir import PRETRAINED, Workdir, read_json

MODELS = {
    "digits": "14e2890faccd42760a9fe5b6c4760cc59ab1d3ba304d5796d44866cb88d194ff",
    "mnist": "458ee789fbc10e4a67bbccceb235a444ab6e2d2d1309810280033ba265351b18",
    "pinwheel": "1357912655b6d1668d6b282f618cad9954f69c2b54c498b612137e36f7df594a",
}
"""The SHA-256 of each pretrained file, by the name of its model."""

_FOLDERS = (pathlib.Path(__file__).parents[2] / "pretrained", pathlib.Path("pretrained"))  # in a checkout
_WEIGHTS, _STEP, _RESULT = "model.weights.h5", "weights.json", "result.json"
_MOST_COMPRESSED = 100  # largest allowed ratio of the unpacked size of a member to its compressed size
_SMALL = 10_000  # bytes; smaller members count as this size
_NAMES = ("config.json", "data.json", _STEP, _WEIGHTS, _RESULT)  # the result is optional
OF_RUN = "run/"
"""Prefix of the run's files in a `.keras` file, except the weights. There, the file config.json is the model's."""


class PackedRun(Workdir):
    """The files of a run in a single file that `Run.save` wrote. They stay unpacked while this object exists."""

    def __init__(self, path: pathlib.Path, content: bytes | None = None):
        self._unpacked = tempfile.TemporaryDirectory()
        super().__init__(self._unpacked.name)
        self.source, self.weights = path, self.path / _WEIGHTS
        try:
            with zipfile.ZipFile(path if content is None else io.BytesIO(content)) as file:
                names = {name.removeprefix(OF_RUN): name for name in _checked_names(file)}
                for name in _NAMES if _RESULT in names else _NAMES[:-1]:
                    (self.path / name).write_bytes(file.read(names[name]))
            found = read_json(self.path / _STEP)
            self.step, self.is_best = found["step"], found["is_best"]
        except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"{path} is not a complete file of a trained run: {error}. Give the workdir of a run, or a file "
                "that `resflow.load(workdir).save(file)` wrote."
            ) from None

    def is_begun(self) -> bool:
        """Returns True, because a saved run always has trained weights."""
        return True


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


def opened(workdir: str | os.PathLike[str]) -> Workdir:
    """Returns the files of a run in a directory or in a single file, or of the model "pretrained:NAME"."""
    place = os.fspath(workdir)
    if place.startswith(PRETRAINED):
        return PackedRun(*_released(place.removeprefix(PRETRAINED)))
    path = pathlib.Path(place).expanduser()
    return PackedRun(path) if path.is_file() else Workdir(path)


def _released(name):
    """Returns the path and content of the first file with a model's hash, in a checkout or the user's cache."""
    if name not in MODELS:
        raise ValueError(
            f"There is no pretrained model {name!r}; {suggest(name, MODELS)} Give one of {', '.join(MODELS)}."
        )
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tf_resflow"
    found = [path for folder in (*_FOLDERS, cache) if (path := folder / f"{name}.keras").is_file()]
    if not found:
        raise ValueError(
            f"The pretrained model {name!r} is not on this machine. Download {name}.keras from the folder "
            f"pretrained/ of the repository to {cache}, or give the path of the file instead of the name."
        )
    for path in found:
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if digest == MODELS[name]:
            return path, content
    raise ValueError(
        f"{path} is not the model {name!r} of this version: its SHA-256 is {digest[:12]}..., but expected "
        f"{MODELS[name][:12]}... Download it again from the folder pretrained/ of the repository."
    )
