"""What a model must know of its data."""

from typing import Any, NamedTuple

import numpy as np

from tf_resflow.data.column_codes import ColumnCodes

__all__ = ["DataInfo"]


class DataInfo(NamedTuple):
    """What a model must know of its data.

    Attributes:
      name: name of the data set.
      event_shape: shape of one example.
      levels: number of levels of integer data; None for continuous data.
      mean: mean of the train split per coordinate, or of images per channel, or None.
      std: standard deviation of the train split, as the mean.
      num_classes: number of classes of labeled data; None without labels.
      sizes: number of examples of each finite split, if known.
      columns: names of the coordinates of vectors, if known.
      condition_mean: mean of the conditions of the train split, real vectors; None without conditions.
      condition_std: standard deviation of the conditions.
      condition_columns: names of the coordinates of conditions, if known.
      codes: the `ColumnCodes` of a table, which describe its columns; None for other data.
      condition_codes: those of its conditions.
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
        """Whether noise is added to the data, or to some of their coordinates."""
        return self.levels is not None or (self.codes is not None and self.codes.cells is not None)

    @property
    def kinds(self) -> dict[str, Any] | None:
        """The kinds of the columns of a table, of its conditions, too, by their names or numbers."""
        parts = [part.kinds for part in (self.codes, self.condition_codes) if part is not None]
        return {name: kind for part in parts for name, kind in part.items()} or None
