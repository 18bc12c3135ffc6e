"""Shares of a batch: part `index` of `num` equal parts, in their order."""

__all__ = ["check_share", "part"]

from typing import Any


def check_share(share: tuple[int, int], batch_size: int) -> None:
    """Raises ValueError unless a share `(index, num)` is a part of a batch."""
    index, num = share
    if not 0 <= index < num:
        raise ValueError(f"share must be (index, num) with index in 0, ..., num - 1, but is {share}.")
    if batch_size % num:
        raise ValueError(
            f"batch_size = {batch_size} is not a multiple of the {num} shares of a batch. Make it one."
        )


def part(whole: Any, share: tuple[int, int]) -> Any:
    """The rows of a share, of an array or a tensor `[batch, ...]` of static size."""
    index, num = share
    size = whole.shape[0] // num
    return whole[index * size : (index + 1) * size]
