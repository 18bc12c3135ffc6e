"""The table of steps by the normalization of the kernels."""

import numpy as np


def test_table(call):
    done = call("benchmarks/compare_normalizations.py", "--shapes=3", "--width=4", "--batch=8", "--steps=2")
    assert done.code == 0, done.output
    (row,) = (line.split() for line in done.output.splitlines() if line.startswith("3"))
    assert all(0 < float(number) < np.inf for number in row[1:]) and len(row) == 4


def test_a_wrong_shape_is_refused(call):
    done = call("benchmarks/compare_normalizations.py", "--shapes=8x8")
    assert done.code == 1 and "such as 10 or 32x32x3" in done.output
