"""Tests more random flows than tests/test_random_cases.py, each in all ways."""

import pytest

from tests.random_cases import WAYS
from tests.test_random_cases import check


@pytest.mark.parametrize("group", range(8))
def test_random_cases_in_all_ways(group, num_cases):
    for seed in range(1000 + group, 1000 + num_cases, 8):
        check(seed, WAYS)
