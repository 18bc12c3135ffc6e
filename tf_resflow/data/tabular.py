"""Tabular data from .npy, .npz, .csv and .parquet files."""

__all__ = ["load_tabular", "read_matrix"]

import codecs
import csv
import os
import pathlib

import numpy as np
from absl import logging

from tf_resflow.data.dataset import Dataset
from tf_resflow.data.numpy_files import read_array
from tf_resflow.data.splits import check_different, draw_splits
from tf_resflow.extras import extra

_DELIMITERS = ";\t|, "  # of .csv files: the first of them in a line of numbers


def load_tabular(
    path: str | os.PathLike,
    path_test: str | os.PathLike | None = None,
    path_validation: str | os.PathLike | None = None,
    *,
    key: str | None = None,
    test_fraction: float = 0.1,
    validation_fraction: float = 0.1,
    split_seed: int = 0,
) -> Dataset:
    """Loads the rows of a matrix as examples, in the units of the file.

    Splits without a file are drawn from the rows of `path`, without replacement, by a permutation of fixed seed.
    The result has the mean and standard deviation of the train split, by which a flow can normalize its input.

    Args:
      path: .npy, .npz, .csv or .parquet file of a numeric matrix `[rows, columns]`.
      path_test: file of the test split, or None or "" to draw it from `path`.
      path_validation: file of the validation split, likewise.
      key: name of the array in an .npz file that holds more than one.
      test_fraction: fraction of the rows for testing, if `path_test` is not given.
      validation_fraction: fraction of the rows for validation, if `path_validation` is not given; 0 for no such
        split.
      split_seed: seed of the permutation.

    Returns:
      A `Dataset` of event shape `(columns,)`.

    Raises:
      ValueError: if a file is missing or malformed, a value is NaN or infinite, a column of the train split is
        constant, a split is empty, the train split has a single row, or two splits have files of the same rows.
    """
    if not path:
        raise ValueError(
            "No table was given: set path (--config.data.path=FILE.csv) to a .npy, .npz, .csv or .parquet file "
            "of numbers."
        )
    files = {"train": path, "test": path_test, "validation": path_validation}
    splits = {split: read_matrix(file, key) for split, file in files.items() if file}
    check_different(splits)
    fractions = {"test": test_fraction, "validation": validation_fraction}
    drawn = draw_splits(len(splits["train"]), fractions, split_seed, path, given=splits, least=2)
    splits |= {split: splits["train"][numbers] for split, numbers in drawn.items()}
    name = pathlib.Path(path).stem
    mean, std = _moments(name, splits["train"])
    return Dataset.from_arrays(name, splits, mean=mean, std=std)


def read_matrix(path: str | os.PathLike, key: str | None = None) -> np.ndarray:
    """Reads a .npy, .npz, .csv or .parquet file as a finite float32 matrix. Parquet requires the package pyarrow.

    A .csv file is text in UTF-8 or, with a byte order mark, UTF-16. The lines above the first one that holds a
    number are its header. Cells are separated by commas, or by semicolons, tabs, bars or spaces if the last line
    has them; a warning then names the separator. Between semicolons or tabs, commas are decimal commas unless there
    are at least as many points.

    Messages count rows and columns from 1, or the lines of a .csv file.

    Args:
      path: the file.
      key: name of the array in an .npz file that holds more than one.

    Returns:
      A float32 array `[rows, columns]`.

    Raises:
      ValueError: if the file is missing, of another kind, not a numeric matrix, empty, or not finite.
    """
    path = pathlib.Path(path).expanduser()
    readers = {".npy": _read_numpy, ".npz": _read_numpy, ".csv": _read_csv, ".parquet": _read_parquet}
    suffix = path.suffix.lower()
    if path.is_dir():
        raise ValueError(f"{path} is a folder. Give the file of a table, or, for images, data.name = 'images'.")
    if suffix not in readers:
        raise ValueError(f"{path}: expected a file name that ends in {', '.join(readers)}.")
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file (looked for {path.absolute()}).")
    matrix, lines = readers[suffix](path, key)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"{path}: expected a matrix [rows, columns], but the shape is {list(matrix.shape)}.")
    if matrix.dtype.kind not in "buif":
        raise ValueError(f"{path}: expected real numbers, but the type is {matrix.dtype}.")
    with np.errstate(over="ignore"):
        matrix = matrix.astype(np.float32)
    bad = ~np.isfinite(matrix)
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        where = f"row {row + 1}" if lines is None else f"line {lines[row]}"
        raise ValueError(
            f"{path}, {where}, column {column + 1}: the value is NaN or too large for float32; "
            f"{bad.sum()} of {bad.size} values are. Remove or replace them."
        )
    return matrix


