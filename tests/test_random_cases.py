"""Random flows of two blocks: each way to run them agrees with dense linear algebra.

Here each is run in one way; `python -m pytest tests/system/test_random_cases_in_all_ways.py --random_cases=5000`
tries others in all ways.
"""

import numpy as np
import pytest

from tests.random_cases import Case

WAYS = ("training", "eager", "vectorized", "saved", "xla")


def check(seed, ways, folder):
    """Compares a case in these ways."""
    case = Case(seed)
    tolerance = 1e-7 if case.dtype == "float64" else 2e-3
    z, log_det, back = case.expected()
    results = case.graph()
    num = 2 + sum(map(len, case.variables))

    def compare(found, expected, rtol=tolerance):
        for one, other in zip(found, expected, strict=False):
            one = np.reshape(one, np.shape(other))
            np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol * (1 + np.max(np.abs(other), initial=0)))

    try:
        compare([results[0], results[1], results[2 + num]], [z, log_det, back])
        compare(*zip(*case.slopes(results), strict=True), rtol=max(tolerance, 1e-5))
        for way in ways:
            if way == "eager":
                compare(case.compute(*case.inputs()), results)
            elif way == "xla":
                compare(case.graph(jit_compile=True), results)
            elif way == "training" and not any(block.monotone for block in case.blocks):
                compare(case.graph(training=True), results)
            elif way == "vectorized":
                compare(case.vectorized(), results[: 3 if case.has_true_gradients else 2])
            elif way == "saved":
                compare(case.saved(str(folder / str(seed))), [results[0], results[1], results[2 + num]])
    except Exception as error:
        raise AssertionError(f"Case {seed}: {error}\n{case.description}") from error


@pytest.mark.quick
@pytest.mark.parametrize("group", range(8))
def test_random_cases(group, num_cases, tmp_path):
    for seed in range(group, num_cases, 8):
        check(seed, [WAYS[(seed // 8) % len(WAYS)]], tmp_path)
