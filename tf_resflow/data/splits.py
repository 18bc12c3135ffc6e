"""Splits examples into parts for training, validation and testing."""

import os
from collections.abc import Mapping

import numpy as np

from tf_resflow._internal.messages import counted


def split_sizes(num: int, fractions: Mapping[str, float], source: str | os.PathLike) -> dict[str, int]:
    """Returns the sizes of the splits of `num` examples: a fraction of them by name, and the rest for "train".

    A split with fraction 0 is left out. Errors name `source`.
    """
    sizes = {split: round(fraction * num) for split, fraction in fractions.items() if fraction}
    sizes["train"] = num - sum(sizes.values())
    if min(sizes.values()) < 1:
        raise ValueError(
            f"{source}: {counted(num, 'example')} would be split into {sizes}, but no split may be empty. "
            "Provide more, or change test_fraction or validation_fraction."
        )
    return sizes


def draw_splits(
    num: int,
    fractions: Mapping[str, float],
    seed: int,
    source: str | os.PathLike,
) -> dict[str, np.ndarray]:
    """Divides 0, ..., num - 1 by a seeded permutation into the splits of `split_sizes`."""
    sizes = split_sizes(num, fractions, source)
    order = np.random.RandomState(seed).permutation(num)
    return dict(zip(sizes, np.split(order, np.cumsum([*sizes.values()])[:-1]), strict=True))
