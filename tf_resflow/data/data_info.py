"""The properties of a data set that a model needs."""

import dataclasses
from collections.abc import Mapping

import numpy as np

__all__ = ["DataInfo"]


@dataclasses.dataclass(frozen=True, eq=False)
class DataInfo:
    """The properties of a data set that a model needs. `Dataset` describes them."""

    name: str
    event_shape: tuple[int, ...]
    levels: int | None
    sizes: Mapping[str, int] | None = None
    _: dataclasses.KW_ONLY
    mean: np.ndarray | None = None
    std: np.ndarray | None = None
    num_classes: int | None = None
