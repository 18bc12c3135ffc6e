"""Effective samples a second of plain chains, measured at a tiny size."""

import json

import numpy as np


def test_results(call, tmp_path):
    """A second call computes nothing anew."""
    output = tmp_path / "results.json"
    small = ["--leapfrogs=1,2", "--chains=2", "--steps=20", "--task=banana", "--sampler=plain", "--seeds=2"]
    first, second = (call("benchmarks/neutra.py", f"--output={output}", *small) for _ in range(2))
    assert first.code == second.code == 0, first.output + second.output
    rows = json.loads(output.read_text())
    assert [(row["task"], row["sampler"], row["seed"]) for row in rows] == [("banana", "plain", i) for i in (0, 1)]
    assert all(np.isfinite(row["per_second"]) and row["leapfrogs"] in (1, 2) for row in rows)
    least, most = sorted(row["per_second"] for row in rows)
    for done in (first, second):
        (line,) = [line for line in done.output.splitlines() if line.startswith("| banana")]
        assert f"({least:.3g} to {most:.3g})" in line
