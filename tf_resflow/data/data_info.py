"""The properties of a data set that a model needs."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from tf_resflow.data.column_codes import ColumnCodes

__all__ = ["DataInfo"]


@dataclasses.dataclass(frozen=True, eq=False)
class DataInfo:
    """The properties of a data set that a model needs: those of `Dataset` with the same names."""

    name: str
    event_shape: tuple[int, ...]
    levels: int | None
    sizes: Mapping[str, int] | None = None
    _: dataclasses.KW_ONLY
    mean: np.ndarray | None = None
    std: np.ndarray | None = None
    num_classes: int | None = None
    columns: tuple[str, ...] | None = None
    condition_mean: np.ndarray | None = None
    condition_std: np.ndarray | None = None
    condition_columns: tuple[str, ...] | None = None
    codes: ColumnCodes | None = None
    condition_codes: ColumnCodes | None = None

    @property
    def is_dequantized(self) -> bool:
        """Whether noise is added to the data, or to some of its coordinates."""
        return self.levels is not None or (self.codes is not None and self.codes.cells is not None)

    @property
    def kinds(self) -> dict[str, Any] | None:
        """The kinds of the columns of a table, including the conditions, by name or number."""
        parts = [part.kinds for part in (self.codes, self.condition_codes) if part is not None]
        return {name: kind for part in parts for name, kind in part.items()} or None
