r"""Times this package beside the published PyTorch code on the same input, and prints the ratios.

    python benchmarks/compare_speed.py --published_dir=CHECKOUT --output=speed.json

CHECKOUT is a clone of github.com/rtqichen/residual-flows. The Python that runs it (--published_python, by default
this one) needs torch. Without --published_dir only this package is timed. --cases chooses among training steps,
evaluations and peak memory.

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


def _measure(name):
    """Returns a row of the results."""
    once = CASES[name].kind == "memory"  # which a process can measure only once
    options = {"threads": _THREADS.value, "keep_memory": _KEEP_MEMORY.value and not once}
    workers = {"ours": our_worker(**options)}
    if _PUBLISHED_DIR.value:
        workers["published"] = published_worker(_PUBLISHED_DIR.value, _PUBLISHED_PYTHON.value, **options)
    for worker in workers.values():
        worker.ask(f"prepare {name}")
        if not once:
            worker.ask("run")
    num = 1 if once else _REPEATS.value
    rounds = [{side: worker.ask("run") for side, worker in workers.items()} for _ in range(num)]
    for worker in workers.values():
        worker.close()
    (quantity,) = rounds[0]["ours"]
    return _row(name, quantity, {side: [found[side][quantity] for found in rounds] for side in workers})


def _row(name, quantity, values):
    """Prints and returns the summary of each side's values, and the ratio published / ours."""
    row = {}
    for side, own in values.items():
        summary = {"min": min(own), "median": statistics.median(own), "max": max(own)}
        row[side] = {quantity: summary}
        print(f"{name:26} {side:10} {quantity:10} {' '.join(f'{value:9.4g}' for value in summary.values())}")
    if "published" in row:
        row["ratio"] = row["published"][quantity]["median"] / row["ours"][quantity]["median"]
        print(f"{name:26} published / ours = {row['ratio']:.2f}", flush=True)
    return row


def main(_):
    """Runs the cases, and prints and writes the rows."""
    print(f"{'case':26} {'side':10} {'quantity':10} {'min':>9} {'median':>9} {'max':>9}")
    results = {name: _measure(name) for name in _CASES.value}
    if {"memory_4_blocks", "memory_16_blocks"} <= results.keys():
        small, large = (
            {side: row[side]["megabytes"]["median"] for side in row if side != "ratio"}
            for row in (results["memory_4_blocks"], results["memory_16_blocks"])
        )
        growth = {side: [(large[side] - small[side]) / 12] for side in small}  # per block
        results["memory_per_block"] = _row("memory_per_block", "megabytes", growth)
    if _OUTPUT.value:
        pathlib.Path(_OUTPUT.value).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
