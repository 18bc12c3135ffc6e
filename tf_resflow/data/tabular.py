"""Loads the rows of tables as vectors."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from tf_resflow.data.column_codes import ColumnCodes, EncodedRows, dependent
from tf_resflow.data.column_kinds import is_text
from tf_resflow.data.dataset import Dataset
from tf_resflow.data.splits import draw_splits
from tf_resflow.data.table_files import FORMAT_ADVICE, column_names, find_columns, read_table, typed
from tf_resflow.extras import LazyPackage
from tf_resflow.messages import shortened

pandas: Any = LazyPackage("pandas", "data")


def load_tabular(
    path: str | os.PathLike,
    path_test: str | os.PathLike | None = None,
    path_validation: str | os.PathLike | None = None,
    *,
    key: str | None = None,
    columns: Sequence[str] | None = None,
    condition_columns: Sequence[str] = (),
    kinds: Mapping[str, Any] | None = None,
    missing: str = "error",
    read_options: Mapping[str, Any] | None = None,
    test_fraction: float = 0.1,
    validation_fraction: float = 0.1,
    split_seed: int = 0,
) -> Dataset:
    r"""Loads the rows of a table as vectors, in the units of the file.

    pandas reads .csv, .parquet and .xlsx files (.xlsx needs the package openpyxl), and NumPy reads .npy and .npz
    files. The first row of a .csv or .xlsx file is the header unless it contains a number.

    The type of a column implies its kind, unless `kinds` sets it; see `ColumnCodes`. Dates may be text, in ISO 8601
    or in the format `read_options["date_format"]`. Booleans are ordered levels. A split without a file is drawn
    from the rows of `path` by a permutation of fixed seed.

    ```python
    import pathlib, tempfile
    import tf_resflow as resflow
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "people.csv")
        path.write_text("name;height;born;city\nAda;1,6;1815-12-10;London\nAlan;1,8;1912-06-23;Rome\n")
        dataset = resflow.data.load_tabular(
            path, columns=["height", "born"], read_options={"sep": ";", "decimal": ","},
            test_fraction=0, validation_fraction=0,
        )
    print(dataset.codes.kinds, dataset.array("train")[:, 1])
    # {'height': 'number', 'born': 'day'} [35259.     0.]
    ```

    Args:
      path: the file.
      path_test: file of the test split, or None or "" to draw it from `path`.
      path_validation: file of the validation split, or None or "" to draw it from `path`.
      key: name of the array, if an .npz file contains more than one.
      columns: names of the columns to read, or their numbers from 1, in this order. By default, all.
      condition_columns: names of the columns that form the condition, or their numbers within `columns`.
      kinds: kinds of columns by name or number; see `ColumnCodes`.
      missing: how to handle rows with missing values: "error", or "drop", which leaves them out with a warning.
      read_options: arguments of `pandas.read_csv`, `pandas.read_parquet` or `pandas.read_excel`.
      test_fraction: fraction of the rows for testing, without `path_test`.
      validation_fraction: fraction of the rows for validation, without `path_validation`; 0 for none.
      split_seed: seed of the permutation.

    Returns:
      A `Dataset` of event shape `(num_columns,)`, not counting the condition, with the mean and standard deviation
      of the train split. Its `codes` map between vectors and rows.

    Raises:
      ValueError: if a file is missing or cannot be read, a column is not in the table or cannot be read as its
        kind, a value is infinite or missing, a column of the train split is constant, or a split is empty.
    """
    file = pathlib.Path(path).expanduser().absolute()
    table = read_table(file, key, columns=columns, read_options=read_options)
    places = find_columns(file, table, [*map(str, kinds or {})])
    kinds = dict(zip(table.columns[places], (kinds or {}).values(), strict=True))
    as_text = [name for name, kind in kinds.items() if is_text(kind)]
    table = typed(file, table, as_text, (read_options or {}).get("date_format"))
    given = find_columns(file, table, condition_columns)
    rest = [place for place in range(table.shape[1]) if place not in given]
    if not rest:
        raise ValueError(f"{file}: all columns are condition_columns, so none is left. Remove some of them.")
    names, size = column_names(table), len(rest)
    table = table.iloc[:, [*rest, *given]]
    is_boolean = {name: pandas.api.types.is_bool_dtype(table[name].dtype) for name in table}
    codes = ColumnCodes(table, kinds={name: [False, True] for name in table if is_boolean[name]} | kinds)
    parts = ColumnCodes.of_columns(codes.columns[:size]), ColumnCodes.of_columns(codes.columns[size:])
    rows = {"train": _without_faults(file, codes.encode(table), missing)}
    for split, other in {"test": path_test, "validation": path_validation}.items():
        if other:
            own, _ = read_rows(other, *parts, key=key, read_options=read_options)
            rows[split] = _without_faults(pathlib.Path(other).expanduser().absolute(), own, missing)
    fractions = {"test": test_fraction, "validation": validation_fraction}
    drawn = draw_splits(len(rows["train"]), fractions, split_seed, file, given=rows, least=2)
    rows |= {split: rows["train"][places] for split, places in drawn.items()}
    train = rows["train"]
    _check_train(file, table, train)
    if not codes.is_discrete.all():  # rows of discrete values often repeat
        _warn_of_repeated_rows(file, rows)
    mean, std = (np.asarray(moment(train, axis=0), np.float32) for moment in (np.mean, np.std))
    fields: dict[str, Any] = {"mean": mean[:size], "std": std[:size], "codes": parts[0]}
    fields["columns"] = None if names is None else tuple(parts[0].kinds)
    if given:
        fields |= {"condition_mean": mean[size:], "condition_std": std[size:], "condition_codes": parts[1]}
        fields["conditions"] = {split: part[:, size:] for split, part in rows.items()}
        fields["condition_columns"] = None if names is None else tuple(parts[1].kinds)
    return Dataset.from_arrays(file.stem, {split: part[:, :size] for split, part in rows.items()}, **fields)


def read_rows(
    path: str | os.PathLike,
    codes: ColumnCodes,
    condition_codes: ColumnCodes | None = None,
    *,
    key: str | None = None,
    read_options: Mapping[str, Any] | None = None,
) -> tuple[EncodedRows, Any]:
    """Reads the columns of `codes` from a table, as vectors that end with the condition; also returns the table.

    The condition of a row is NaN if it has an unknown level, because the density given this level is unknown.
    """
    options = read_options or {}
    both = codes if condition_codes is None else ColumnCodes.of_columns([*codes.columns, *condition_codes.columns])
    path = pathlib.Path(path).expanduser().absolute()
    texts = [c.name for c in both.columns if any(isinstance(level, str) for level in c.levels or ())]
    table = read_table(path, key, read_options=read_options, texts=texts)
    names = [*both.kinds]
    if isinstance(names[0], str):
        own = table.iloc[:, find_columns(path, table, names)].set_axis(names, axis=1)
    elif table.shape[1] == len(names):
        own = table.set_axis(sorted(names), axis=1)  # in the order of the file
    else:
        raise ValueError(f"{path} has {table.shape[1]} columns; expected {len(names)} columns without names.")
    # If a cell in a column of numbers is unreadable, pandas leaves all of its cells as text.
    usual = {"decimal": ".", "thousands": None}
    marks = {ord(options[key]): mark for key, mark in usual.items() if options.get(key)}
    for name in [column.name for column in both.columns if marks and column.dtype.kind in "iuf"]:
        own[name] = own[name].map(lambda cell: cell.translate(marks) if isinstance(cell, str) else cell)
    rows = both.encode(own, date_format=options.get("date_format"))
    rows.values[~rows.known[:, codes.size :].all(axis=1), codes.size :] = np.nan
    return rows, table


def _without_faults(path, rows, missing):
    """Returns the valid rows. Raises ValueError for wrong values, and for missing ones unless they are dropped."""
    reasons = rows.reasons
    if len(wrong := np.flatnonzero((rows.faults != "").any(axis=1))):
        raise ValueError(
            f"{path}, row {wrong[0] + 1}, {reasons[wrong[0]]}. {len(wrong):,} of {len(reasons):,} rows have such "
            f"values. Correct them, or leave out these rows. {FORMAT_ADVICE}"
        )
    if not len(places := np.flatnonzero(reasons != "")):
        return rows.values
    num_missing = zip(rows.table, np.isnan(rows.values).sum(axis=0), strict=True)
    counts = [f"{name!r} ({num:,})" for name, num in num_missing if num]
    text = f"{len(places):,} of {len(reasons):,} rows have missing values, by column: {shortened(counts)}."
    if missing == "drop":
        logging.warning("%s: dropped rows. %s", path, text)
        return rows.values[reasons == ""]
    raise ValueError(
        f"{path}, row {places[0] + 1}, {reasons[places[0]]}. {text} Leave out these rows with "
        "--config.data.missing=drop, fill in the values, or leave out the columns with --config.data.columns."
    )


def _check_train(path, table, train):
    """Raises ValueError for a constant column, and warns of linearly dependent columns."""
    names = np.array([*table.columns], object)
    for name in names[np.ptp(train.astype(np.float32), axis=0) == 0]:
        raise ValueError(
            f"{path}: the column {name!r} is constant in the train rows, so it has no density. Leave it out."
        )
    if (is_dependent := dependent((train - train.mean(axis=0)) / train.std(axis=0))).any():
        logging.warning(
            "%s: these columns are duplicates or linearly dependent: %s. Leave some of them out "
            "(--config.data.columns). Otherwise the density is unbounded.",
            path,
            shortened(map(repr, names[is_dependent])),
        )


def _warn_of_repeated_rows(path, rows):
    as_bytes = {split: [row.tobytes() for row in part.astype(np.float32)] for split, part in rows.items()}
    known = set(as_bytes.pop("train"))
    counts = {split: sum(row in known for row in own) for split, own in as_bytes.items()}
    if repeated := [f"{num:,} of {len(as_bytes[split]):,} {split} rows" for split, num in counts.items() if num]:
        logging.warning("%s: %s are also train rows, so the scores are too good.", path, " and ".join(repeated))
