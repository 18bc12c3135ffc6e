"""Reads and writes table files with NumPy and pandas."""

import os
import pathlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from tf_resflow.data.files import check_table, read_array, readable
from tf_resflow.extras import LazyPackage
from tf_resflow.messages import shortened, suggest
from tf_resflow.tables.column import in_words
from tf_resflow.writing import whole_file

pandas: Any = LazyPackage("pandas", "data")

TABLE_OUTPUTS = (".csv", ".parquet")  # of `write_frames`


def read_table(
    path: str | os.PathLike[str],
    *,
    key: str | None = None,
    columns: Sequence[str] | None = None,
    exclude_columns: Collection[str] = (),
    texts: Collection[str] = (),
    typed: bool = True,
    read_options: Mapping[str, Any] | None = None,
) -> Any:
    """Reads a file as a `pandas.DataFrame` whose index has the line numbers of the file."""
    path = pathlib.Path(path)
    suffix = path.suffix.lower()
    check_table(path)
    options = {k: v for k, v in (read_options or {}).items() if v is not None}
    date_format = options.pop("date_format", None)
    first = 1
    if suffix in (".npy", ".npz"):
        frame = pandas.DataFrame(read_array(path, key)[0])
    else:
        read = {".csv": pandas.read_csv, ".parquet": pandas.read_parquet, ".xlsx": pandas.read_excel}[suffix]
        with readable(path, "a table"):
            if suffix != ".parquet" and "header" not in options:
                top = read(path, **options | {"header": None, "nrows": 1})
                if top.select_dtypes("number").notna().any(axis=None):
                    options = options | {"header": None}
            if suffix == ".csv" and texts:
                cells = read(path, **options | {"nrows": 1, "dtype": str})
                options["dtype"] = {name: str for name in cells if str(name).strip() in texts}
            frame = read(path, **options)
        first = 1 if suffix == ".parquet" or options.get("header", 0) is None else 2
    frame.index = pandas.RangeIndex(first, first + len(frame), name="row" if suffix == ".parquet" else "line")
    is_bare = pandas.api.types.is_integer_dtype(frame.columns) and len(frame.columns) > 0
    frame.columns = range(1, frame.shape[1] + 1) if is_bare else [str(name).strip() for name in frame.columns]
    if columns is not None:
        frame = frame.iloc[:, find_columns(path, frame, columns)]
    left_out = find_columns(path, frame, list(exclude_columns))
    frame = frame.iloc[:, [place for place in range(frame.shape[1]) if place not in left_out]].copy()
    for name in frame if typed else ():
        if frame[name].dtype.kind in "OTU" and name not in texts:
            own = pandas.to_datetime(frame[name], format=date_format or "ISO8601", errors="coerce")
            if own.notna().sum() == frame[name].notna().sum():
                frame[name] = own
    return frame


def identifiers(frame: Any) -> list[Any]:
    """Returns the columns of text in which each row has its own value."""
    return [
        name
        for name in frame
        if pandas.api.types.infer_dtype(frame[name]) == "string" and frame[name].nunique() > 0.95 * len(frame)
    ]


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
    return tuple(frame.columns) if frame.shape[1] and isinstance(frame.columns[0], str) else None
