"""Tabular data from .npy, .npz and .csv files."""

__all__ = ["load_tabular", "read_matrix"]

import csv
import pathlib

import numpy as np

from tf_resflow.data.dataset import Dataset


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
            the train split is constant, or a split is empty.
    """
    if not path:
        raise ValueError(
            "Tabular data need a file: set path (--config.data.path=FILE.csv) to a .npy, .npz "
            "or .csv file of a numeric matrix."
        )
    rows = read_matrix(path, key)
    order = np.random.RandomState(split_seed).permutation(len(rows))
    splits = {}
    for split, file, fraction in [
        ("test", path_test, test_fraction),
        ("validation", path_validation, validation_fraction),
    ]:
        if not 0 <= fraction < 1:
            raise ValueError(f"{split}_fraction must be in [0, 1), but is {fraction}.")
        if file:
            splits[split] = read_matrix(file, key)
        elif fraction:
            num = round(fraction * len(rows))
            splits[split], order = rows[order[:num]], order[num:]
    if not len(order):
        raise ValueError(
            f"{path}: test_fraction and validation_fraction leave none of {len(rows)} rows for "
            "training. Lower them."
        )
    splits["train"] = rows[order]
    name = pathlib.Path(path).stem
    mean, std = _moments(name, splits["train"])
    return Dataset.from_arrays(name, splits, mean=mean, std=std)


def read_matrix(path, key=None):
    """Reads a .npy, .npz or .csv file as a finite float32 matrix.

    The first line of a .csv file is its header if none of its cells is a number.

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
    readers = {".npy": _read_npy, ".npz": _read_npz, ".csv": _read_csv}
    if path.suffix not in readers:
        raise ValueError(f"{path}: expected a file name that ends in {', '.join(readers)}.")
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file (looked for {path.absolute()}).")
    matrix = readers[path.suffix](path, key)
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
        raise ValueError(
            f"{path}: the value at row {row}, column {column} (counted from 0) is NaN or too "
            f"large for float32; {bad.sum()} of {bad.size} values are. Remove or replace them."
        )
    return matrix


def _moments(name, rows):
    mean = np.mean(rows, axis=0, dtype=np.float64)
    std = np.std(rows, axis=0, dtype=np.float64)
    constant = np.flatnonzero(np.ptp(rows, axis=0) == 0)
    if len(constant):
        raise ValueError(
            f"{name}: column {constant[0]} (counted from 0) has the same value {mean[constant[0]]} "
            "in all train rows, so it has no density. Remove the column."
        )
    return mean.astype(np.float32), std.astype(np.float32)


def _read_npy(path, key):
    del key
    return _load_arrays(path)


def _read_npz(path, key):
    with _load_arrays(path) as arrays:
        names = arrays.files
        if not key and len(names) == 1:
            key = names[0]
        if key not in names:
            asked = f"no array {key!r}" if key else f"{len(names)} arrays"
            raise ValueError(f"{path} has {asked}: set key to one of {names}.")
        return arrays[key]


def _load_arrays(path):
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: not a numeric numpy file ({error}).") from None


def _read_csv(path, key):
    del key
    rows = []
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file)
        for cells in lines:
            if cells and not (not rows and _is_header(cells)):
                rows.append(_csv_row(path, lines.line_num, cells, rows))
    return np.array(rows)


def _is_header(cells):
    return not any(_is_number(cell) for cell in cells)


def _is_number(cell):
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _csv_row(path, line, cells, rows):
    if rows and len(cells) != len(rows[0]):
        raise ValueError(
            f"{path}, line {line}: {len(cells)} cells, but the lines above have {len(rows[0])}."
        )
    try:
        return [float(cell) for cell in cells]
    except ValueError:
        column = next(i for i, cell in enumerate(cells) if not _is_number(cell))
        raise ValueError(
            f"{path}, line {line}, column {column + 1}: {cells[column]!r} is not a number."
        ) from None
