"""Reads the values of columns as numbers, and rounds numbers to values."""

import math
from typing import Any

import numpy as np

from tf_resflow._internal.extras import LazyPackage

pandas: Any = LazyPackage("pandas", "data")

EXACT = 2**53
"""Float64 represents every whole number up to this magnitude exactly."""

_SIGNIFICANT = 15  # significant digits of grid values
_RESOLUTION = 1e-4  # largest float32 spacing that needs no offset, in standard deviations or grid steps


def to_text(value: Any) -> str:
    """Returns a level as text. Whole numbers have no decimal point."""
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value).strip()


def check_faults(name: Any, series: Any, faults: np.ndarray) -> None:
    """Raises ValueError if values of a column have faults."""
    rows = np.flatnonzero(faults != "")
    if len(rows):
        raise ValueError(
            f"Column {name!r}: {len(rows)} of {len(series)} values are {faults[rows[0]]}, such as "
            f"{to_text(series.iloc[rows[0]])[:40]}. Correct them, leave out these rows, or choose another kind."
        )


def is_number(dtype: Any) -> bool:
    """Returns whether a pandas type is one of numbers."""
    return pandas.api.types.is_numeric_dtype(dtype) and not pandas.api.types.is_bool_dtype(dtype)


def numpy_dtype(dtype: Any) -> np.dtype:
    """Returns the NumPy type of the numbers in a column of a pandas type."""
    return np.dtype("int64" if isinstance(dtype, pandas.PeriodDtype) else getattr(dtype, "numpy_dtype", dtype))


def float_eps(dtype: Any) -> float:
    """Returns the spacing of the floats of a pandas type near 1, or that of float64 for other types."""
    dtype = numpy_dtype(dtype)
    return float(np.finfo(dtype if dtype.kind == "f" else np.float64).eps)


def read_numbers(series: Any) -> tuple[Any, np.ndarray]:
    """Returns a column as finite numbers, which are missing if they cannot be read, and the faults of values."""
    if series.dtype.kind in "mMc":
        x = pandas.Series(np.nan, series.index)
    else:
        x = pandas.to_numeric(series, errors="coerce")
    if x.dtype.kind == "b":
        x = x.astype("Int8" if x.dtype == "boolean" else "int8")
    is_infinite = np.isinf(x.to_numpy(np.float64, na_value=np.nan))
    faults = np.where(x.isna() & series.notna(), "not a number", np.where(is_infinite, "infinite", ""))
    return x.mask(is_infinite), faults


def numbers_of_fit(series: Any, base: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Returns the numbers of a column to fit, and the fields of `Column`, with the type of the numbers.

    Raises:
      ValueError: If a value is not a finite number.
    """
    x, faults = read_numbers(series)
    check_faults(base["name"], series, faults)
    if isinstance(base["dtype"], pandas.PeriodDtype):
        return x, base
    return x, base | {"dtype": x.dtype}


def to_floats(x: Any, origin: Any = 0) -> np.ndarray:
    """Returns x - origin as float64, NaN for missing values. Large integers lose no digits."""
    floats = x.to_numpy(np.float64, na_value=np.nan)
    dtype = numpy_dtype(x.dtype)
    if dtype.kind in "iu" and np.nanmax(np.abs(floats), initial=0.0) > EXACT:
        differences = x.to_numpy(dtype, na_value=0).astype(object) - origin
        return np.where(np.isnan(floats), np.nan, differences.astype(np.float64))
    return floats - origin


def are_whole(x: Any) -> bool:
    """Returns whether numbers have an integer type, or are floats that are all integers."""
    if x.dtype.kind in "iu":
        return True
    floats = to_floats(x)
    return bool(np.all((floats == np.round(floats)) & (np.abs(floats) <= EXACT)))


def smallest(x: Any) -> float:
    """Returns the smallest number, as an integer if the type is one of integers."""
    return int(x.min()) if numpy_dtype(x.dtype).kind in "iu" else float(x.min())


def round_offset(x: Any, step: float = 0.0) -> float:
    """Returns a round number near the mean if float32 cannot resolve the numbers, otherwise 0."""
    origin = smallest(x)
    differences = to_floats(x, origin)
    deviation = differences.std()
    resolution = _RESOLUTION * max(deviation, step)
    largest = max(abs(origin), abs(origin + differences.max()))
    if largest * np.finfo(np.float32).eps <= resolution or not deviation:
        return 0
    digits = -math.floor(math.log10(deviation))
    if isinstance(origin, int):
        return round(origin + round(differences.mean()), min(digits, 0))
    return round(origin + differences.mean(), digits)


def to_integers(values: np.ndarray, origin: Any, dtype: np.dtype, low: float, high: float) -> np.ndarray:
    """Returns `origin + values` as integers in the range of the type, above `low` and below `high`."""
    limits = np.iinfo(dtype)
    least = int(limits.min)
    most = int(limits.max)
    if math.isfinite(low):
        least = max(math.floor(low) + 1, least)
    if math.isfinite(high):
        most = min(math.ceil(high) - 1, most)
    return np.array([min(max(round(origin + int(value)), least), most) for value in np.round(values)], dtype)


def round_to_grid(values: Any, step: float) -> Any:
    """Removes the rounding errors of values on a grid, such as 3.7000000000000002."""
    largest = max(np.abs(values).max(initial=0.0), step)
    return np.round(values, max(_SIGNIFICANT - math.ceil(math.log10(largest)), 0))
