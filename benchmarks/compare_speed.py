r"""Times this package beside the published PyTorch code on the same input, and prints the ratios.

    python benchmarks/compare_speed.py --published_dir=CHECKOUT --output=speed.json

CHECKOUT is a clone of github.com/rtqichen/residual-flows. The Python that runs it (--published_python, by default
this one) needs torch. Without --published_dir only this package is timed. --cases chooses among training steps,
evaluations, one evaluation of g in the inverse, peak memory, the time to trace 52 blocks, and the parts of a
training step (this package only).

The two sides run in separate processes with the same number of threads and take turns, so other load on the machine
affects both. Close other programs all the same. PyTorch can spend half of its time on page faults in memory that it
has just freed. With --keep_memory both sides keep freed memory (glibc's MALLOC_* settings).
"""

import json
import os
import pathlib
import statistics
import sys

from absl import app, flags
from workers import CASES, our_worker, published_worker

_PUBLISHED_DIR = flags.DEFINE_string("published_dir", None, "A checkout of the published code.")
_PUBLISHED_PYTHON = flags.DEFINE_string("published_python", sys.executable, "A Python that has torch.")
_OUTPUT = flags.DEFINE_string("output", None, "A JSON file for the results.")
_CASES = flags.DEFINE_list("cases", list(CASES), "The cases to run.")
_REPEATS = flags.DEFINE_integer("repeats", 10, "Measurements of each side.", lower_bound=1)
_KEEP_MEMORY = flags.DEFINE_bool("keep_memory", False, "Whether the processes keep the memory that they free.")
_THREADS = flags.DEFINE_integer("threads", os.cpu_count(), "Threads of each side.", lower_bound=1)
flags.register_validator("cases", lambda names: set(names) <= set(CASES), f"The cases are {', '.join(CASES)}.")

_ONCE = ("memory", "trace")  # kinds that a process can measure only once


def _measure(name):
    """Measures one case. Returns the list of values of each quantity of each side."""
    once = CASES[name].kind in _ONCE
    keep_memory = _KEEP_MEMORY.value and CASES[name].kind != "memory"
    options = {"threads": _THREADS.value, "keep_memory": keep_memory}
    workers = {"ours": our_worker(**options)}
    if _PUBLISHED_DIR.value:
        workers["published"] = published_worker(_PUBLISHED_DIR.value, _PUBLISHED_PYTHON.value, **options)
    for side, worker in list(workers.items()):
        if not worker.ask(f"prepare {name}"):
            workers.pop(side).close()
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
    """Returns the summaries of a case for each side, and the ratio published / ours."""
    measured = _measure(name)
    row = {side: {q: _summary(v) for q, v in of.items()} for side, of in measured.items()}
    main = next(iter(row["ours"]))
    if "published" in row:
        row["ratio"] = row["published"][main]["median"] / row["ours"][main]["median"]
    return row


def _memory_per_block(results):
    """Returns how much the peak grows from 4 to 16 blocks, in MB per block."""
    small, large = results.get("memory_4_blocks"), results.get("memory_16_blocks")
    if not small or not large:
        return {}
    row = {}
    for side in ("ours", "published"):
        if side in small:
            grown = large[side]["megabytes"]["median"] - small[side]["megabytes"]["median"]
            row[side] = {"megabytes": _summary([grown / 12])}
    if "published" in row:
        row["ratio"] = row["published"]["megabytes"]["median"] / row["ours"]["megabytes"]["median"]
    return {"memory_per_block": row}


def _print(name, row):
    for side in ("ours", "published"):
        for quantity, summary in row.get(side, {}).items():
            values = " ".join(f"{summary[key]:9.4g}" for key in ("min", "median", "max"))
            print(f"{name:26} {side:10} {quantity:30} {values}")
    if "ratio" in row:
        print(f"{name:26} published / ours = {row['ratio']:.2f}", flush=True)


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
