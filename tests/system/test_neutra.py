"""Effective samples a second of plain chains, measured at a tiny size."""

import json

import numpy as np


def test_results(call, tmp_path):
    """A second call computes nothing anew."""
    output = tmp_path / "results.json"
    small = ["--leapfrogs=1,2", "--chains=2", "--steps=20", "--task=banana", "--sampler=plain"]
    first, second = (call("benchmarks/neutra.py", f"--output={output}", *small) for _ in range(2))
    assert first.code == second.code == 0, first.output + second.output
    (row,) = json.loads(output.read_text())
    assert (row["task"], row["sampler"]) == ("banana", "plain")
    assert np.isfinite(row["per_second"]) and row["leapfrogs"] in (1, 2)
    for done in (first, second):
        (line,) = [line for line in done.output.splitlines() if line.startswith("| banana")]
        assert f"{row['per_second']:.3g}" in line
