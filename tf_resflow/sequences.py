"""A check of arguments that are sequences."""

import numbers
from typing import Any

__all__ = ["check_sequence"]


def check_sequence(name: str, value: Any, example: str) -> None:
    """Raises ValueError for one number in place of a sequence of numbers.

    Args:
      name: of the argument.
      value: of the argument.
      example: a right value, for the message.
    """
    if isinstance(value, numbers.Number):
        raise ValueError(f"{name} must be a sequence, such as {example}; got {value}.")
