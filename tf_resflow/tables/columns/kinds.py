"""The kinds of columns as users name them, in arguments and in configs."""

import contextlib
import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

from tf_resflow.tables.columns.values import to_text

Bounds = tuple[float | None, float | None]
"""The lower and the upper bound of a column, both exclusive. None means no bound."""


def is_text(kind: Any) -> bool:
    """Returns whether a kind has levels. Then text stays text, even if it looks like numbers or dates."""
    return isinstance(kind, (list, tuple)) or kind == "category"


def is_step(kind: Any) -> bool:
    """Returns whether a kind is the step of a grid."""
    return isinstance(kind, Real) and not isinstance(kind, bool) and 0 < float(kind) < math.inf


def format_kinds(kinds: Mapping[Any, Any]) -> str:
    """Formats the kinds of columns as the field `data.kinds` of a config."""
    return "; ".join(f"{name}: {_format_kind(kind)}" for name, kind in kinds.items())


def _format_kind(kind):
    if isinstance(kind, set):
        return f"{{{', '.join(map(to_text, sorted(kind)))}}}"
    return " < ".join(map(to_text, kind)) if isinstance(kind, list) else kind


def parse_kinds(text: str) -> dict[str, Any]:
    """Parses the field `data.kinds` of a config; the inverse of `format_kinds`."""
    kinds: dict[str, Any] = {}
    for entry in filter(None, map(str.strip, text.split(";"))):
        name, colon, words = entry.rpartition(":")
        kind = _parse_kind(words)
        if not colon or kind is None:
            raise ValueError(
                f"data.kinds = {text!r} is malformed. Write it like 'wind: number; temp: 0.1; rooms: whole; "
                "code: category; size: S < M < L; rain: {0}'."
            )
        kinds[name.strip()] = kind
    return kinds


def _parse_kind(text):
    """Returns the set of atoms, the list of levels, the step or the name in a text, or None if it is malformed."""
    has_braces = "{" in text
    words = [word.strip() for word in text.strip(" {}").split("," if has_braces else "<")]
    if "" in words:
        return None
    if has_braces:
        try:
            return {float(word) for word in words}
        except ValueError:
            return None
    if len(words) > 1:
        return words
    with contextlib.suppress(ValueError):
        return float(words[0])
    return words[0]
