"""Tables: rows of numbers, from files that NumPy and pandas read."""

__all__ = ["load_tabular", "read_table"]

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from tf_resflow.config_fields import suggest
from tf_resflow.data.dataset import Dataset
from tf_resflow.data.files import TABLES, check_table, read_array, readable
from tf_resflow.data.splits import check_alike, check_different, draw_splits
from tf_resflow.extras import extra

_SHOWN = 20  # columns in a message
_FEW = 10  # rows for each value of a column, from which on it is called discrete
_WRITTEN = (
    "If the file is another kind of CSV, say so by the arguments of pandas.read_csv, such as "
    "--config.data.read_options.sep=';' for the character between cells, decimal=',', encoding=utf-16, or header=0 "
    "if its first row has the names."
)


def load_tabular(
    path: str | os.PathLike,
    path_test: str | os.PathLike | None = None,
    path_validation: str | os.PathLike | None = None,
    *,
    key: str | None = None,
    columns: Sequence[str] | None = None,
    condition_columns: Sequence[str] = (),
    read_options: Mapping[str, Any] | None = None,
    test_fraction: float = 0.1,
    validation_fraction: float = 0.1,
    split_seed: int = 0,
) -> Dataset:
    r"""Loads the rows of a table as examples, in the units of the file.

    pandas reads .csv, .parquet and .xlsx files (the latter with the package openpyxl), and NumPy .npy and .npz
    files. The first row of a .csv or .xlsx file is its header if it holds no number.

    Splits without a file are drawn from the rows of `path`, without replacement, by a permutation of fixed seed.
    The result has the mean and standard deviation of the train split, by which a flow can normalize its input.

    ```python
    import pathlib, tempfile
    import tf_resflow as resflow
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "people.csv")
        path.write_text("name;height;age\nAda;1,6;36\nAlan;1,8;41\nGrace;1,7;43\n")
        dataset = resflow.data.load_tabular(
            path, columns=["height", "age"], read_options={"sep": ";", "decimal": ","},
            test_fraction=0, validation_fraction=0,
        )
    print(dataset.columns, dataset.sizes)
    # ('height', 'age') {'train': 3}
    ```

    Args:
      path: the file.
      path_test: file of the test split, or None or "" to draw it from `path`.
      path_validation: file of the validation split, likewise.
      key: name of the array in an .npz file that holds more than one.
      columns: names of the columns to read, or their numbers from 1, in the order that is wanted; by default all.
        The others may hold anything. Files of other splits are read by the names of `path`, whatever their order.
      condition_columns: names, or numbers from 1, of columns that are the condition of the others: the density is
        that of the others given these. Numbers count the `columns`.
      read_options: arguments of `pandas.read_csv`, `pandas.read_parquet` or `pandas.read_excel`.
      test_fraction: fraction of the rows for testing, if `path_test` is not given.
      validation_fraction: fraction of the rows for validation, if `path_validation` is not given; 0 for no such
        split.
      split_seed: seed of the permutation.

    Returns:
      A `Dataset` of event shape `(columns,)`, without those of the condition, with the names of its columns if the
      file has them.

    Raises:
      ValueError: if a file is missing or cannot be read, a column is not in the table, is named twice, or holds
        text, a value is missing or infinite, a column of the train split is constant, a split is empty, or two
        splits have the same rows.
    """
    if not path:
        raise ValueError(
            f"No table was given: set path (--config.data.path=FILE.csv) to a file that ends in "
            f"{', '.join(TABLES)}."
        )
    train = read_table(path, key, columns=columns, read_options=read_options)
    others = {"test": path_test, "validation": path_validation}
    alike: dict[str, Any] = {"columns": _names(train) or columns, "read_options": read_options}
    splits = {split: read_table(file, key, **alike) for split, file in others.items() if file}
    splits = {"train": train, **splits}
    check_different(splits)
    fractions = {"test": test_fraction, "validation": validation_fraction}
    drawn = draw_splits(len(train), fractions, split_seed, path, given=splits, least=2)
    splits |= {split: train.iloc[numbers] for split, numbers in drawn.items()}
    name = pathlib.Path(path).stem
    check_alike(name, splits)
    given = _positions(name, train, condition_columns)
    rest = [position for position in range(train.shape[1]) if position not in given]
    if not rest:
        raise ValueError(f"{name}: all columns are condition_columns, and none is left. Leave some out.")
    _check_distinct(name, splits["train"], rest)
    arrays = {split: frame.to_numpy() for split, frame in splits.items()}
    moments = [moment(arrays["train"], axis=0, dtype=np.float64) for moment in (np.mean, np.std)]
    mean, std = (np.asarray(moment, np.float32) for moment in moments)
    fields: dict[str, Any] = {"mean": mean[rest], "std": std[rest], "columns": _names(train.iloc[:, rest])}
    if given:
        fields |= {
            "conditions": {split: rows[:, given] for split, rows in arrays.items()},
            "condition_mean": mean[given],
            "condition_std": std[given],
            "condition_columns": _names(train.iloc[:, given]),
        }
    return Dataset.from_arrays(name, {split: rows[:, rest] for split, rows in arrays.items()}, **fields)


