"""Formats counts and lists of names for messages."""

from typing import Any

_SHOWN = 20


def counted(num: int, noun: str) -> str:
    """Formats a number with its noun: "1 example", "1,000 examples"."""
    return f"{num:,} {noun}" if num == 1 else f"{num:,} {noun}s"


def shortened(words: Any, separator: str = ", ") -> str:
    """Joins words for a message, and replaces all words after the first 20 with "..."."""
    words = [*map(str, words)]
    return separator.join(words[:_SHOWN] + ["..."] * (len(words) > _SHOWN))
