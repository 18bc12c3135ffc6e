"""Tests the densities of the stored checkpoints that tests/interop omits, because their conversion is slow."""

import pytest

from tests.interop.conftest import checkpoint_path, published  # noqa: F401
from tests.interop.test_conversion import check_results, converted, load  # noqa: F401


@pytest.mark.parametrize("name", ["mnist", "cifar10", "factor_out", "learned_norms", "mixed_norms"])
def test_the_published_density(name, converted, load, published, stored_norms):  # noqa: F811
    stored_norms()
    check_results(name, converted, load, published)
