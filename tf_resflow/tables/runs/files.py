"""Reads and writes table files with NumPy and pandas."""

import inspect
import io
import itertools
import os
import pathlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from absl import logging

from tf_resflow._internal.extras import LazyPackage
from tf_resflow._internal.messages import shortened, suggest
from tf_resflow._internal.writing import STANDARD_STREAM, atomic_write, standard_output
from tf_resflow.data.files import check_table, explain_read_errors, read_array, table_suffix
from tf_resflow.tables.columns.values import to_text
from tf_resflow.tables.runs.csv_format import FORMAT_ADVICE, detected_format

pandas: Any = LazyPackage("pandas", "data")
pandas_io: Any = LazyPackage("pandas.io.common", "data")
pyarrow: Any = LazyPackage("pyarrow", "data")
parquet: Any = LazyPackage("pyarrow.parquet", "data")

TABLE_OUTPUTS = (".csv", ".parquet")  # of `write_frames`
_MOSTLY = 0.5  # if at least this share of a text column looks like numbers or dates, the rest are mistakes
_YEARS = (1500, 2200)  # consecutive integers in this range are not identifiers
_LEAST_ROWS = 20  # of an identifier
_NUMBER_WITH_COMMAS = r"-?\d+(,\d+)+(\.\d+)?"
_DATE = r"\d{1,4}[./-]\d{1,2}[./-]\d{1,4}\b"
_ISO_DATE = r"\d{4}-\d\d-\d\d"
_PARQUET_TYPES = ("boolean", "date", "decimal", "string")  # of objects
_MOST_DIGITS = 38  # of decimals in Arrow
_BOOLEANS = {"True": True, "true": True, "TRUE": True, "False": False, "false": False, "FALSE": False}


def read_table(
    path: str | os.PathLike,
    *,
    key: str | None = None,
    columns: Sequence[Any] | None = None,
    exclude_columns: Sequence[Any] = (),
    texts: Collection[Any] = (),
    typed: bool = True,
    read_options: Mapping[str, Any] | None = None,
) -> Any:
    """Reads a .csv, .parquet, .xlsx, .npy or .npz file, a compressed .csv file, or a folder of Parquet files.

    The encoding, the separator and the decimal comma of a .csv file are detected unless `read_options` sets them.
    The suffix of a name such as homes.csv.gz determines the compression (.gz, .bz2, .zip, .xz or .zst). The first
    row of a .csv or .xlsx file is the header unless it contains a number.

    Args:
      path: The file.
      key: Name of the array, if an .npz file contains more than one.
      columns: Names of the columns to read, or their numbers from 1, in this order. By default, all. A file without
        names must have as many columns as there are names.
      exclude_columns: Names or numbers of columns to leave out.
      texts: Names or numbers of columns of a .csv file that are text even if they look like numbers, such as 007.
      typed: Whether a column that cannot be read is an error, for a fit. Otherwise, it stays text, in which numbers
        have a decimal point and no thousands separators, and Booleans are "True" and "False".
      read_options: Arguments of `pandas.read_csv`, `read_excel` or `read_parquet`. Arguments that are None are
        ignored. For other files than .csv, so are arguments that only `read_csv` has.

    Returns:
      A `pandas.DataFrame`. Columns without names are numbered from 1. The index is named "line" if each line of a
      .csv file is a row, apart from its header. Otherwise it is named "row" and has the numbers from 1.

    Raises:
      ValueError: If the file cannot be read or has no columns, or a column is not in the file. If `typed`, also if
        there are no rows, or if most but not all values of a text column are numbers or dates.
    """
    path = pathlib.Path(path).expanduser().absolute()
    check_table(path)
    options = {name: value for name, value in (read_options or {}).items() if value is not None}
    if table_suffix(path) == ".csv":
        frame, options = _read_csv(path, options)
    else:
        frame = _read_other(path, key, options)
    frame = _named(path, frame)
    if frame.index.name != "line":
        frame.index = pandas.RangeIndex(1, len(frame) + 1, name="row")
    if typed and frame.empty:
        raise ValueError(f"{path}: there are no rows; expected at least one. Add rows, or use another file.")
    as_text = frame.columns[_column_indices(path, frame, columns, texts)]
    excluded = _column_indices(path, frame, columns, exclude_columns)
    chosen = range(frame.shape[1]) if columns is None else find_columns(path, frame, columns)
    kept = [index for index in chosen if index not in excluded]
    if not kept:
        raise ValueError(
            f"{path}: no columns are left; expected at least one. Shorten --config.data.exclude_columns."
        )
    return _interpreted(path, frame.iloc[:, kept].copy(), as_text, options, typed)


