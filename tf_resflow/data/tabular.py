"""Tabular data from .npy, .npz and .csv files."""

__all__ = ["load_tabular", "read_matrix"]

import codecs
import contextlib
import csv
import itertools
import pathlib
import zipfile

import numpy as np
from absl import logging

from tf_resflow.data.dataset import Dataset

_DELIMITERS = ";\t|, "  # of .csv files: the first of them in a line of numbers


def load_tabular(
    path,
    path_test=None,
    path_validation=None,
    key=None,
    test_fraction=0.1,
    validation_fraction=0.1,
    split_seed=0,
):
    """Loads the rows of a matrix as examples, in the units of the file.

    The splits that have no file of their own are drawn from the rows of `path`, without
    replacement, by a permutation of fixed seed. The mean and standard deviation of the train
    split are attributes of the result, for a flow to begin with.

    Args:
        path: .npy, .npz or .csv file of a numeric matrix `[rows, columns]`.
        path_test: file of the test split, or None or "" to draw it from `path`.
        path_validation: file of the validation split, likewise.
        key: name of the array in an .npz file that holds more than one.
        test_fraction: fraction of the rows for testing, if `path_test` is not given.
        validation_fraction: fraction of the rows for validation, if `path_validation` is not
            given; there is no such split if it is 0.
        split_seed: seed of the permutation.

    Returns:
        A `Dataset` of event shape `(columns,)`.

    Raises:
        ValueError: if a file is missing or malformed, a value is NaN or infinite, a column of
            the train split is constant, a split is empty, the train split has a single row, or two
            splits have files of the same rows.
    """
    if not path:
        raise ValueError(
            "Tabular data need a file: set path (--config.data.path=FILE.csv) to a .npy, .npz "
            "or .csv file of a numeric matrix."
        )
    files = {"path": path, "path_test": path_test, "path_validation": path_validation}
    matrices = {field: read_matrix(file, key) for field, file in files.items() if file}
    _check_different(matrices)
    rows = matrices["path"]
    order = np.random.RandomState(split_seed).permutation(len(rows))
    splits = {}
    for split, fraction in [("test", test_fraction), ("validation", validation_fraction)]:
        if not 0 <= fraction < 1:
            raise ValueError(f"{split}_fraction must be in [0, 1), but is {fraction}.")
        if f"path_{split}" in matrices:
            splits[split] = matrices[f"path_{split}"]
        elif fraction:
            num = round(fraction * len(rows))
            splits[split], order = rows[order[:num]], order[num:]
    if len(order) < 2:
        raise ValueError(
            f"{path}: {_rows(len(rows))} less test_fraction and validation_fraction leave {_rows(len(order))} for "
            "training, which takes 2 at least. Give more rows, or lower the fractions."
        )
    for split, examples in splits.items():
        if not len(examples):
            raise ValueError(
                f"{path}: the {split} split holds no example, since {split}_fraction of {_rows(len(rows))} is "
                f"none. Raise it, set it to 0, or give path_{split}."
            )
    splits["train"] = rows[order]
    name = pathlib.Path(path).stem
    mean, std = _moments(name, splits["train"])
    return Dataset.from_arrays(name, splits, mean=mean, std=std)


def read_matrix(path, key=None):
    """Reads a .npy, .npz or .csv file as a finite float32 matrix.

    A .csv file is text in UTF-8 or, with a byte order mark, UTF-16. The lines above the first one that holds a
    number are its header. Cells are separated by commas; by semicolons, tabs, bars or spaces if there are such in
    the last line, which a warning then tells. Between semicolons or tabs commas are decimal ones, unless points
    are as many.

    Messages count rows and columns from 1; those of a .csv file are its lines.

    Args:
        path: the file.
        key: name of the array in an .npz file that holds more than one.

    Returns:
        A float32 array `[rows, columns]`.

    Raises:
        ValueError: if the file is missing, of another kind, not a numeric matrix, empty, or
            not finite.
    """
    path = pathlib.Path(path).expanduser()
    readers = {".npy": _read_numpy, ".npz": _read_numpy, ".csv": _read_csv}
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise ValueError(f"{path}: expected a file name that ends in {', '.join(readers)}.")
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file (looked for {path.absolute()}).")
    matrix, lines = readers[suffix](path, key)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(
            f"{path}: expected a matrix [rows, columns], but the shape is {list(matrix.shape)}."
        )
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


def _rows(number):
    return f"{number} row{'' if number == 1 else 's'}"


def _check_different(matrices):
    for (one, a), (other, b) in itertools.combinations(matrices.items(), 2):
        if np.array_equal(a, b):
            raise ValueError(
                f"{one} and {other} have the same rows, which would be counted twice: give other rows, or leave "
                f"{other} empty."
            )


def _moments(name, rows):
    mean = np.mean(rows, axis=0, dtype=np.float64)
    std = np.std(rows, axis=0, dtype=np.float64)
    constant = np.flatnonzero(np.ptp(rows, axis=0) == 0)
    if len(constant):
        raise ValueError(
            f"{name}: column {constant[0] + 1} has the same value {mean[constant[0]]} in all train rows, so it "
            "has no density. Remove the column."
        )
    return mean.astype(np.float32), std.astype(np.float32)


def _read_numpy(path, key):
    """The array of an .npy file, or one of an .npz file."""
    with _unreadable_told(path):
        arrays = np.load(path, allow_pickle=False)
    if isinstance(arrays, np.ndarray):
        return arrays, None
    with arrays:
        names = arrays.files
        if not key and len(names) == 1:
            key = names[0]
        if key not in names:
            asked = f"no array {key!r}" if key else f"{len(names)} arrays"
            raise ValueError(f"{path} has {asked}: set key to one of {names}.")
        with _unreadable_told(path):
            return arrays[key], None


@contextlib.contextmanager
def _unreadable_told(path):
    try:
        yield
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a table of numbers that can be read ({error}).") from None


def _read_csv(path, key):
    """The matrix, and the line of each row."""
    del key
    encoding, delimiter, number = _csv_format(path)
    rows, lines = [], []
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
    """How a file is written: its encoding, the delimiter, and the function of a cell to its number."""
    with _unreadable_told(path):
        data = path.read_bytes()
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    text = data.decode(encoding, errors="replace")  # a header may be in another encoding, numbers may not
    if "\0" in text:
        raise ValueError(f"{path} is not text in UTF-8 or UTF-16. Save the table as CSV, or give another file.")
    last = "".join(text.rstrip()[-4096:].splitlines()[-1:])  # no header, and the end of a long line is enough
    delimiter = next((delimiter for delimiter in _DELIMITERS if delimiter in last), ",")
    has_decimal_commas = delimiter in ";\t" and text.count(",") > text.count(".")
    return encoding, delimiter, _decimal_comma if has_decimal_commas else float


def _decimal_comma(cell):
    """The number of "1,5"; "1.5" is an error, since its point would be one of thousands."""
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
        raise ValueError(
            f"{path}, line {line}, column {column + 1}: {cells[column][:40]!r} is not a number (cells are "
            f"separated by {delimiter!r})."
        ) from None
