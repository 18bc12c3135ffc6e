"""Reads and writes table files with NumPy and pandas, and finds the types of their columns."""

import os
import pathlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from tf_resflow.data.column_kinds import in_words
from tf_resflow.data.files import check_table, read_array, readable
from tf_resflow.extras import LazyPackage
from tf_resflow.messages import shortened, suggest
from tf_resflow.writing import whole_file

pandas: Any = LazyPackage("pandas", "data")

TABLE_OUTPUTS = (".csv", ".parquet")  # of `write_frames`

_MOSTLY = 0.5  # if at least this share of a text column looks like numbers or dates, the rest are mistakes
_NUMBER, _DATE, _ISO_DATE = r"-?\d+(,\d+)+(\.\d+)?", r"\d{1,4}[./-]\d{1,2}[./-]\d{1,4}\b", r"\d{4}-\d\d-\d\d"
FORMAT_ADVICE = (
    "If the format of the file is misread, set arguments of pandas.read_csv, such as "
    "--config.data.read_options.sep=';' for the character between cells, decimal=',', thousands=',' for cells such "
    "as 32,168.24, date_format='%d.%m.%Y', na_values='?', encoding=utf-16, or header=0 if the first row has the "
    "names."
)


def read_table(
    path: pathlib.Path,
    key: str | None = None,
    *,
    columns: Sequence[str] | None = None,
    read_options: Mapping[str, Any] | None = None,
    texts: Collection[Any] = (),
) -> Any:
    """Reads a file as a `pandas.DataFrame`. Columns without names are numbered from 1.

    In a .csv file, the columns `texts` are read as text even if they look like numbers. The other arguments are
    those of `load_tabular`. A file without names must have as many columns as `columns` has names.
    """
    suffix = path.suffix.lower()
    check_table(path)
    options = {k: v for k, v in (read_options or {}).items() if v is not None}
    is_array = suffix in (".npy", ".npz")
    table: Any = read_array(path, key)[0] if is_array else _read_frame(path, suffix, options, texts)
    if len(table.shape) != 2 or 0 in table.shape:
        raise ValueError(f"{path}: the shape is {list(table.shape)}; expected a non-empty matrix [rows, columns].")
    frame = pandas.DataFrame(table).reset_index(drop=True)
    is_bare = pandas.api.types.is_integer_dtype(frame.columns)
    frame.columns = range(1, frame.shape[1] + 1) if is_bare else [str(name).strip() for name in frame.columns]
    return frame if columns is None else frame.iloc[:, find_columns(path, frame, columns)]


def _read_frame(path, suffix, options, texts):
    """Reads a file with pandas, without a header if its first row contains a number."""
    read = {".csv": pandas.read_csv, ".parquet": pandas.read_parquet, ".xlsx": pandas.read_excel}[suffix]
    with readable(path, "a table", *([FORMAT_ADVICE] if suffix == ".csv" else [])):
        if suffix != ".parquet" and "header" not in options:
            first = read(path, **options | {"header": None, "nrows": 1})
            if first.select_dtypes("number").notna().any(axis=None):
                options = options | {"header": None}
        if suffix == ".csv" and (texts or "thousands" in options):
            cells = read(path, **options | {"nrows": 100, "dtype": str})
            # With thousands=".", 31.12.2025 would be a number.
            dates = [name for name in cells if cells[name].dropna().str.match(_DATE).mean() >= _MOSTLY]
            named = [name for name in cells if str(name).strip() in texts]
            options = options | {"dtype": dict.fromkeys([*named, *dates], str)}
        frame = read(path, **options)
    is_shifted = not isinstance(frame.index, pandas.RangeIndex) and "index_col" not in options
    is_undivided = frame.shape[1] == 1 and any(mark in str(frame.columns[0]) for mark in ";\t|")
    if suffix == ".csv" and (is_shifted or is_undivided):
        header = shortened(frame.columns)
        raise ValueError(f"{path}: the cells do not match the first line, {header}. {FORMAT_ADVICE}")
    return frame


