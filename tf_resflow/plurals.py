"""Numbers with nouns."""

__all__ = ["counted"]


def counted(num: int, noun: str) -> str:
    """The number with the noun, in the plural unless it is 1: "1 example", "1,000 examples"."""
    return f"{num:,} {noun}" if num == 1 else f"{num:,} {noun}s"
