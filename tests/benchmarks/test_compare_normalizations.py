"""The table of steps by the normalization of the kernels."""

import numpy as np


def test_table(call):
    done = call("benchmarks/compare_normalizations.py", "--shapes=3,4x4x1", "--width=4", "--batch=8", "--steps=3")
    assert done.code == 0, done.output
    rows = [line.split() for line in done.output.splitlines()]
    rows = {row[0]: [float(number) for number in row[1:]] for row in rows if row and row[0] in ("3", "4x4x1")}
    assert len(rows) == 2
    for induced, schatten, ratio in rows.values():
        assert min(induced, schatten, ratio) > 0 and np.isfinite(ratio)


def test_a_wrong_shape_is_refused(call):
    done = call("benchmarks/compare_normalizations.py", "--shapes=8x8")
    assert done.code == 1 and "such as 10 or 32x32x3" in done.output
