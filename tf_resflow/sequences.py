"""A check of arguments that are sequences."""

import numbers
from typing import Any


def check_sequence(name: str, value: Any, example: str) -> None:
    """Raises ValueError for one number in place of a sequence of numbers; `example` is a right value."""
    if isinstance(value, numbers.Number):
        raise ValueError(f"{name} must be a sequence, such as {example}; got {value}.")
