"""The benchmark of tables at a tiny size."""

import json

import numpy as np


def test_results(call, tmp_path):
    """A second call computes nothing anew, and draws the figure."""
    rng, folder = np.random.default_rng(0), tmp_path / "adbench"
    folder.mkdir()
    rows = np.concatenate([rng.normal(size=[80, 2]), rng.normal(6.0, 1.0, size=[10, 2])])
    np.savez(folder / "2_blobs.npz", X=rows, y=np.arange(90) >= 80)
    output, figure = tmp_path / "results.json", tmp_path / "figure.png"
    arguments = [f"--output={output}", f"--adbench={folder}", "--seeds=1", f"--figure={figure}"]
    arguments += ["--methods=GaussianMixture,5 nearest neighbors"]
    first, second = (call("benchmarks/tables.py", *arguments) for _ in range(2))
    assert first.code == second.code == 0, first.output + second.output
    found = json.loads(output.read_text())
    assert [row["method"] for row in found] == ["GaussianMixture", "5 nearest neighbors"]
    assert all(row["score"] > 0.95 for row in found)  # the blobs are 6 deviations apart
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert first.output.count("'table'") == 2 and second.output.count("'table'") == 0
