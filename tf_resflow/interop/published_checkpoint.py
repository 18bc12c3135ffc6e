"""Checkpoints of the published code, in the .npz files that examples/published_to_npz.py writes."""

import json
import os
import pathlib
import shlex
from typing import Any, NamedTuple

import numpy as np

from tf_resflow.data.files import readable

__all__ = ["PublishedCheckpoint", "read_checkpoint"]

_AVERAGES = "ema/"  # prefix of the names of moving averages


class PublishedCheckpoint(NamedTuple):
    """A checkpoint of train_img.py.

    Attributes:
      args: dict of its arguments.
      weights: dict of name to array: parameters and buffers.
      averages: dict of name to array: moving averages of the parameters; None if there are none.
      decay: of the averages.
      step: number of steps that the optimizer took, or 1 if the checkpoint does not store it.
    """

    args: dict[str, Any]
    weights: dict[str, np.ndarray]
    averages: dict[str, np.ndarray] | None
    decay: float
    step: int


def read_checkpoint(path: str | os.PathLike) -> PublishedCheckpoint:
    """Reads an .npz file that examples/published_to_npz.py wrote.

    Its array "args" holds the arguments of train_img.py as JSON. The arrays "step" and "ema_decay" are scalars.
    Every other array is a tensor of the state dict, or a moving average with "ema/" before its parameter's name.

    Raises:
      ValueError: if there is no such file, or the script did not write it.
    """
    path = pathlib.Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"Cannot read {path}: there is no such file.")
    source = path.with_suffix(".pth") if path.suffix == ".npz" else path
    command = shlex.join(["python", "examples/published_to_npz.py", str(source), str(path.with_suffix(".npz"))])
    advice = f"Convert a PyTorch checkpoint with the script in the repository of tf_resflow: {command}"
    if path.suffix != ".npz":
        raise ValueError(f"{path} is not an .npz file. {advice}")
    with readable(path, "a published checkpoint", advice), np.load(path, allow_pickle=False) as arrays:
        return _checkpoint(arrays)


def _checkpoint(arrays):
    """The checkpoint from arrays by name, or an error that says what is wrong with them."""
    tensors = dict(arrays)
    if missing := [name for name in ("args", "step", "ema_decay") if name not in tensors]:
        raise ValueError(f"it has no array {missing[0]!r}")
    args = json.loads(str(tensors.pop("args")))
    if not isinstance(args, dict):
        raise ValueError(f"its arguments are a {type(args).__name__} instead of names and values")
    for name, value in args.items():
        if isinstance(value, (list, dict)):
            raise ValueError(f"its argument {name!r} is a {type(value).__name__}")
    step, decay = int(tensors.pop("step")), float(tensors.pop("ema_decay"))
    if step < 1 or not 0.0 <= decay < 1.0:
        raise ValueError(f"step={step} and ema_decay={decay}, but a step is positive and a decay is in [0, 1)")
    for name, tensor in tensors.items():
        if np.asarray(tensor).dtype.kind not in "biuf":
            raise ValueError(f"its tensor {name!r} does not hold numbers")
    names = [name for name in tensors if name.startswith(_AVERAGES)]
    averages = {name.removeprefix(_AVERAGES): tensors.pop(name) for name in names}
    return PublishedCheckpoint(args, tensors, averages or None, decay, step)
