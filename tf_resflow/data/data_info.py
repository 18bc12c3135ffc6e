"""The properties of a data set that a model needs."""

from typing import Any, NamedTuple

import numpy as np

from tf_resflow.data.column_codes import ColumnCodes

__all__ = ["DataInfo"]


class DataInfo(NamedTuple):
    """The properties of a data set that a model needs.

    Attributes:
      name: name of the data set.
      event_shape: shape of one example.
      levels: number of levels of integer data; None for continuous data.
      mean: mean of the train split per coordinate (per channel for images), or None.
      std: standard deviation of the train split, like `mean`.
      num_classes: number of classes of labeled data; None without labels.
      sizes: number of examples of each finite split, if known.
      columns: names of the coordinates of vectors, if known.
      condition_mean: mean of the conditions of the train split, if they are real vectors, otherwise None.
      condition_std: standard deviation of these conditions.
      condition_columns: names of the coordinates of conditions, if known.
      codes: the `ColumnCodes` of a table; None for other data.
      condition_codes: the `ColumnCodes` of its conditions.
    """

    name: str
    event_shape: tuple[int, ...]
    levels: int | None
    mean: np.ndarray | None
    std: np.ndarray | None
    num_classes: int | None = None
    sizes: dict[str, int] | None = None
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
