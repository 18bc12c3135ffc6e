"""Tabular data."""

__all__ = ["load_tabular"]

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging

from tf_resflow.data.dataset import Dataset
from tf_resflow.data.splits import check_alike, check_different, draw_splits
from tf_resflow.data.table_files import column_indices, column_name, read_table

_FEW = 10  # rows for each value of a column, from which on it is called discrete


def load_tabular(
    path: str | os.PathLike,
    path_test: str | os.PathLike | None = None,
    path_validation: str | os.PathLike | None = None,
    *,
    key: str | None = None,
    columns: Sequence[str] | None = None,
    test_fraction: float = 0.1,
    validation_fraction: float = 0.1,
    split_seed: int = 0,
    condition_columns: Sequence[str] = (),
) -> Dataset:
    """Loads the rows of a table as examples, in the units of the file.

    Splits without a file are drawn from the rows of `path`, without replacement, by a permutation of fixed seed.
    The result has the mean and standard deviation of the train split, by which a flow can normalize its input.

    Args:
      path: .npy, .npz, .csv or .parquet file of numbers, see `read_table`.
      path_test: file of the test split, or None or "" to draw it from `path`.
      path_validation: file of the validation split, likewise.
      key: name of the array in an .npz file that holds more than one.
      columns: names of the columns to read, or their numbers from 1, by default all. The files of other splits are
        read by the names of `path`, whatever their order.
      test_fraction: fraction of the rows for testing, if `path_test` is not given.
      validation_fraction: fraction of the rows for validation, if `path_validation` is not given; 0 for no such
        split.
      split_seed: seed of the permutation.
      condition_columns: names, or numbers from 1, of columns that are the condition of the others: the density is
        that of the others given these. Numbers count the `columns`.

    Returns:
      A `Dataset` of event shape `(columns,)`, without those of the condition, with the names of its columns if the
      file has them.

    Raises:
      ValueError: if a file is missing or malformed, a value is missing or infinite, a column of the train split is
        constant, a split is empty, the train split has a single row, two splits have files of the same rows, or
        columns are not in the table, are named twice, or leave none without a condition.
    """
    if not path:
        raise ValueError(
            "No table was given: set path (--config.data.path=FILE.csv) to a .npy, .npz, .csv or .parquet file "
            "of numbers."
        )
    train = read_table(path, key, columns=columns)
    names = train.columns
    others = {"test": path_test, "validation": path_validation}
    same = names or columns
    splits = {split: read_table(file, key, columns=same).values for split, file in others.items() if file}
    splits = {"train": train.values, **splits}
    check_different(splits)
    fractions = {"test": test_fraction, "validation": validation_fraction}
    drawn = draw_splits(len(splits["train"]), fractions, split_seed, path, given=splits, least=2)
    splits |= {split: splits["train"][numbers] for split, numbers in drawn.items()}
    name = pathlib.Path(path).stem
    mean, std = _moments(name, splits["train"], names)
    check_alike(name, splits)
    given = column_indices(name, condition_columns, names, len(mean))
    rest = [index for index in range(len(mean)) if index not in given]
    if not rest:
        raise ValueError(f"{name}: all columns are condition_columns, and none is left. Leave some out.")
    _warn_of_discrete(name, splits["train"], names, rest)
    fields: dict[str, Any] = {"mean": mean[rest], "std": std[rest], "columns": _at(names, rest)}
    if given:
        fields |= {
            "conditions": {split: rows[:, given] for split, rows in splits.items()},
            "condition_mean": mean[given],
            "condition_std": std[given],
            "condition_columns": _at(names, given),
        }
    return Dataset.from_arrays(name, {split: rows[:, rest] for split, rows in splits.items()}, **fields)


def _at(names, indices):
    return names and tuple(names[index] for index in indices)


def _moments(name, rows, names):
    mean, std = (np.asarray(moment(rows, axis=0, dtype=np.float64)) for moment in (np.mean, np.std))
    constant = np.flatnonzero(np.ptp(rows, axis=0) == 0)
    if len(constant):
        raise ValueError(
            f"{name}: {column_name(constant[0], names)} has the same value {mean[constant[0]]} in all train rows, "
            "so it has no density. Leave it out (--config.data.columns)."
        )
    return mean.astype(np.float32), std.astype(np.float32)


def _warn_of_discrete(name, rows, names, indices):
    """Warns of columns with few values: on their lines and planes a density can grow without bound."""
    counts = {i: len(np.unique(rows[:, i])) for i in indices}
    discrete = [f"{column_name(i, names)} ({num})" for i, num in counts.items() if num * _FEW <= len(rows)]
    if discrete:
        logging.warning(
            "%s: these columns have few values for their %s train rows, such as whole numbers or categories: %s. A "
            "density has no bound there, and its score says little: leave them out (--config.data.columns), or "
            "make them a condition (--config.data.condition_columns).",
            name,
            f"{len(rows):,}",
            ", ".join(discrete),
        )