def write_frames(path: str | os.PathLike, frames: Iterable[Any]) -> None:
    """Writes data frames with the same columns, one below the other, as .csv or .parquet, or as .csv for "-"."""
    with whole_file(path) as temporary:
        if pathlib.Path(path).suffix.lower() == ".parquet":
            table = pandas.concat(frames, ignore_index=True).infer_objects()
            for name, column in table.items():
                if getattr(column.dtype, "categories", column).dtype == object:  # text, or values of several types
                    table[name] = column.astype(object).map(in_words, na_action="ignore")
            table.to_parquet(temporary, index=False)
            return
        with temporary.open("w", encoding="utf-8", newline="") as file:
            for number, frame in enumerate(frames):
                frame.to_csv(file, index=False, header=not number, float_format=in_words, lineterminator="\r\n")


def find_columns(path: Any, frame: Any, columns: Sequence[str]) -> list[int]:
    """Returns the positions of columns, given their names or their numbers from 1."""
    names, num = column_names(frame), frame.shape[1]
    if names is None and not all(map(str.isdecimal, columns)):
        if num != len(columns):
            raise ValueError(f"{path} has {num} columns without names. Expected the columns {', '.join(columns)}.")
        return [*range(num)]
    found: list[int] = []
    for column in columns:
        if names is not None and column in names:
            found.append(names.index(column))
        elif column.isdecimal() and 1 <= int(column) <= num:
            found.append(int(column) - 1)
        else:
            known = f"{suggest(column, names)} Its columns are {shortened(map(repr, names))}." if names else ""
            raise ValueError(f"{path} has no column {column!r}; {known or f'it has {num} columns, without names.'}")
    if twice := [column for column, place in zip(columns, found, strict=True) if found.count(place) > 1]:
        raise ValueError(f"{path}: the column {twice[0]!r} is chosen twice. Name each column once.")
    return found


def column_names(frame: Any) -> tuple[str, ...] | None:
    """Returns the names of the columns, or None if they have none."""
    return tuple(frame.columns) if isinstance(frame.columns[0], str) else None


def typed(path: pathlib.Path, frame: Any, as_text: Collection[Any], date_format: str | None = None) -> Any:
    """Returns a copy with text parsed as numbers and dates, except in the columns `as_text`."""
    frame = frame.copy()
    for name, column in frame.loc[:, [dtype.kind in "OTU" for dtype in frame.dtypes]].items():
        kind = pandas.api.types.infer_dtype(column, skipna=True)
        if kind == "boolean":
            frame[name] = column.astype("boolean")
        elif name in as_text:
            frame[name] = column.str.strip() if kind == "string" else column
        elif kind == "string" or (kind.startswith("mixed") and not column.map(pandas.api.types.is_list_like).any()):
            text = column.map(in_words, na_action="ignore")  # numbers and text, as in a spreadsheet
            frame[name] = _typed_text(path, name, text, date_format)
    return frame


def _typed_text(path, name, column, date_format):
    """Parses text that is all dates or all numbers. Raises ValueError if only most of it looks like them."""
    present = column.dropna()
    readings = [pandas.to_numeric(column, errors="coerce")]
    if date_format is not None or present.str.match(_ISO_DATE).mean() >= _MOSTLY:
        with readable(path, f"a table with dates in the column {name!r}", "Write all dates in one time zone."):
            times = pandas.to_datetime(column, format=date_format or "ISO8601", errors="coerce")
        readings.insert(0, times)
    is_typed = present.str.fullmatch(_NUMBER) | present.str.match(_DATE)
    for values in readings:
        is_read = values[present.index].notna()
        if is_read.all():
            return values
        is_typed |= is_read
    if is_typed.mean() >= _MOSTLY:
        bad = present[readings[0][present.index].isna()]
        raise ValueError(
            f"{path}, row {bad.index[0] + 1}, column {name!r}: {bad.iloc[0][:40]!r} is not a number or a date. "
            f"This affects {len(bad):,} of the {len(present):,} values. Correct them, leave out the column by "
            f"--config.data.columns, or keep it as text by --config.data.kinds='{name}: category'. {FORMAT_ADVICE}"
        )
    return column
