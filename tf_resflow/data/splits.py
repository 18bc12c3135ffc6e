"""Splits of the examples into parts for training, validation and testing."""

__all__ = ["check_different", "draw_splits", "field", "split_sizes"]

import itertools
import os
from collections.abc import Collection, Mapping

import numpy as np

from tf_resflow.plurals import counted


def split_sizes(
    num: int, fractions: Mapping[str, float], source: str | os.PathLike, *, least: int = 1
) -> dict[str, int]:
    """The sizes of the splits of `num` examples: fractions of them by name, and "train", which has the rest.

    A split of fraction 0 is left out; `source` is named in messages, and `least` is the smallest size of "train".
    """
    for split, fraction in fractions.items():
        if not 0 <= fraction < 1:
            raise ValueError(f"{split}_fraction must be in [0, 1), but is {fraction}.")
    sizes = {split: round(fraction * num) for split, fraction in fractions.items() if fraction}
    rest = num - sum(sizes.values())
    if rest < least:
        less = " and ".join(f"{split}_fraction" for split in sizes) or "nothing"
        raise ValueError(
            f"{source}: {counted(num, 'example')} less {less} leave {rest} for training, which needs at least "
            f"{least}. Provide more, or lower the fractions."
        )
    for split, size in sizes.items():
        if not size:
            whole = counted(num, "example")
            raise ValueError(
                f"{source}: the {split} split holds no example, since {split}_fraction of {whole} is "
                f"less than one. Raise it, set it to 0, or set path_{split}."
            )
    return sizes | {"train": rest}


def draw_splits(
    num: int,
    fractions: Mapping[str, float],
    seed: int,
    source: str | os.PathLike,
    *,
    given: Collection[str] = (),
    least: int = 1,
) -> dict[str, np.ndarray]:
    """Divides the numbers 0, ..., num - 1 into the splits of `split_sizes`, by a permutation of fixed seed.

    The `given` splits have their own examples: none are drawn for them.
    """
    fractions = {split: fraction for split, fraction in fractions.items() if split not in given}
    sizes = split_sizes(num, fractions, source, least=least)
    order = np.random.RandomState(seed).permutation(num)
    parts = np.split(order, np.cumsum(list(sizes.values()))[:-1])
    return dict(zip(sizes, parts, strict=True))


def check_different(arrays: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError if two of the arrays, by their splits, are equal."""
    for (one, a), (other, b) in itertools.combinations(arrays.items(), 2):
        if np.array_equal(a, b):
            raise ValueError(
                f"{field(one)} and {field(other)} have the same examples, which would be counted twice: choose "
                f"other data, or leave {field(other)} empty."
            )


def field(split: str) -> str:
    """The field of a config with the place of a split."""
    return "path" if split == "train" else f"path_{split}"