def _read_other(path, key, options):
    """Returns the frame in a file that is not .csv."""
    suffix = table_suffix(path)
    if suffix in (".npy", ".npz"):
        array, _ = read_array(path, key)
        if array.ndim != 2:
            shape = list(array.shape)
            raise ValueError(f"{path}: the shape is {shape}; expected [rows, columns]. Reshape the array.")
        return pandas.DataFrame(array)
    read = pandas.read_parquet if suffix == ".parquet" else pandas.read_excel
    only_of_csv = inspect.signature(pandas.read_csv).parameters.keys() - inspect.signature(read).parameters.keys()
    options = {name: value for name, value in options.items() if name not in only_of_csv}
    with explain_read_errors(path, "a table"):
        if suffix != ".parquet":
            options = _with_header(read, path, options)
        return read(path, **options)


def _read_csv(path, options):
    """Returns a frame of text, with the index "line" if possible, and the options with those that are detected."""
    if "delimiter" in options:
        options["sep"] = options.pop("delimiter")
    with explain_read_errors(path, "a table"):
        content = _content(path, options.pop("compression", "infer"))
    with explain_read_errors(path, "a table", FORMAT_ADVICE):
        detected = detected_format(content, options)
    options = detected | options
    advice = FORMAT_ADVICE
    usual = {"encoding": "utf-8-sig", "sep": ","}
    unusual = ", ".join(f"{name}={value!r}" for name, value in detected.items() if value != usual.get(name))
    if unusual:
        advice = f"The detected format is {unusual}. {FORMAT_ADVICE}"
        logging.info("%s: the detected format is %s.", path, unusual)
    is_simple = "skipfooter" not in options and (len(options["sep"]) == 1 or options["sep"] == r"\s+")
    options.setdefault("engine", "c" if is_simple else "python")
    with explain_read_errors(path, "a table", advice):
        options = _with_header(_read_csv_content, content, options)
        frame = _read_csv_content(content, **options | {"dtype": str})
        file = io.TextIOWrapper(io.BytesIO(content), options["encoding"], options.get("encoding_errors"))
        num_lines = sum(1 for _ in file)
    if not isinstance(frame.index, pandas.RangeIndex) and "index_col" not in options:
        raise ValueError(f"{path}: the cells do not match the first line, {shortened(frame.columns)}. {advice}")
    above = 0 if options.get("header", 0) is None else 1
    if num_lines == above + len(frame):
        frame.index = pandas.RangeIndex(above + 1, num_lines + 1, name="line")
    return frame, options


def _content(path, compression):
    """Returns the uncompressed content of a file, as `pandas.read_csv` reads it."""
    try:
        with pandas_io.get_handle(path, "rb", compression=compression, is_text=False) as handles:
            return handles.handle.read()
    except ImportError as error:  # pandas decompresses .zst with zstandard, which is in no extra
        raise ImportError(f"{path} cannot be decompressed: {error}") from error


def _read_csv_content(content, **options):
    return pandas.read_csv(io.BytesIO(content), **options)


def _with_header(read, source, options):
    """Returns the options for a file without a header if its first row contains a number."""
    if "header" not in options:
        first = read(source, **options | {"header": None, "nrows": 1, "skipfooter": 0})
        if first.select_dtypes("number").notna().any(axis=None):
            return options | {"header": None}
    return options


