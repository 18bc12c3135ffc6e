"""The checkpoints that a directory holds, found without TensorFlow."""

import pathlib
import re
from collections.abc import Sequence

__all__ = ["REMEDY", "missing_file", "newest_first", "none_readable"]

REMEDY = "Restore it from a backup, or choose another --workdir to train again. Nothing was changed."


def newest_first(directory: pathlib.Path) -> list[str]:
    """The paths of the checkpoints that were saved.

    They have an index, which is written after their data, or are in TensorFlow's list, which is written last: if
    the index is then missing, it was lost. Data alone are the remains of a save that was cut short.
    """
    names = [path.stem for path in directory.glob("*.index")]
    if (directory / "checkpoint").is_file():
        content = (directory / "checkpoint").read_text(encoding="utf-8", errors="replace")
        names += re.findall(r'(ckpt-\d+)"', content)
    steps = {int(name[5:]) for name in names if re.fullmatch(r"ckpt-\d+", name)}
    return [str(directory / f"ckpt-{step}") for step in sorted(steps, reverse=True)]


def missing_file(path: str) -> str:
    """A message about the missing file of a checkpoint, empty if there is none."""
    directory, name = pathlib.Path(path).parent, pathlib.Path(path).name
    if not pathlib.Path(f"{path}.index").exists():
        return f"{path}.index is missing"
    return "" if list(directory.glob(f"{name}.data-*")) else f"{path}.data-00000-of-00001 is missing"


def none_readable(paths: Sequence[str], reason: str) -> str:
    """The message about checkpoints of which none can be read, for the reason of the first."""
    number = "The only checkpoint" if len(paths) == 1 else f"None of the {len(paths)} checkpoints"
    directory, which = pathlib.Path(paths[0]).parent, "cannot" if len(paths) == 1 else "can"
    return f"{number} in {directory} {which} be read: {reason}. {REMEDY}"
