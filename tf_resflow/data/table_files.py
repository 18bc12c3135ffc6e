"""Files of tables, read by NumPy and pandas, and the types of their columns."""

__all__ = ["WRITTEN", "check_finite", "find_columns", "read_table", "suggest_columns", "typed"]

import csv
import io
import os
import pathlib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from tf_resflow.config_fields import suggest
from tf_resflow.data.column_kinds import MOST_LEVELS, TEXT_KIND, in_words
from tf_resflow.data.files import check_table, read_array, readable
from tf_resflow.extras import LazyPackage
from tf_resflow.plurals import shortened

pandas: Any = LazyPackage("pandas", "data")

_MOSTLY = 0.5  # the share of numbers, or of dates, in a column of text from which on other values are mistakes
_GROUPED, _DECIMAL = r"-?\d{1,3}(,\d{3})+(\.\d+)?", r"-?\d+,\d+"
_DATE, _OTHER_DATE = r"\d{4}-\d\d-\d\d", r"\d{1,4}[./-]\d{1,2}[./-]\d{1,4}\b"
WRITTEN = (
    "If the file is another kind of CSV, say so by the arguments of pandas.read_csv, such as "
    "--config.data.read_options.sep=';' for the character between cells, decimal=',', thousands=',' for cells such "
    "as 32,168.24, date_format='%d.%m.%Y', na_values='?', encoding=utf-16, or header=0 if its first row has the "
    "names."
)


def read_table(
    path: str | os.PathLike,
    key: str | None = None,
    *,
    columns: Sequence[str] | None = None,
    read_options: Mapping[str, Any] | None = None,
    texts: Collection[Any] = (),
) -> Any:
    """Reads a `pandas.DataFrame` as it is in a file; columns without names are numbered from 1.

    The cells of the columns `texts` of a .csv file are text, even if they look like numbers. The other arguments
    are those of `load_tabular`. A file without names must have as many columns as are named.
    """
    path = pathlib.Path(path).expanduser().absolute()
    suffix = path.suffix.lower()
    check_table(path)
    table: Any
    if suffix in (".npy", ".npz"):
        table = read_array(path, key)[0]
    else:
        options = {k: v for k, v in (read_options or {}).items() if v is not None}
        table = _read_frame(path, suffix, options, texts)
    if len(table.shape) != 2 or 0 in table.shape:
        raise ValueError(f"{path}: expected a matrix [rows, columns], but the shape is {list(table.shape)}.")
    frame = pandas.DataFrame(table).reset_index(drop=True)
    if pandas.api.types.is_integer_dtype(frame.columns):
        frame.columns = pandas.RangeIndex(1, frame.shape[1] + 1)
    else:
        frame.columns = [str(name).strip() for name in frame.columns]
    return frame if columns is None else frame.iloc[:, find_columns(path, frame, columns)]


def _read_frame(path, suffix, options, texts):
    """The table of a file, as pandas reads it; without a header if its first row holds a number."""
    read = {".csv": pandas.read_csv, ".parquet": pandas.read_parquet, ".xlsx": pandas.read_excel}[suffix]
    with readable(path, "a table", *([WRITTEN] if suffix == ".csv" else [])):
        if suffix != ".parquet" and "header" not in options:
            first = read(path, **options | {"header": None, "nrows": 1})
            if first.select_dtypes("number").notna().any(axis=None):
                options = options | {"header": None}
        if texts and suffix == ".csv":
            names = read(path, **options | {"nrows": 0}).columns
            options = options | {"dtype": {name: str for name in names if str(name).strip() in texts}}
        frame = read(path, **options)
    if suffix == ".csv" and not isinstance(frame.index, pandas.RangeIndex) and "index_col" not in options:
        raise ValueError(f"{path}: the first line has fewer cells than the lines below. {WRITTEN}")
    if suffix == ".csv" and frame.shape[1] == 1 and any(mark in str(frame.columns[0]) for mark in ";\t|"):
        raise ValueError(f"{path} seems to have one column, {frame.columns[0]!r}. {WRITTEN}")
    return frame