def _named(path, table):
    """Returns a frame with the names of its columns, or the numbers from 1 if they have none."""
    if not table.shape[1]:
        raise ValueError(f"{path}: there are no columns; expected at least one. Use another file.")
    is_bare = pandas.api.types.is_integer_dtype(table.columns)
    names = range(1, table.shape[1] + 1) if is_bare else [str(name).strip() for name in table.columns]
    frame = table.set_axis(pandas.Index(names), axis=1)
    repeated = frame.columns[frame.columns.duplicated()]
    if len(repeated):
        raise ValueError(
            f"{path}: two columns have the name {repeated[0]!r}; expected different names. Rename one."
        )
    return frame


def _interpreted(path, frame, as_text, options, typed):
    """Parses text as Booleans, numbers and dates. Only some unreadable cells are an error."""
    usual = {"decimal": ".", "thousands": None}
    marks = {ord(options[option]): mark for option, mark in usual.items() if option in options}
    wrong = {}
    for name, column in frame.loc[:, [dtype.kind in "OTU" for dtype in frame.dtypes]].items():
        kind = pandas.api.types.infer_dtype(column, skipna=True)
        if kind == "boolean":
            frame[name] = column.astype("boolean")
        elif name in as_text:
            frame[name] = column.str.strip() if kind == "string" else column
        elif kind == "string" or (kind.startswith("mixed") and not column.map(pandas.api.types.is_list_like).any()):
            text = column if kind == "string" else column.map(to_text, na_action="ignore")
            text = _with_usual_marks(text, marks) if marks else text
            frame[name], unread = _parsed(path, name, text, options.get("date_format"))
            if len(unread):
                cell = f"{frame.index.name} {unread.index[0]}, column {name!r}: {unread.iloc[0][:40]!r}"
                wrong[name] = f"{cell} ({len(unread):,} of {text.count():,} values)"
            if not typed and frame[name].dtype.kind in "OTU":
                frame[name] = text.replace({word: str(value) for word, value in _BOOLEANS.items()})
    if wrong and typed:
        kinds = "; ".join(f"{name}: category" for name in wrong)
        raise ValueError(
            f"{path}: these columns look like numbers or dates, but some values cannot be read: "
            f"{shortened(wrong.values(), '; ')}. Correct the values, leave out the columns with "
            f"--config.data.exclude_columns, or keep them as text with --config.data.kinds={kinds!r}. "
            f"{FORMAT_ADVICE}"
        )
    return frame


def _with_usual_marks(text, marks):
    """Replaces the decimal and thousands marks in the numbers of a text column."""
    plain = text.where(~text.str.match(_DATE, na=False)).str.translate(marks)
    return text.mask(pandas.to_numeric(plain, errors="coerce").notna(), plain)


def _parsed(path, name, column, date_format):
    """Returns text as Booleans, dates or numbers, and the unreadable values if most values look like these."""
    present = column.dropna()
    nothing = present[:0]
    if present.isin(_BOOLEANS).all():
        return column.map(_BOOLEANS).astype("boolean" if len(present) < len(column) else bool), nothing
    readings = [pandas.to_numeric(column, errors="coerce")]
    if date_format is not None or present.str.match(_ISO_DATE).mean() >= _MOSTLY:
        with explain_read_errors(path, f"dates in the column {name!r}", "Write all dates in one time zone."):
            times = pandas.to_datetime(column, format=date_format or "ISO8601", errors="coerce")
        readings.insert(0, times)
    is_typed = present.str.fullmatch(_NUMBER_WITH_COMMAS) | present.str.match(_DATE)
    for values in readings:
        is_read = values[present.index].notna()
        if is_read.all():
            return values, nothing
        is_typed |= is_read
    is_bad = readings[0][present.index].isna() & (is_typed.mean() >= _MOSTLY)
    return column, present[is_bad]


def identifiers(frame: Any) -> list[Any]:
    """Returns the names of columns that identify rows.

    Their values are 20 or more distinct texts, or consecutive integers that cannot be years.
    """

    def is_identifier(column):
        kind = pandas.api.types.infer_dtype(column)
        is_counted = kind == "integer" and (column.diff()[1:] == 1).all() and not column.between(*_YEARS).all()
        return len(column) >= _LEAST_ROWS and column.is_unique and (kind == "string" or is_counted)

    return [name for name, column in frame.items() if is_identifier(column.dropna())]


