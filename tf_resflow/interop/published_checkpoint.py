"""Reader of published checkpoints, as .npz files that examples/published_to_npz.py writes."""

import json
import os
import pathlib
import shlex
from typing import Any, NamedTuple

import numpy as np

from tf_resflow.data.files import explain_read_errors

_AVERAGES = "ema/"  # prefix of the names of moving averages


class PublishedCheckpoint(NamedTuple):
    """A checkpoint of train_img.py.

    Attributes:
      weights: Dict of the name of each parameter and buffer to its array.
      averages: Dict of the name of each parameter to its moving average, or None if there are no averages.
      step: Number of optimizer steps, or 1 if the checkpoint does not store it.
    """

    args: dict[str, Any]
    weights: dict[str, np.ndarray]
    averages: dict[str, np.ndarray] | None
    decay: float
    step: int


def read_checkpoint(path: str | os.PathLike) -> PublishedCheckpoint:
    """Reads an .npz file that examples/published_to_npz.py wrote.

    The array "args" holds the arguments of train_img.py as JSON. The arrays "step" and "ema_decay" are scalars.
    Every other array is a tensor of the state dict, or a moving average, named "ema/" and its parameter's name.
    """
    path = pathlib.Path(path).expanduser()
    source = path.with_suffix(".pth") if path.suffix == ".npz" else path
    command = shlex.join(["python", "examples/published_to_npz.py", str(source), str(path.with_suffix(".npz"))])
    advice = f"Convert a PyTorch checkpoint with the script in the repository of tf_resflow: {command}"
    with explain_read_errors(path, "a published checkpoint", advice), np.load(path, allow_pickle=False) as arrays:
        tensors = dict(arrays)
        args = json.loads(str(tensors.pop("args")))
        step = int(tensors.pop("step"))
        decay = float(tensors.pop("ema_decay"))
    names = [name for name in tensors if name.startswith(_AVERAGES)]
    averages = {name.removeprefix(_AVERAGES): tensors.pop(name) for name in names}
    return PublishedCheckpoint(args, tensors, averages or None, decay, step)
