"""The report of a GPU, on a second logical CPU: TensorFlow's GPU libraries are not there."""


def test_the_page(call, tmp_path):
    output = tmp_path / "gpu.md"
    flags = [f"--output={output}", "--configs=toy2d", "--batch_sizes=8", "--num_steps=2"]
    assert "no device TPU:0, only CPU:0, CPU:1" in call("benchmarks/report_gpu.py", *flags, "--device=TPU:0").output
    done = call("benchmarks/report_gpu.py", *flags, "--device=CPU:1")
    assert done.code == 0, done.output
    lines = output.read_text().splitlines()
    for block in ("residual", "dense nets with CPila", "monotone"):
        rows = [line.split("|") for line in lines if line.startswith(f"| {block} |")]
        assert [row[2].strip() for row in rows] == ["latents", "samples", "log-densities", "gradient"]
        assert all(float(row[4]) < 1e-6 for row in rows)  # another CPU
    assert any(line.startswith("| toy2d | 8 | ") for line in lines)
