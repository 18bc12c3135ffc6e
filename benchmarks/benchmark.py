r"""Times this package beside the published PyTorch code, on the same input, as a table of ratios.

python benchmarks/benchmark.py --reference_dir=CHECKOUT --output=benchmark.json

CHECKOUT is a clone of github.com/rtqichen/residual-flows, and needs torch (pip install torch).
Each side runs in a process of its own, with the same number of threads; they take turns, so that what else
the machine does falls on both. PyTorch may spend half of its time on page faults of memory that it freed just
before; with --keep_memory both sides keep what they free (glibc's MALLOC_* settings). Without --reference_dir
this package is timed alone. Cases whose name begins with "parts" split a training step of this package. Close
other programs first.
"""

import json
import os
import pathlib
import statistics
import sys

from absl import app, flags
from benchmark_protocol import CASES, Worker

_REFERENCE_DIR = flags.DEFINE_string("reference_dir", None, "A checkout of the published code.")
_REFERENCE_PYTHON = flags.DEFINE_string("reference_python", sys.executable, "A Python that has torch.")
_OUTPUT = flags.DEFINE_string("output", None, "A JSON file for the results.")
_CASES = flags.DEFINE_list("cases", list(CASES), "The cases to run.")
_REPEATS = flags.DEFINE_integer("repeats", 10, "Measurements of each side.", lower_bound=1)
_KEEP_MEMORY = flags.DEFINE_bool("keep_memory", False, "Whether processes keep the memory that they free.")
_THREADS = flags.DEFINE_integer("threads", os.cpu_count(), "Threads of each side.", lower_bound=1)
flags.register_validator("cases", lambda names: set(names) <= set(CASES), f"The cases are {', '.join(CASES)}.")

_FOLDER = pathlib.Path(__file__).parent
_ONCE = ("memory", "trace")  # kinds of which a process gives one measurement


def _measure(name):
    """Measures one case: a dict of side to dict of quantity to list of values."""
    keep_memory = _KEEP_MEMORY.value and CASES[name].kind != "memory"
    options = {"threads": _THREADS.value, "keep_memory": keep_memory}
    workers = {"ours": Worker(sys.executable, str(_FOLDER / "benchmark_ours.py"), **options)}
    if _REFERENCE_DIR.value:
        script = str(_FOLDER / "benchmark_published.py")
        command = (_REFERENCE_PYTHON.value, script, _REFERENCE_DIR.value, str(_THREADS.value))
        workers["reference"] = Worker(*command, **options)
    for side, worker in list(workers.items()):
        if not worker.ask(f"prepare {name}"):
            workers.pop(side).close()
    once = CASES[name].kind in _ONCE
    if not once:
        for worker in workers.values():
            worker.ask("run")
    rounds = [
        {side: worker.ask("run") for side, worker in workers.items()} for _ in range(1 if once else _REPEATS.value)
    ]
    for worker in workers.values():
        worker.close()
    return {
        side: {quantity: [r[side][quantity] for r in rounds] for quantity in rounds[0][side]} for side in workers
    }


def _summary(values):
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def _result(name):
    """One row of the results: {ours, reference, ratio} of the case."""
    measured = _measure(name)
    row = {side: {q: _summary(v) for q, v in of.items()} for side, of in measured.items()}
    main = next(iter(row["ours"]))
    if "reference" in row:
        row["ratio"] = row["reference"][main]["median"] / row["ours"][main]["median"]
    return row


def _memory_per_block(results):
    """The growth of the peak from 4 to 16 blocks, in MB a block."""
    small, large = results.get("memory_4_blocks"), results.get("memory_16_blocks")
    if not small or not large:
        return {}
    row = {}
    for side in ("ours", "reference"):
        if side in small:
            grown = large[side]["megabytes"]["median"] - small[side]["megabytes"]["median"]
            row[side] = {"megabytes": _summary([grown / 12])}
    if "reference" in row:
        row["ratio"] = row["reference"]["megabytes"]["median"] / row["ours"]["megabytes"]["median"]
    return {"memory_per_block": row}


def _print(name, row):
    for side in ("ours", "reference"):
        for quantity, summary in row.get(side, {}).items():
            values = " ".join(f"{summary[key]:9.4g}" for key in ("min", "median", "max"))
            print(f"{name:26} {side:10} {quantity:30} {values}")
    if "ratio" in row:
        print(f"{name:26} reference / ours = {row['ratio']:.2f}", flush=True)


def main(_):
    """Runs the cases and prints the table."""
    print(f"{'case':26} {'side':10} {'quantity':30} {'min':>9} {'median':>9} {'max':>9}")
    results = {}
    for name in _CASES.value:
        results[name] = _result(name)
        _print(name, results[name])
    for name, row in _memory_per_block(results).items():
        results[name] = row
        _print(name, row)
    if _OUTPUT.value:
        pathlib.Path(_OUTPUT.value).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
