"""The values and gradients of random flows with two blocks agree with dense linear algebra.

Each flow runs in one way here, and in all ways in tests/system/test_random_cases_in_all_ways.py.
"""

import numpy as np
import pytest

from tests.random_cases import WAYS, Case

SEEDS = [*range(8), 10, 12, 16, 19]  # fast cases that cover all kinds of layers, norms, estimators and blocks
QUICK_WAYS = WAYS[:3]  # have gradients, and do not wait for XLA


def check(seed, ways):
    """Compares a case with NumPy in the given ways."""
    case = Case(seed)
    tolerance = 1e-7 if case.dtype == "float64" else 2e-3
    expected = case.expected()
    for way in ways:
        try:
            found = case.run(way)
            for name in expected.keys() & found.keys():
                compare(found[name], expected[name], tolerance)
            if slopes := list(case.slopes(found)):
                compare(*zip(*slopes, strict=True), max(tolerance, 1e-5))
        except Exception as error:
            raise AssertionError(f"Case {seed}, {way}: {error}\n{case}") from error


def compare(found, expected, rtol):
    found = np.reshape(found, np.shape(expected))
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * (1 + np.max(np.abs(expected), initial=0)))


@pytest.mark.quick
@pytest.mark.parametrize("way", QUICK_WAYS)
def test_random_cases(way, num_cases):
    for seed in SEEDS[QUICK_WAYS.index(way) : num_cases : len(QUICK_WAYS)]:
        check(seed, [way])