def find_columns(path: Any, frame: Any, columns: Sequence[str]) -> list[int]:
    """The positions of columns by their names, or by their numbers from 1."""
    names, num = column_names(frame), frame.shape[1]
    if names is None and not all(map(str.isdecimal, columns)):
        if num != len(columns):
            raise ValueError(
                f"{path} has {num} columns without names, and those wanted are {len(columns)}: "
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
            known = f"{suggest(column, names)} Its columns are {shortened(map(repr, names))}." if names else ""
            raise ValueError(f"{path} has no column {column!r}; {known or f'it has {num}, without names.'}")
    if twice := [column for column, place in zip(columns, found, strict=True) if found.count(place) > 1]:
        raise ValueError(f"{path}: the column {twice[0]!r} is chosen twice. Name each column once.")
    return found


def column_names(frame: Any) -> tuple[str, ...] | None:
    """The names of the columns, or None."""
    return tuple(frame.columns) if isinstance(frame.columns[0], str) else None


def typed(path: pathlib.Path, frame: Any, as_text: Collection[Any], date_format: str | None = None) -> Any:
    """The table with numbers and dates in place of their text, except in the columns `as_text`.

    If most of the text in a column is numbers, or dates, the rest is a mistake: a ValueError.
    """
    frame = frame.copy()
    for name in [name for name in frame.columns if frame[name].dtype.kind in "OTU"]:
        column = frame[name]
        kind = pandas.api.types.infer_dtype(column, skipna=True)
        if kind == "boolean":
            frame[name] = column.astype("boolean")
        elif name in as_text:
            frame[name] = column.str.strip() if kind == "string" else column
        elif kind in ("date", "datetime", "datetime64"):
            frame[name] = pandas.to_datetime(column)
        elif kind == "decimal":
            frame[name] = pandas.to_numeric(column)
        elif kind == "string" or kind.startswith("mixed"):  # numbers and text, such as of a spreadsheet
            frame[name] = _typed_text(path, name, column.map(in_words, na_action="ignore"), date_format)
    return frame


def _typed_text(path, name, column, date_format):
    """Text as dates or numbers, if all of it can be read as such; raises ValueError if most of it can."""
    present = column.dropna()
    found = []
    if date_format is not None or present.str.match(_DATE).mean() >= _MOSTLY:
        with readable(path, f"a table with dates in the column {name!r}", "Write all of them in one time zone."):
            times = pandas.to_datetime(column, format=date_format or "ISO8601", errors="coerce")
        found.append(("date", times, 0.0, 0.0))
    grouped, decimal = (present.str.fullmatch(pattern).mean() for pattern in (_GROUPED, _DECIMAL))
    found.append(("real number", pandas.to_numeric(column, errors="coerce"), grouped, decimal))
    for kind, values, grouped, decimal in found:
        is_bad = values[present.index].isna()
        if not is_bad.any():
            return values
        if max(1 - is_bad.mean() + grouped, decimal) >= _MOSTLY:
            text = present[is_bad].iloc[0]
            raise ValueError(
                f"{path}, row {is_bad.idxmax() + 1}, column {name!r}: {text[:40]!r} is not a {kind}, and neither "
                f"are {is_bad.sum():,} of the {len(present):,} values. Correct them; leave the column out by "
                "--config.data.columns; or say that it is text by "
                f"--config.data.kinds='{name}: {TEXT_KIND}'. {_advice(path, text)}"
            )
    if present.str.match(_OTHER_DATE).mean() >= _MOSTLY:
        raise ValueError(
            f"{path}, row {present.index[0] + 1}, column {name!r}: {present.iloc[0]!r} looks like a date. Say how "
            "it is written, such as by --config.data.read_options.date_format='%d.%m.%Y'; leave the column out by "
            f"--config.data.columns; or say that it is text by --config.data.kinds='{name}: {TEXT_KIND}'."
        )
    return column


def _advice(path, text):
    """How to read a cell such as `text` of a .csv file as a number."""
    if path.suffix.lower() != ".csv":
        return ""
    for pattern, option in ((_GROUPED, "thousands"), (_DECIMAL, "decimal")):
        if re.fullmatch(pattern, text):
            return f"Cells such as this one are numbers by --config.data.read_options.{option}=','."
    return WRITTEN


def check_finite(path: pathlib.Path, frame: Any) -> None:
    """Raises ValueError for numbers that are infinite in float32."""
    for name, column in frame.select_dtypes("floating").items():
        is_bad = np.abs(column.to_numpy(np.float64, na_value=np.nan)) > np.finfo(np.float32).max
        if is_bad.any():
            raise ValueError(
                f"{path}, row {np.argmax(is_bad) + 1}, column {name!r}: the value is infinite or too large for "
                f"float32. So are {is_bad.sum()} of {len(is_bad)} values of the column. Remove these rows, or "
                "leave the column out by --config.data.columns."
            )


def suggest_columns(frame: Any) -> str:
    """Advice which columns to choose: those that can have a density. It says why the others cannot."""
    left_out = {name: why for name in frame.columns if (why := _unsuited(frame[name]))}
    chosen = [name for name in frame.columns if name not in left_out]
    if not left_out or not chosen:
        return ""
    reasons = shortened([f"{name!r}, {why}" for name, why in left_out.items()], "; ")
    file = io.StringIO()
    csv.writer(file, lineterminator="").writerow(chosen)
    text = file.getvalue()
    text = repr(text) if '"' in text or " " in text else text
    return f"Choose the other columns by --config.data.columns={text} (without {reasons})."


def _unsuited(column):
    """Why a column can have no density, or ""."""
    num, types = column.nunique(), pandas.api.types
    if num < 2:
        return "one value"
    if types.is_integer_dtype(column) and num == len(column) == column.max() - column.min() + 1:
        return "a number of each row"
    is_text = not (types.is_numeric_dtype(column) or types.is_datetime64_any_dtype(column))
    return f"text of {num:,} values" if is_text and num > MOST_LEVELS else ""
