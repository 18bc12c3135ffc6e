"""Numbers with nouns, and lists of names, in messages."""

from typing import Any

_SHOWN = 20


def counted(num: int, noun: str) -> str:
    """The number with the noun, in the plural unless it is 1: "1 example", "1,000 examples"."""
    return f"{num:,} {noun}" if num == 1 else f"{num:,} {noun}s"


def shortened(words: Any, separator: str = ", ") -> str:
    """The first of many words, for a message."""
    words = [*map(str, words)]
    return separator.join(words[:_SHOWN] + ["..."] * (len(words) > _SHOWN))
