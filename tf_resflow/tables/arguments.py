"""The defaults and rules of the arguments of `FlowDensity`, which a config uses without TensorFlow."""

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

LEAST_NOISE, MOST_NOISE = 0.003, 1.0
"""The range of the noise levels, in standard deviations of the columns."""


def _is_real(value, least, most):
    return isinstance(value, Real) and not isinstance(value, bool) and least <= float(value) <= most


def _is_auto(value):
    return isinstance(value, str) and value == "auto"


ARGUMENTS: dict[str, tuple[Any, Callable[[Any], bool], str]] = {
    "noise": (
        "auto",
        lambda v: _is_auto(v) or _is_real(v, LEAST_NOISE, MOST_NOISE),
        f"'auto', or from {LEAST_NOISE} to {MOST_NOISE}",
    ),
    "contamination": (0.01, lambda v: _is_real(v, 0, 0.5) and v > 0, "above 0 and at most 0.5"),
    "missing": ("error", lambda v: v in ("error", "drop", "condition"), "'error', 'drop' or 'condition'"),
    "whiten": ("auto", lambda v: _is_auto(v) or v in (True, False), "'auto', True or False"),
    "num_blocks": (4, lambda v: _is_real(v, 1, math.inf), "at least 1"),
    "hidden": ((64, 64), lambda v: len(v) > 0 and min(v) >= 1, "one or more widths of at least 1"),
    "num_members": (None, lambda v: v is None or _is_real(v, 1, math.inf), "None or at least 1"),
    "max_steps": (None, lambda v: v is None or _is_real(v, 1, math.inf), "None or at least 1"),
    "validation_fraction": (0.15, lambda v: _is_real(v, 0, 1) and 0 < v < 1, "between 0 and 1"),
}
"""For each argument its default, a function that says whether a value is valid, and what it must be."""