def write_frames(path: str | os.PathLike, frames: Iterable[Any]) -> None:
    """Writes data frames of the same columns, below each other, as .csv or .parquet, or as .csv for "-".

    A file appears when it is complete. Standard output gets each frame at once, until its reader ends. In a Parquet
    file, Python objects other than dates, decimals and Booleans become text. The names of columns are text.
    """
    frames = (frame.set_axis([*map(str, frame)], axis=1) for frame in frames)
    if os.fspath(path) == STANDARD_STREAM:
        with standard_output() as file:
            _write_csv(file, frames)
        return
    write = _write_parquet if pathlib.Path(path).suffix.lower() == ".parquet" else _write_csv
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        write(file, frames)


def _write_csv(file, frames):
    for index, frame in enumerate(frames):
        # The method `to_csv` chooses the format of times anew every few rows.
        times = frame.select_dtypes(["datetime", "datetimetz"])
        texts = {name: column.astype(str).where(column.notna()) for name, column in times.items()}
        options = {"mode": "wb", "header": index == 0, "float_format": to_text, "lineterminator": "\r\n"}
        frame.assign(**texts).to_csv(file, index=False, **options)
        file.flush()


def _write_parquet(file, frames):
    tables = map(_with_arrow_types, frames)
    first = next(tables)
    schema = pyarrow.Schema.from_pandas(first, preserve_index=False)
    for index, field in enumerate(schema):
        is_object = pandas.api.types.is_object_dtype(first.dtypes.iloc[index])
        if is_object and pyarrow.types.is_decimal(field.type):
            # Decimals of other frames can have more digits.
            schema = schema.set(index, field.with_type(pyarrow.decimal128(_MOST_DIGITS, field.type.scale)))
    with parquet.ParquetWriter(file, schema) as writer:
        for table in itertools.chain([first], tables):
            writer.write_table(pyarrow.Table.from_pandas(table, schema, preserve_index=False))


def _with_arrow_types(frame):
    """Returns a frame with columns of objects that Arrow can represent."""
    table = frame.infer_objects()
    for name, column in table.items():
        levels = getattr(column.dtype, "categories", column)
        if levels.dtype == object and pandas.api.types.infer_dtype(levels) not in _PARQUET_TYPES:
            table[name] = column.astype(object).map(to_text, na_action="ignore")
    return table


def find_columns(path: Any, frame: Any, columns: Sequence[Any]) -> list[int]:
    """Returns the positions of columns, given their names or their numbers from 1."""
    columns = [str(column) for column in columns]
    num = frame.shape[1]
    names = list(frame.columns) if isinstance(frame.columns[0], str) else None
    if names is None and not all(map(str.isdecimal, columns)):
        if num != len(columns):
            raise ValueError(f"{path} has {num} columns without names. Expected the columns {', '.join(columns)}.")
        return [*range(num)]
    unused_names = [name for name in names or () if name not in columns]
    indices = [_column_index(path, column, names, num, unused_names) for column in columns]
    for column, index in zip(columns, indices, strict=True):
        if indices.count(index) > 1:
            raise ValueError(f"{path}: the column {column!r} is chosen twice. Name each column once.")
    return indices


def _column_index(path, column, names, num, unused_names):
    """Returns the position of a column, given its name or its number from 1. An error suggests an unused name."""
    if names is not None and column in names:
        return names.index(column)
    if column.isdecimal() and 1 <= int(column) <= num:
        return int(column) - 1
    known = f"it has {num} columns, without names."
    if names:
        known = f"{suggest(column, unused_names)} Its columns are {shortened(map(repr, names))}."
    raise ValueError(f"{path} has no column {column!r}; {known}")


def _column_indices(path, frame, columns, chosen):
    """Returns the positions of some columns. In a file without names, these may be among the names `columns`."""
    index_of_name = {}
    if columns is not None:
        index_of_name = dict(zip(map(str, columns), find_columns(path, frame, columns), strict=True))
    unlisted = [str(name) for name in chosen if str(name) not in index_of_name]
    index_of_name |= {name: find_columns(path, frame, [name])[0] for name in unlisted}
    return [index_of_name[str(name)] for name in chosen]
