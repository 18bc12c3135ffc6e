"""The pandas types of columns: which numbers, times or levels their values are, and their form in JSON."""

import base64
from typing import Any

import numpy as np

from tf_resflow._internal.extras import LazyPackage
from tf_resflow.tables.columns.values import to_text

pandas: Any = LazyPackage("pandas", "data")
pyarrow: Any = LazyPackage("pyarrow", "data")


def plain(series: Any, dtype: Any) -> tuple[Any, tuple[Any, ...]]:
    """Returns a column as numbers, times or levels, and the types to convert them back. Periods become ordinals.

    Args:
      series: A `pandas.Series`.
      dtype: The type of the column in the fit.
    """
    if isinstance(dtype, pandas.PeriodDtype):
        periods = series.astype(dtype).array
        return pandas.Series(pandas.arrays.IntegerArray(periods.asi8, periods.isna()), series.index), ()
    types = (series.dtype,) if isinstance(series.dtype, pandas.ArrowDtype) else ()
    if types and series.dtype.kind not in "iub":
        series = pandas.Series(pyarrow.array(series).to_pandas().array, series.index)
    if series.dtype != object:
        return series, types
    content = pandas.api.types.infer_dtype(series, skipna=True)
    if content in ("floating", "integer", "mixed-integer-float"):
        return pandas.to_numeric(series), types or (object,)
    if content == "decimal":
        exponents = [value.as_tuple().exponent for value in series.dropna() if value.is_finite()]
        num_decimals = min(max(0, -min(exponents, default=0)), 18)
        decimals = pandas.ArrowDtype(pyarrow.decimal128(38, num_decimals))
        return pandas.to_numeric(series), types or (decimals, object)
    if content.startswith("date"):
        dates = (pandas.ArrowDtype(pyarrow.date32()), object) if content == "date" else ()
        return pandas.to_datetime(series), types or dates
    return series, types


def with_types(series: Any, types: Any) -> Any:
    """Converts a column to types, one after the other. Numbers that a type of decimals cannot hold are clipped."""
    for dtype in types:
        arrow = getattr(dtype, "pyarrow_dtype", None)
        if arrow is not None and hasattr(arrow, "scale"):
            largest = (1 - 1e-15) * 10.0 ** (arrow.precision - arrow.scale) - 10.0**-arrow.scale
            series = series.clip(-largest, largest)
        series = series.astype(dtype)
    return series


def type_in_json(dtype: Any) -> Any:
    """Returns a type as a value that JSON can hold."""
    if isinstance(dtype, pandas.CategoricalDtype):
        return {"categories": levels_in_json(dtype.categories.tolist()), "ordered": bool(dtype.ordered)}
    if isinstance(dtype, pandas.ArrowDtype):  # its name has no parameters, such as those of decimals
        schema = pyarrow.schema([("", dtype.pyarrow_dtype)]).serialize().to_pybytes()
        return {"arrow": base64.b64encode(schema).decode()}
    return "object" if dtype is object else str(dtype)


def type_from_json(description: Any) -> Any:
    """Returns the type that `type_in_json` describes."""
    if isinstance(description, str):
        return pandas.api.types.pandas_dtype(description)
    if "arrow" in description:
        schema = pyarrow.ipc.read_schema(pyarrow.py_buffer(base64.b64decode(description["arrow"])))
        return pandas.ArrowDtype(schema.field(0).type)
    return pandas.CategoricalDtype(description["categories"], description["ordered"])


def levels_in_json(levels: Any) -> list[Any]:
    """Returns levels as values that JSON can hold: text, unless they are numbers."""
    return [_level_in_json(level) for level in levels]


def _level_in_json(level):
    if isinstance(level, np.generic):
        level = level.item()
    return level if isinstance(level, (str, int, float)) else to_text(level)
