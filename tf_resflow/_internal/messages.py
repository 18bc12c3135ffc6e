"""Formats counts and names for messages."""

import difflib
from collections.abc import Iterable

_LEAST_LETTERS = 3  # of a word that makes a longer name similar


def counted(num: int, noun: str) -> str:
    """Formats a number with its noun: "1 example", "1,000 examples"."""
    return f"{num:,} {noun}" if num == 1 else f"{num:,} {noun}s"


def shortened(words: Iterable[object], separator: str = ", ") -> str:
    """Joins words for a message, and replaces all words after the first 20 with "..."."""
    texts = [*map(str, words)]
    return separator.join(texts[:20] + ["..."] * (len(texts) > 20))


def cut(value: object, most: int) -> str:
    """Returns the text of a value. A longer text is cut to `most` letters, and ends with "…"."""
    text = str(value)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def suggest(word: str, known: Iterable[str]) -> str:
    """Returns the end of an error message about an unknown word: the known name that is most similar to it.

    Case does not count, and names that contain the word or are part of it are similar, such as "wind" and
    "wind_speed".
    """
    names = {name.casefold(): name for name in known}
    word = word.casefold()
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if not near:
        related = [name for name in names if _contains(name, word) or _contains(word, name)]
        near = difflib.get_close_matches(word, related, n=1, cutoff=0.0)
    return f"did you mean {names[near[0]]!r}?" if near else "nothing has a similar name."


def _contains(name, word):
    return len(word) >= _LEAST_LETTERS and word in name
