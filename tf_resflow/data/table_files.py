"""Tables of numbers from .npy, .npz, .csv and .parquet files."""

__all__ = ["Table", "column_indices", "column_name", "read_table"]

import codecs
import csv
import math
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from absl import logging

from tf_resflow.config_fields import suggest
from tf_resflow.data.numpy_files import read_array
from tf_resflow.extras import extra

_DELIMITERS = ";\t|, "  # of .csv files: the first of them in a line of numbers
_MISSING = ("", "na", "n/a", "none", "null", "?")  # besides "nan", which is a number
_SHOWN = 20  # columns in a message


class Table(NamedTuple):
    """The rows of a table.

    Attributes:
      values: float32 `[rows, columns]`, finite.
      columns: names of the columns; None for a file without them.
    """

    values: np.ndarray
    columns: tuple[str, ...] | None


def read_table(path: str | os.PathLike, key: str | None = None, *, columns: Sequence[str] | None = None) -> Table:
    r"""Reads a .npy, .npz, .csv or .parquet file of numbers. Parquet requires the package pyarrow.

    A .csv file is text in UTF-8 or, with a byte order mark, UTF-16. The lines above the first one that holds a
    number are its header; the last of them names the columns if it has a different cell for each. Cells are
    separated by commas, or by semicolons, tabs, bars or spaces if the last line has them; a warning then names the
    separator. Between semicolons or tabs, commas are decimal commas unless there are at least as many points.

    Messages count rows and columns from 1, or the lines of a .csv file.

    ```python
    import pathlib, tempfile
    import tf_resflow as resflow
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "people.csv")
        path.write_text("name,height,age\nAda,1.6,36\nAlan,1.8,41\n")
        table = resflow.data.read_table(path, columns=["age", "height"])
    print(table.columns, table.values.tolist()[0][0])
    # ('age', 'height') 36.0
    ```

    Args:
      path: the file.
      key: name of the array in an .npz file that holds more than one.
      columns: names of the columns to read, or their numbers from 1, in the order that is wanted; the others may
        hold anything. A file without names must have as many columns as are named. By default all columns.

    Returns:
      A `Table`.

    Raises:
      ValueError: if the file is missing, of another kind, not a numeric matrix, empty, has missing values or such
        as are not finite, or lacks a column.
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
    matrix, names, lines = readers[suffix](path, key, columns)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"{path}: expected a matrix [rows, columns], but the shape is {list(matrix.shape)}.")
    if matrix.dtype.kind not in "buif":
        raise ValueError(f"{path}: expected real numbers, but the type is {matrix.dtype}.")
    if columns is not None and matrix.shape[1] != len(columns):
        raise ValueError(
            f"{path} has {matrix.shape[1]} columns without names, and those wanted are {len(columns)}: "
            f"{', '.join(columns)}. Give a file that names its columns, or one of just these."
        )
    with np.errstate(over="ignore"):
        matrix = matrix.astype(np.float32)
    _check_finite(path, matrix, names, lines)
    return Table(matrix, names)


def _check_finite(path, matrix, names, lines):
    bad = ~np.isfinite(matrix)
    if not bad.any():
        return
    row, column = (int(i) for i in np.argwhere(bad)[0])
    where = f"row {row + 1}" if lines is None else f"line {lines[row]}"
    counts = [f"{column_name(i, names)} ({num})" for i, num in enumerate(bad.sum(0)) if num]
    more = f" and {len(counts) - _SHOWN} more" if len(counts) > _SHOWN else ""
    raise ValueError(
        f"{path}, {where}, {column_name(column, names)}: the value is missing, NaN or too large for float32. So "
        f"are {bad.sum()} of {bad.size} values, in {bad.any(1).sum()} of {len(bad)} rows, by columns: "
        f"{', '.join(counts[:_SHOWN])}{more}. Remove these rows, fill in the values, or leave out the columns "
        "(--config.data.columns)."
    )


def column_name(index: int, names: Sequence[str] | None) -> str:
    """A column in messages, by its number from 1 and its name."""
    return f"column {index + 1}" + (f" {names[index]!r}" if names else "")


def column_indices(
    source: str | os.PathLike, wanted: Sequence[str], names: Sequence[str] | None, num: int
) -> list[int]:
    """The indices of columns of a table by their names, or by their numbers from 1.

    Raises a ValueError that begins with the source for one of the `num` columns that is not there, or is named
    twice.
    """
    found: list[int] = []
    for column in wanted:
        if names is not None and column in names:
            found.append(names.index(column))
        elif column.isdecimal() and 1 <= int(column) <= num:
            found.append(int(column) - 1)
        else:
            known = ", ".join(map(repr, (names or ())[:_SHOWN])) + (", ..." if len(names or ()) > _SHOWN else "")
            columns = f"{suggest(column, names)} Its columns are {known}." if names else f"It has {num}, unnamed."
            raise ValueError(f"{source} has no column {column!r}; {columns}")
    if twice := [column for column, index in zip(wanted, found, strict=True) if found.count(index) > 1]:
        raise ValueError(f"{source}: the column {twice[0]!r} is chosen twice. Name each column once.")
    return found


def _positions(path, names, num, wanted):
    """The positions of the wanted columns; all if they have names, and the table has none."""
    if wanted is None or (names is None and not all(map(str.isdecimal, wanted))):
        return slice(None)
    return column_indices(path, wanted, names, num)


# Each reader returns a matrix, the names of its columns or None, and for .csv files the line number of each row.


def _read_numpy(path, key, wanted):
    array = read_array(path, key)[0]
    if array.ndim == 2:
        array = array[:, _positions(path, None, array.shape[1], wanted)]
    return array, None, None


def _read_parquet(path, key, wanted):
    del key
    with extra("data"):
        import pyarrow
        from pyarrow import parquet
    try:
        schema = parquet.read_schema(path)
        positions = _positions(path, schema.names, len(schema.names), wanted)
        frame = parquet.read_table(path, columns=list(np.array(schema.names, object)[positions]))
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a Parquet file that can be read ({error}).") from None
    kinds = (pyarrow.types.is_integer, pyarrow.types.is_floating, pyarrow.types.is_boolean)
    numeric = [column.name for column in frame.schema if any(is_kind(column.type) for is_kind in kinds)]
    for column in frame.schema:
        if column.name not in numeric:
            raise ValueError(
                f"{path}: the column {column.name!r} holds {column.type}, not numbers. {_choose(numeric)}"
            )
    columns = [column.to_numpy().astype(np.float64) for column in frame.columns]
    matrix = np.stack(columns, axis=1) if columns else np.zeros([0, 0])
    return matrix, tuple(frame.schema.names), None


def _choose(columns):
    """Advice to read some columns only."""
    if not columns:
        return "Leave it out of the file."
    chosen = ",".join(columns[:_SHOWN]) + (",..." if len(columns) > _SHOWN else "")
    return f"Choose the columns of numbers: --config.data.columns={chosen}"


def _read_csv(path, key, wanted):
    del key
    encoding, delimiter, number = _csv_format(path)
    rows: list[list[float]] = []
    lines = []
    header, names, positions = [], None, slice(None)
    with path.open(newline="", encoding=encoding, errors="replace") as file:
        reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
        try:
            for cells in reader:
                if not cells:
                    continue
                if not rows:
                    if not any(_is_number(cell, number) for cell in cells):
                        header = cells
                        continue
                    names, width = _names(header, len(cells)), len(cells)
                    positions = _positions(path, names, width, wanted)
                if len(cells) != width:
                    raise ValueError(
                        f"{path}, line {reader.line_num}: {len(cells)} cells separated by {delimiter!r}, but the "
                        f"lines above have {width}."
                    )
                try:
                    rows.append([number(cell) for cell in _at(cells, positions)])
                except ValueError:
                    rows.append(_with_missing(path, reader.line_num, cells, positions, number, names, delimiter))
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
        logging.warning("%s was read as %d columns separated by %r%s.", path, width, delimiter, decimals)
    return np.array(rows), names and tuple(_at(names, positions)), lines


def _at(cells, positions):
    return cells[positions] if isinstance(positions, slice) else [cells[i] for i in positions]


def _names(header, width):
    """The names of the columns in the last line above the numbers, or None."""
    names = tuple(cell.strip() for cell in header)
    return names if len(names) == len(set(names)) == width else None


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


def _with_missing(path, line, cells, positions, number, names, delimiter):
    """The numbers of a line, NaN for what is missing; raises for text."""
    indices = range(len(cells))[positions] if isinstance(positions, slice) else positions
    values = []
    for i in indices:
        if cells[i].strip().lower() in _MISSING:
            values.append(math.nan)
        elif _is_number(cells[i], number):
            values.append(number(cells[i]))
        else:
            numeric = [names[j] for j in range(len(cells)) if names and _is_number(cells[j], number)]
            raise ValueError(
                f"{path}, line {line}, {column_name(i, names)}: {cells[i][:40]!r} is not a number (cells are "
                f"separated by {delimiter!r}). {_choose(numeric) if names else 'Mend it, or leave out the column.'}"
            )
    return values
