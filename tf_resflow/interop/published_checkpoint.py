"""Checkpoints of the published code."""

import os
from typing import Any, NamedTuple

import numpy as np

from tf_resflow.interop.torch_file import StoredObject, read_torch_file

__all__ = ["PublishedCheckpoint", "read_checkpoint"]


class PublishedCheckpoint(NamedTuple):
    """A checkpoint of train_img.py.

    Attributes:
      args: dict of its arguments.
      weights: dict of name to array: parameters and buffers.
      averages: dict of name to array: moving averages of the parameters; None if there are none.
      decay: of the averages.
      step: number of steps that the optimizer took; None if it is not stored.
    """

    args: dict[str, Any]
    weights: dict[str, np.ndarray]
    averages: dict[str, np.ndarray] | None
    decay: float
    step: int | None


def read_checkpoint(path: str | os.PathLike) -> PublishedCheckpoint:
    """Reads a checkpoint of train_img.py, or raises ValueError for another file."""
    stored = read_torch_file(path)
    args = _dict(path, stored, "args", "The architecture comes from the arguments.")
    weights = _dict(path, stored, "state_dict", "The weights should be there.")
    ema = getattr(stored.get("ema"), "state", None) or {}
    try:
        averages, decay, step = ema.get("shadow_params") or {}, float(ema.get("decay", 0.999)), _step(stored)
        _check_values("args", args, (str, int, float, type(None)))
        _check_values("state_dict", weights, np.ndarray)
        _check_values("ema", averages, np.ndarray)
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path} is not a checkpoint of train_img.py: {error}.") from None
    return PublishedCheckpoint(args, weights, averages or None, decay, step)


def _dict(path, stored, key, purpose):
    """The dict at a key, or the state of the object there."""
    value = stored.get(key) if isinstance(stored, dict) else None
    value = value.state if isinstance(value, StoredObject) else value
    if not isinstance(value, dict):
        raise ValueError(f"{path} is not a checkpoint of train_img.py: it has no {key!r}. {purpose}")
    return value


def _check_values(key, values, kinds):
    """Raises an error unless the values of a dict have these types, and the keys are names."""
    for name, value in values.items():
        if not isinstance(name, str) or not isinstance(value, kinds):
            shown = repr(name) if isinstance(name, str) else f"a {type(name).__name__}"
            raise TypeError(f"{shown} in its {key!r} is a {type(value).__name__}")


def _step(stored):
    """The largest count among the optimizer's parameters; a parameter without a gradient has none."""
    state = stored.get("optimizer_state_dict", {}).get("state", {})
    return max((int(parameter["step"]) for parameter in state.values() if "step" in parameter), default=None)
