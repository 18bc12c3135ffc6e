"""The defaults and rules of the arguments of `FlowDensity`, which a config uses without TensorFlow."""

import math
from collections.abc import Callable
from numbers import Real
from typing import Any, NamedTuple

LEAST_NOISE = 0.003
"""The smallest noise level, in standard deviations of the columns."""

MOST_NOISE = 1.0
"""The largest noise level."""


class Argument(NamedTuple):
    """The default of an argument, a function that says whether a value is valid, and what it must be."""

    default: Any
    is_valid: Callable[[Any], bool]
    expected: str


def _is_real(value, least, most):
    return isinstance(value, Real) and not isinstance(value, bool) and least <= float(value) <= most


def _is_auto(value):
    return isinstance(value, str) and value == "auto"


def _is_none_or_positive(value):
    return value is None or _is_real(value, 1, math.inf)


ARGUMENTS: dict[str, Argument] = {
    "noise": Argument(
        "auto",
        lambda v: _is_auto(v) or _is_real(v, LEAST_NOISE, MOST_NOISE),
        f"'auto', or from {LEAST_NOISE} to {MOST_NOISE}",
    ),
    "contamination": Argument(0.01, lambda v: _is_real(v, 0, 0.5) and v > 0, "above 0 and at most 0.5"),
    "missing": Argument("error", lambda v: v in ("error", "drop", "condition"), "'error', 'drop' or 'condition'"),
    "whiten": Argument("auto", lambda v: _is_auto(v) or v in (True, False), "'auto', True or False"),
    "num_blocks": Argument(4, lambda v: _is_real(v, 1, math.inf), "at least 1"),
    "hidden": Argument((64, 64), lambda v: len(v) > 0 and min(v) >= 1, "one or more widths of at least 1"),
    "num_members": Argument(None, _is_none_or_positive, "None or at least 1"),
    "max_steps": Argument(None, _is_none_or_positive, "None or at least 1"),
    "validation_fraction": Argument(0.15, lambda v: _is_real(v, 0, 1) and 0 < v < 1, "between 0 and 1"),
}
"""The arguments that a config can have."""