def read_table(
    path: str | os.PathLike,
    key: str | None = None,
    *,
    columns: Sequence[str] | None = None,
    read_options: Mapping[str, Any] | None = None,
) -> Any:
    """Reads a `pandas.DataFrame` of finite float32 numbers; columns without names are numbered from 1.

    The arguments are those of `load_tabular`. A file without names must have as many columns as are named.
    """
    path = pathlib.Path(path).expanduser()
    suffix = path.suffix.lower()
    check_table(path)
    with extra("data"):
        import pandas

    table: Any
    if suffix in (".npy", ".npz"):
        table = read_array(path, key)[0]
    else:
        table = _read_frame(path, suffix, {k: v for k, v in (read_options or {}).items() if v is not None})
    if len(table.shape) != 2 or 0 in table.shape:
        raise ValueError(f"{path}: expected a matrix [rows, columns], but the shape is {list(table.shape)}.")
    frame = pandas.DataFrame(table)
    if pandas.api.types.is_integer_dtype(frame.columns):
        frame.columns = pandas.RangeIndex(1, frame.shape[1] + 1)
    else:
        frame.columns = [str(name).strip() for name in frame.columns]
    if columns is not None:
        frame = frame.iloc[:, _positions(path, frame, columns)]
    return _checked(path, frame)


def _read_frame(path, suffix, options):
    """The table of a file, as pandas reads it; without a header if its first row holds a number."""
    with extra("data"):
        import pandas

    read = {".csv": pandas.read_csv, ".parquet": pandas.read_parquet, ".xlsx": pandas.read_excel}[suffix]
    with readable(path, "a table", *([_WRITTEN] if suffix == ".csv" else [])):
        if suffix != ".parquet" and "header" not in options:
            first = read(path, **options | {"header": None, "nrows": 1})
            if first.select_dtypes("number").notna().any(axis=None):
                options = options | {"header": None}
        frame = read(path, **options)
    if suffix == ".csv" and not isinstance(frame.index, pandas.RangeIndex) and "index_col" not in options:
        raise ValueError(f"{path}: the first line has fewer cells than the lines below. {_WRITTEN}")
    return frame


def _names(frame):
    """The names of the columns, or None."""
    return tuple(frame.columns) if isinstance(frame.columns[0], str) else None


def _positions(source, frame, columns):
    """The positions of columns by their names, or by their numbers from 1."""
    names, num = _names(frame), frame.shape[1]
    if names is None and not all(map(str.isdecimal, columns)):
        if num != len(columns):
            raise ValueError(
                f"{source} has {num} columns without names, and those wanted are {len(columns)}: "
                f"{', '.join(columns)}. Give a file that names its columns, or one of just these."
            )
        return [*range(num)]
    found: list[int] = []
    for column in columns:
        if names is not None and column in names:
            found.append(names.index(column))
        elif column.isdecimal() and 1 <= int(column) <= num:
            found.append(int(column) - 1)
        else:
            known = f"{suggest(column, names)} Its columns are {_short(map(repr, names))}." if names else ""
            raise ValueError(f"{source} has no column {column!r}; {known or f'it has {num}, without names.'}")
    if twice := [column for column, place in zip(columns, found, strict=True) if found.count(place) > 1]:
        raise ValueError(f"{source}: the column {twice[0]!r} is chosen twice. Name each column once.")
    return found


def _checked(path, frame):
    """The table as finite float32 numbers."""
    with extra("data"):
        import pandas

    numeric = [dtype.kind in "buif" for dtype in frame.dtypes]
    if not all(numeric):
        place = numeric.index(False)
        column = frame.iloc[:, place]
        row = int(np.argmax(column.notna() & pandas.to_numeric(column, errors="coerce").isna()))
        chosen = _short(frame.columns[numeric], ",")
        advice = [f"Choose the columns of numbers: --config.data.columns={chosen}."] if chosen else []
        advice += [_WRITTEN] if path.suffix.lower() == ".csv" else []
        raise ValueError(
            f"{path}, row {row + 1}, column {frame.columns[place]!r}: {str(column.iloc[row])[:40]!r} is not a real "
            f"number. {' '.join(advice)}"
        )
    with np.errstate(over="ignore"):
        rows = frame.to_numpy(np.float32, na_value=np.nan)
    bad = ~np.isfinite(rows)
    if bad.any():
        row, place = (int(i) for i in np.argwhere(bad)[0])
        counts = [f"{name!r} ({num})" for name, num in zip(frame.columns, bad.sum(0), strict=True) if num]
        raise ValueError(
            f"{path}, row {row + 1}, column {frame.columns[place]!r}: the value is missing, NaN or too large for "
            f"float32. So are {bad.sum()} of {bad.size} values, in {bad.any(1).sum()} of {len(bad)} rows, by "
            f"columns: {_short(counts)}. Remove these rows, fill in the values, or leave the columns out by "
            "--config.data.columns."
        )
    return pandas.DataFrame(rows, columns=frame.columns)


def _short(words, separator=", "):
    words = [*map(str, words)]
    return separator.join(words[:_SHOWN] + ["..."] * (len(words) > _SHOWN))


def _check_distinct(name, train, rest):
    """Refuses constant columns, and warns of few values: on their planes a density can grow without bound."""
    distinct = train.nunique()
    for column in train.columns[distinct == 1]:
        raise ValueError(
            f"{name}: the column {column!r} has the same value {train[column].iloc[0]} in all train rows, so it "
            "has no density. Leave it out (--config.data.columns)."
        )
    few = distinct.iloc[rest].loc[lambda num: num * _FEW <= len(train)]
    if len(few):
        logging.warning(
            "%s: these columns have few values for their %s train rows, such as whole numbers or categories: %s. A "
            "density has no bound there, and its score says little: leave them out (--config.data.columns), or "
            "make them a condition (--config.data.condition_columns).",
            name,
            f"{len(train):,}",
            ", ".join(f"{column!r} ({num})" for column, num in few.items()),
        )