def _moments(name, rows):
    mean, std = (np.asarray(moment(rows, axis=0, dtype=np.float64)) for moment in (np.mean, np.std))
    constant = np.flatnonzero(np.ptp(rows, axis=0) == 0)
    if len(constant):
        raise ValueError(
            f"{name}: column {constant[0] + 1} has the same value {mean[constant[0]]} in all train rows, so it "
            "has no density. Remove the column."
        )
    return mean.astype(np.float32), std.astype(np.float32)


def _read_numpy(path, key):
    return read_array(path, key)[0], None


def _read_parquet(path, key):
    del key
    with extra("data"):
        import pyarrow
        from pyarrow import parquet
    try:
        frame = parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a Parquet file that can be read ({error}).") from None
    for column in frame.schema:
        kinds = (pyarrow.types.is_integer, pyarrow.types.is_floating, pyarrow.types.is_boolean)
        if not any(is_kind(column.type) for is_kind in kinds):
            raise ValueError(f"{path}: the column {column.name!r} holds {column.type}, not numbers. Leave it out.")
    columns = [column.to_numpy().astype(np.float64) for column in frame.columns]
    return np.stack(columns, axis=1) if columns else np.zeros([0, 0]), None


def _read_csv(path, key):
    """The matrix, and the line number of each row."""
    del key
    encoding, delimiter, number = _csv_format(path)
    rows: list[list[float]] = []
    lines = []
    with path.open(newline="", encoding=encoding, errors="replace") as file:
        reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
        try:
            for cells in reader:
                if cells and (rows or any(_is_number(cell, number) for cell in cells)):
                    rows.append(_csv_row(path, reader.line_num, cells, number, rows, delimiter))
                    lines.append(reader.line_num)
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}. Is a quote left open?") from None
    if not rows:
        raise ValueError(
            f"{path}: no line holds a number. Expected lines of numbers, separated by commas, semicolons, tabs, "
            "bars or spaces, with or without names above."
        )
    if delimiter != ",":
        decimals = " with decimal commas" if number is _decimal_comma else ""
        logging.warning("%s was read as %d columns separated by %r%s.", path, len(rows[0]), delimiter, decimals)
    return np.array(rows), lines


def _csv_format(path):
    """The encoding of a file, its delimiter, and the function that reads a cell."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from None
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    text = data.decode(encoding, errors="replace")  # a header may be in another encoding, numbers may not
    if "\0" in text:
        raise ValueError(f"{path} is not text in UTF-8 or UTF-16. Save the table as CSV, or give another file.")
    last = "".join(text.rstrip()[-4096:].splitlines()[-1:])  # no header, and the end of a long line is enough
    delimiter = next((delimiter for delimiter in _DELIMITERS if delimiter in last), ",")
    has_decimal_commas = delimiter in ";\t" and text.count(",") > text.count(".")
    return encoding, delimiter, _decimal_comma if has_decimal_commas else float


def _decimal_comma(cell):
    """The number 1.5 of "1,5"; "1.5" is an error, since its point would separate thousands."""
    return float(cell.translate({ord(","): ".", ord("."): ","}))


def _is_number(cell, number):
    try:
        number(cell)
    except ValueError:
        return False
    return True


def _csv_row(path, line, cells, number, rows, delimiter):
    if rows and len(cells) != len(rows[0]):
        raise ValueError(
            f"{path}, line {line}: {len(cells)} cells separated by {delimiter!r}, but the lines above have "
            f"{len(rows[0])}."
        )
    try:
        return [number(cell) for cell in cells]
    except ValueError:
        column = next(i for i, cell in enumerate(cells) if not _is_number(cell, number))
        what = f"{cells[column][:40]!r} is not a number" if cells[column].strip() else "the cell is empty"
        raise ValueError(
            f"{path}, line {line}, column {column + 1}: {what} (cells are separated by {delimiter!r})."
        ) from None
