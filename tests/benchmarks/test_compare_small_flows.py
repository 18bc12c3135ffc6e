"""The table of small flows beside RealNVP."""


def test_table(call):
    small = ["--dimensions=3", "--depth=1", "--width=4", "--batch=8", "--steps=2"]
    done = call("benchmarks/compare_small_flows.py", *small)
    assert done.code == 0, done.output
    rows = [
        line.rsplit(maxsplit=4) for line in done.output.splitlines() if line.startswith(("residual", "RealNVP"))
    ]
    assert [row[0] for row in rows] == ["residual, exact", "residual, series", "RealNVP"]
    assert all(row[1] == "3" and min(map(float, row[2:])) > 0 for row in rows)


def test_one_dimension_is_refused(call):
    done = call("benchmarks/compare_small_flows.py", "--dimensions=1")
    assert done.code == 1 and "integers >= 2" in done.output
