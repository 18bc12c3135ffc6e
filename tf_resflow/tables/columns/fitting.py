"""Chooses the class of a column, fits it, and restores it from JSON."""

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from tf_resflow._internal.extras import LazyPackage
from tf_resflow.tables.columns.atoms import AtomColumn, frequent_values
from tf_resflow.tables.columns.bounded import BoundedColumn
from tf_resflow.tables.columns.category import CategoryColumn
from tf_resflow.tables.columns.column import MOST_LEVELS, Column
from tf_resflow.tables.columns.grid import GridColumn
from tf_resflow.tables.columns.kinds import Bounds, is_step, is_text
from tf_resflow.tables.columns.number import NumberColumn
from tf_resflow.tables.columns.times import DayColumn, TimeColumn, are_whole_days
from tf_resflow.tables.columns.types import plain
from tf_resflow.tables.columns.values import are_whole, check_faults, is_number, read_numbers, to_floats

pandas: Any = LazyPackage("pandas", "data")

_MOSTLY = 0.5  # of texts, the share of numbers that makes the others look like mistakes

_CLASSES: dict[str, type[Column]] = {
    "number": NumberColumn,
    "whole": GridColumn,
    "date": TimeColumn,
    "day": DayColumn,
}


def fit_column(name: Any, series: Any, kind: Any = None, bounds: Bounds | None = None) -> Column:
    """Fits a `Column` to a `pandas.Series`. Its type implies the kind if none is given; see `TableEncoder`."""
    present, types = plain(series.dropna(), series.dtype)
    _check_values(name, present)
    is_period = isinstance(series.dtype, pandas.PeriodDtype)
    is_given = kind is not None or bounds is not None
    if is_period:
        kind = kind or math.gcd(series.dtype.freq.n, *present)
    if kind is None:
        kind = _implied_kind(present) if bounds is None else "number"
        if kind == "category":
            _warn_of_mixture(name, present)
    base = {"name": name, "dtype": series.dtype if is_period else present.dtype, "types": types}
    base["is_given"] = is_given
    column_class = _class_of_kind(kind)
    if column_class is None or (bounds is not None and kind != "number"):
        raise ValueError(
            f"Column {name!r} has the kind {kind!r} and the bounds {bounds}. A kind must be number, whole, date, "
            "day or category, 'date + year' for a time with cycles, the step of a grid such as 0.1, a list of "
            "levels, or a set of atoms such as {0.0}. "
            "Only the kind 'number' can have bounds."
        )
    column = column_class.fit(present, kind, base) if bounds is None else BoundedColumn.fit(present, bounds, base)
    _, faults = column.to_numbers(present)
    check_faults(name, present, faults)
    return column


def _check_values(name, series):
    """Raises ValueError unless a column has values of a type that a kind can read."""
    if not len(series):
        raise ValueError(f"Column {name!r}: all values are missing. Leave this column out.")
    is_nested = series.dtype == object and series.map(pandas.api.types.is_list_like).any()
    if isinstance(series.dtype, pandas.SparseDtype) or series.dtype.kind in "mc" or is_nested:
        raise ValueError(
            f"Column {name!r} has values of type {type(series.iloc[0]).__name__}. Leave it out, or convert it: "
            "durations to seconds, complex numbers to two columns, and lists to one column per element."
        )


def _implied_kind(series):
    """Returns the kind that the type of a column implies, in which no value is missing."""
    if pandas.api.types.is_datetime64_any_dtype(series.dtype):
        return "day" if are_whole_days(series) else "date"
    if is_number(series.dtype):
        x, _ = read_numbers(series)
        kind_without_atoms = "whole" if are_whole(x) else "number"
        is_narrow = kind_without_atoms == "whole" and np.ptp(to_floats(x)) < MOST_LEVELS
        atoms = set() if is_narrow else frequent_values(x)
        return atoms or kind_without_atoms
    is_ordered = isinstance(series.dtype, pandas.CategoricalDtype) and series.dtype.ordered
    return list(series.dtype.categories) if is_ordered else "category"


def _warn_of_mixture(name, series):
    """Warns of a category that may be a column of numbers with mistakes: numbers beside text, or mostly numbers."""
    if series.dtype.kind != "O" or isinstance(series.dtype, pandas.CategoricalDtype):
        return
    is_numeric = pandas.to_numeric(series, errors="coerce").notna()
    is_mixed = pandas.api.types.infer_dtype(series).startswith("mixed")
    if not is_mixed and not _MOSTLY <= is_numeric.mean() < 1:
        return
    first = series.iloc[0]
    is_different = is_numeric != is_numeric.iloc[0]
    if not is_different.any():
        is_different = ~series.map(type).eq(type(first))
    warnings.warn(
        f"Column {name!r} mixes values such as {first!r} and {series[is_different].iloc[0]!r}, so it becomes a "
        "category. Correct its values if they should all be numbers or dates. If it is a category, set "
        f"kinds={{{name!r}: 'category'}}.",
        stacklevel=6,
    )


def _class_of_kind(kind):
    """Returns the class of a kind, or None if the kind is not valid."""
    if is_text(kind):
        return CategoryColumn
    if isinstance(kind, (set, frozenset)):
        return AtomColumn
    if is_step(kind):
        return GridColumn
    if not isinstance(kind, str):
        return None
    base_kind, has_cycles, _ = kind.partition("+")
    column_class = _CLASSES.get(base_kind.strip())
    return None if has_cycles and column_class not in (TimeColumn, DayColumn) else column_class


def column_from_json(description: Mapping[str, Any]) -> Column:
    """Restores a column from the output of `Column.to_json`."""
    return _described_class(description).from_json(description)


def _described_class(description):
    kind = description["kind"]
    if kind == "category":
        return CategoryColumn
    if kind == "date":
        return DayColumn if "step" in description else TimeColumn
    if "atoms" in description:
        return AtomColumn
    if "step" in description:
        return GridColumn
    return BoundedColumn if {"low", "high"} & set(description) else NumberColumn
