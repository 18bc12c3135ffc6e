"""Formats counts and names for messages."""

import difflib
from collections.abc import Iterable


def counted(num: int, noun: str) -> str:
    """Formats a number with its noun: "1 example", "1,000 examples"."""
    return f"{num:,} {noun}" if num == 1 else f"{num:,} {noun}s"


def shortened(words: Iterable[object], separator: str = ", ") -> str:
    """Joins words for a message, and replaces all words after the first 20 with "..."."""
    texts = [*map(str, words)]
    return separator.join(texts[:20] + ["..."] * (len(texts) > 20))


def suggest(word: str, known: Iterable[str]) -> str:
    """Returns the end of an error message about an unknown word: the known name that is most similar to it."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else "nothing has a similar name."
