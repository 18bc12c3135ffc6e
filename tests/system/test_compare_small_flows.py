"""The tables of small flows beside RealNVP and MAF."""

NAMES = ["residual, exact", "residual, series", "RealNVP", "MAF"]


def test_tables(call):
    small = ["--dimensions=3", "--depth=1", "--width=4", "--batch=8", "--steps=2"]
    training = ["--seconds=0.1", "--seeds=1", "--learning_rates=0.01"]
    done = call("benchmarks/compare_small_flows.py", *small, *training)
    assert done.code == 0, done.output
    lines = [line for line in done.output.splitlines() if line.startswith(tuple(NAMES))]
    times, scores = ([line.rsplit(maxsplit=4) for line in part] for part in (lines[:4], lines[4:]))
    assert [row[0] for row in times] == [row[0] for row in scores] == NAMES
    assert all(row[1] == "3" and min(map(float, row[2:])) > 0 for row in times)
    assert all(-20 < float(row[1]) < -2.394 and row[4] == "0.01" for row in scores)


def test_one_dimension_is_refused(call):
    done = call("benchmarks/compare_small_flows.py", "--dimensions=1")
    assert done.code == 1 and "integers >= 2" in done.output
