"""Converts data frames of other libraries to pandas, and results back."""

from typing import Any, NamedTuple

from tf_resflow._internal.extras import extra

with extra("sklearn"):
    import narwhals
    import pandas

# Types of Arrow that pandas would convert to others if values are missing.
_NULLABLE = ("int", "uint", "bool", "decimal")


class FrameType(NamedTuple):
    """The Arrow schema of a data frame, and its library."""

    schema: Any
    library: Any


def in_pandas(X: Any) -> tuple[Any, FrameType | None]:
    """Returns a frame of polars, pyarrow or the like in pandas, and its type; other data as they are."""
    if isinstance(X, pandas.DataFrame) or not narwhals.dependencies.is_into_dataframe(X):
        return X, None
    frame = narwhals.from_native(X)
    arrow = frame.to_arrow()
    return arrow.to_pandas(types_mapper=_pandas_type), FrameType(arrow.schema, frame.implementation)


def in_library(table: Any, frame_type: FrameType, *, with_schema: bool) -> Any:
    """Returns a `pandas.DataFrame` in the library of a frame, and, if `with_schema`, with its types."""
    arrow = narwhals.from_native(table).to_arrow()
    if with_schema:
        arrow = arrow.cast(frame_type.schema)
    return narwhals.from_arrow(arrow, backend=frame_type.library).to_native()


def _pandas_type(arrow_type):
    return pandas.ArrowDtype(arrow_type) if str(arrow_type).startswith(_NULLABLE) else None
